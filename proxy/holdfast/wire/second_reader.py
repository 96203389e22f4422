"""h11 as the second reader of every head that may have a body.

Two readers that disagree on where a body ends are what request smuggling is made of. The head gate is ours and
strict; h11 is widely used and well tested. A request of a method that takes a body, with one or without, is taken only
when both find the same one. It costs about 50 µs a push request; the hits, GET and HEAD, do not come here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import HeadInvalid
from holdfast.wire.head import Head

if TYPE_CHECKING:
    import h11


def require_agreement(head: Head, data: bytes, limit: int) -> None:
    """`data` is the head as it was received. Raises `HeadInvalid` when h11 does not read the same request in it."""
    import h11  # with the first body: a node that is only pulled from starts 14 ms sooner and 1.5 MB smaller

    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=limit)
    reader.receive_data(data)
    try:
        event = reader.next_event()
    except h11.RemoteProtocolError as error:
        raise HeadInvalid("the request head is malformed") from error
    if not isinstance(event, h11.Request) or _by_h11(event) != _by_gate(head):
        raise HeadInvalid("the request head is ambiguous")


def _by_h11(event: h11.Request) -> tuple[bytes, bytes, int, list[bytes]]:
    lengths = [value for name, value in event.headers if name == b"content-length"]
    codings = [value for name, value in event.headers if name == b"transfer-encoding"]
    return event.method, event.target, int(lengths[0]) if lengths else 0, codings


def _by_gate(head: Head) -> tuple[bytes, bytes, int, list[bytes]]:
    return head.method.encode(), head.target.encode(), head.length, [b"chunked"] if head.chunked else []
