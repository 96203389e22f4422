"""What the body of a manifest names: its config, layers, blobs and manifests, but not its subject, which it does not
need (image-spec, manifest: `subject`).

What is kept is decided by this, so a body that is not understood names every digest that stands anywhere in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.errors import MalformedDigest
from holdfast_core.record import Child

_LARGEST = (1 << 64) - 1
_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}(?![0-9a-f])|sha512:[0-9a-f]{128}(?![0-9a-f])")


class NamedContent(msgspec.Struct):
    """A descriptor (image-spec, descriptor), as far as it is read here."""

    digest: str
    size: int = 0


class ManifestBody(msgspec.Struct):
    """An image manifest or an index (image-spec, manifest; image-spec, image-index), an artifact manifest, or Docker's
    of either: whatever it has of these fields."""

    config: NamedContent | None = None
    layers: list[NamedContent] | None = None
    blobs: list[NamedContent] | None = None
    manifests: list[NamedContent] | None = None


_body = msgspec.json.Decoder(ManifestBody)


def children_of(body: bytes) -> list[Child]:
    """The manifests and blobs that a manifest names, each once, in the order in which they stand."""
    try:
        return _children(_body.decode(body))
    except (msgspec.DecodeError, MalformedDigest, RecursionError):
        return list(_once(_anywhere(body)))


def _children(read: ManifestBody) -> list[Child]:
    blobs = [*([read.config] if read.config else ()), *(read.layers or ()), *(read.blobs or ())]
    named = [(layout.AS_MANIFEST, content) for content in read.manifests or ()]
    named += [(layout.AS_BLOB, content) for content in blobs]
    return list(
        _once(Child(kind, Digest.parse(content.digest), _size(content.size)) for kind, content in named)
    )


def _once(children: Iterable[Child]) -> Iterator[Child]:
    seen = set()
    for child in children:
        if child.digest.key not in seen:
            seen.add(child.digest.key)
            yield child


def _size(size: int) -> int:
    return min(max(size, 0), _LARGEST)


def _anywhere(body: bytes) -> Iterator[Child]:
    """Every digest that stands in a body."""
    for match in _DIGEST.finditer(body):
        yield Child(layout.AS_BLOB, Digest.parse(match[0].decode()), 0)
