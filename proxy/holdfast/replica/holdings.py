"""What is here and what is known, as the planner asks for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.record import Descriptor, Target
from holdfast_core.store import Store

from holdfast.keeper.flight import Flights
from holdfast.manifest import parse
from holdfast.parent.client import FetchedManifest
from holdfast.repository import Repository
from holdfast.sync.image import Facts, Referrer, facts_of

#: manifests that were read and are not kept yet, in memory at once
MANIFESTS = 512


class Holdings:
    """`holdfast.sync.image.Held` over the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parts = {
            str(found.digest): min(len(found.chunks) * CHUNK_BYTES, found.size) for found in store.fills()
        }

    def has(self, digest: str) -> bool:
        """Whether all bytes are here."""
        found = self._store.blob_anywhere(Digest.parse(digest))
        return found is not None and not found.damaged

    def linked(self, repository: str, digest: str) -> bool:
        """Whether the repository has them."""
        if self._store.blob(repository, Digest.parse(digest)) is not None:
            return True
        return self._store.is_there(repository, Target("manifest", digest))

    def part(self, digest: str) -> int:
        """Bytes of a fill that stopped, when this was made."""
        return self._parts.get(digest, 0)

    def tag(self, repository: str, name: str) -> str:
        """The digest that a tag names here, "" for none."""
        found = self._store.tag(repository, name) if name else None
        return "" if found is None else str(found.digest)


class Gives(Protocol):
    """Who gives manifests: a parent, or what asks it within a budget."""

    async def get_manifest(self, name: str, reference: str) -> FetchedManifest: ...


class Reading:
    """Manifests that were read from parents, the last ones; each is asked for once at a time."""

    def __init__(self, parents: Mapping[str, Gives]) -> None:
        self._parents = parents
        self._read: OrderedDict[tuple[str, str], FetchedManifest] = OrderedDict()
        self._flights: Flights[FetchedManifest] = Flights()

    def get(self, repository: str, digest: str) -> FetchedManifest | None:
        """What was read, None when it was not or was forgotten."""
        return self._read.get((repository, digest))

    async def read(self, repository: str, reference: str) -> FetchedManifest:
        """From the repository's parent. Raises ParentFailed."""
        return self.get(repository, reference) or await self._flights.result(
            (repository, reference), lambda: self._ask(repository, reference)
        )

    async def _ask(self, repository: str, reference: str) -> FetchedManifest:
        where = Repository.from_key(repository)
        found = await self._parents[where.namespace].get_manifest(where.name, reference)
        self._read[repository, found.digest] = found
        while len(self._read) > MANIFESTS:
            self._read.popitem(last=False)
        return found

    async def close(self) -> None:
        """Stop asking."""
        await self._flights.close()


class Knowledge:
    """`holdfast.sync.image.Graph` for one image: what is held, and what was read for it. `missing` are subjects whose
    referrers the planner wanted to know and nobody does; lists of `since` (wall seconds) or before do not count."""

    def __init__(self, store: Store, reading: Reading, since: float) -> None:
        self._store, self._reading, self._since = store, reading, since
        self.manifests: dict[tuple[str, str], FetchedManifest] = {}
        self.listed: dict[tuple[str, str], tuple[Descriptor, ...]] = {}
        self.missing: dict[tuple[str, str], None] = {}

    async def read(self, repository: str, digest: str) -> None:
        """Have the bytes of a manifest. Raises ParentFailed."""
        self.manifests[repository, digest] = await self._reading.read(repository, digest)

    def facts(self, repository: str, digest: str) -> Facts | None:
        """Of a manifest that is here, or was read."""
        if (found := self.manifests.get((repository, digest))) is not None:
            return facts_of(found.inspected, len(found.body))
        held = self._store.manifest(repository, Digest.parse(digest))
        return None if held is None else facts_of(parse(held.body, held.media_type), len(held.body))

    def referrers(self, repository: str, digest: str) -> Sequence[Referrer]:
        """The parent's list, and those held."""
        rows = self.listed.get((repository, digest))
        if rows is None:
            held = self._store.referrers(repository, Digest.parse(digest))
            if held is None or not held.fetched_at or held.fetched_at <= self._since:
                self.missing[repository, digest] = None
            rows = () if held is None else held.descriptors
        return [Referrer(row.digest, row.size, row.artifact_type) for row in rows]
