"""An error as an answer: `{"errors":[{code,message,detail}]}` (distribution-spec, "Error Codes").

Always JSON, always with a length, never with anything a client did not send or this project did not write:
a message from deep below may name a file or a host, so it is logged where it happens and not sent.
"""

from __future__ import annotations

import msgspec

from holdfast.errors import ParentUnreachable, Refusal, status_and_code
from holdfast.wire.message import Reply
from holdfast.wire.routes import Noun

#: 429 must have a Retry-After (references.md 2.11) and 503 should; used when the error has none.
RETRY_SECONDS = {429: 1, 503: 5}
#: Of a 503: how many levels above this node the first unreachable one is; 1 is the parent. A Holdfast below
#: passes it on at once, one higher, in place of asking again.
AWAY = "Holdfast-Away"

# The table's code for "this could not be had" names a manifest; other endpoints name their own noun.
_NOUN_CODES = {
    Noun.BLOB: "BLOB_UNKNOWN",
    Noun.UPLOADS: "BLOB_UPLOAD_INVALID",
    Noun.UPLOAD: "BLOB_UPLOAD_INVALID",
    Noun.TAGS: "NAME_UNKNOWN",
    Noun.CATALOG: "NAME_UNKNOWN",
    # no content is asked for there
    Noun.GATEWAY: "DENIED",
    Noun.API: "DENIED",
}


def reply_to(error: Exception, noun: Noun = Noun.BASE) -> Reply:
    """The answer that `error` is at the endpoint of `noun`."""
    status, code = status_and_code(error)
    if code == "MANIFEST_UNKNOWN" and getattr(error, "code", None) is None:
        code = _NOUN_CODES.get(noun, code)
    message, detail, extra, retry_after = _fields(error)
    headers = [("Content-Type", "application/json"), *extra]
    if isinstance(error, ParentUnreachable):
        headers.append((AWAY, "1"))
    if retry_after is None:
        retry_after = RETRY_SECONDS.get(status)
    if retry_after is not None:
        headers.append(("Retry-After", str(retry_after)))
    return Reply(status, headers, body(code, message, detail))


def body(code: str, message: str, detail: str) -> bytes:
    """The JSON of one error. `detail` is a string: the Go clients type it so."""
    return msgspec.json.encode({"errors": [{"code": code, "message": message, "detail": detail}]})


def _fields(error: Exception) -> tuple[str, str, tuple[tuple[str, str], ...], int | None]:
    if isinstance(error, Refusal):
        return error.message, error.detail, error.headers, error.retry_after
    return "this node could not answer", "", (), None
