"""Every refusal of the proxy, and the one table from exception to (status, OCI code).

Branches: `ClientMistake` (4xx), `ParentFailed` (the parent could not help), and the store's own errors.
The code is one of the fourteen of the distribution spec (1.15, rule 96). Where the spec has none for a
status (502, 503, 500) the code names the noun that could not be had, because dockerd does not retry on
UNSUPPORTED, DENIED or NAME_UNKNOWN, and a parent that is away is worth a retry.
"""

from __future__ import annotations

from typing import Any

from holdfast_core import errors as store_errors

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
    """Something that ends in an error answer. `detail` is a plain string for the client.

    `code` overrides the table's code where the noun matters (a 503 for a blob says BLOB_UNKNOWN).
    `retry_after` is in whole seconds, or None. `headers` are extra (name, value) pairs.
    """

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


class NameInvalid(ClientMistake):
    """Repository name outside the grammar."""


class NameUnknown(ClientMistake):
    """No such repository, or no parent serves it."""


class DigestInvalid(ClientMistake):
    """Digest outside the grammar."""


class ManifestUnknown(ClientMistake):
    """No such manifest in this repository."""


class BlobUnknown(ClientMistake):
    """No such blob in this repository."""


class RangeUnsatisfiable(ClientMistake):
    """Range outside the blob; answered with `Content-Range: bytes */size`."""


class RangeRefused(ClientMistake):
    """More ranges, or more bytes in them, than a miss is worth. containers/image falls back on 400."""


class PageInvalid(ClientMistake):
    """`n` is not a whole number from 0 to the limit."""


class QueryInvalid(ClientMistake):
    """A query parameter is malformed."""


class PathUnknown(ClientMistake):
    """The path is no endpoint of this server."""


class MethodNotAllowed(ClientMistake):
    """The endpoint does not take this method; the answer carries `Allow`."""


class ReadOnly(ClientMistake):
    """This node takes no pushes and no deletes, whoever asks (connected-registry C2)."""


class Locked(ClientMistake):
    """An attribute of the repository, manifest or tag forbids it (image locking, C7)."""


class Unauthorized(ClientMistake):
    """What this caller may not do. The answer carries `WWW-Authenticate`."""


class HostRefused(ClientMistake):
    """The request is for another host than `login.server` (RFC 9110 15.5.20)."""


class Denied(ClientMistake):
    """Somebody who is logged in may not do this, and another token would not help."""


class TooManyLogins(ClientMistake):
    """Too many failed logins with this name or from this address; `retry_after` says when to try again."""


class ControlMistake(ClientMistake):
    """A control-plane request that is refused. `field` is the property's path as in the request ("" for the whole);
    the message names it, what was found and the rule. Nothing was changed."""

    def __init__(self, message: str, *, field: str = "", **more: Any) -> None:
        super().__init__(message, detail=more.pop("detail", "") or field, **more)


class ControlInvalid(ControlMistake):
    """A value outside its rule (connected-registry 1.2, 1.5)."""


class ControlConflict(ControlMistake):
    """Right in itself, and against what is there: a name that is taken, a limit, an immutable field, something in
    use, an instance that is active already (`ALREADY_ACTIVATED`)."""


class ControlUnknown(ControlMistake):
    """No such connected registry, token, scope map or password."""


class ControlGone(ControlMistake):
    """What was asked for is not kept any more, and will not be again."""


class MediaTypeRefused(ClientMistake):
    """A body of another Content-Type than the endpoint takes."""


class BodyTooLarge(ClientMistake):
    """A body that no request of this endpoint needs."""


class TagInvalid(ClientMistake):
    """A tag outside the grammar, where one is to be made."""


class TooManyTags(ClientMistake):
    """More `tag` parameters in one push than are taken (oci-spec rule 66)."""


class ManifestInvalid(ClientMistake):
    """The body is no manifest that every client reads the same way."""


class ManifestTooLarge(ClientMistake):
    """A manifest over `limits.manifest_bytes`."""


class ManifestBlobUnknown(ClientMistake):
    """A pushed image names a config or layer that is neither held nor known at the parent."""


class AttributesInvalid(ClientMistake):
    """A body that is no set of changeable attributes."""


class PreconditionFailed(ClientMistake):
    """If-Match or If-None-Match does not hold (RFC 9110 13.1)."""


class SizeInvalid(ClientMistake):
    """A body that is longer or shorter than was said."""


class UploadUnknown(ClientMistake):
    """No such upload session in this repository, for this caller."""


class UploadInvalid(ClientMistake):
    """An upload request that means nothing."""


class UploadOutOfOrder(ClientMistake):
    """A chunk that does not go on where the session stands, or a session that somebody else is writing to.
    The answer carries `Location` and `Range`."""


class TooManyUploads(ClientMistake):
    """As many upload sessions as `push.sessions` are open."""


class HeadInvalid(ClientMistake):
    """The request head breaks RFC 9112, or a rule that closes a smuggling gap. The connection closes."""


class HeadTooLarge(ClientMistake):
    """Head over 32 KiB or 100 headers. The connection closes."""


class TargetTooLong(ClientMistake):
    """Request target over 8 KiB. The connection closes."""


class RequestTimeout(ClientMistake):
    """The head did not arrive in time, or its body stalled. The connection closes."""


class BodyBroken(ClientMistake):
    """The framing of a body breaks RFC 9112 7.1. The connection closes."""


class ClientGone(ClientMistake):
    """The client left before its body ended; seldom is anybody there to read the answer."""


class VersionUnsupported(ClientMistake):
    """Not HTTP/1.0 or HTTP/1.1."""


class ExpectationFailed(ClientMistake):
    """An Expect other than 100-continue."""


class TooManyConnections(ClientMistake):
    """The connection cap is reached."""


class ParentFailed(Refusal):
    """The parent could not help. `permanent` says whether another try could."""

    permanent = False


class ParentUnreachable(ParentFailed):
    """No connection, a time-out, or known offline."""


class LevelAway(ParentFailed):
    """The parent answers, and a level above it is away, as it says. It will find out by itself when that is back, so it
    is not asked again and again."""


class ParentBroken(ParentFailed):
    """The parent answered with something that cannot be used: wrong digest, too long, bad redirect."""


class SchemaOne(ParentFailed):
    """The parent has the image in the format of 2014 alone, which no node serves."""

    permanent = True


class ParentErred(ParentFailed):
    """The parent answered 5xx."""


class ParentThrottled(ParentFailed):
    """The parent answered 429 or its budget is spent; `retry_after` says when."""


class ParentDenied(ParentFailed):
    """The parent refused our credentials (401, 403). Clients see 404: they must fall over, not stop."""

    permanent = True


class LoginRefused(ParentDenied):
    """The parent, or its token server, refused the login that is configured, or there is none to be had: nothing that
    wants a login can be had before an operator looks at it."""


class ParentUntrusted(ParentBroken):
    """Who answers cannot prove that it is the parent (TLS)."""


class ParentNotFound(ParentFailed):
    """The parent says 404."""

    permanent = True


class TimedOut(ParentUnreachable):
    """Connected, but the answer did not start, or did not go on, in time."""


class ConnectTimedOut(TimedOut):
    """No connection within the connect time-out: nothing is there, so the endpoint counts as offline."""


class KnownOffline(ParentUnreachable):
    """Refused without touching the network: the endpoint is offline, and a probe runs once an interval."""


class LinkClosed(ParentUnreachable):
    """A cap of 0 holds for this kind of work at this hour; it is no failure, and nothing is asked."""


class StillErring(ParentErred):
    """Refused without touching the network: this repository answered 5xx five times just now."""


class TagMoved(ParentErred):
    """The tag is not what a change of it was made for any more (412)."""


class SlotsTaken(ParentThrottled):
    """This node's own cap on connections or requests to the parent left no room in time."""


class RedirectRefused(ParentErred):
    """The target of a redirect refused or could not be reached; the parent may give a better one."""


class KeeperAway(Refusal):
    """The keeper is restarting; hits go on, misses wait for it."""


class NodeFailed(Refusal):
    """A fault of this node."""


class RecordLost(NodeFailed):
    """A record of the index is damaged and no copy of it is left on this node; the message names it."""


class NodeFull(Refusal):
    """No space for what a client wants kept (RFC 4918 11.5)."""


class NodeUnwritable(Refusal):
    """The disk of this node takes no writes now; what it holds is served."""


class FillGone(NodeFailed):
    """The fill that was named has ended in between: ask for its blob again."""


#: exception -> (status, code). The most specific class wins (looked up along the MRO).
TABLE: dict[type[Exception], tuple[int, str]] = {
    NameInvalid: (400, "NAME_INVALID"),
    NameUnknown: (404, "NAME_UNKNOWN"),
    DigestInvalid: (400, "DIGEST_INVALID"),
    ManifestUnknown: (404, "MANIFEST_UNKNOWN"),
    BlobUnknown: (404, "BLOB_UNKNOWN"),
    RangeUnsatisfiable: (416, "SIZE_INVALID"),
    RangeRefused: (400, "UNSUPPORTED"),
    PageInvalid: (400, "UNSUPPORTED"),
    QueryInvalid: (400, "UNSUPPORTED"),
    PathUnknown: (404, "UNSUPPORTED"),
    MethodNotAllowed: (405, "UNSUPPORTED"),
    ReadOnly: (405, "DENIED"),
    Locked: (405, "DENIED"),
    Unauthorized: (401, "UNAUTHORIZED"),
    HostRefused: (421, "DENIED"),
    Denied: (403, "DENIED"),
    TooManyLogins: (429, "TOOMANYREQUESTS"),
    ControlInvalid: (400, "UNSUPPORTED"),
    ControlConflict: (409, "DENIED"),
    ControlUnknown: (404, "NAME_UNKNOWN"),
    ControlGone: (410, "UNSUPPORTED"),
    ControlMistake: (400, "UNSUPPORTED"),
    MediaTypeRefused: (415, "UNSUPPORTED"),
    BodyTooLarge: (413, "SIZE_INVALID"),
    TagInvalid: (400, "NAME_INVALID"),
    TooManyTags: (414, "UNSUPPORTED"),
    ManifestInvalid: (400, "MANIFEST_INVALID"),
    ManifestTooLarge: (413, "SIZE_INVALID"),
    ManifestBlobUnknown: (400, "MANIFEST_BLOB_UNKNOWN"),
    AttributesInvalid: (400, "UNSUPPORTED"),
    PreconditionFailed: (412, "DENIED"),
    SizeInvalid: (400, "SIZE_INVALID"),
    UploadUnknown: (404, "BLOB_UPLOAD_UNKNOWN"),
    UploadInvalid: (400, "BLOB_UPLOAD_INVALID"),
    UploadOutOfOrder: (416, "BLOB_UPLOAD_INVALID"),
    TooManyUploads: (429, "TOOMANYREQUESTS"),
    HeadInvalid: (400, "UNSUPPORTED"),
    HeadTooLarge: (431, "UNSUPPORTED"),
    TargetTooLong: (414, "UNSUPPORTED"),
    RequestTimeout: (408, "UNSUPPORTED"),
    BodyBroken: (400, "SIZE_INVALID"),
    ClientGone: (400, "SIZE_INVALID"),
    VersionUnsupported: (505, "UNSUPPORTED"),
    ExpectationFailed: (417, "UNSUPPORTED"),
    TooManyConnections: (503, "TOOMANYREQUESTS"),
    ParentUnreachable: (503, "MANIFEST_UNKNOWN"),
    ConnectTimedOut: (503, "MANIFEST_UNKNOWN"),
    KnownOffline: (503, "MANIFEST_UNKNOWN"),
    LinkClosed: (503, "MANIFEST_UNKNOWN"),
    LevelAway: (503, "MANIFEST_UNKNOWN"),
    ParentBroken: (502, "MANIFEST_UNKNOWN"),
    ParentUntrusted: (502, "MANIFEST_UNKNOWN"),
    SchemaOne: (404, "MANIFEST_UNKNOWN"),
    ParentErred: (502, "MANIFEST_UNKNOWN"),
    TagMoved: (502, "MANIFEST_UNKNOWN"),
    StillErring: (502, "MANIFEST_UNKNOWN"),
    RedirectRefused: (502, "MANIFEST_UNKNOWN"),
    ParentThrottled: (429, "TOOMANYREQUESTS"),
    SlotsTaken: (429, "TOOMANYREQUESTS"),
    ParentDenied: (404, "MANIFEST_UNKNOWN"),
    LoginRefused: (404, "MANIFEST_UNKNOWN"),
    ParentNotFound: (404, "MANIFEST_UNKNOWN"),
    KeeperAway: (503, "MANIFEST_UNKNOWN"),
    NodeFailed: (500, "MANIFEST_UNKNOWN"),
    NodeFull: (507, "MANIFEST_UNKNOWN"),
    NodeUnwritable: (503, "MANIFEST_UNKNOWN"),
    FillGone: (500, "MANIFEST_UNKNOWN"),
    RecordLost: (500, "MANIFEST_UNKNOWN"),
    store_errors.DigestInvalid: (400, "DIGEST_INVALID"),
    store_errors.NotHeld: (404, "MANIFEST_UNKNOWN"),
    store_errors.ReadOnly: (405, "DENIED"),
    store_errors.Locked: (405, "DENIED"),
    store_errors.UploadUnknown: (404, "BLOB_UPLOAD_UNKNOWN"),
    store_errors.UploadBusy: (416, "BLOB_UPLOAD_INVALID"),
    store_errors.Exhausted: (507, "MANIFEST_UNKNOWN"),
    store_errors.Unwritable: (503, "MANIFEST_UNKNOWN"),
    store_errors.StoreError: (500, "MANIFEST_UNKNOWN"),
}


#: Refusals of the store whose sentence is for the client, and what they are here.
_OF_STORE: dict[type[store_errors.StoreError], type[Refusal]] = {
    store_errors.ReadOnly: ReadOnly,
    store_errors.Locked: Locked,
    store_errors.DigestMismatch: DigestInvalid,
    store_errors.UploadUnknown: UploadUnknown,
    store_errors.UploadBusy: UploadOutOfOrder,
}
TRANSLATED: tuple[type[store_errors.StoreError], ...] = (*_OF_STORE, store_errors.Unwritable)


def of_store(error: store_errors.StoreError) -> Refusal:
    """What a store's error is to a client. One that is nobody's plan tells nothing: it may name a file."""
    for kind in type(error).__mro__:
        if kind in _OF_STORE:
            return _OF_STORE[kind](str(error))
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
    return NodeFailed("the store could not do it")


def status_and_code(error: Exception) -> tuple[int, str]:
    """The status and OCI code for an error; (500, MANIFEST_UNKNOWN) for one that is not in the table."""
    for kind in type(error).__mro__:
        row = TABLE.get(kind)
        if row is not None:
            return row[0], getattr(error, "code", None) or row[1]
    return 500, "MANIFEST_UNKNOWN"
