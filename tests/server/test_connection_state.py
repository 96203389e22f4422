"""The table of a connection's states: what each event does, and that a connection takes every row of it."""

import ast
from pathlib import Path

import pytest
from holdfast.server import connection
from holdfast.server.connection_state import TABLE, ConnectionEvent, ConnectionState, markdown

IDLE, READ, WORK, SEND, WAIT, LEFT, OVER = ConnectionState

#: The next states as they are meant, a row an event and a column a state; None: it cannot happen.
MEANT = {
    "part": (READ, None, None, None, None, None, None),
    "clear": (IDLE, IDLE, None, None, None, None, None),
    "request": (WORK, WORK, None, None, None, None, None),
    "repeated": (IDLE, IDLE, None, None, None, None, None),
    "answer": (SEND, SEND, SEND, None, None, OVER, None),
    "sent": (None, None, None, IDLE, None, None, None),
    "end": (WAIT, WAIT, None, WAIT, None, None, None),
    "cancelled": (None, None, OVER, None, None, OVER, None),
    "lost": (OVER, OVER, LEFT, OVER, OVER, None, OVER),
}


def test_the_table_is_what_is_meant() -> None:
    assert {event: tuple(TABLE[event].get(state) for state in ConnectionState) for event in TABLE} == MEANT


def test_every_event_has_a_row() -> None:
    assert list(TABLE) == list(ConnectionEvent)


def test_an_event_outside_the_table_is_an_error() -> None:
    outside = [(event, state) for event in TABLE for state in ConnectionState if state not in TABLE[event]]
    assert len(outside) == 9 * 7 - sum(map(len, TABLE.values()))
    for event, state in outside:
        with pytest.raises(KeyError):
            TABLE[event][state]


def test_every_state_is_reached_and_only_a_closed_connection_stays() -> None:
    reached, new = {IDLE}, {IDLE}
    while new:
        new = {row[state] for row in TABLE.values() for state in new if state in row} - reached
        reached |= new
    assert reached == set(ConnectionState)
    leaving = {state for row in TABLE.values() for state, following in row.items() if following is not state}
    assert set(ConnectionState) - leaving == {OVER}


def test_an_answer_is_sent_once() -> None:
    """From the request to the next one there is one ANSWER: a second would be read as that of the next request."""
    assert SEND not in TABLE[ConnectionEvent.ANSWER]
    assert [event for event in TABLE if SEND in TABLE[event]] == ["sent", "end", "lost"]


def test_the_connection_changes_its_state_by_the_table_alone() -> None:
    """Each event is used, and nothing else is assigned to the state after it began idle."""
    tree = ast.parse(Path(connection.__file__).read_text())
    assigned = [
        ast.unparse(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "self.state"
    ]
    assert assigned.count("IDLE") == 1
    rows = {name.partition("[")[0] for name in assigned if name != "IDLE"}
    assert rows == {f"ON_{event.name}" for event in ConnectionEvent}


def test_the_table_is_printed_a_row_an_event() -> None:
    assert markdown().count("\n") == len(ConnectionEvent) + 1
