"""Upload sessions: POST, PATCH, PUT, GET and DELETE of blobs on their way in, and mounts (distribution-spec end-4a
to end-6, end-11, end-13, end-14).

A session's id is in its location and nowhere else; the location has no state in it, so one from any earlier
answer is as good as the last. What a request means for a session stands in `push.session`.
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
from holdfast_core.digest import Digest
from holdfast_core.upload import Staging, Uploads

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
from holdfast.push import chunk, session
from holdfast.push.chunk import Claim
from holdfast.push.session import Event, State
from holdfast.push.turn import Destination, Turn
from holdfast.routing import Scope
from holdfast.wire import names
from holdfast.wire.message import Reply, Request
from holdfast.wire.query import encode_query
from holdfast.wire.routes import Noun, Route, build

_T = TypeVar("_T")

ALGORITHMS = ("sha256", "sha512")
#: a client that meets the limit on sessions comes back after (s)
RETRY_SECONDS = 10
#: a session that nobody wrote to for so long ends when its client has the most and the node has no room left (s)
IDLE_SECONDS = 60.0

# RFC 9562 4: the text form of a UUID, in the one spelling that `_new_id` writes
_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


class Asked(NamedTuple):
    """One question to this endpoint. `name` is the session's in the store, "" when it has none yet."""

    node: Node
    request: Request
    scope: Scope
    id: str = ""
    name: str = ""

    @property
    def uploads(self) -> Uploads:
        """The sessions of the store."""
        return self.node.store.uploads

    @property
    def destination(self) -> Destination:
        """Where a closed session goes."""
        node = self.node
        return Destination(node.store, node.port, self.scope.key, node.config.inline_bytes)

    def session(self, id: str) -> Asked:
        """The same about the session `id`, which is there for who began it and for nobody else."""
        of = (id, self.scope.key, self.request.caller.name.lower())
        name, former = Uploads.name(*of), Uploads.former_name(*of)
        if self.uploads.exists(former):
            name = former  # begun by a release before this one
        return self._replace(id=id, name=name)


def open_session(node: Node, request: Request) -> Answer:
    """POST: a session (202), or at once a blob (201) by mount or with `digest` and a body."""
    asked = Asked(node, request, node.router.scope(request))
    node.store.require_writable(asked.scope.key)  # before the client sends anything
    _algorithm(request)
    if request.parameter("mount") is not None or request.parameter("digest") is not None:
        return _shortcut(asked)
    return _opened(asked)


async def progress(node: Node, request: Request) -> Reply:
    """GET: how far a session has come (204)."""
    asked = _existing(node, request)
    try:
        return Reply(204, _headers(asked, await _found(asked, asked.uploads.size)))
    except store_errors.UploadUnknown:
        raise _unknown() from None


async def cancel(node: Node, request: Request) -> Reply:
    """DELETE: the session ends (204), also for a request that is writing to it."""
    asked = _existing(node, request)
    try:
        await _found(asked, asked.uploads.remove)
    except store_errors.UploadUnknown:
        raise _unknown() from None
    node.push.hashes.forget(asked.name)
    return Reply(204, [("Docker-Upload-UUID", asked.id)])


async def append(node: Node, request: Request) -> Reply:
    """PATCH: the next bytes (202)."""
    asked, claim = _existing(node, request), chunk.claimed(request)
    turn = await _begin(asked, claim, _algorithm(request))
    return await node.push.see_through(_released(turn, _append(asked, turn, claim)))


async def close(node: Node, request: Request) -> Reply:
    """PUT: the last bytes, if any, and what the whole hashes to (201)."""
    asked, digest = _existing(node, request), _digest(request)
    if digest is None:
        raise DigestInvalid(
            "the PUT that closes an upload names the digest of the blob: ?digest=sha256:<hex>"
        )
    claim = chunk.claimed(request)
    try:
        turn = await _begin(asked, claim, digest.algorithm)
    except UploadUnknown:
        if _is_done(asked, digest):
            return _created(asked, digest)
        raise
    return await node.push.see_through(_released(turn, _close(asked, turn, claim, digest)))


def _is_done(asked: Asked, digest: Digest) -> bool:
    """Whether a PUT without a body asks for what is so already: the answer to an earlier one was lost, or did not
    come in time. The session is gone, and the blob is this repository's own."""
    return asked.request.body is None and asked.destination.holds(digest)


async def _append(asked: Asked, turn: Turn, claim: Claim) -> Reply:
    await turn.append(asked.request.body, claim)
    return Reply(202, _headers(asked, turn.staging.size))


async def _close(asked: Asked, turn: Turn, claim: Claim, digest: Digest) -> Reply:
    if turn.start == 0 and _is_small(asked, claim):
        await turn.close_with(await _whole(asked, claim, digest), digest, asked.destination)
    else:
        await turn.append(asked.request.body, claim)
        await turn.close(digest, asked.destination)
    return _created(asked, digest)


async def _released(turn: Turn, work: Awaitable[Reply]) -> Reply:
    try:
        return await work
    finally:
        turn.release()


async def _found(asked: Asked, call: Callable[[str], _T]) -> _T:
    """`call` with the session's name. Aside when it is not there as it was begun: then the whole directory is looked
    through for one that is being closed. Raises UploadUnknown."""
    if asked.uploads.exists(asked.name):
        return call(asked.name)
    async with asked.node.push.listing:
        return await asyncio.to_thread(call, asked.name)


async def _begin(asked: Asked, claim: Claim, algorithm: str) -> Turn:
    """The right to write, when the session is there, free, and where the chunk begins. Raises UploadUnknown and
    UploadOutOfOrder; nothing has been read then."""
    state, staging = await _look(asked)
    fits = staging is None or claim.fits(staging.size)
    step = session.step(state, Event.WRITE if fits else Event.STRAY)
    if step.answer is None and staging is not None:
        return Turn(asked.node.push, staging, algorithm, asked.request.allow)
    if staging is not None:
        staging.close()
    if step.answer is session.Answer.UNKNOWN:
        raise _unknown()
    busy = "another request is writing to this upload"
    raise await _out_of_order(
        asked, busy if state is State.HELD else "the chunk does not begin where the upload ends"
    )


async def _look(asked: Asked) -> tuple[State, Staging | None]:
    """The state of a session, and its file when it is ours now."""
    try:
        await _found(asked, asked.uploads.size)
        return State.IDLE, asked.uploads.open(asked.name)
    except store_errors.UploadUnknown:
        return State.ABSENT, None
    except store_errors.UploadBusy:
        return State.HELD, None
    except store_errors.Exhausted as full:
        raise of_store(full) from full


# -- POST ----------------------------------------------------------------------------------------------


async def _opened(asked: Asked) -> Reply:
    asked = await _new(asked)
    return Reply(202, _headers(asked, 0))


async def _new(asked: Asked) -> Asked:
    """A new session. Raises TooManyUploads, NodeFull."""
    name = asked.request.caller.name.lower()
    client = Uploads.client("token", name) if name else Uploads.client("address", asked.request.client)
    if asked.uploads.is_known_roomy(client):
        return _begun(asked, client)
    push, idle = asked.node.config.push, asked.node.clock.now() - IDLE_SECONDS
    async with asked.node.push.listing:
        if not await asyncio.to_thread(
            asked.uploads.has_room, push.sessions, client, push.sessions_by_client, idle
        ):
            raise TooManyUploads(
                "too many uploads are open at this node",
                detail=f"push.sessions = {push.sessions}, of one client push.sessions_by_client ="
                f" {push.sessions_by_client}; finish or cancel some, or wait until they expire",
                retry_after=RETRY_SECONDS,
            )
        return _begun(asked, client)


def _begun(asked: Asked, client: str) -> Asked:
    asked = asked.session(Uploads.session(client, uuid.UUID(bytes=secrets.token_bytes(16))))
    try:
        asked.uploads.create(asked.name)
    except store_errors.StoreError as error:
        raise of_store(error) from error
    return asked


async def _shortcut(asked: Asked) -> Reply:
    """A mount if it can be had, else the body if there is one for `digest`, else a session."""
    mounted, digest = _digest(asked.request, "mount"), _digest(asked.request)
    if mounted is not None and await _mount(asked, mounted):
        return _created(asked, mounted)
    return await _single(asked, digest) if digest is not None else await _opened(asked)


async def _mount(asked: Asked, digest: Digest) -> bool:
    """Whether the blob is in this repository now. A source that cannot be, or that this caller may not pull from, is
    like one that lacks the blob: the client gets a session (oci-spec rule 51, security.md S13)."""
    source, key, caller = asked.request.parameter("from"), "", asked.request.caller
    if source:
        request = msgspec.structs.replace(asked.request, route=asked.request.route._replace(name=source))
        try:
            key, name = asked.node.router.scope(request).key, asked.node.router.name(request)
        except Refusal:
            return False
    else:
        name = EVERY  # any repository may be where it is found
    if not caller.may("content/read", name):
        return False
    return await asked.node.port.mount(asked.scope.key, str(digest), key)


async def _single(asked: Asked, digest: Digest) -> Reply:
    """The whole blob in one POST. Its session is nobody's to go on with, so a failure ends it."""
    claim = Claim(None, asked.request.body.length if asked.request.body is not None else 0)
    if _is_small(asked, claim):
        body = await _whole(asked, claim, digest)
        await asked.node.port.put_blob(asked.scope.key, str(digest), body)
        return _created(asked, digest)
    asked = await _new(asked)
    turn = await _begin(asked, claim, digest.algorithm)
    return await asked.node.push.see_through(_released(turn, _single_turn(asked, turn, claim, digest)))


async def _single_turn(asked: Asked, turn: Turn, claim: Claim, digest: Digest) -> Reply:
    try:
        return await _close(asked, turn, claim, digest)
    except BaseException:
        turn.staging.remove()
        asked.node.push.hashes.forget(asked.name)
        raise


# -- small blobs ---------------------------------------------------------------------------------------


def _is_small(asked: Asked, claim: Claim) -> bool:
    """Whether the blob goes into the index as it comes, without a file."""
    return claim.length is not None and claim.length <= asked.node.config.inline_bytes


async def _whole(asked: Asked, claim: Claim, digest: Digest) -> bytes:
    """The body. Raises DigestInvalid and SizeInvalid."""
    body, parts = asked.request.body, bytearray()
    while body is not None and (data := await body.read()):
        parts += data
        if claim.length is not None and len(parts) > claim.length:
            break
    if len(parts) != claim.length:
        raise SizeInvalid(f"Content-Range says {claim.length} bytes, {len(parts)} or more came")
    found = Digest.of(parts, digest.algorithm)
    if found != digest:
        raise DigestInvalid("the bytes do not match the digest", detail=f"they hash to {found}")
    return bytes(parts)


# -- what was asked, and what is told ------------------------------------------------------------------


def _existing(node: Node, request: Request) -> Asked:
    """The session that the path names. Raises UploadUnknown for what is no id."""
    id = request.route.reference
    if _ID.fullmatch(id) is None:
        raise _unknown()
    return Asked(node, request, node.router.scope(request)).session(id)


def _digest(request: Request, parameter: str = "digest") -> Digest | None:
    """The digest in a parameter, None without one. Raises DigestInvalid, also when there are two."""
    found = {value for name, value in request.query if name == parameter}
    if len(found) > 1:
        raise DigestInvalid(f"{parameter} is given twice")
    return names.digest(found.pop()) if found else None


def _algorithm(request: Request) -> str:
    """What the digest will be of: a hint, so that the bytes need not be read again (oci-spec rule 30)."""
    found = request.parameter("digest-algorithm") or "sha256"
    if found not in ALGORITHMS:
        raise DigestInvalid(f"digest-algorithm is one of {', '.join(ALGORITHMS)}", detail=names.shown(found))
    return found


def _unknown() -> UploadUnknown:
    return UploadUnknown(
        "no such upload: it was closed or cancelled, it expired, or it is not in this repository"
    )


async def _out_of_order(asked: Asked, message: str) -> Refusal:
    """416 with what a client needs to go on (oci-spec rule 41)."""
    try:
        size = await _found(asked, asked.uploads.size)
    except store_errors.UploadUnknown:
        return _unknown()
    return UploadOutOfOrder(message, detail=f"{size} bytes are here", headers=tuple(_headers(asked, size)))


def _headers(asked: Asked, size: int) -> list[tuple[str, str]]:
    """Where to go on. `0-0` also stands for an empty session: the grammar has nothing for it (rule 33)."""
    return [
        ("Location", _location(asked, Noun.UPLOAD, asked.id, "ns", "digest-algorithm")),
        ("Range", f"0-{max(size - 1, 0)}"),
        ("Docker-Upload-UUID", asked.id),
    ]


def _created(asked: Asked, digest: Digest) -> Reply:
    location = _location(asked, Noun.BLOB, str(digest), "ns")
    return Reply(201, [("Location", location), ("Docker-Content-Digest", str(digest))])


def _location(asked: Asked, noun: Noun, reference: str, *kept: str) -> str:
    """A relative URL in the client's own words for the repository, with those of its parameters that decide
    which repository that is."""
    route = asked.request.route
    path = build(Route(noun, route.name, reference, route.prefix))
    pairs = dict(pair for pair in asked.request.query if pair[0] in kept)
    return f"{path}?{encode_query(tuple(pairs.items()))}" if pairs else path


#: for `dispatch`
ENDPOINTS: dict[tuple[Noun, str], Callable[[Node, Request], Answer]] = {
    (Noun.UPLOADS, "POST"): open_session,
    (Noun.UPLOAD, "GET"): progress,
    (Noun.UPLOAD, "PATCH"): append,
    (Noun.UPLOAD, "PUT"): close,
    (Noun.UPLOAD, "DELETE"): cancel,
}
