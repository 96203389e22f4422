"""Where the bytes of a store are, who needs them, and what can go: accounts, the image graph, the order of use, pins.

Reads are for any process, and each is one short transaction, or several of them; writes are for the process that has
the store open for writing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future

from holdfast_core import format as layout
from holdfast_core import space_format
from holdfast_core.changes import change, collection, pins
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.changes.derivation import hour_of_use
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged
from holdfast_core.filesystem.directory import Directory
from holdfast_core.filesystem.disk_use import disk_use
from holdfast_core.index.lmdb_index import Index
from holdfast_core.index.repository_names import RepositoryNames
from holdfast_core.record import (
    Child,
    CollectionRule,
    Departure,
    DiskUse,
    ImageHolding,
    ImageUse,
    Pin,
    RepositoryAccount,
    StoreAccount,
)
from holdfast_core.upkeep.stray_files import StrayFiles
from holdfast_core.write_access import WriteAccess


class Space:
    """Of one open store."""

    def __init__(
        self, index: Index, directory: Directory, access: WriteAccess, names: RepositoryNames
    ) -> None:
        self._index = index
        self._directory = directory
        self._access = access
        self._names = names
        self._strays = StrayFiles(index, directory)

    # --- accounts

    def account(self) -> StoreAccount:
        """What the store holds. Raises RecordDamaged."""
        return space_format.decode_store_account(self._index.get(space_format.account_key()))

    def account_of(self, repository: str) -> RepositoryAccount:
        """What a repository links. Raises RecordDamaged."""
        key = space_format.account_key(layout.repository_hash(repository))
        return space_format.decode_repository_account(self._index.get(key))

    def links(self, after: bytes = b"", limit: int = 1000) -> tuple[list[tuple[Digest, str]], bytes]:
        """((digest, repository that has it), where to go on), by digest, at most `limit`; twice for what it has as a
        blob and as a manifest. b"" when there is no more."""
        rows = [key for key, _ in self._index.scan(layout.HOLDER, after=after, limit=limit)]
        links = [
            (layout.digest_from(key, key[1:-17]), name)
            for key in rows
            for name in self._names.of([key[-16:]])
        ]
        return links, rows[-1] if len(rows) == limit else b""

    def disk_use(self) -> DiskUse:
        """What the store takes of the disk beside its blobs. Reads directories, in the first call those of all blobs,
        so a thread is the place for it; raises OSError."""
        return disk_use(self._directory, self._strays.disk_bytes())

    # --- the image graph

    def children(self, manifest: Digest) -> list[Child]:
        """What a manifest names, in its order; nothing of one that is linked nowhere."""
        with self._index.view() as view:
            return change.children_in(view, manifest.key) or []

    def freed_by(self, repository: str, digest: Digest, *, now: float) -> Departure:
        """What would leave a repository if a manifest or a blob, and the tags that point to it, were deleted and what
        nothing else there names collected, whoever pushed it."""
        return self.freed_together(repository, [digest], now=now)

    def freed_together(self, repository: str, digests: list[Digest], *, now: float) -> Departure:
        """The same for several, whose common content only goes with the last of them."""
        hashed, roots = layout.repository_hash(repository), [digest.key for digest in digests]
        with self._index.view() as view:
            going = list(collection.only_named_by(view, hashed, roots, now, owned=True))
            return Departure(len(going), sum(collection.freed(view, hashed, key) for key in going))

    def roots(self, repository: str, digest: Digest) -> list[Digest]:
        """What is evicted as a whole and has a digest of a repository in it: the manifests that no other names, or the
        digest itself."""
        with self._index.view() as view:
            keys = collection.roots_of(view, layout.repository_hash(repository), digest.key)
        return [Digest.from_key(key) for key in keys]

    def holding(
        self, repository: str, digest: Digest, *, now: float, parent: bytes = b""
    ) -> ImageHolding | None:
        """What `evict` would take, and whether it may; None for what is not there."""
        with self._index.view() as view:
            return collection.holding_of(view, repository, digest, now=now, parent=parent)

    # --- order of use

    def uses(self, limit: int) -> list[ImageUse]:
        """What was not used for longest, at most `limit`, oldest first: each digest of each repository."""
        return self.uses_after(b"", limit)[0]

    def uses_after(self, after: bytes, limit: int) -> tuple[list[ImageUse], bytes]:
        """(the same from a place on, where to go on); b"" is the beginning, and the end."""
        rows = list(self._index.scan(layout.USE, after=after, limit=limit))
        uses = []
        for key, _ in rows:
            hour, repository, digest_key = space_format.use_of(key)
            for name in self._names.of([repository]):
                uses.append(ImageUse(hour, name, layout.digest_from(key, digest_key)))
        return uses, rows[-1][0] if len(rows) == limit else b""

    def last_use(self, repository: str, digest: Digest) -> int | None:
        """The hour since 1970 in which something of a repository was used last; None for what is not there."""
        with self._index.view() as view:
            return hour_of_use(view, layout.repository_hash(repository), digest.key)

    # --- what goes

    def evict(self, repository: str, digest: Digest, *, now: float, parent: bytes = b"") -> Future[Departure]:
        """Take an image of a cache away: a manifest that no other names, or a blob; its tags, and what nothing else
        there names. What was pushed here goes when the parent of this mark confirmed it. The future raises
        NotEvictable, which says why it stays, and NotHeld."""
        return self._departing(
            lambda view: collection.evicted(view, repository, digest, now=now, parent=parent)
        )

    def loose(self, after: bytes = b"", limit: int = 1000) -> tuple[list[tuple[str, Digest]], bytes]:
        """((repository, digest) of what no tag and no manifest of its repository names, where to go on), at most
        `limit`; b"" when there is no more."""
        rows = list(self._index.scan(layout.LOOSE, after=after, limit=limit))
        loose = [
            (name, layout.digest_from(key, key[17:]))
            for key, _ in rows
            for name in self._names.of([key[1:17]])
        ]
        return loose, rows[-1][0] if len(rows) == limit else b""

    def collect(
        self, loose: list[tuple[str, Digest]], rule: CollectionRule, *, now: float
    ) -> Future[Departure]:
        """Take away what is loose and what the rule lets go, in one transaction: of the first collection.DIGESTS, as
        many as collection.CHANGES allows. Those that are left were not looked at."""
        batch, rest = loose[: collection.DIGESTS], len(loose[collection.DIGESTS :])

        def plan(view: IndexView) -> tuple[list[IndexChange], Departure]:
            limit = collection.CHANGES
            changes, gone = collection.collected_together(view, batch, rule, now=now, gone={}, limit=limit)
            return changes, gone._replace(left=gone.left + rest)

        return self._departing(plan)

    def collectable(
        self,
        loose: list[tuple[str, Digest]],
        rule: CollectionRule,
        *,
        now: float,
        gone: dict[Digest, set[bytes]],
    ) -> Departure:
        """What `collect` would take of it now. `gone` is the caller's, empty at first: the repositories that would have
        lost a digest that several have, over the calls of one dry run."""
        with self._index.view() as view:
            return collection.collected_together(view, loose, rule, now=now, gone=gone)[1]

    def loose_since(self, repository: str, digest: Digest) -> float | None:
        """Since when nothing names a digest of a repository (wall seconds); None for one that is named. Raises
        RecordDamaged."""
        key = space_format.loose_key(layout.repository_hash(repository), digest.key)
        payload = self._index.get(key)
        return None if payload is None else layout.decode_time(payload)

    def _departing(
        self, plan: Callable[[IndexView], tuple[list[IndexChange], Departure]]
    ) -> Future[Departure]:
        departure = Departure()

        def planned(view: IndexView) -> list[IndexChange]:
            nonlocal departure
            changes, departure = plan(view)
            return changes

        return self._access.answered(planned, lambda: departure, frees=True)

    # --- pins

    def pins(self) -> list[Pin]:
        """All pins, those that are over as well; a damaged one is left out."""
        kept = []
        for key, value in self._index.scan(layout.PIN):
            with contextlib.suppress(RecordDamaged):
                payload = layout.unseal(key, value)
                kept += [pins.pin_of(name, key, payload) for name in self._names.of([key[1:17]])]
        return kept

    def pin(self, pin: Pin, *, now: float) -> Future[None]:
        """Keep a tag or a manifest, held or not, and all that it names. The future raises Mistake."""
        return self._access.submit(lambda view: pins.pinned(view, pin, now=now))

    def unpin(self, repository: str, kind: str, name: str) -> Future[None]:
        """End a pin. The future raises NotHeld."""
        return self._access.submit(lambda view: pins.unpinned(view, repository, kind, name))
