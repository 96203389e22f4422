"""Upload sessions over a real socket against a model that fits on a page: any order of requests, on three sessions
and a tiny alphabet, so that offsets and blobs collide."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.pushing import Registry, chunked, request, running
from support.uploads import Session, begin, digest_of, files, held

ALPHABET = [b"", b"a", b"b", b"ab", bytes(20_000)]


class Model:
    """What sessions and blobs there are, by the rules of the spec."""

    def __init__(self) -> None:
        self.sessions: dict[int, bytes] = {}
        self.blobs: set[bytes] = set()

    def open(self, number: int) -> int:
        self.sessions[number] = b""
        return 202

    def patch(self, number: int, body: bytes, start: int | None, *, long: bool) -> int:
        """A range that contradicts the length is seen at once, or when the body has ended."""
        held, is_empty_range = self.sessions.get(number), start is not None and not body
        if is_empty_range and not long:
            return 400
        if held is None:
            return 404
        if start not in (None, len(held)):
            return 416
        if is_empty_range:
            return 400
        self.sessions[number] = held + body
        return 202

    def put(self, number: int, body: bytes, start: int | None, claimed: bytes | None, *, long: bool) -> int:
        held = self.sessions.get(number, b"")
        status = self.patch(number, body, start, long=long)
        if status != 202:
            return status
        if claimed not in (None, held + body):
            self.sessions[number] = held
            return 400
        del self.sessions[number]
        self.blobs.add(held + body)
        return 201

    def cancel(self, number: int, *, long: bool) -> int:
        return 204 if self.sessions.pop(number, None) is not None else 404


NUMBERS = st.integers(0, 2)
BODIES = st.sampled_from(ALPHABET)
STARTS = st.sampled_from([None, None, 0, 1, 2, 20_000])
OPERATIONS = st.one_of(
    st.tuples(st.just("open"), NUMBERS),
    st.tuples(st.just("patch"), NUMBERS, BODIES, STARTS),
    st.tuples(st.just("put"), NUMBERS, BODIES, STARTS, st.sampled_from([None, None, b"a", b"abab"])),
    st.tuples(st.just("cancel"), NUMBERS),
)


async def perform(
    node: Registry, sessions: dict[int, Session], model: Model, operation: Any, long: bool
) -> None:
    """One operation here and there; the answers and the offsets agree."""
    name, number, *rest = operation
    if name == "open":
        if number in model.sessions:
            return
        sessions[number], expected = await begin(node), model.open(number)
        status = 202
    elif number not in sessions:
        return
    else:
        status = await sent(sessions[number], model.sessions.get(number, b""), name, rest, long)
        expected = getattr(model, name)(number, *rest, long=long)
    assert status == expected, operation
    for known, session in sessions.items():
        held = model.sessions.get(known)
        assert await session.offset() == (None if held is None else len(held) if len(held) > 1 else 0)


async def sent(session: Session, held: bytes, name: str, rest: list[Any], long: bool) -> int:
    """The status of a request that a model's operation stands for; `long` without a Content-Length."""
    if name == "cancel":
        return (await session.node.ask("DELETE", session.location)).status
    body, start, *claimed = rest
    target = session.location
    if claimed:
        target = session.target(digest_of(held + body if claimed[0] is None else claimed[0]))
    span = {} if start is None else {"Content_Range": f"{start}-{start + max(len(body), 1) - 1}"}
    make = chunked(name.upper(), target, [body] if body else [], **span) if long else None
    return (await session.sent(make or request(name.upper(), target, body, **span))).status


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(OPERATIONS, st.booleans()), max_size=25))
async def test_sessions_are_those_of_a_model(
    tmp_path_factory: pytest.TempPathFactory, operations: list[Any]
) -> None:
    async with running(tmp_path_factory.mktemp("model")) as node:
        model, sessions = Model(), dict[int, Session]()
        for number in range(3):
            await perform(node, sessions, model, ("open", number), False)
        for operation, long in operations:
            await perform(node, sessions, model, operation, long)
        for body in {*ALPHABET, b"abab", *model.blobs}:
            assert await held(node, body) == (body in model.blobs)
        assert len(files(node)) == len(model.sessions)
