"""PUT of manifests, by tag, by digest and by digest with `tag` parameters (distribution-spec end-7a, end-7b).

A manifest is accepted when every client reads the same content in it (holdfast.oci.manifest), its bytes match the
digest in the URL, and with `push.require_blobs` its blobs are here or at the parent. The exact bytes are stored, with
the Content-Type without its parameters. The manifest and all its tags are committed in one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from holdfast_core.digest import Digest

from holdfast.endpoint.content import checked
from holdfast.endpoint.node import Node
from holdfast.endpoint.unavailable import is_deleted
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
from holdfast.oci import names
from holdfast.oci.manifest import Inspected, parse_aside
from holdfast.oci.manifest import ManifestUnreadable as Unreadable
from holdfast.push.body_budget import BodyShare
from holdfast.routing import RoutedRepository
from holdfast.wire.message import Reply, Request
from holdfast.wire.query import encode_query
from holdfast.wire.routes import Route, build

#: most `tag` parameters of a push; the spec requires 10 (references.md 2.6), 46 of the longest fit a target of 8 KiB
TAG_LIMIT = 64
#: HEAD requests for the blobs of one manifest that run at the parent at a time
HEADS_AT_ONCE = 8
#: A body up to FREE_BYTES does not count against `Node.manifest_bodies`; a longer one counts in steps, each before it
#: is read. Of a body without a length the first read does not count.
FREE_BYTES, STEP_BYTES = 64 << 10, 1 << 20
#: most missing digests that a refusal names
NAMED_LIMIT = 20


class RequestedManifest(NamedTuple):
    """The digest that the body must have (None: its sha256), its tags, and those of them that are parameters."""

    digest: Digest | None
    tags: tuple[str, ...]
    listed: tuple[str, ...]


async def answer(node: Node, request: Request) -> Reply:
    """201 after the manifest is on disk. Raises a `Refusal`; then nothing was stored."""
    with node.manifest_bodies.share() as share:
        return await _pushed(node, request, share)


async def _pushed(node: Node, request: Request, share: BodyShare) -> Reply:
    scope = node.router.scope(request)
    requested = _requested(request)
    condition = checked(node, scope, request)
    body = await _body(request, node.config.limits.manifest_bytes, share)
    digest = await _digest(body, requested.digest)
    content = await _inspected(body, request.header("content-type") or "")
    is_checked = node.config.push.require_blobs and not content.is_index
    held = await _require_blobs(node, scope, content) if is_checked else ()
    media_type = content.media_type
    await node.port.put_manifest(scope.key, str(digest), requested.tags, media_type, body, condition, held)
    return Reply(201, _headers(request, scope, str(digest), content, requested.listed))


def _requested(request: Request) -> RequestedManifest:
    """Digest and tags of the URL. Raises `DigestInvalid`, `TagInvalid`, `TooManyTags`, `QueryInvalid`."""
    reference = request.route.reference
    listed = [value for name, value in request.query if name == "tag"]
    if len(listed) > TAG_LIMIT:
        raise TooManyTags(f"{len(listed)} tag parameters in one push", detail=f"at most {TAG_LIMIT}")
    if ":" in reference:
        tags = tuple(dict.fromkeys(map(_tag, listed)))
        return RequestedManifest(names.digest(reference), tags, tags)
    if listed:
        raise QueryInvalid("tag parameters go with a push by digest; this path names a tag")
    # an earlier draft of end-7b, which regclient still sends (references.md 2.6)
    digest = request.parameter("digest")
    return RequestedManifest(names.digest(digest) if digest else None, (_tag(reference),), ())


def _tag(text: str) -> str:
    if not names.is_tag(text):
        raise TagInvalid("the tag is outside the grammar", detail=names.shown(text))
    return text


async def _body(request: Request, limit: int, share: BodyShare) -> bytes:
    """The whole body. While `share` has no room for it, it is not read and the client waits. Raises `ManifestTooLarge`
    as soon as that is known."""
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


async def _digest(body: bytes, requested: Digest | None) -> Digest:
    """The digest of the bytes by the requested algorithm. Raises `DigestInvalid` when it is not the requested one."""
    algorithm = requested.algorithm if requested else "sha256"
    actual = (
        await asyncio.get_running_loop().run_in_executor(None, Digest.of, body, algorithm)
        if len(body) > 1 << 20
        else Digest.of(body, algorithm)
    )
    if requested is not None and actual != requested:
        raise DigestInvalid("the bytes do not match the digest", detail=f"they hash to {actual}")
    return actual


async def _inspected(body: bytes, content_type: str) -> Inspected:
    try:
        return await parse_aside(body, content_type)
    except Unreadable as refused:
        raise ManifestInvalid(f"not a manifest that every client reads the same way: {refused}") from None


async def _require_blobs(node: Node, scope: RoutedRepository, content: Inspected) -> tuple[str, ...]:
    """The config and layers that are here; the others are at the parent. Raises `ManifestBlobUnknown` with the missing
    ones, and the keeper's refusal when the parent does not answer."""
    requested = dict.fromkeys(child.digest for child in content.children if not child.is_foreign)
    missing = [text for text in requested if not _is_held(node, scope, text)]
    held = tuple(text for text in requested if text not in missing)
    if missing and node.asks(scope):
        missing = await _unknown_at_parent(node, scope, missing)
    if missing:
        more = f" and {len(missing) - NAMED_LIMIT} more" if len(missing) > NAMED_LIMIT else ""
        raise ManifestBlobUnknown(
            "the image names blobs that are not in this repository; push them first",
            detail=", ".join(missing[:NAMED_LIMIT]) + more,
        )
    return held


def _is_held(node: Node, scope: RoutedRepository, text: str) -> bool:
    """Whether the blob is here and not known to be damaged."""
    digest = _parsed(text)
    blob = None if digest is None else node.blobs.get(scope.key, digest)
    return blob is not None and node.blobs.is_whole(blob)


def _parsed(text: str) -> Digest | None:
    """The digest, None for one with another algorithm than this node supports."""
    try:
        return names.digest(text)
    except DigestInvalid:
        return None


async def _unknown_at_parent(node: Node, scope: RoutedRepository, missing: list[str]) -> list[str]:
    room = asyncio.Semaphore(HEADS_AT_ONCE)

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
    request: Request, scope: RoutedRepository, digest: str, content: Inspected, listed: tuple[str, ...]
) -> list[tuple[str, str]]:
    route = request.route
    location = build(Route(route.noun, route.name, digest, route.prefix))
    if scope.namespace:
        location = f"{location}?{encode_query((('ns', scope.namespace),))}"
    return [
        ("Location", location),
        ("Docker-Content-Digest", digest),
        *_result_headers(content, listed),
        *([("OCI-Namespace", scope.namespace)] if scope.namespace else []),
    ]


def _result_headers(content: Inspected, listed: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The headers OCI-Subject and OCI-Tag of the answer."""
    if content.subject:
        yield "OCI-Subject", content.subject
    for tag in listed:
        yield "OCI-Tag", tag
