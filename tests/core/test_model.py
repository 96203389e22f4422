"""The store against a dictionary: any sequence of what clients, fills, sweeps and restarts do.

Alphabets are tiny, so that the same bytes meet in several repositories, as blobs and as manifests, by both
algorithms, inline and as files. After every step the store answers as the model does; at the end it is sound.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from holdfast_core import Descriptor, Digest, Lock, LockTarget, Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.errors import ContentLocked, NotHeld, StoreError, StoreRefused, Unsent
from holdfast_core.record import TagMove
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from support.format_reader import FormatReader
from support.stores import hashed, read_all, some_bytes, stage

REPOSITORIES = ["a", "b", "c/d"]
TAGS = ["v1", "v2", "sha256-" + "0" * 64]
#: two inline, one in a file
BODIES = [b"", b'{"schemaVersion":2}', some_bytes(3_000)]
ALGORITHMS = ["sha256", "sha512"]
INLINE_BYTES = 100
GRACE = 3.0

repositories = st.sampled_from(REPOSITORIES)
tags = st.sampled_from(TAGS)
bodies = st.sampled_from(BODIES)
algorithms = st.sampled_from(ALGORITHMS)
locks = st.builds(Lock, st.booleans(), st.booleans(), st.booleans(), st.booleans())
DIGESTS = [Digest.of(body, algorithm) for body in BODIES for algorithm in ALGORITHMS]
digests = st.sampled_from(DIGESTS)
BODY_OF = {Digest.of(body, algorithm): body for body in BODIES for algorithm in ALGORITHMS}


@dataclass
class Model:
    """What the store should be."""

    known: set[str] = field(default_factory=set)
    blobs: set[tuple[str, Digest]] = field(default_factory=set)
    manifests: dict[tuple[str, Digest], str] = field(default_factory=dict)
    tags: dict[tuple[str, str], tuple[Digest, str]] = field(default_factory=dict)
    moves: dict[tuple[str, str], list[TagMove]] = field(default_factory=dict)
    referrers: dict[tuple[str, Digest, Digest], Descriptor] = field(default_factory=dict)
    locks: dict[tuple[str, LockTarget], Lock] = field(default_factory=dict)
    deleted: set[tuple[str, str, str]] = field(default_factory=set)
    pending: set[tuple[str, Digest]] = field(default_factory=set)
    bytes: dict[Digest, bool] = field(default_factory=dict)  # held -> owned
    unlinked: dict[Digest, float] = field(default_factory=dict)

    def lock(self, repository: str, target: LockTarget) -> Lock:
        return self.locks.get((repository, target), Lock())

    def refusal(self, repository: str, action: str, *targets: LockTarget) -> type[StoreError] | None:
        every = (LockTarget("repository"), *targets)
        needed = ("delete", "write") if action == "delete" else (action,)
        allowed = all(getattr(self.lock(repository, t), one) for t in every for one in needed)
        return None if allowed else ContentLocked

    def is_linked(self, digest: Digest) -> bool:
        return any(d == digest for _, d in (*self.blobs, *self.manifests))

    def hold(self, repository: str, digest: Digest, owned: bool) -> None:
        self.known.add(repository)
        self.bytes[digest] = self.bytes.get(digest, False) or owned
        self.unlinked.pop(digest, None)

    def loosen(self, digest: Digest, now: float) -> None:
        if not self.is_linked(digest):
            self.unlinked[digest] = now

    def move(self, repository: str, tag: str, digest: Digest | None, now: float, origin: str) -> None:
        moves = self.moves.setdefault((repository, tag), [])
        self.moves[repository, tag] = [TagMove(digest, now, origin), *moves][:16]

    def point(self, repository: str, tag: str, digest: Digest, now: float, origin: str) -> None:
        found = self.tags.get((repository, tag))
        if found == (digest, origin) or (found is not None and found[1] == "local" != origin):
            return
        self.known.add(repository)
        self.tags[repository, tag] = (digest, origin)
        self.move(repository, tag, digest, now, origin)

    def drop_tag(self, repository: str, tag: str, now: float, tombstone: bool, origin: str = "local") -> None:
        del self.tags[repository, tag]
        self.locks.pop((repository, LockTarget("tag", tag)), None)
        self.move(repository, tag, None, now, origin)
        if tombstone:
            self.deleted.add((repository, "tag", tag))

    def tags_at(self, repository: str, digest: Digest) -> list[str]:
        return [t for (r, t), (d, _) in self.tags.items() if (r, d) == (repository, digest)]

    def refuses_delete(self, repository: str, digest: Digest) -> type[StoreError] | None:
        held = (repository, digest) in self.manifests
        names = self.tags_at(repository, digest)
        targets = (
            [LockTarget("manifest", str(digest)), *(LockTarget("tag", n) for n in names)] if held else []
        )
        return self.refusal(repository, "delete", *targets) or (None if held else NotHeld)

    def drop_manifest(
        self, repository: str, digest: Digest, now: float, tombstone: bool, origin: str
    ) -> None:
        del self.manifests[repository, digest]
        for name in self.tags_at(repository, digest):
            self.drop_tag(repository, name, now, tombstone, origin)
        for key in [key for key in self.referrers if (key[0], key[2]) == (repository, digest)]:
            del self.referrers[key]
        self.pending.discard((repository, digest))
        self.locks.pop((repository, LockTarget("manifest", str(digest))), None)
        if tombstone:
            self.deleted.add((repository, "manifest", str(digest)))
        self.loosen(digest, now)

    def drop_repository(self, repository: str, now: float) -> None:
        linked = [d for r, d in (*self.blobs, *self.manifests) if r == repository]
        self.known.discard(repository)
        self.blobs = {key for key in self.blobs if key[0] != repository}
        self.deleted = {key for key in self.deleted if key[0] != repository}
        tables: tuple[dict[Any, Any], ...] = (
            self.manifests,
            self.tags,
            self.moves,
            self.referrers,
            self.locks,
        )
        for held in tables:
            for key in [key for key in held if key[0] == repository]:
                del held[key]
        for digest in linked:
            self.loosen(digest, now)


class Stores(RuleBasedStateMachine):
    #: where each run makes its store
    parent: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir=self.parent))
        self.root = self.place / "store"
        self.names = (f"{n:064x}" for n in count())

    @initialize()
    def begin(self) -> None:
        self.model = Model()
        self.now = 1.0
        self.store = self.opened()

    def opened(self) -> Store:
        return Store.create_or_open(self.root, write=True, inline_bytes=INLINE_BYTES)

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                self.store.close()
                assert fsck(self.root, (1, 1)).problems == []
                assert FormatReader(self.root).run() == []
                assert list((self.root / "uploads").iterdir()) == []
        finally:
            shutil.rmtree(self.place)

    def happens(self, future: Future[None], refusal: type[StoreError] | None) -> bool:
        """Whether it was done; it must be refused exactly when the model says so."""
        self.now += 1.0
        error = future.exception(30)
        if refusal is None:
            assert error is None, repr(error)
            return True
        assert type(error) is refusal, repr(error)
        return False

    # --- clients -------------------------------------------------------------------------------------------

    @rule(repository=repositories, digest=digests, by_upload=st.booleans())
    def push_blob(self, repository: str, digest: Digest, by_upload: bool) -> None:
        body, store = BODY_OF[digest], self.store
        refusal = self.model.refusal(repository, "write")
        if by_upload:
            name = stage(store, body, next(self.names))
            table = hashed(body, digest.algorithm)[1]
            future = store.blobs.push_upload(repository, name, len(body), digest, table, now=self.now)
        else:
            future = store.blobs.push_inline(repository, digest, body, now=self.now)
        if not self.happens(future, refusal):
            if by_upload:
                (self.root / "uploads" / name).unlink()
            return
        self.model.blobs.add((repository, digest))
        self.model.hold(repository, digest, True)
        self.model.deleted.discard((repository, "blob", str(digest)))

    @rule(repository=repositories, source=st.none() | repositories, digest=digests)
    def mount(self, repository: str, source: str | None, digest: Digest) -> None:
        model = self.model
        sources = REPOSITORIES if source is None else [source]
        shown = any(
            (s, digest) in model.blobs and model.lock(s, LockTarget("repository")).read for s in sources
        )
        refusal = model.refusal(repository, "write") or (None if shown else NotHeld)
        future = self.store.blobs.mount(repository, digest, source=source, now=self.now)
        if self.happens(future, refusal):
            model.blobs.add((repository, digest))
            model.hold(repository, digest, True)
            model.deleted.discard((repository, "blob", str(digest)))

    @rule(
        repository=repositories,
        digest=digests,
        names=st.lists(tags, max_size=2),
        media_type=st.sampled_from(["m/1", "m/2"]),
        subject=st.none() | digests,
        pending=st.booleans(),
    )
    def push_manifest(
        self,
        repository: str,
        digest: Digest,
        names: list[str],
        media_type: str,
        subject: Digest | None,
        pending: bool,
    ) -> None:
        model, body, now = self.model, BODY_OF[digest], self.now
        # a digest's subject is in its bytes: it never changes
        subject = next((s for r, s, d in model.referrers if (r, d) == (repository, digest)), subject)
        targets = [LockTarget("manifest", str(digest)), *(LockTarget("tag", name) for name in names)]
        refusal = model.refusal(repository, "write", *targets)
        future = self.store.references.push_manifest(
            repository, digest, media_type, body, tags=names, now=now, subject=subject, pending=pending
        )
        if not self.happens(future, refusal):
            return
        model.manifests[repository, digest] = media_type
        model.hold(repository, digest, True)
        model.deleted.discard((repository, "manifest", str(digest)))
        for name in dict.fromkeys(names):
            model.point(repository, name, digest, now, "local")
            model.deleted.discard((repository, "tag", name))
        if subject is not None:
            descriptor = Descriptor(media_type, str(digest), len(body))
            model.referrers[repository, subject, digest] = descriptor
        if pending:
            model.pending.add((repository, digest))

    @rule(repository=repositories, tag=tags, tombstone=st.booleans())
    def delete_tag(self, repository: str, tag: str, tombstone: bool) -> None:
        model, now = self.model, self.now
        refusal = model.refusal(repository, "delete", LockTarget("tag", tag))
        refusal = refusal or (None if (repository, tag) in model.tags else NotHeld)
        future = self.store.references.delete_tag(repository, tag, now=now, tombstone=tombstone)
        if self.happens(future, refusal):
            model.drop_tag(repository, tag, now, tombstone)

    @rule(repository=repositories, digest=digests, tombstone=st.booleans())
    def delete_manifest(self, repository: str, digest: Digest, tombstone: bool) -> None:
        model, now = self.model, self.now
        refusal = model.refuses_delete(repository, digest)
        future = self.store.references.delete_manifest(repository, digest, now=now, tombstone=tombstone)
        if self.happens(future, refusal):
            model.drop_manifest(repository, digest, now, tombstone, "local")

    # --- what a parent has no longer -----------------------------------------------------------------------

    @rule(repository=repositories, tag=tags)
    def remove_tag(self, repository: str, tag: str) -> None:
        model, now = self.model, self.now
        refusal = model.refusal(repository, "delete", LockTarget("tag", tag))
        refusal = refusal or (None if (repository, tag) in model.tags else NotHeld)
        if refusal is None and model.tags[repository, tag][1] == "local":
            refusal = Unsent
        if self.happens(self.store.references.remove_tag(repository, tag, now=now), refusal):
            model.drop_tag(repository, tag, now, False, "parent")

    @rule(repository=repositories, digest=digests)
    def remove_manifest(self, repository: str, digest: Digest) -> None:
        model, now = self.model, self.now
        refusal = model.refuses_delete(repository, digest)
        names = model.tags_at(repository, digest)
        unsent = (repository, digest) in model.pending or any(
            model.tags[repository, name][1] == "local" for name in names
        )
        refusal = refusal or (Unsent if unsent else None)
        if self.happens(self.store.references.remove_manifest(repository, digest, now=now), refusal):
            model.drop_manifest(repository, digest, now, False, "parent")

    @rule(repository=repositories)
    def remove_repository(self, repository: str) -> None:
        model, now = self.model, self.now
        targets = [target for r, target in model.locks if r == repository]
        unsent = any(r == repository for r, _ in model.pending) or any(
            r == repository and origin == "local" for (r, _), (_, origin) in model.tags.items()
        )
        refusal = model.refusal(repository, "delete", *targets) or (Unsent if unsent else None)
        if repository not in model.known:
            refusal = NotHeld
        if self.happens(self.store.references.remove_repository(repository, now=now), refusal):
            model.drop_repository(repository, now)

    # --- clients -------------------------------------------------------------------------------------------

    @rule(repository=repositories, digest=digests, tombstone=st.booleans())
    def delete_blob(self, repository: str, digest: Digest, tombstone: bool) -> None:
        model, now = self.model, self.now
        refusal = model.refusal(repository, "delete")
        refusal = refusal or (None if (repository, digest) in model.blobs else NotHeld)
        future = self.store.blobs.delete(repository, digest, now=now, tombstone=tombstone)
        if self.happens(future, refusal):
            model.blobs.discard((repository, digest))
            if tombstone:
                model.deleted.add((repository, "blob", str(digest)))
            model.loosen(digest, now)

    @rule(
        repository=repositories,
        on=st.just(LockTarget("repository"))
        | st.builds(LockTarget, st.just("tag"), tags)
        | st.builds(LockTarget, st.just("manifest"), digests.map(str)),
        lock=locks | st.just(Lock()),
    )
    def set_lock(self, repository: str, on: LockTarget, lock: Lock) -> None:
        model = self.model
        there = {
            "repository": lambda: repository in model.known,
            "tag": lambda: (repository, on.name) in model.tags,
            "manifest": lambda: (repository, Digest.parse(on.name)) in model.manifests,
        }[on.kind]()
        future = self.store.references.set_lock(repository, on, lock, now=self.now)
        if self.happens(future, None if there else NotHeld):
            model.locks[repository, on] = lock

    # --- fills ---------------------------------------------------------------------------------------------

    @rule(repository=repositories, digest=digests)
    def fill(self, repository: str, digest: Digest) -> None:
        model, body, now = self.model, BODY_OF[digest], self.now
        part = self.store.blobs.fills.open_part(repository, digest, len(body))
        part.write(0, body)
        part.close()
        table = hashed(body, digest.algorithm)[1]
        self.happens(
            self.store.blobs.fills.commit(part, repository, digest, table, owned=False, now=now), None
        )
        if (repository, "blob", str(digest)) in model.deleted:
            model.bytes.setdefault(digest, False)
            model.loosen(digest, now)
        else:
            model.blobs.add((repository, digest))
            model.hold(repository, digest, False)

    @rule(repository=repositories, digest=digests, tag=tags)
    def cache_manifest(self, repository: str, digest: Digest, tag: str) -> None:
        model, now = self.model, self.now
        refusal = NotHeld if (repository, "manifest", str(digest)) in model.deleted else None
        body = BODY_OF[digest]
        future = self.store.references.put_manifest(repository, digest, "m/1", body, owned=False, now=now)
        if not self.happens(future, refusal):
            return
        model.manifests[repository, digest] = "m/1"
        model.hold(repository, digest, False)
        now = self.now
        refusal = NotHeld if (repository, "tag", tag) in model.deleted else None
        if self.happens(self.store.references.put_tag(repository, tag, digest, now=now), refusal):
            model.point(repository, tag, digest, now, "parent")

    # --- time ----------------------------------------------------------------------------------------------

    @rule()
    def sweep(self) -> None:
        model = self.model
        ripe = [d for d, since in model.unlinked.items() if since <= self.now - GRACE]
        assert self.store.upkeep.sweep(now=self.now, grace=GRACE).result(60) == sum(
            len(BODY_OF[d]) for d in ripe
        )
        for digest in ripe:
            del model.unlinked[digest], model.bytes[digest]

    @rule()
    def sync(self) -> None:
        self.store.upkeep.sync_cached().result(60)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.opened()

    @rule()
    def lose_the_index(self) -> None:
        self.store.close()
        shutil.rmtree(self.root / "index")
        assert rebuild(self.root).problems == []
        self.store = self.opened()
        for digest in self.model.unlinked:
            self.model.unlinked[digest] = 0.0

    @rule()
    def copy_the_index(self) -> None:
        self.store.close()
        shutil.rmtree(self.place / "copy", ignore_errors=True)
        shutil.copytree(self.root / "index", self.place / "copy")
        self.store = self.opened()

    @rule()
    def put_an_older_index_back(self) -> None:
        if not (self.place / "copy").exists():
            return
        self.store.close()
        shutil.rmtree(self.root / "index")
        shutil.copytree(self.place / "copy", self.root / "index")
        try:
            self.store = self.opened()
        except StoreRefused:  # the journal was written again since: after the index was lost
            assert rebuild(self.root).problems == []
            self.store = self.opened()
        for digest, since in self.model.unlinked.items():
            payload = self.store._index.get(layout.UNLINKED + digest.key)
            assert payload is not None
            self.model.unlinked[digest] = layout.decode_time(payload)
            assert self.model.unlinked[digest] in (since, 0.0)

    # --- what is answered ----------------------------------------------------------------------------------

    @invariant()
    def bytes_are_the_models(self) -> None:
        for digest in DIGESTS:
            found = self.store.blobs.anywhere(digest)
            assert (found is not None) == (digest in self.model.bytes)
            if found is not None:
                assert found.owned == self.model.bytes[digest]
                assert read_all(self.store, found) == BODY_OF[digest]

    @invariant()
    def links_are_the_models(self) -> None:
        model, store = self.model, self.store
        for repository in REPOSITORIES:
            for digest in DIGESTS:
                refused = model.refusal(repository, "read")
                held = (repository, digest) in model.blobs
                found = answered(refused, store.blobs.get, repository, digest)
                assert found is ContentLocked if refused else (found is not None) == held
                refused = model.refusal(repository, "read", LockTarget("manifest", str(digest)))
                manifest = answered(refused, store.references.manifest, repository, digest)
                if refused is None and (repository, digest) in model.manifests:
                    assert manifest.body == BODY_OF[digest]
                    assert manifest.media_type == model.manifests[repository, digest]
                else:
                    assert manifest is refused

    @invariant()
    def tags_are_the_models(self) -> None:
        model, store = self.model, self.store
        for repository in REPOSITORIES:
            listed = [
                t for r, t in model.tags if r == repository and model.lock(r, LockTarget("tag", t)).list
            ]
            assert store.references.tags(repository) == sorted(listed)
            for tag in TAGS:
                assert store.references.tag_moves(repository, tag) == model.moves.get((repository, tag), [])
                refused = model.refusal(repository, "read", LockTarget("tag", tag))
                found = answered(refused, store.references.tag, repository, tag)
                if refused is None and (repository, tag) in model.tags:
                    assert (found.digest, found.origin) == model.tags[repository, tag]
                else:
                    assert found is refused
        listed = [r for r in model.known if model.lock(r, LockTarget("repository")).list]
        assert store.references.repositories() == sorted(listed)

    @invariant()
    def notes_are_the_models(self) -> None:
        model, store = self.model, self.store
        assert set(store.references.outbox.pending()) == model.pending
        for repository in REPOSITORIES:
            names = {"tag": TAGS, "manifest": list(map(str, DIGESTS)), "blob": list(map(str, DIGESTS))}
            for kind, name in ((k, n) for k, every in names.items() for n in every):
                assert store.references.is_deleted(repository, kind, name) == (
                    (repository, kind, name) in model.deleted
                )
            for subject in DIGESTS:
                found = store.references.lists.referrers(repository, subject)
                wanted = {
                    str(d)
                    for r, s, d in model.referrers
                    if (r, s) == (repository, subject)
                    and model.lock(r, LockTarget("manifest", str(d))).list
                    and (r, "manifest", str(d)) not in model.deleted
                }
                assert {d.digest for d in (found.descriptors if found else ())} == wanted


def answered(refused: type[StoreError] | None, read: Callable[..., Any], *asked: object) -> Any:
    """What was read; or the kind of error, when it was refused with the one that the model expects."""
    if refused is None:
        return read(*asked)
    with pytest.raises(refused):
        read(*asked)
    return refused


SETTINGS = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_case_24_40_41_42_44_the_store_is_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stores, "parent", tmp_path, raising=False)
    run_state_machine_as_test(Stores, settings=SETTINGS)
