"""Every refusal of the proxy: a class with its HTTP status and its OCI code, or with those of its base.

Branches: `ClientMistake` (4xx), `ParentFailed` (the parent could not help), and the faults of this node. The store
knows no HTTP; what its errors are to a client stands at the end of this file.

The code is one of the fourteen of the distribution-spec (references.md 2.11). Where the spec has none for a
status (502, 503, 500) the code names the noun that could not be had, because dockerd does not retry on
UNSUPPORTED, DENIED or NAME_UNKNOWN, and a parent that is away is worth a retry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from holdfast_core import errors as store_errors
from holdfast_core.filesystem.disk_state import SHORTAGES

#: what Python says when there is no memory for the stack of a thread
NO_THREAD = "can't start new thread"
CODES = frozenset(
    {
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DENIED",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "TOOMANYREQUESTS",
        "UNAUTHORIZED",
        "UNSUPPORTED",
    }
)


class Refusal(Exception):
    """An error that ends a request with an error answer. `detail` is a plain string for the client.

    `code` overrides the class's code where the noun matters (a 503 for a blob says BLOB_UNKNOWN).
    `retry_after` is in whole seconds, or None. `headers` are extra (name, value) pairs.
    """

    status: ClassVar[int]
    default_code: ClassVar[str]

    def __init_subclass__(cls, *, status: int | None = None, code: str = "") -> None:
        if status is not None:
            cls.status = status
        if code:
            cls.default_code = code

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        code: str | None = None,
        retry_after: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message, self.detail, self.code = message, detail, code
        self.retry_after, self.headers = retry_after, headers


class ClientMistake(Refusal):
    """The request is at fault."""


class NameInvalid(ClientMistake, status=400, code="NAME_INVALID"):
    """Repository name outside the grammar."""


class NameUnknown(ClientMistake, status=404, code="NAME_UNKNOWN"):
    """No such repository, or no parent serves it."""


class DigestInvalid(ClientMistake, status=400, code="DIGEST_INVALID"):
    """Digest outside the grammar, or not that of the pushed bytes."""


class ManifestUnknown(ClientMistake, status=404, code="MANIFEST_UNKNOWN"):
    """No such manifest in this repository."""


class BlobUnknown(ClientMistake, status=404, code="BLOB_UNKNOWN"):
    """No such blob in this repository."""


class RangeUnsatisfiable(ClientMistake, status=416, code="SIZE_INVALID"):
    """Range outside the blob; answered with `Content-Range: bytes */size`."""


class RangeRefused(ClientMistake, status=400, code="UNSUPPORTED"):
    """More ranges, or more bytes in them, than a miss is worth. containers/image falls back on 400."""


class PageInvalid(ClientMistake, status=400, code="UNSUPPORTED"):
    """`n` is not a whole number from 0 to the limit."""


class QueryInvalid(ClientMistake, status=400, code="UNSUPPORTED"):
    """A query parameter is malformed."""


class PathUnknown(ClientMistake, status=404, code="UNSUPPORTED"):
    """The path is no endpoint of this server."""


class MethodNotAllowed(ClientMistake, status=405, code="UNSUPPORTED"):
    """The endpoint does not take this method; the answer carries `Allow`."""


class ReadOnly(ClientMistake, status=405, code="DENIED"):
    """This node takes no pushes and no deletes from any client (references.md 1.2)."""


class Locked(ClientMistake, status=405, code="DENIED"):
    """An attribute of the repository, manifest or tag forbids it (image locking, C7)."""


class Unauthorized(ClientMistake, status=401, code="UNAUTHORIZED"):
    """The caller has to log in, or its token does not allow this. The answer carries `WWW-Authenticate`."""


class HostRefused(ClientMistake, status=421, code="DENIED"):
    """The request is for another host than `login.server` (RFC 9110 15.5.20)."""


class Denied(ClientMistake, status=403, code="DENIED"):
    """The caller is logged in and may not do this; another token would not help."""


class TooManyLogins(ClientMistake, status=429, code="TOOMANYREQUESTS"):
    """Too many failed logins with this name or from this address; `retry_after` says when to try again."""


class ShareSpent(ClientMistake, status=429, code="TOOMANYREQUESTS"):
    """A connected registry below sends more than its share; `retry_after` says when it may send again."""


class ControlMistake(ClientMistake, status=400, code="UNSUPPORTED"):
    """A control-plane request that is refused. `field` is the property's path as in the request ("" for the whole);
    the message names it, what was found and the rule. Nothing was changed."""

    def __init__(self, message: str, *, field: str = "", **more: Any) -> None:
        super().__init__(message, detail=more.pop("detail", "") or field, **more)


class ControlInvalid(ControlMistake):
    """A value outside its rule (references.md 1.1, 1.4)."""


class ControlConflict(ControlMistake, status=409, code="DENIED"):
    """Right in itself, and against what is there: a name that is taken, a limit, an immutable field, something in
    use, an instance that is active already (`ALREADY_ACTIVATED`)."""


class ControlUnknown(ControlMistake, status=404, code="NAME_UNKNOWN"):
    """No such connected registry, token, scope map or password."""


class ControlGone(ControlMistake, status=410):
    """The record is not kept any more, and will not be again."""


class MediaTypeRefused(ClientMistake, status=415, code="UNSUPPORTED"):
    """A body of another Content-Type than the endpoint takes."""


class BodyTooLarge(ClientMistake, status=413, code="SIZE_INVALID"):
    """A body that no request of this endpoint needs."""


class TagInvalid(ClientMistake, status=400, code="NAME_INVALID"):
    """A tag outside the grammar, where one is to be made."""


class TooManyTags(ClientMistake, status=414, code="UNSUPPORTED"):
    """More `tag` parameters in one push than are taken (references.md 2.6)."""


class ManifestInvalid(ClientMistake, status=400, code="MANIFEST_INVALID"):
    """The body is no manifest that every client reads the same way."""


class ManifestTooLarge(ClientMistake, status=413, code="SIZE_INVALID"):
    """A manifest over `limits.manifest_bytes`."""


class ManifestBlobUnknown(ClientMistake, status=400, code="MANIFEST_BLOB_UNKNOWN"):
    """A pushed image names a config or layer that is neither held nor known at the parent."""


class AttributesInvalid(ClientMistake, status=400, code="UNSUPPORTED"):
    """A body that is no set of changeable attributes."""


class PreconditionFailed(ClientMistake, status=412, code="DENIED"):
    """If-Match or If-None-Match does not hold (RFC 9110 13.1)."""


class SizeInvalid(ClientMistake, status=400, code="SIZE_INVALID"):
    """A body that is longer or shorter than the headers of its request say."""


class UploadUnknown(ClientMistake, status=404, code="BLOB_UPLOAD_UNKNOWN"):
    """No such upload session in this repository, for this caller."""


class UploadInvalid(ClientMistake, status=400, code="BLOB_UPLOAD_INVALID"):
    """An upload request with a parameter or header missing, malformed, or of no use here."""


class UploadOutOfOrder(ClientMistake, status=416, code="BLOB_UPLOAD_INVALID"):
    """A chunk that does not begin where the session ends, or a session that another request writes to. The answer
    carries `Location` and `Range`."""


class TooManyUploads(ClientMistake, status=429, code="TOOMANYREQUESTS"):
    """As many upload sessions as `push.sessions` are open."""


class TlsSpoken(ClientMistake, status=400, code="UNSUPPORTED"):
    """A TLS hello where plain HTTP is spoken. The connection closes."""


class PlainSpoken(ClientMistake, status=400, code="UNSUPPORTED"):
    """Plain HTTP where TLS is spoken."""


class HeadInvalid(ClientMistake, status=400, code="UNSUPPORTED"):
    """The request head breaks RFC 9112, or a rule that closes a smuggling gap. The connection closes."""


class HeadTooLarge(ClientMistake, status=431, code="UNSUPPORTED"):
    """Head over 32 KiB or 100 headers. The connection closes."""


class TargetTooLong(ClientMistake, status=414, code="UNSUPPORTED"):
    """Request target over 8 KiB. The connection closes."""


class RequestTimeout(ClientMistake, status=408, code="UNSUPPORTED"):
    """The head did not arrive in time, or its body stalled. The connection closes."""


class BodyBroken(ClientMistake, status=400, code="SIZE_INVALID"):
    """The framing of a body breaks RFC 9112 7.1. The connection closes."""


class ClientGone(ClientMistake, status=400, code="SIZE_INVALID"):
    """The client left before its body ended; the answer is seldom read."""


class VersionUnsupported(ClientMistake, status=505, code="UNSUPPORTED"):
    """Not HTTP/1.0 or HTTP/1.1."""


class ExpectationFailed(ClientMistake, status=417, code="UNSUPPORTED"):
    """An Expect other than 100-continue."""


class TooManyConnections(ClientMistake, status=503, code="TOOMANYREQUESTS"):
    """The connection cap is reached."""


class ParentFailed(Refusal):
    """The parent could not help. `permanent` says whether another try could."""

    permanent = False


class ParentUnreachable(ParentFailed, status=503, code="MANIFEST_UNKNOWN"):
    """No connection, a time-out, or known offline."""


class LevelAway(ParentFailed, status=503, code="MANIFEST_UNKNOWN"):
    """The parent answers, and a level above it is away, as it says. It will find out by itself when that is back, so it
    is not asked again and again."""


class ParentBroken(ParentFailed, status=502, code="MANIFEST_UNKNOWN"):
    """The parent answered with something that cannot be used: wrong digest, too long, bad redirect."""


class SchemaOne(ParentFailed, status=404, code="MANIFEST_UNKNOWN"):
    """The parent has the image in the format of 2014 alone, which no node serves."""

    permanent = True


class ParentErred(ParentFailed, status=502, code="MANIFEST_UNKNOWN"):
    """The parent answered 5xx."""


class ParentThrottled(ParentFailed, status=429, code="TOOMANYREQUESTS"):
    """The parent answered 429 or its budget is spent; `retry_after` says when."""


class ParentDenied(ParentFailed, status=404, code="MANIFEST_UNKNOWN"):
    """The parent refused our credentials (401, 403). Clients see 404: they must fall over, not stop."""

    permanent = True


class LoginRefused(ParentDenied):
    """The parent, or its token server, refused the configured login, or the login cannot be read. An operator has to
    correct it."""


class ParentUntrusted(ParentBroken):
    """The certificate of the peer does not prove that it is the parent."""


class ParentNotFound(ParentFailed, status=404, code="MANIFEST_UNKNOWN"):
    """The parent says 404."""

    permanent = True


class TimedOut(ParentUnreachable):
    """Connected, but the answer did not start, or did not go on, in time."""


class ConnectTimedOut(TimedOut):
    """No connection within the connect time-out: nothing is there, so the endpoint counts as offline."""


class KnownOffline(ParentUnreachable):
    """Refused without touching the network: the endpoint is offline, and a probe runs once an interval."""


class LinkClosed(ParentUnreachable):
    """A cap of 0 holds for this kind of work at this hour; it is no failure, and no request is sent."""


class WindowClosed(ParentUnreachable):
    """A miss outside the window of the schedule, where `sync.misses` lets none pass; it is no failure, and no request
    is sent."""


class StillErring(ParentErred):
    """Refused without touching the network: this repository answered 5xx five times just now."""


class TagMoved(ParentErred):
    """The tag is not what a change of it was made for any more (412)."""


class SlotsTaken(ParentThrottled):
    """This node's own cap on connections or requests to the parent left no room in time."""


class DescriptorsTaken(SlotsTaken, status=503, code="TOOMANYREQUESTS"):
    """No file descriptor of this node is left for a connection to the parent; it says nothing of the parent."""


class RedirectRefused(ParentErred):
    """The target of a redirect refused or could not be reached; the parent may give a better one."""


class KeeperAway(Refusal, status=503, code="MANIFEST_UNKNOWN"):
    """The keeper is restarting; hits go on, misses wait for it."""


class NodeFailed(Refusal, status=500, code="MANIFEST_UNKNOWN"):
    """A fault of this node."""


class RecordLost(NodeFailed):
    """A record of the index is damaged and no copy of it is left on this node; the message names it."""


class NodeFull(Refusal, status=507, code="MANIFEST_UNKNOWN"):
    """The disk has no room for content that a client pushes (RFC 4918 11.5)."""


class NodeBusy(Refusal, status=503, code="TOOMANYREQUESTS"):
    """No file descriptor, or no memory, is left for the request now; connections that wait for nothing are ended."""


class NodeUnwritable(Refusal, status=503, code="MANIFEST_UNKNOWN"):
    """The disk of this node takes no writes now; held content is served."""


class FillGone(NodeFailed):
    """The fill that was named has ended, or the blob that was to be repaired was evicted in between: ask for the blob
    again."""


#: The refusal that an error of the store is; the most specific class wins.
_STORE_ERRORS: dict[type[store_errors.StoreError], type[Refusal]] = {
    store_errors.MalformedDigest: DigestInvalid,
    store_errors.NotHeld: ManifestUnknown,
    store_errors.StoreReadOnly: ReadOnly,
    store_errors.ContentLocked: Locked,
    store_errors.UploadNotFound: UploadUnknown,
    store_errors.UploadBusy: UploadOutOfOrder,
    store_errors.OutOfDescriptors: NodeBusy,
    store_errors.Exhausted: NodeFull,
    store_errors.Unwritable: NodeUnwritable,
    store_errors.StoreError: NodeFailed,
}
#: those whose text is written for the client
_FOR_CLIENTS = (
    store_errors.StoreReadOnly,
    store_errors.ContentLocked,
    store_errors.UploadNotFound,
    store_errors.UploadBusy,
)
#: those of which `of_store` makes a refusal with a text of its own
TRANSLATED: tuple[type[store_errors.StoreError], ...] = (
    *_FOR_CLIENTS,
    store_errors.DigestMismatch,
    store_errors.Unwritable,
)


def _refusal_class(error: store_errors.StoreError) -> type[Refusal]:
    return next(_STORE_ERRORS[kind] for kind in type(error).__mro__ if kind in _STORE_ERRORS)


def of_store(error: store_errors.StoreError) -> Refusal:
    """The refusal that a store's error is to a client. An unexpected error shows none of its text, which may name a
    file."""
    if isinstance(error, _FOR_CLIENTS):
        return _refusal_class(error)(str(error))
    if isinstance(
        error, store_errors.DigestMismatch
    ):  # of bytes that were pushed; those of a held blob are damage
        return DigestInvalid(str(error))
    if isinstance(error, store_errors.OutOfDescriptors):
        return _busy("file descriptor")
    return _unwritten(error) or NodeFailed("the store could not do it")


def _unwritten(error: store_errors.StoreError) -> Refusal | None:
    """The refusal of a write by the disk; None for any other error."""
    if isinstance(error, store_errors.Exhausted):
        return NodeFull(
            "the disk of this node is full; nothing was stored",
            detail="its operator frees space or deletes images; then push again",
            retry_after=5,
        )
    if isinstance(error, store_errors.DiskReadOnly):
        return NodeUnwritable(
            "the disk of this node is read-only; nothing was stored",
            detail="its operator finds the reason in /readyz and makes it writable; then push again",
            retry_after=5,
        )
    if isinstance(error, store_errors.Unwritable):
        return NodeUnwritable(
            "the disk of this node failed; nothing was stored",
            detail="push again in a moment; when it stays so, its operator finds the reason in /readyz",
            retry_after=5,
        )
    return None


def of_shortage(error: BaseException) -> NodeBusy | None:
    """The refusal when a process had no descriptor or no memory for what it did; None for any other error."""
    if isinstance(error, NodeBusy):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_THREAD in str(error)):
        return _busy("memory")
    is_short = isinstance(error, OSError) and error.errno in SHORTAGES
    return _busy("file descriptor") if is_short or isinstance(error, store_errors.OutOfDescriptors) else None


def _busy(what: str) -> NodeBusy:
    return NodeBusy(
        f"no {what} is left for this request now",
        detail="ask again in a moment; its operator finds the limit of open files and of memory in the service's unit",
        retry_after=1,
    )


def _kinds(kind: type[Refusal]) -> Iterator[type[Refusal]]:
    for derived in kind.__subclasses__():
        yield derived
        yield from _kinds(derived)


#: Every error that has an answer -> (status, code), as the classes declare them.
TABLE: dict[type[Exception], tuple[int, str]] = {
    kind: (kind.status, kind.default_code) for kind in _kinds(Refusal) if hasattr(kind, "status")
} | {store: (kind.status, kind.default_code) for store, kind in _STORE_ERRORS.items()}


def status_and_code(error: Exception) -> tuple[int, str]:
    """The status and OCI code of an error; (500, MANIFEST_UNKNOWN) of one that declares none."""
    kind: type[Refusal] = NodeFailed
    if isinstance(error, Refusal):
        kind = type(error) if hasattr(error, "status") else NodeFailed
        return kind.status, error.code or kind.default_code
    if isinstance(error, store_errors.StoreError):
        kind = _refusal_class(error)
    return kind.status, kind.default_code


def markdown() -> str:
    """Every refusal as a row of a Markdown table, by status; `docs/operate.md` holds it, and a test compares them."""
    lines = ["| status | code | refusal | when |", "|---|---|---|---|"]
    refusals = [kind for kind in TABLE if issubclass(kind, Refusal)]
    for kind in sorted(refusals, key=lambda kind: (kind.status, kind.default_code, kind.__name__)):
        when = " ".join((kind.__doc__ or "").split()).replace("|", "\\|")
        lines.append(f"| {kind.status} | {kind.default_code} | {kind.__name__} | {when} |")
    return "\n".join(lines)
