"""The image graph against a model: any sequence of pulls, pushes, deletes, pins, evictions, collections, sweeps and
restarts. The model knows nothing of edges: it reads the names out of its own table of images at every question.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from holdfast_core import CollectionRule, Digest, Pin, RepositoryAccount, Store, fsck, rebuild
from holdfast_core.changes.outbox_rows import tag_sent
from holdfast_core.errors import NotEvictable, NotHeld, StoreError
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
from support.stores import MEDIA, confirm, put_file, some_bytes

REPOSITORIES, TAGS = ["a", "b"], ["v1", "v2"]
#: one in the index, two in files
LAYERS = [b"small", some_bytes(20_000, 1), some_bytes(20_000, 2)]
FOREVER = math.inf
EVERYTHING, NOTHING = 1e12, None
PARENT = b"the parent here."


def named(*bodies: bytes) -> list[dict[str, object]]:
    return [{"mediaType": "m", "digest": str(Digest.of(body)), "size": len(body)} for body in bodies]


def document(**more: object) -> bytes:
    return json.dumps({"schemaVersion": 2, **more}).encode()


ONE, TWO = document(layers=named(*LAYERS[:2])), document(layers=named(*LAYERS[1:]))
INDEX = document(manifests=named(ONE, TWO))
SIGNATURE = document(layers=named(LAYERS[0]), subject=named(ONE)[0])
#: manifest -> what it names, and its subject
NAMES: dict[bytes, list[bytes]] = {
    ONE: LAYERS[:2],
    TWO: LAYERS[1:],
    INDEX: [ONE, TWO],
    SIGNATURE: [LAYERS[0]],
}
SUBJECTS = {SIGNATURE: ONE}
MANIFESTS, CONTENT = list(NAMES), [*LAYERS, *NAMES]

repositories, tags = st.sampled_from(REPOSITORIES), st.sampled_from(TAGS)
layers, manifests, contents = st.sampled_from(LAYERS), st.sampled_from(MANIFESTS), st.sampled_from(CONTENT)


@dataclass
class Graph:
    """What the store should be."""

    links: set[tuple[str, bytes]] = field(default_factory=set)
    tags: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    pending: set[tuple[str, bytes]] = field(default_factory=set)
    pins: dict[tuple[str, str], tuple[bytes | None, bool]] = field(default_factory=dict)
    #: what the parent confirmed of what was pushed
    confirmed: set[tuple[str, bytes]] = field(default_factory=set)
    #: bytes that the store has, linked or not -> whether they are owned
    owned: dict[bytes, bool] = field(default_factory=dict)

    def hold(self, repository: str, body: bytes, owned: bool) -> None:
        self.links.add((repository, body))
        self.confirmed -= {(repository, body)} if owned else set()
        self.owned[body] = self.owned.get(body, False) or owned

    def tagged(self, repository: str, body: bytes) -> list[str]:
        return [tag for (r, tag), (b, _) in self.tags.items() if (r, b) == (repository, body)]

    def parents(self, repository: str, body: bytes) -> list[bytes]:
        return [m for m in MANIFESTS if (repository, m) in self.links and body in NAMES[m]]

    def is_loose(self, repository: str, body: bytes) -> bool:
        return not self.tagged(repository, body) and not self.parents(repository, body)

    def is_pinned(self, repository: str, body: bytes) -> bool:
        subject = SUBJECTS.get(body)
        is_referrer = (repository, body) in self.links
        for (r, name), (pinned, with_referrers) in self.pins.items():
            at = self.tags.get((r, name), (None, ""))[0] if pinned is None else pinned
            if r != repository or at is None:
                continue
            if at == body or (with_referrers and is_referrer and at == subject):
                return True
        return False

    def is_alone_here(self, repository: str, body: bytes, by_parent: bool) -> bool:
        return self.owned[body] and not (by_parent and (repository, body) in self.confirmed)

    def leaving(
        self, repository: str, root: bytes, by_parent: bool = False, whole: bool = False
    ) -> list[bytes]:
        going = [root]
        for parent in going:
            for child in NAMES.get(parent, []):
                if child in going or (repository, child) not in self.links:
                    continue
                elsewhere = [m for m in self.parents(repository, child) if m not in going]
                if elsewhere or self.tagged(repository, child) or self.is_pinned(repository, child):
                    continue
                stays = self.is_alone_here(repository, child, by_parent)
                if not whole and (stays or (repository, child) in self.pending):
                    continue
                going.append(child)
        return going

    def refuses_eviction(self, repository: str, body: bytes, by_parent: bool) -> type[StoreError] | None:
        if (repository, body) not in self.links:
            return NotHeld
        whole = self.leaving(repository, body, whole=True) if self.owned[body] else []
        local = any(self.tags[repository, tag][1] == "local" for tag in self.tagged(repository, body))
        stays = (
            (repository, body) in self.pending
            or self.is_pinned(repository, body)
            or any(self.is_alone_here(repository, one, by_parent) for one in whole)
            or bool(self.parents(repository, body))
            or local
        )
        return NotEvictable if stays else None

    def is_collected(self, repository: str, body: bytes, rule: CollectionRule) -> bool:
        if not self.is_loose(repository, body) or (repository, SUBJECTS.get(body)) in self.links:
            return False
        if (repository, body) in self.pending or self.is_pinned(repository, body):
            return False
        needed = [rule.manifests_before] if body in NAMES else []
        if not self.owned[body]:
            needed.append(rule.cached_before)
        return all(before is not None for before in needed or [rule.blobs_before])

    def drop(self, repository: str, body: bytes) -> None:
        self.confirmed.discard((repository, body))
        self.links.discard((repository, body))
        self.pending.discard((repository, body))
        for tag in self.tagged(repository, body):
            del self.tags[repository, tag]

    def account(self, repository: str) -> RepositoryAccount:
        held = [body for r, body in self.links if r == repository]
        files = [body for body in held if len(body) > 16384]
        own = [body for body in files if sum(b == body for _, b in self.links) == 1]
        inline = sum(map(len, held)) - sum(map(len, files))
        kinds = sum(body in NAMES for body in held)
        return RepositoryAccount(kinds, len(held) - kinds, sum(map(len, files)), sum(map(len, own)), inline)


class ImageStores(RuleBasedStateMachine):
    #: where each run makes its store
    parent: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir=self.parent))
        self.root = self.place / "store"

    @initialize()
    def begin(self) -> None:
        self.graph, self.now = Graph(), 2e9
        self.store = self.opened()

    def opened(self) -> Store:
        return Store.create_or_open(self.root, write=True)

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                self.store.close()
                assert fsck(self.root, (1, 1)).problems == []
                assert FormatReader(self.root).run() == []
        finally:
            shutil.rmtree(self.place)

    def happens(self, future: Future[Any], refusal: type[StoreError] | None = None) -> bool:
        self.now += 1.0
        error = future.exception(30)
        assert (type(error) if error else None) is refusal, repr(error)
        return error is None

    # --- what comes ----------------------------------------------------------------------------------------

    @rule(repository=repositories, layer=layers)
    def fetch_layer(self, repository: str, layer: bytes) -> None:
        put_file(self.store, repository, layer, now=self.now)
        self.graph.hold(repository, layer, False)

    @rule(repository=repositories, layer=layers)
    def push_layer(self, repository: str, layer: bytes) -> None:
        digest = Digest.of(layer)
        self.happens(self.store.blobs.push_inline(repository, digest, layer, now=self.now))
        self.graph.hold(repository, layer, True)

    @rule(repository=repositories, body=manifests, tag=st.none() | tags)
    def fetch_manifest(self, repository: str, body: bytes, tag: str | None) -> None:
        subject = SUBJECTS.get(body)
        future = self.store.references.put_manifest(
            repository,
            Digest.of(body),
            MEDIA,
            body,
            owned=False,
            now=self.now,
            subject=Digest.of(subject) if subject else None,
            tag=tag or "",
        )
        self.happens(future)
        self.graph.hold(repository, body, False)
        if tag is not None and self.graph.tags.get((repository, tag), (b"", ""))[1] != "local":
            self.graph.tags[repository, tag] = body, "parent"

    @rule(repository=repositories, body=manifests, tag=st.none() | tags, pending=st.booleans())
    def push_manifest(self, repository: str, body: bytes, tag: str | None, pending: bool) -> None:
        subject = SUBJECTS.get(body)
        future = self.store.references.push_manifest(
            repository,
            Digest.of(body),
            MEDIA,
            body,
            tags=[tag] if tag else [],
            now=self.now,
            subject=Digest.of(subject) if subject else None,
            pending=pending,
        )
        self.happens(future)
        self.graph.hold(repository, body, True)
        if tag is not None:
            self.graph.tags[repository, tag] = body, "local"
        if pending:
            self.graph.pending.add((repository, body))

    @rule(repository=repositories, body=manifests, with_blobs=st.booleans())
    def confirm(self, repository: str, body: bytes, with_blobs: bool) -> None:
        """The parent has an image; without its blobs it was found there, and they were not asked for."""
        graph, bodies = self.graph, [body, *(NAMES[body] if with_blobs else [])]
        confirm(self.store, repository, PARENT, *map(Digest.of, bodies))
        tags = [tag for (r, tag), (b, _) in graph.tags.items() if (r, b) == (repository, body)]
        for tag in tags:
            sent = partial(tag_sent, repository=repository, name=tag, digest=Digest.of(body), checked_at=1.0)
            self.happens(self.store.references.outbox.change([], [], sent))
            graph.tags[repository, tag] = body, "parent"
        held = {(repository, one) for one in bodies} & graph.links
        graph.confirmed |= {(r, one) for r, one in held if graph.owned[one]}

    # --- what goes -----------------------------------------------------------------------------------------

    @rule(repository=repositories, tag=tags)
    def delete_tag(self, repository: str, tag: str) -> None:
        held = (repository, tag) in self.graph.tags
        future = self.store.references.delete_tag(repository, tag, now=self.now)
        if self.happens(future, None if held else NotHeld):
            del self.graph.tags[repository, tag]

    @rule(repository=repositories, body=contents)
    def delete(self, repository: str, body: bytes) -> None:
        held, digest = (repository, body) in self.graph.links, Digest.of(body)
        delete = self.store.references.delete_manifest if body in NAMES else self.store.blobs.delete
        if self.happens(delete(repository, digest, now=self.now), None if held else NotHeld):
            self.graph.drop(repository, body)

    @rule(repository=repositories, body=contents, by_parent=st.booleans())
    def evict(self, repository: str, body: bytes, by_parent: bool) -> None:
        graph, mark = self.graph, PARENT if by_parent else b""
        refusal = graph.refuses_eviction(repository, body, by_parent)
        going = graph.leaving(repository, body, by_parent) if refusal is None else []
        future = self.store.space.evict(repository, Digest.of(body), now=self.now, parent=mark)
        if self.happens(future, refusal):
            assert future.result().digests == len(going)
            for one in going:
                graph.drop(repository, one)

    @rule(
        blobs=st.sampled_from([EVERYTHING, NOTHING]),
        kinds=st.sampled_from([EVERYTHING, NOTHING]),
        cached=st.sampled_from([EVERYTHING, NOTHING]),
    )
    def collect(self, blobs: float | None, kinds: float | None, cached: float | None) -> None:
        graph, rule = self.graph, CollectionRule(blobs, kinds, cached)
        going = [key for key in graph.links if graph.is_collected(*key, rule)]
        future = self.store.space.collect(self.store.space.loose()[0], rule, now=self.now)
        self.happens(future)
        assert future.result().digests == len(going)
        for key in going:
            graph.drop(*key)

    @rule()
    def sweep(self) -> None:
        unlinked = [body for body in self.graph.owned if all(b != body for _, b in self.graph.links)]
        reclaimed = self.store.upkeep.sweep(now=EVERYTHING, grace=1.0).result(60)
        assert reclaimed == sum(map(len, unlinked))
        for body in unlinked:
            del self.graph.owned[body]

    # --- pins ----------------------------------------------------------------------------------------------

    @rule(repository=repositories, what=tags | manifests, with_referrers=st.booleans())
    def pin(self, repository: str, what: str | bytes, with_referrers: bool) -> None:
        pin = self._pin(repository, what, with_referrers)
        self.happens(self.store.space.pin(pin, now=self.now))
        key = what if isinstance(what, str) else pin.name
        self.graph.pins[repository, key] = (None if isinstance(what, str) else what), with_referrers

    @rule(repository=repositories, what=tags | manifests)
    def unpin(self, repository: str, what: str | bytes) -> None:
        pin = self._pin(repository, what, False)
        refusal = None if (repository, pin.name) in self.graph.pins else NotHeld
        if self.happens(self.store.space.unpin(repository, pin.kind, pin.name), refusal):
            del self.graph.pins[repository, pin.name]

    def _pin(self, repository: str, what: str | bytes, with_referrers: bool) -> Pin:
        kind, name = ("tag", what) if isinstance(what, str) else ("manifest", str(Digest.of(what)))
        return Pin(repository, kind, name, FOREVER, with_referrers)

    # --- restarts ------------------------------------------------------------------------------------------

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.opened()

    @rule()
    def lose_the_index(self) -> None:
        self.store.close()
        shutil.rmtree(self.root / "index")
        assert rebuild(self.root).problems == []
        self.graph.confirmed.clear()  # a parent's word is not in the journal
        self.store = self.opened()

    # --- what is answered ----------------------------------------------------------------------------------

    def _held(self, repository: str) -> Iterator[bytes]:
        for body in CONTENT:
            digest = Digest.of(body)
            if body in NAMES and self.store.references.manifest(repository, digest) is not None:
                yield body
            if body not in NAMES and self.store.blobs.get(repository, digest) is not None:
                yield body

    @invariant()
    def links_are_the_models(self) -> None:
        assert {(r, body) for r in REPOSITORIES for body in self._held(r)} == self.graph.links

    @invariant()
    def tags_are_the_models(self) -> None:
        for repository in REPOSITORIES:
            listed = self.store.references.tags(repository)
            assert listed == sorted(tag for r, tag in self.graph.tags if r == repository)

    @invariant()
    def what_the_parent_confirmed_is_the_models(self) -> None:
        noted = {
            (r, body)
            for r in REPOSITORIES
            for body in CONTENT
            if self.store.references.outbox.confirmed_by(r, Digest.of(body)) == PARENT
        }
        assert noted == self.graph.confirmed

    @invariant()
    def what_is_loose_is_what_nothing_names(self) -> None:
        loose = {(r, Digest.of(body)) for r, body in self.graph.links if self.graph.is_loose(r, body)}
        assert set(self.store.space.loose()[0]) == loose

    @invariant()
    def accounts_are_the_models(self) -> None:
        for repository in REPOSITORIES:
            assert self.store.space.account_of(repository) == self.graph.account(repository)


SETTINGS = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_the_image_graph_is_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageStores, "parent", tmp_path, raising=False)
    run_state_machine_as_test(ImageStores, settings=SETTINGS)
