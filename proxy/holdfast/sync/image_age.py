"""The ages of images: read once from manifest or config, and stored by digest in a record that changes no ETag. A
polled parent does not say when a tag moved, so `newer_than` and `newest` use the time that the image itself states."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from holdfast_core.record import ResourceChange
from msgspec import Struct

from holdfast.log import log
from holdfast.oci.image import NO_PLATFORM
from holdfast.oci.manifest import ChildDescriptor, Inspected, parse_aside
from holdfast.oci.platforms import Platforms
from holdfast.routing import Repository
from holdfast.sync.holdings import ManifestReader
from holdfast.timestamps import seconds

if TYPE_CHECKING:
    from holdfast.sync.context import SyncContext

KIND = "made"
#: image-spec, annotations.md
CREATED = "org.opencontainers.image.created"
#: times before this are ignored: reproducible builds state 1970 or 1980 (wall seconds)
LEAST = 325_000_000.0
#: a larger config is not read (bytes)
CONFIG_BYTES = 1 << 20
#: levels of nested indexes that are followed
DEPTH = 3


class ImageAges:
    """The ages of the images of one repository. `platforms` choose the child that dates an index."""

    def __init__(
        self, context: SyncContext, reading: ManifestReader, repository: str, platforms: Platforms
    ) -> None:
        self._context, self._reading = context, reading
        self._repository, self._platforms = repository, platforms
        self._name = Digest.of(repository.encode()).hex
        self._before = self._read_record()
        self._times: dict[str, float | None] = {}

    async def of(self, digest: str) -> float | None:
        """Returns when an image was made (wall seconds), None where it does not state it. Raises ParentFailed,
        ManifestInvalid and StoreError."""
        if digest not in self._times:
            known = digest in self._before
            self._times[digest] = self._before[digest] if known else await self._read(digest, DEPTH)
        return self._times[digest]

    async def keep(self) -> None:
        """Stores the ages that were requested, and drops all others."""
        if self._times == self._before:
            return
        body = msgspec.json.encode(self._times)

        def plan(_: ResourceView) -> Sequence[ResourceChange]:
            return [ResourceChange(KIND, self._name, body)]

        try:
            await asyncio.wrap_future(self._context.store.documents.change(plan, quiet=frozenset({KIND})))
        except StoreError as error:
            log.error("ages of images cannot be recorded", reason=str(error))

    def _read_record(self) -> dict[str, float | None]:
        try:
            held = self._context.store.documents.get(KIND, self._name)
            return {} if held is None else msgspec.json.decode(held.body, type=dict[str, float | None])
        except (StoreError, msgspec.DecodeError) as error:  # they are read again
            log.error("ages of images cannot be read", reason=str(error))
            return {}

    async def _read(self, digest: str, depth: int) -> float | None:
        manifest = await self._manifest(digest)
        at = time_of_annotations(manifest.annotations)
        child = dating_child(manifest, self._platforms)
        if at is not None or child is None or not depth:
            return at
        if child.is_manifest:
            return await self._read(child.digest, depth - 1)
        return None if child.size > CONFIG_BYTES else time_of_config(await self._config(child.digest))

    async def _manifest(self, digest: str) -> Inspected:
        held = self._context.store.references.manifest(self._repository, Digest.parse(digest))
        if held is not None:
            return await parse_aside(held.body, held.media_type)
        return (await self._reading.read(self._repository, digest)).inspected

    async def _config(self, digest: str) -> bytes:
        held = self._context.store.blobs.get(self._repository, Digest.parse(digest))
        if held is not None:
            with self._context.store.blobs.open(held) as reader:
                return reader.read(0, held.size)
        where = Repository.from_key(self._repository)
        return await self._context.background[where.namespace].blob(where.name, digest, CONFIG_BYTES)


class _Config(Struct):
    """The part of an image's config that is read (image-spec, config.md)."""

    created: str | None = None


def time_of_annotations(annotations: Mapping[str, str]) -> float | None:
    """Returns the time that annotations state (wall seconds); None without one."""
    return _created_at(annotations.get(CREATED))


def time_of_config(body: bytes) -> float | None:
    """Returns the time that the config of an image states (wall seconds); None without one."""
    try:
        return _created_at(msgspec.json.decode(body, type=_Config).created)
    except msgspec.MsgspecError:
        return None


def dating_child(manifest: Inspected, platforms: Platforms) -> ChildDescriptor | None:
    """Returns what dates a manifest without annotations: the config of an image, or a selected child of an index."""
    if not manifest.is_index:
        return manifest.children[0] if manifest.children else None
    images = [child for child in manifest.children if child.is_manifest and child.platform != NO_PLATFORM]
    selected = (child for child in images if platforms.wants(child.platform))
    return next(selected, images[0] if images else None)


def _created_at(text: str | None) -> float | None:
    try:
        at = seconds(text or "")
    except (ValueError, OverflowError):
        return None
    return at if at > LEAST else None
