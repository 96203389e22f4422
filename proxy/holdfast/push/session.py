"""The state machine of upload sessions: one table, from a state and an event to the next state and the answer; and the
byte range that a request claims. Pure.

A chunk is accepted when it begins where the session ends and no other request is writing to it, and else is refused
before its body is read (distribution-spec, "Pushing a blob in chunks"; references.md 2.4). Acknowledged bytes are never
removed while the session lives.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from holdfast.errors import SizeInvalid, UploadInvalid
from holdfast.wire.message import Request


class SessionState(StrEnum):
    """ABSENT: no such session. IDLE: no request writes to it. HELD: another request writes to it. TAKING: the bytes of
    this request arrive. CLOSING: all bytes are here, and are being verified and committed."""

    ABSENT = "absent"
    IDLE = "idle"
    HELD = "held"
    TAKING = "taking"
    CLOSING = "closing"


class SessionEvent(StrEnum):
    """Requests (STRAY: a chunk that does not begin where the session ends), and outcomes of their bodies (LOST: the
    connection broke off; REFUSED: by this node, or because the request is wrong; REMOVED: another request ended the
    session; UNDECIDED: the keeper has the file and did not answer)."""

    OPEN = "open"
    STATUS = "status"
    WRITE = "write"
    STRAY = "stray"
    CANCEL = "cancel"
    APPENDED = "appended"
    COMPLETED = "completed"
    COMMITTED = "committed"
    LOST = "lost"
    REFUSED = "refused"
    REMOVED = "removed"
    UNDECIDED = "undecided"


class SessionAnswer(StrEnum):
    """The answer to the client. REASON: the error of the event."""

    OPENED = "202 opened"
    PROGRESS = "204 progress"
    APPENDED = "202 appended"
    COMMITTED = "201 committed"
    CANCELLED = "204 cancelled"
    UNKNOWN = "404"
    OUT_OF_ORDER = "416"
    REASON = "reason"


class SessionStep(NamedTuple):
    """`answer` is None while the request continues. `roll_back`: remove the bytes of this request."""

    state: SessionState
    answer: SessionAnswer | None
    roll_back: bool = False


_UNKNOWN = SessionStep(SessionState.ABSENT, SessionAnswer.UNKNOWN)

TABLE: dict[tuple[SessionState, SessionEvent], SessionStep] = {
    (SessionState.ABSENT, SessionEvent.OPEN): SessionStep(SessionState.IDLE, SessionAnswer.OPENED),
    (SessionState.ABSENT, SessionEvent.STATUS): _UNKNOWN,
    (SessionState.ABSENT, SessionEvent.WRITE): _UNKNOWN,
    (SessionState.ABSENT, SessionEvent.STRAY): _UNKNOWN,
    (SessionState.ABSENT, SessionEvent.CANCEL): _UNKNOWN,
    (SessionState.IDLE, SessionEvent.STATUS): SessionStep(SessionState.IDLE, SessionAnswer.PROGRESS),
    (SessionState.IDLE, SessionEvent.WRITE): SessionStep(SessionState.TAKING, None),
    (SessionState.IDLE, SessionEvent.STRAY): SessionStep(SessionState.IDLE, SessionAnswer.OUT_OF_ORDER),
    (SessionState.IDLE, SessionEvent.CANCEL): SessionStep(SessionState.ABSENT, SessionAnswer.CANCELLED),
    (SessionState.HELD, SessionEvent.STATUS): SessionStep(SessionState.HELD, SessionAnswer.PROGRESS),
    (SessionState.HELD, SessionEvent.WRITE): SessionStep(SessionState.HELD, SessionAnswer.OUT_OF_ORDER),
    (SessionState.HELD, SessionEvent.STRAY): SessionStep(SessionState.HELD, SessionAnswer.OUT_OF_ORDER),
    (SessionState.HELD, SessionEvent.CANCEL): SessionStep(SessionState.ABSENT, SessionAnswer.CANCELLED),
    (SessionState.TAKING, SessionEvent.APPENDED): SessionStep(SessionState.IDLE, SessionAnswer.APPENDED),
    (SessionState.TAKING, SessionEvent.COMPLETED): SessionStep(SessionState.CLOSING, None),
    (SessionState.TAKING, SessionEvent.LOST): SessionStep(SessionState.IDLE, SessionAnswer.REASON),
    (SessionState.TAKING, SessionEvent.REFUSED): SessionStep(
        SessionState.IDLE, SessionAnswer.REASON, roll_back=True
    ),
    (SessionState.TAKING, SessionEvent.REMOVED): _UNKNOWN,
    (SessionState.CLOSING, SessionEvent.COMMITTED): SessionStep(SessionState.ABSENT, SessionAnswer.COMMITTED),
    (SessionState.CLOSING, SessionEvent.REFUSED): SessionStep(
        SessionState.IDLE, SessionAnswer.REASON, roll_back=True
    ),
    (SessionState.CLOSING, SessionEvent.REMOVED): _UNKNOWN,
    (SessionState.CLOSING, SessionEvent.UNDECIDED): SessionStep(SessionState.ABSENT, SessionAnswer.REASON),
}


def step(state: SessionState, event: SessionEvent) -> SessionStep:
    """The next state and the answer. Raises KeyError for an event that the state cannot have: a bug of the caller."""
    return TABLE[state, event]


#: `<start>-<end>`, both inclusive, without unit and total, unlike RFC 9110. 19 digits hold every size of a file.
_GRAMMAR = re.compile(r"([0-9]{1,19})-([0-9]{1,19})")


class Claim(NamedTuple):
    """The range of a request's bytes: its start (None: where the session ends) and length (None: as many as arrive)."""

    start: int | None
    length: int | None

    def fits(self, size: int) -> bool:
        """Whether the range begins where a session of `size` bytes ends."""
        return self.start is None or self.start == size


def claimed(request: Request) -> Claim:
    """The range by Content-Range and Content-Length. Raises UploadInvalid for a Content-Range outside its grammar,
    SizeInvalid when the two contradict each other."""
    length = request.body.length if request.body is not None else 0
    lines = request.header_lines("content-range")
    if not lines:
        return Claim(None, length)
    match = _GRAMMAR.fullmatch(lines[0]) if len(lines) == 1 else None
    if match is None or (span := int(match[2]) - int(match[1]) + 1) < 1:
        raise UploadInvalid("Content-Range is not one <start>-<end>, both counted from 0 and included")
    if length not in (None, span):
        raise SizeInvalid(f"Content-Range says {span} bytes, Content-Length says {length}")
    return Claim(int(match[1]), span)
