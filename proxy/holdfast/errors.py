"""Every refusal of the proxy, and the one table from exception to (status, OCI code).

Branches: `ClientMistake` (4xx), `ParentFailed` (the parent could not help), and the store's own errors.
The code is one of the fourteen of the distribution spec (1.15, rule 96). Where the spec has none for a
status (502, 503, 500) the code names the noun that could not be had, because dockerd does not retry on
UNSUPPORTED, DENIED or NAME_UNKNOWN (peers.md 3.3), and a parent that is away is worth a retry.
"""

from __future__ import annotations

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
    """This node takes no pushes."""


class HeadInvalid(ClientMistake):
    """The request head breaks RFC 9112, or a rule that closes a smuggling gap. The connection closes."""


class HeadTooLarge(ClientMistake):
    """Head over 32 KiB or 100 headers. The connection closes."""


class TargetTooLong(ClientMistake):
    """Request target over 8 KiB. The connection closes."""


class RequestTimeout(ClientMistake):
    """The head did not arrive in time. The connection closes."""


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


class ParentBroken(ParentFailed):
    """The parent answered with something that cannot be used: wrong digest, too long, bad redirect."""


class ParentErred(ParentFailed):
    """The parent answered 5xx."""


class ParentThrottled(ParentFailed):
    """The parent answered 429 or its budget is spent; `retry_after` says when."""


class ParentDenied(ParentFailed):
    """The parent refused our credentials (401, 403). Clients see 404: they must fall over, not stop."""

    permanent = True


class ParentNotFound(ParentFailed):
    """The parent says 404."""

    permanent = True


class KeeperAway(Refusal):
    """The keeper is restarting; hits go on, misses wait for it."""


class NodeFailed(Refusal):
    """A fault of this node."""


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
    ReadOnly: (405, "UNSUPPORTED"),
    HeadInvalid: (400, "UNSUPPORTED"),
    HeadTooLarge: (431, "UNSUPPORTED"),
    TargetTooLong: (414, "UNSUPPORTED"),
    RequestTimeout: (408, "UNSUPPORTED"),
    VersionUnsupported: (505, "UNSUPPORTED"),
    ExpectationFailed: (417, "UNSUPPORTED"),
    TooManyConnections: (503, "TOOMANYREQUESTS"),
    ParentUnreachable: (503, "MANIFEST_UNKNOWN"),
    ParentBroken: (502, "MANIFEST_UNKNOWN"),
    ParentErred: (502, "MANIFEST_UNKNOWN"),
    ParentThrottled: (429, "TOOMANYREQUESTS"),
    ParentDenied: (404, "MANIFEST_UNKNOWN"),
    ParentNotFound: (404, "MANIFEST_UNKNOWN"),
    KeeperAway: (503, "MANIFEST_UNKNOWN"),
    NodeFailed: (500, "MANIFEST_UNKNOWN"),
    store_errors.DigestInvalid: (400, "DIGEST_INVALID"),
    store_errors.NotHeld: (404, "MANIFEST_UNKNOWN"),
    store_errors.Exhausted: (503, "MANIFEST_UNKNOWN"),
    store_errors.StoreError: (500, "MANIFEST_UNKNOWN"),
}


def status_and_code(error: Exception) -> tuple[int, str]:
    """The status and OCI code for an error; (500, MANIFEST_UNKNOWN) for one that is not in the table."""
    for kind in type(error).__mro__:
        row = TABLE.get(kind)
        if row is not None:
            return row[0], getattr(error, "code", None) or row[1]
    return 500, "MANIFEST_UNKNOWN"
