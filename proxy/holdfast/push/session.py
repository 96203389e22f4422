"""What a request means for an upload session: one table, from a state and an event to the next state and what is
done. Nothing here waits or reads anything.

A session is compared and set: a chunk is taken when it begins where the session ends and nobody else is
writing, and is refused otherwise, without a byte of it being read (distribution-spec, "Pushing a blob in
chunks"; oci-spec rules 38 to 46). What was acknowledged is never taken back.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """ABSENT: no such session. IDLE: it waits. HELD: another request writes to it. TAKING: this request's bytes
    arrive. CLOSING: they are all there, and are being verified and committed."""

    ABSENT = "absent"
    IDLE = "idle"
    HELD = "held"
    TAKING = "taking"
    CLOSING = "closing"


class Event(StrEnum):
    """What a client asks for (STRAY: a chunk that does not begin where the session ends), and what becomes of
    what it sends (LOST: the connection broke off; REFUSED: for a reason of ours or of the client's; REMOVED:
    another request ended the session; UNDECIDED: the keeper has the file and gave no word)."""

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


class Answer(StrEnum):
    """What the client is told. REASON: the error that was the reason."""

    OPENED = "202 opened"
    PROGRESS = "204 progress"
    APPENDED = "202 appended"
    COMMITTED = "201 committed"
    CANCELLED = "204 cancelled"
    UNKNOWN = "404"
    OUT_OF_ORDER = "416"
    REASON = "reason"


class Step(NamedTuple):
    """`answer` is None while the request goes on. `roll_back`: the bytes of this request go again."""

    state: State
    answer: Answer | None
    roll_back: bool = False


_UNKNOWN = Step(State.ABSENT, Answer.UNKNOWN)

TABLE: dict[tuple[State, Event], Step] = {
    (State.ABSENT, Event.OPEN): Step(State.IDLE, Answer.OPENED),
    (State.ABSENT, Event.STATUS): _UNKNOWN,
    (State.ABSENT, Event.WRITE): _UNKNOWN,
    (State.ABSENT, Event.STRAY): _UNKNOWN,
    (State.ABSENT, Event.CANCEL): _UNKNOWN,
    (State.IDLE, Event.STATUS): Step(State.IDLE, Answer.PROGRESS),
    (State.IDLE, Event.WRITE): Step(State.TAKING, None),
    (State.IDLE, Event.STRAY): Step(State.IDLE, Answer.OUT_OF_ORDER),
    (State.IDLE, Event.CANCEL): Step(State.ABSENT, Answer.CANCELLED),
    (State.HELD, Event.STATUS): Step(State.HELD, Answer.PROGRESS),
    (State.HELD, Event.WRITE): Step(State.HELD, Answer.OUT_OF_ORDER),
    (State.HELD, Event.STRAY): Step(State.HELD, Answer.OUT_OF_ORDER),
    (State.HELD, Event.CANCEL): Step(State.ABSENT, Answer.CANCELLED),
    (State.TAKING, Event.APPENDED): Step(State.IDLE, Answer.APPENDED),
    (State.TAKING, Event.COMPLETED): Step(State.CLOSING, None),
    (State.TAKING, Event.LOST): Step(State.IDLE, Answer.REASON),
    (State.TAKING, Event.REFUSED): Step(State.IDLE, Answer.REASON, roll_back=True),
    (State.TAKING, Event.REMOVED): _UNKNOWN,
    (State.CLOSING, Event.COMMITTED): Step(State.ABSENT, Answer.COMMITTED),
    (State.CLOSING, Event.REFUSED): Step(State.IDLE, Answer.REASON, roll_back=True),
    (State.CLOSING, Event.REMOVED): _UNKNOWN,
    (State.CLOSING, Event.UNDECIDED): Step(State.ABSENT, Answer.REASON),
}


def step(state: State, event: Event) -> Step:
    """What follows. Raises KeyError for what cannot happen: a bug of the caller."""
    return TABLE[state, event]
