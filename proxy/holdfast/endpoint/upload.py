"""Upload sessions: POST, PATCH, PUT, GET and DELETE of blobs on their way in, and mounts (distribution-spec end-4a
to end-6, end-11, end-13, end-14).

A session's id is in its location alone. The location has no state, so that one from an earlier answer is as good as the
last. `push.session` has the states of a session.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import msgspec
from holdfast_core import errors as store_errors
from holdfast_core.blob_files.upload_files import Staging, Uploads
from holdfast_core.digest import Digest

from holdfast.endpoint.node import Answer, Node
from holdfast.errors import (
    DigestInvalid,
    Refusal,
    SizeInvalid,
    TooManyUploads,
    UploadOutOfOrder,
    UploadUnknown,
    of_store,
)
from holdfast.login.caller import EVERY
from holdfast.oci import names
from holdfast.push import session
from holdfast.push.session import Claim, SessionEvent, SessionState
from holdfast.push.session_writer import Destination, SessionWriter
from holdfast.routing import RoutedRepository
from holdfast.wire.message import Reply, Request
from holdfast.wire.query import encode_query
from holdfast.wire.routes import Noun, Route, build

_T = TypeVar("_T")

ALGORITHMS = ("sha256", "sha512")
#: Retry-After of a client that is over the limit on sessions (s)
RETRY_SECONDS = 10
#: when the node has no room for a session, one without a write for so long ends, of the client that has the most (s)
IDLE_SECONDS = 60.0

# RFC 9562 4: the text form of a UUID, in the one spelling that `_new_id` writes
_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


class UploadRequest(NamedTuple):
    """A request with its session. `name` is the session's in the store, "" when it has none yet."""

    node: Node
    request: Request
    scope: RoutedRepository
    id: str = ""
    name: str = ""

    @property
    def uploads(self) -> Uploads:
        """The sessions of the store."""
        return self.node.store.uploads

    @property
    def destination(self) -> Destination:
        """The repository into which a session is closed."""
        node = self.node
        return Destination(node.store, node.port, self.scope.key, node.config.inline_bytes)

    def session(self, id: str) -> UploadRequest:
        """The request with the session `id`, which exists for the client that began it alone."""
        of = (id, self.scope.key, self.request.caller.name.lower())
        name, former = Uploads.name(*of), Uploads.former_name(*of)
        if self.uploads.exists(former):
            name = former  # begun by a release before this one
        return self._replace(id=id, name=name)


def open_session(node: Node, request: Request) -> Answer:
    """POST: a session (202), or at once a blob (201) by mount or with `digest` and a body."""
    context = UploadRequest(node, request, node.router.scope(request))
    node.store.require_writable(context.scope.key)  # before the client sends anything
    _algorithm(request)
    if request.parameter("mount") is not None or request.parameter("digest") is not None:
        return _shortcut(context)
    return _opened(context)


async def progress(node: Node, request: Request) -> Reply:
    """GET: the length of a session so far (204)."""
    context = _existing(node, request)
    try:
        return Reply(204, _headers(context, await _with_session(context, context.uploads.size)))
    except store_errors.UploadNotFound:
        raise _unknown() from None


async def cancel(node: Node, request: Request) -> Reply:
    """DELETE: the session ends (204), also for a request that is writing to it."""
    context = _existing(node, request)
    try:
        await _with_session(context, context.uploads.remove)
    except store_errors.UploadNotFound:
        raise _unknown() from None
    node.push.hashes.forget(context.name)
    return Reply(204, [("Docker-Upload-UUID", context.id)])


async def append(node: Node, request: Request) -> Reply:
    """PATCH: the next bytes (202)."""
    context, claim = _existing(node, request), session.claimed(request)
    writer = await _begin(context, claim, _algorithm(request))
    return await node.push.see_through(_released(writer, _append(context, writer, claim)))


async def close(node: Node, request: Request) -> Reply:
    """PUT: the last bytes, if any, and the digest of the blob (201)."""
    context, digest = _existing(node, request), _digest(request)
    if digest is None:
        raise DigestInvalid(
            "the PUT that closes an upload names the digest of the blob: ?digest=sha256:<hex>"
        )
    claim = session.claimed(request)
    try:
        writer = await _begin(context, claim, digest.algorithm)
    except UploadUnknown:
        if _is_done(context, digest):
            return _created(context, digest)
        raise
    return await node.push.see_through(_released(writer, _close(context, writer, claim, digest)))


def _is_done(context: UploadRequest, digest: Digest) -> bool:
    """Whether a PUT without a body repeats one that succeeded and whose answer was lost or late: the session is gone,
    and the repository has the blob."""
    return context.request.body is None and context.destination.holds(digest)


async def _append(context: UploadRequest, writer: SessionWriter, claim: Claim) -> Reply:
    await writer.append(context.request.body, claim)
    return Reply(202, _headers(context, writer.staging.size))


async def _close(context: UploadRequest, writer: SessionWriter, claim: Claim, digest: Digest) -> Reply:
    if writer.start == 0 and _is_small(context, claim):
        await writer.close_with(await _whole(context, claim, digest), digest, context.destination)
    else:
        await writer.append(context.request.body, claim)
        await writer.close(digest, context.destination)
    return _created(context, digest)


async def _released(writer: SessionWriter, work: Awaitable[Reply]) -> Reply:
    try:
        return await work
    finally:
        writer.release()


async def _with_session(context: UploadRequest, call: Callable[[str], _T]) -> _T:
    """The result of `call` with the session's name. On a thread when the session's file has another name, because the
    whole directory is then searched for one that is being closed. Raises UploadNotFound."""
    if context.uploads.exists(context.name):
        return call(context.name)
    async with context.node.push.listing:
        return await asyncio.to_thread(call, context.name)


async def _begin(context: UploadRequest, claim: Claim, algorithm: str) -> SessionWriter:
    """A writer for the session, if it exists, no other request writes to it, and the chunk begins at its end. Raises
    UploadUnknown and UploadOutOfOrder, before the body is read."""
    state, staging = await _look(context)
    fits = staging is None or claim.fits(staging.size)
    step = session.step(state, SessionEvent.WRITE if fits else SessionEvent.STRAY)
    if step.answer is None and staging is not None:
        node, allow = context.node, context.request.allow
        return SessionWriter(node.push, staging, algorithm, allow, node.port.admit_push)
    if staging is not None:
        staging.close()
    if step.answer is session.SessionAnswer.UNKNOWN:
        raise _unknown()
    busy = "another request is writing to this upload"
    raise await _out_of_order(
        context, busy if state is SessionState.HELD else "the chunk does not begin where the upload ends"
    )


async def _look(context: UploadRequest) -> tuple[SessionState, Staging | None]:
    """The state of a session, and its file when this request has it open for writing."""
    try:
        await _with_session(context, context.uploads.size)
        return SessionState.IDLE, context.uploads.open(context.name)
    except store_errors.UploadNotFound:
        return SessionState.ABSENT, None
    except store_errors.UploadBusy:
        return SessionState.HELD, None
    except store_errors.Exhausted as full:
        raise of_store(full) from full


# -- POST ----------------------------------------------------------------------------------------------


async def _opened(context: UploadRequest) -> Reply:
    context = await _new(context)
    return Reply(202, _headers(context, 0))


async def _new(context: UploadRequest) -> UploadRequest:
    """A new session. Raises TooManyUploads, NodeFull."""
    name = context.request.caller.name.lower()
    client = Uploads.client("token", name) if name else Uploads.client("address", context.request.client)
    if context.uploads.is_known_roomy(client):
        return _begun(context, client)
    push, idle = context.node.config.push, context.node.clock.now() - IDLE_SECONDS
    async with context.node.push.listing:
        if not await asyncio.to_thread(
            context.uploads.has_room, push.sessions, client, push.sessions_by_client, idle
        ):
            raise TooManyUploads(
                "too many uploads are open at this node",
                detail=f"push.sessions = {push.sessions}, of one client push.sessions_by_client ="
                f" {push.sessions_by_client}; finish or cancel some, or wait until they expire",
                retry_after=RETRY_SECONDS,
            )
        return _begun(context, client)


def _begun(context: UploadRequest, client: str) -> UploadRequest:
    context = context.session(Uploads.session(client, uuid.UUID(bytes=secrets.token_bytes(16))))
    try:
        context.uploads.create(context.name)
    except store_errors.StoreError as error:
        raise of_store(error) from error
    return context


async def _shortcut(context: UploadRequest) -> Reply:
    """A mount if possible, else the body as a blob if there is `digest`, else a session."""
    mounted, digest = _digest(context.request, "mount"), _digest(context.request)
    if mounted is not None and await _mount(context, mounted):
        return _created(context, mounted)
    return await _single(context, digest) if digest is not None else await _opened(context)


async def _mount(context: UploadRequest, digest: Digest) -> bool:
    """Whether the blob is in this repository now. For a source that is invalid or that the caller may not pull from the
    answer is as for one that lacks the blob: a session (references.md 2.5, security.md S13)."""
    source, key, caller = context.request.parameter("from"), "", context.request.caller
    if source:
        request = msgspec.structs.replace(context.request, route=context.request.route._replace(name=source))
        try:
            key, name = context.node.router.scope(request).key, context.node.router.name(request)
        except Refusal:
            return False
    else:
        name = EVERY  # the blob may be taken from any repository
    if not caller.may("content/read", name):
        return False
    return await context.node.port.mount(context.scope.key, str(digest), key)


async def _single(context: UploadRequest, digest: Digest) -> Reply:
    """A whole blob in one POST. The client has no location to continue at, so that a failure ends the session."""
    claim = Claim(None, context.request.body.length if context.request.body is not None else 0)
    if _is_small(context, claim):
        body = await _whole(context, claim, digest)
        await context.node.port.put_blob(context.scope.key, str(digest), body)
        return _created(context, digest)
    context = await _new(context)
    writer = await _begin(context, claim, digest.algorithm)
    return await context.node.push.see_through(
        _released(writer, _single_request(context, writer, claim, digest))
    )


async def _single_request(
    context: UploadRequest, writer: SessionWriter, claim: Claim, digest: Digest
) -> Reply:
    try:
        return await _close(context, writer, claim, digest)
    except BaseException:
        writer.staging.remove()
        context.node.push.hashes.forget(context.name)
        raise


# -- small blobs ---------------------------------------------------------------------------------------


def _is_small(context: UploadRequest, claim: Claim) -> bool:
    """Whether the blob is stored in the index, without a file."""
    return claim.length is not None and claim.length <= context.node.config.inline_bytes


async def _whole(context: UploadRequest, claim: Claim, digest: Digest) -> bytes:
    """The body. Raises DigestInvalid and SizeInvalid."""
    body, parts = context.request.body, bytearray()
    while body is not None and (data := await body.read()):
        parts += data
        if claim.length is not None and len(parts) > claim.length:
            break
    if len(parts) != claim.length:
        raise SizeInvalid(f"Content-Range says {claim.length} bytes, {len(parts)} or more came")
    actual = Digest.of(parts, digest.algorithm)
    if actual != digest:
        raise DigestInvalid("the bytes do not match the digest", detail=f"they hash to {actual}")
    return bytes(parts)


# -- parameters and answers ----------------------------------------------------------------------------


def _existing(node: Node, request: Request) -> UploadRequest:
    """The request with the session of the path. Raises UploadUnknown for an invalid id."""
    id = request.route.reference
    if _ID.fullmatch(id) is None:
        raise _unknown()
    return UploadRequest(node, request, node.router.scope(request)).session(id)


def _digest(request: Request, parameter: str = "digest") -> Digest | None:
    """The digest in a parameter, None without one. Raises DigestInvalid, also when there are two."""
    values = {value for name, value in request.query if name == parameter}
    if len(values) > 1:
        raise DigestInvalid(f"{parameter} is given twice")
    return names.digest(values.pop()) if values else None


def _algorithm(request: Request) -> str:
    """The algorithm of the later digest: a hint by which the bytes need not be read again (references.md 2.4)."""
    algorithm = request.parameter("digest-algorithm") or "sha256"
    if algorithm not in ALGORITHMS:
        raise DigestInvalid(
            f"digest-algorithm is one of {', '.join(ALGORITHMS)}", detail=names.shown(algorithm)
        )
    return algorithm


def _unknown() -> UploadUnknown:
    return UploadUnknown(
        "no such upload: it was closed or cancelled, it expired, or it is not in this repository"
    )


async def _out_of_order(context: UploadRequest, message: str) -> Refusal:
    """416 with the headers by which a client can continue (references.md 2.4)."""
    try:
        size = await _with_session(context, context.uploads.size)
    except store_errors.UploadNotFound:
        return _unknown()
    return UploadOutOfOrder(message, detail=f"{size} bytes are here", headers=tuple(_headers(context, size)))


def _headers(context: UploadRequest, size: int) -> list[tuple[str, str]]:
    """Location and range of a session. `0-0` also stands for an empty one: the grammar has no empty range
    (references.md 2.4)."""
    return [
        ("Location", _location(context, Noun.UPLOAD, context.id, "ns", "digest-algorithm")),
        ("Range", f"0-{max(size - 1, 0)}"),
        ("Docker-Upload-UUID", context.id),
    ]


def _created(context: UploadRequest, digest: Digest) -> Reply:
    location = _location(context, Noun.BLOB, str(digest), "ns")
    return Reply(201, [("Location", location), ("Docker-Content-Digest", str(digest))])


def _location(context: UploadRequest, noun: Noun, reference: str, *kept: str) -> str:
    """A relative URL with the client's name of the repository, and with the parameters in `kept`."""
    route = context.request.route
    path = build(Route(noun, route.name, reference, route.prefix))
    pairs = dict(pair for pair in context.request.query if pair[0] in kept)
    return f"{path}?{encode_query(tuple(pairs.items()))}" if pairs else path


#: for `dispatch`
ENDPOINTS: dict[tuple[Noun, str], Callable[[Node, Request], Answer]] = {
    (Noun.UPLOADS, "POST"): open_session,
    (Noun.UPLOAD, "GET"): progress,
    (Noun.UPLOAD, "PATCH"): append,
    (Noun.UPLOAD, "PUT"): close,
    (Noun.UPLOAD, "DELETE"): cancel,
}
