"""The inputs of the planner: the blobs and manifests of the store, and manifests that were read from parents."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.record import Descriptor, LockTarget
from holdfast_core.store import Store

from holdfast.oci.image import Facts, Referrer, facts_of
from holdfast.oci.manifest import parse
from holdfast.parent.client import FetchedManifest
from holdfast.routing import Repository
from holdfast.single_flight import SingleFlight

#: manifests from parents that are kept in memory at once
MANIFESTS = 512


class Holdings:
    """`holdfast.oci.image.HeldImages` over the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parts = {
            str(fill.digest): min(len(fill.chunks) * CHUNK_BYTES, fill.size)
            for fill in store.blobs.fills.states()
        }

    def has(self, digest: str) -> bool:
        """Whether the store has all bytes."""
        blob = self._store.blobs.anywhere(Digest.parse(digest))
        return blob is not None and not blob.damaged

    def linked(self, repository: str, digest: str) -> bool:
        """Whether the repository links the blob or manifest."""
        if self._store.blobs.get(repository, Digest.parse(digest)) is not None:
            return True
        return self._store.references.is_there(repository, LockTarget("manifest", digest))

    def part(self, digest: str) -> int:
        """Returns the bytes of a stopped fill at the time when this object was made."""
        return self._parts.get(digest, 0)

    def tag(self, repository: str, name: str) -> str:
        """Returns the digest that a tag names here, "" for none."""
        tag = self._store.references.tag(repository, name) if name else None
        return "" if tag is None else str(tag.digest)


class ManifestSource(Protocol):
    """A parent, or a `BudgetedParent`."""

    async def get_manifest(self, name: str, reference: str) -> FetchedManifest: ...


class ManifestReader:
    """Reads manifests from parents and keeps the last ones; one request for each manifest at a time."""

    def __init__(self, parents: Mapping[str, ManifestSource]) -> None:
        self._parents = parents
        self._manifests: OrderedDict[tuple[str, str], FetchedManifest] = OrderedDict()
        self._flights: SingleFlight[FetchedManifest] = SingleFlight()

    def get(self, repository: str, digest: str) -> FetchedManifest | None:
        """Returns a manifest from memory, None when it is not there."""
        return self._manifests.get((repository, digest))

    async def read(self, repository: str, reference: str) -> FetchedManifest:
        """Returns a manifest from memory or from the repository's parent. Raises ParentFailed."""
        return self.get(repository, reference) or await self._flights.result(
            (repository, reference), lambda: self._fetch(repository, reference)
        )

    async def _fetch(self, repository: str, reference: str) -> FetchedManifest:
        where = Repository.from_key(repository)
        manifest = await self._parents[where.namespace].get_manifest(where.name, reference)
        self._manifests[repository, manifest.digest] = manifest
        while len(self._manifests) > MANIFESTS:
            self._manifests.popitem(last=False)
        return manifest

    async def close(self) -> None:
        """Cancels the requests under way."""
        await self._flights.close()


class ImageGraph:
    """`holdfast.oci.image.Graph` for one image, over the store and what was read from the parent. `missing` are the
    subjects whose referrers the planner needs and that are not known; lists from `since` (wall seconds) or before do
    not count."""

    def __init__(self, store: Store, reading: ManifestReader, since: float) -> None:
        self._store, self._reading, self._since = store, reading, since
        self.manifests: dict[tuple[str, str], FetchedManifest] = {}
        self.listed: dict[tuple[str, str], tuple[Descriptor, ...]] = {}
        self.missing: dict[tuple[str, str], None] = {}

    async def read(self, repository: str, digest: str) -> None:
        """Reads a manifest. Raises ParentFailed."""
        self.manifests[repository, digest] = await self._reading.read(repository, digest)

    def facts(self, repository: str, digest: str) -> Facts | None:
        """Returns the facts of a manifest that is in the store or was read; None for another one."""
        if (fetched := self.manifests.get((repository, digest))) is not None:
            return facts_of(fetched.inspected, len(fetched.body))
        held = self._store.references.manifest(repository, Digest.parse(digest))
        return None if held is None else facts_of(parse(held.body, held.media_type), len(held.body))

    def referrers(self, repository: str, digest: str) -> Sequence[Referrer]:
        """Returns the parent's list of referrers, or that of the store."""
        rows = self.listed.get((repository, digest))
        if rows is None:
            held = self._store.references.lists.referrers(repository, Digest.parse(digest))
            if held is None or not held.fetched_at or held.fetched_at <= self._since:
                self.missing[repository, digest] = None
            rows = () if held is None else held.descriptors
        return [Referrer(row.digest, row.size, row.artifact_type) for row in rows]
