"""The states of one client connection: one table, from an event and a state to the next state. Nothing here waits or
reads anything.

Three facts belong to the socket and not to the state, because each can change in any state: whether reading is paused,
whether writing is paused, and whether the client closed its half.
"""

from __future__ import annotations

from enum import StrEnum


class ConnectionState(StrEnum):
    """The state of a connection between two requests, or in the present one.

    IDLE: no byte of a next request has arrived. READING: part of a head has, or of a body that is dropped. ANSWERING:
    an endpoint works on the request. SENDING: its answer is sent. LINGERING: the last answer is sent, and what the
    client still sends is dropped, so that it can read that answer. ABANDONED: the connection is lost, and the endpoint
    finishes or undoes what it began. CLOSED: nothing is left to do."""

    IDLE = "idle"
    READING = "reading"
    ANSWERING = "answering"
    SENDING = "sending"
    LINGERING = "lingering"
    ABANDONED = "abandoned"
    CLOSED = "closed"


class ConnectionEvent(StrEnum):
    """What happens to a connection.

    PART: bytes arrived that are no whole request. CLEAR: no byte waits to be read. REQUEST: a request is complete.
    REPEATED: a request was answered from the hit lane. ANSWER: there is an answer, or a refusal without a request.
    SENT: the answer is with the transport and the connection stays open. END: it does not. CANCELLED: the endpoint was
    cancelled. LOST: the transport is closed."""

    PART = "part"
    CLEAR = "clear"
    REQUEST = "request"
    REPEATED = "repeated"
    ANSWER = "answer"
    SENT = "sent"
    END = "end"
    CANCELLED = "cancelled"
    LOST = "lost"


#: The next state by event and state. What is not here cannot happen: a bug of the caller, which gets a KeyError.
TABLE: dict[ConnectionEvent, dict[ConnectionState, ConnectionState]] = {
    ConnectionEvent.PART: {
        ConnectionState.IDLE: ConnectionState.READING,
    },
    ConnectionEvent.CLEAR: {
        ConnectionState.IDLE: ConnectionState.IDLE,
        ConnectionState.READING: ConnectionState.IDLE,
    },
    ConnectionEvent.REQUEST: {
        ConnectionState.IDLE: ConnectionState.ANSWERING,
        ConnectionState.READING: ConnectionState.ANSWERING,
    },
    ConnectionEvent.REPEATED: {
        ConnectionState.IDLE: ConnectionState.IDLE,
        ConnectionState.READING: ConnectionState.IDLE,
    },
    ConnectionEvent.ANSWER: {
        ConnectionState.IDLE: ConnectionState.SENDING,
        ConnectionState.READING: ConnectionState.SENDING,
        ConnectionState.ANSWERING: ConnectionState.SENDING,
        ConnectionState.ABANDONED: ConnectionState.CLOSED,
    },
    ConnectionEvent.SENT: {
        ConnectionState.SENDING: ConnectionState.IDLE,
    },
    ConnectionEvent.END: {
        ConnectionState.IDLE: ConnectionState.LINGERING,
        ConnectionState.READING: ConnectionState.LINGERING,
        ConnectionState.SENDING: ConnectionState.LINGERING,
    },
    ConnectionEvent.CANCELLED: {
        ConnectionState.ANSWERING: ConnectionState.CLOSED,
        ConnectionState.ABANDONED: ConnectionState.CLOSED,
    },
    ConnectionEvent.LOST: {
        ConnectionState.IDLE: ConnectionState.CLOSED,
        ConnectionState.READING: ConnectionState.CLOSED,
        ConnectionState.ANSWERING: ConnectionState.ABANDONED,
        ConnectionState.SENDING: ConnectionState.CLOSED,
        ConnectionState.LINGERING: ConnectionState.CLOSED,
        ConnectionState.CLOSED: ConnectionState.CLOSED,
    },
}


def markdown() -> str:
    """The table as `docs/design.md` has it: a row for each event, a column for each state."""
    lines = ["| | " + " | ".join(ConnectionState) + " |", "|---" * (len(ConnectionState) + 1) + "|"]
    for event, row in TABLE.items():
        lines.append(f"| *{event}* | " + " | ".join(row.get(state, "") for state in ConnectionState) + " |")
    return "\n".join(lines)
