"""When images were made: read once from manifest and config, and remembered by digest in a quiet record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import structlog
from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from holdfast_core.record import ResourceChange
from holdfast_core.resources import ResourceView

from holdfast.manifest import Inspected, parse_aside
from holdfast.replica.holdings import Reading
from holdfast.repository import Repository
from holdfast.sync.age import dated_by, of_annotations, of_config
from holdfast.sync.platform import Platforms

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

log = structlog.get_logger()

KIND = "made"
#: a config is never longer; one that is says nothing (bytes)
CONFIG_BYTES = 1 << 20
#: an index of indexes is read so deep
DEPTH = 3


class Ages:
    """Of the images of one repository. `platforms`: which child of an index is asked."""

    def __init__(self, keeper: Keeper, reading: Reading, repository: str, platforms: Platforms) -> None:
        self._keeper, self._reading = keeper, reading
        self._repository, self._platforms = repository, platforms
        self._name = Digest.of(repository.encode()).hex
        self._before = self._recalled()
        self._found: dict[str, float | None] = {}

    async def of(self, digest: str) -> float | None:
        """Wall seconds, None where the image does not say. Raises ParentFailed, ManifestInvalid and StoreError."""
        if digest not in self._found:
            known = digest in self._before
            self._found[digest] = self._before[digest] if known else await self._read(digest, DEPTH)
        return self._found[digest]

    async def keep(self) -> None:
        """Remember those that were asked for, and no others."""
        if self._found == self._before:
            return
        body = msgspec.json.encode(self._found)

        def plan(_: ResourceView) -> Sequence[ResourceChange]:
            return [ResourceChange(KIND, self._name, body)]

        try:
            await asyncio.wrap_future(self._keeper.store.change_resources(plan, quiet=frozenset({KIND})))
        except StoreError as error:
            log.error("ages of images cannot be recorded", reason=str(error))

    def _recalled(self) -> dict[str, float | None]:
        try:
            held = self._keeper.store.resource(KIND, self._name)
            return {} if held is None else msgspec.json.decode(held.body, type=dict[str, float | None])
        except (StoreError, msgspec.DecodeError) as error:  # they are read again
            log.error("ages of images cannot be read", reason=str(error))
            return {}

    async def _read(self, digest: str, depth: int) -> float | None:
        found = await self._manifest(digest)
        at = of_annotations(found.annotations)
        child = dated_by(found, self._platforms)
        if at is not None or child is None or not depth:
            return at
        if child.is_manifest:
            return await self._read(child.digest, depth - 1)
        return None if child.size > CONFIG_BYTES else of_config(await self._config(child.digest))

    async def _manifest(self, digest: str) -> Inspected:
        held = self._keeper.store.manifest(self._repository, Digest.parse(digest))
        if held is not None:
            return await parse_aside(held.body, held.media_type)
        return (await self._reading.read(self._repository, digest)).inspected

    async def _config(self, digest: str) -> bytes:
        held = self._keeper.store.blob(self._repository, Digest.parse(digest))
        if held is not None:
            with self._keeper.store.open_blob(held) as reader:
                return reader.read(0, held.size)
        where = Repository.from_key(self._repository)
        return await self._keeper.background[where.namespace].blob(where.name, digest, CONFIG_BYTES)
