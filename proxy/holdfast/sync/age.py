"""When an image was made, as it says itself: a polled parent does not tell when a tag moved. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from holdfast.control.moment import seconds
from holdfast.manifest import Child, Inspected
from holdfast.sync.image import NO_PLATFORM
from holdfast.sync.platform import Platforms

#: image-spec, annotations.md
CREATED = "org.opencontainers.image.created"
#: reproducible builds say 1970 or 1980, which is no time (wall seconds)
LEAST = 325_000_000.0


class _Config(Struct):
    """Of an image's config (image-spec, config.md)."""

    created: str | None = None


def of_annotations(annotations: Mapping[str, str]) -> float | None:
    """Wall seconds; None where they say none."""
    return _moment(annotations.get(CREATED))


def of_config(body: bytes) -> float | None:
    """Wall seconds; None where the config of an image says none."""
    try:
        return _moment(msgspec.json.decode(body, type=_Config).created)
    except msgspec.MsgspecError:
        return None


def dated_by(found: Inspected, platforms: Platforms) -> Child | None:
    """What says it where the annotations do not: the config of an image, a child of an index that is wanted."""
    if not found.is_index:
        return found.children[0] if found.children else None
    images = [child for child in found.children if child.is_manifest and child.platform != NO_PLATFORM]
    wanted = (child for child in images if platforms.wants(child.platform))
    return next(wanted, images[0] if images else None)


def _moment(text: str | None) -> float | None:
    try:
        found = seconds(text or "")
    except (ValueError, OverflowError):
        return None
    return found if found > LEAST else None
