"""PUT of manifests, by tag, by digest and by digest with `tag` parameters (distribution-spec end-7a, end-7b).

Little is asked of a manifest: that every client reads the same thing in it (holdfast.manifest), that its bytes
are those of the digest it is pushed under, and with `push.require_blobs` that an image can be pulled here. The
exact bytes are kept, under the Content-Type without its parameters. One transaction brings the manifest and
all its tags, or nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from holdfast_core.digest import Digest

from holdfast.endpoint.condition import checked
from holdfast.endpoint.miss import is_deleted
from holdfast.endpoint.node import Node
from holdfast.errors import (
    BlobUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    QueryInvalid,
    TagInvalid,
    TooManyTags,
)
from holdfast.manifest import Inspected, parse_aside
from holdfast.manifest import ManifestInvalid as Unreadable
from holdfast.push.budget import Share
from holdfast.routing import Scope
from holdfast.wire import names
from holdfast.wire.message import Reply, Request
from holdfast.wire.query import encode_query
from holdfast.wire.routes import Route, build

#: `tag` parameters in one push; the spec wants 10 (rule 65), 46 of the longest fit a request target of 8 KiB
TAG_LIMIT = 64
#: blobs asked for at the parent at once, for one manifest
ASKED_AT_ONCE = 8
#: A body up to this is not counted against `Node.manifest_bodies`; a longer one in steps, before they are read.
#: One without a length is read once first: its bytes are here already, and most are short.
FREE_BYTES, STEP_BYTES = 64 << 10, 1 << 20
#: missing digests named in a refusal
NAMED_LIMIT = 20


class Wanted(NamedTuple):
    """Under what the body is to be kept: the digest it must have (None: its sha256), tags, and which of them
    came as parameters."""

    digest: Digest | None
    tags: tuple[str, ...]
    listed: tuple[str, ...]


async def answer(node: Node, request: Request) -> Reply:
    """201 once the manifest is on disk. Raises what `errors` has for manifests; then nothing was stored."""
    with node.manifest_bodies.share() as share:
        return await _pushed(node, request, share)


async def _pushed(node: Node, request: Request, share: Share) -> Reply:
    scope = node.router.scope(request)
    wanted = _wanted(request)
    condition = checked(node, scope, request)
    body = await _body(request, node.config.limits.manifest_bytes, share)
    digest = await _digest(body, wanted.digest)
    content = await _inspected(body, request.header("content-type") or "")
    if node.config.push.require_blobs and not content.is_index:
        await _require_blobs(node, scope, content)
    media_type = content.media_type
    await node.port.put_manifest(scope.key, str(digest), wanted.tags, media_type, body, condition)
    return Reply(201, _headers(request, scope, str(digest), content, wanted.listed))


def _wanted(request: Request) -> Wanted:
    """What the URL says. Raises `DigestInvalid`, `TagInvalid`, `TooManyTags`, `QueryInvalid`."""
    reference = request.route.reference
    listed = [value for name, value in request.query if name == "tag"]
    if len(listed) > TAG_LIMIT:
        raise TooManyTags(f"{len(listed)} tag parameters in one push", detail=f"at most {TAG_LIMIT}")
    if ":" in reference:
        tags = tuple(dict.fromkeys(map(_tag, listed)))
        return Wanted(names.digest(reference), tags, tags)
    if listed:
        raise QueryInvalid("tag parameters go with a push by digest; this path names a tag")
    # an earlier draft of end-7b, which regclient still sends (oci-spec 1.20)
    asked = request.parameter("digest")
    return Wanted(names.digest(asked) if asked else None, (_tag(reference),), ())


def _tag(text: str) -> str:
    if not names.is_tag(text):
        raise TagInvalid("the tag is outside the grammar", detail=names.shown(text))
    return text


async def _body(request: Request, limit: int, share: Share) -> bytes:
    """All of the body. While there is no room for it nobody reads, so its client waits. Raises
    `ManifestTooLarge` as soon as that is known."""
    source = request.body
    if source is None:
        raise ManifestInvalid("the body is empty; a manifest is a JSON object")
    if source.length is not None and source.length > limit:
        raise _too_large(limit)
    parts, most = bytearray(), limit if source.length is None else source.length
    while True:
        if max(len(parts), source.length or 0) > FREE_BYTES:
            await share.cover(min(len(parts) + STEP_BYTES, most))
        if not (data := await source.read()):
            return bytes(parts)
        parts += data
        if len(parts) > limit:
            raise _too_large(limit)


def _too_large(limit: int) -> ManifestTooLarge:
    return ManifestTooLarge(f"a manifest may have {limit} bytes", detail="limits.manifest_bytes")


async def _digest(body: bytes, wanted: Digest | None) -> Digest:
    """The digest that the bytes have, by the algorithm that was asked for. Raises `DigestInvalid`."""
    algorithm = wanted.algorithm if wanted else "sha256"
    found = (
        await asyncio.get_running_loop().run_in_executor(None, Digest.of, body, algorithm)
        if len(body) > 1 << 20
        else Digest.of(body, algorithm)
    )
    if wanted is not None and found != wanted:
        raise DigestInvalid("the bytes do not match the digest", detail=f"they hash to {found}")
    return found


async def _inspected(body: bytes, content_type: str) -> Inspected:
    try:
        return await parse_aside(body, content_type)
    except Unreadable as refused:
        raise ManifestInvalid(f"not a manifest that every client reads the same way: {refused}") from None


async def _require_blobs(node: Node, scope: Scope, content: Inspected) -> None:
    """Raises `ManifestBlobUnknown` that names every missing config and layer, and what the keeper raises when
    the parent cannot say."""
    wanted = dict.fromkeys(child.digest for child in content.children if not child.is_foreign)
    missing = [text for text in wanted if not _is_held(node, scope, text)]
    if missing and node.asks(scope):
        missing = await _unknown_at_parent(node, scope, missing)
    if missing:
        more = f" and {len(missing) - NAMED_LIMIT} more" if len(missing) > NAMED_LIMIT else ""
        raise ManifestBlobUnknown(
            "the image names blobs that are not in this repository; push them first",
            detail=", ".join(missing[:NAMED_LIMIT]) + more,
        )


def _is_held(node: Node, scope: Scope, text: str) -> bool:
    """Whether the blob is here, and no byte of it is known to be bad."""
    digest = _parsed(text)
    blob = None if digest is None else node.store.blob(scope.key, digest)
    return blob is not None and node.store.is_whole(blob)


def _parsed(text: str) -> Digest | None:
    """A digest that this server could have a blob under."""
    try:
        return names.digest(text)
    except DigestInvalid:
        return None


async def _unknown_at_parent(node: Node, scope: Scope, missing: list[str]) -> list[str]:
    room = asyncio.Semaphore(ASKED_AT_ONCE)

    async def is_unknown(text: str) -> bool:
        digest = _parsed(text)
        if digest is None or is_deleted(node, scope, "blob", text):
            return True
        try:
            async with room:
                await node.port.blob_size(scope.key, text)
        except BlobUnknown:
            return True
        return False

    unknown = await asyncio.gather(*map(is_unknown, missing))
    return [text for text, is_so in zip(missing, unknown, strict=True) if is_so]


def _headers(
    request: Request, scope: Scope, digest: str, content: Inspected, listed: tuple[str, ...]
) -> list[tuple[str, str]]:
    route = request.route
    location = build(Route(route.noun, route.name, digest, route.prefix))
    if scope.namespace:
        location = f"{location}?{encode_query((('ns', scope.namespace),))}"
    return [
        ("Location", location),
        ("Docker-Content-Digest", digest),
        *_told(content, listed),
        *([("OCI-Namespace", scope.namespace)] if scope.namespace else []),
    ]


def _told(content: Inspected, listed: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What the spec's newer rules want said (67, 69)."""
    if content.subject:
        yield "OCI-Subject", content.subject
    for tag in listed:
        yield "OCI-Tag", tag
