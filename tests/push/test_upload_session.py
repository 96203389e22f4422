"""The table of an upload session, the grammar of a chunk, and the states of its hashes: no I/O, no server."""

from __future__ import annotations

import pytest
from holdfast.errors import SizeInvalid, UploadInvalid
from holdfast.push.context import Hashes
from holdfast.push.session import TABLE, Claim, SessionAnswer, SessionEvent, SessionState, claimed, step
from holdfast.wire.message import Request
from holdfast_core import ChunkHasher
from hypothesis import given
from hypothesis import strategies as st

RESTING = (SessionState.ABSENT, SessionState.IDLE, SessionState.HELD)
ASKED = (SessionEvent.STATUS, SessionEvent.WRITE, SessionEvent.STRAY, SessionEvent.CANCEL)
TURN = (SessionState.TAKING, SessionState.CLOSING)
REFUSALS = (SessionAnswer.UNKNOWN, SessionAnswer.OUT_OF_ORDER)


def test_every_question_has_an_answer_in_every_state_a_client_can_meet():
    assert all((state, event) in TABLE for state in RESTING for event in ASKED)


def test_case_20_what_is_refused_at_once_changes_nothing():
    for (state, event), (after, answer, roll_back) in TABLE.items():
        if state in RESTING and answer in (*REFUSALS, SessionAnswer.PROGRESS):
            assert (after, roll_back) == (state, False), (state, event)


def test_a_turn_ends_where_another_can_begin():
    for (state, _), found in TABLE.items():
        if state in TURN:
            assert found.state in (SessionState.IDLE, SessionState.ABSENT, SessionState.CLOSING)
            assert (found.answer is None) is (found.state is SessionState.CLOSING)


def test_case_25_29_a_refused_turn_is_rolled_back_and_a_broken_off_one_is_not():
    assert step(SessionState.TAKING, SessionEvent.REFUSED) == (SessionState.IDLE, SessionAnswer.REASON, True)
    assert step(SessionState.CLOSING, SessionEvent.REFUSED) == (SessionState.IDLE, SessionAnswer.REASON, True)
    assert step(SessionState.TAKING, SessionEvent.LOST) == (SessionState.IDLE, SessionAnswer.REASON, False)


def test_what_the_keeper_may_still_commit_is_not_rolled_back():
    assert step(SessionState.CLOSING, SessionEvent.UNDECIDED) == (
        SessionState.ABSENT,
        SessionAnswer.REASON,
        False,
    )


def test_what_cannot_happen_has_no_row():
    for pair in (
        (SessionState.IDLE, SessionEvent.COMMITTED),
        (SessionState.HELD, SessionEvent.APPENDED),
        (SessionState.CLOSING, SessionEvent.LOST),
    ):
        with pytest.raises(KeyError):
            step(*pair)


@given(st.lists(st.sampled_from(list(SessionEvent)), max_size=40))
def test_bytes_that_were_acknowledged_are_never_lost(events):
    """Walk the table as an endpoint does, with two bytes a write, and keep the books beside it."""
    state, size, start, acknowledged = SessionState.ABSENT, 0, 0, 0
    for event in events:
        if (state, event) not in TABLE:
            continue
        before = state
        state, answer, roll_back = step(state, event)
        if before is SessionState.IDLE and state is SessionState.TAKING:
            start, size = size, size + 2
        if roll_back:
            size = start
        if answer is SessionAnswer.APPENDED:
            acknowledged = size
        if answer is SessionAnswer.CANCELLED or state is SessionState.ABSENT:
            size = acknowledged = 0
        if answer in REFUSALS and before in RESTING:
            assert state is before
        assert size >= acknowledged
        assert state is not SessionState.IDLE or answer is not SessionAnswer.COMMITTED


# -- Content-Range -------------------------------------------------------------------------------------


class Body:
    """As far as a claim looks at it."""

    def __init__(self, length):
        self.length, self.received = length, 0

    async def read(self):
        return b""


def asked(*lines, length=None, body=True):
    headers = tuple(("content-range", line) for line in lines)
    return Request("PATCH", "/", headers=headers, body=Body(length) if body else None)


@pytest.mark.parametrize(
    "line",
    [
        *("bytes 0-9", "0-9/10", "0-9/*", "0-", "-9", "-", "", "9-0", "0", "0-9-", "0--9", "--", "0-9,10-19"),
        *("+0-9", "0-+9", "0x0-0x9", "0_0-9", "0 -9", "0- 9", "0-9\n", "\u0660-\u0669", "0-\u00b2"),
        *("0-" + "9" * 20, "1" * 400 + "-" + "2" * 400, "0\u20139", "bytes=0-9", "0.0-9.0", "1e0-9"),
    ],
)
def test_case_19_what_is_no_range(line):
    for length in (10, None):
        with pytest.raises(UploadInvalid):
            claimed(asked(line, length=length))


def test_case_19_two_lines_are_none():
    for lines in (("0-9", "0-9"), ("0-9", ""), ("0-9", "10-19")):
        with pytest.raises(UploadInvalid):
            claimed(asked(*lines, length=10))


@pytest.mark.parametrize(
    ("line", "length", "claim"),
    [
        ("0-9", 10, Claim(0, 10)),
        ("00-09", 10, Claim(0, 10)),
        ("0-0", 1, Claim(0, 1)),
        ("5-9", None, Claim(5, 5)),
        ("4294967295-4294967296", 2, Claim(2**32 - 1, 2)),
    ],
)
def test_case_19_21_what_is_one(line, length, claim):
    assert claimed(asked(line, length=length)) == claim


@pytest.mark.parametrize("length", [0, 9, 11])
def test_case_19_a_range_that_contradicts_the_length(length):
    with pytest.raises(SizeInvalid):
        claimed(asked("0-9", length=length))


def test_case_19_a_range_without_a_body():
    with pytest.raises(SizeInvalid):
        claimed(asked("0-0", body=False))


def test_without_a_range_the_bytes_go_to_the_end():
    assert claimed(asked(length=7)) == (None, 7)
    assert claimed(asked()) == (None, None)
    assert claimed(asked(body=False)) == (None, 0)
    assert all(Claim(None, length).fits(size) for length in (None, 0, 5) for size in (0, 7))


@given(st.integers(0, 20), st.integers(0, 20))
def test_a_chunk_fits_at_the_end_and_nowhere_else(start, size):
    assert Claim(start, 3).fits(size) is (start == size)


def oracle(line):
    """(start, end), or None: the grammar by hand."""
    parts = line.split("-")
    if len(parts) != 2 or not all(parts) or any(c not in "0123456789" for part in parts for c in part):
        return None
    if max(map(len, parts)) > 19 or int(parts[0]) > int(parts[1]):
        return None
    return int(parts[0]), int(parts[1])


@given(
    st.one_of(
        st.text(st.sampled_from("0123456789-- /*b+\u0663"), max_size=12),
        st.builds("{}-{}".format, st.integers(0, 10**20), st.integers(0, 10**20)),
        st.builds("{:03}-{:03}".format, st.integers(0, 99), st.integers(0, 99)),
    )
)
def test_case_19_the_grammar_is_the_one_of_an_oracle(line):
    expected = oracle(line)
    try:
        found = claimed(asked(line))
    except UploadInvalid:
        assert expected is None
    else:
        assert expected == (found.start, found.start + found.length - 1)


# -- states of hashes ----------------------------------------------------------------------------------


def hasher(body, algorithm="sha256"):
    made = ChunkHasher(algorithm)
    made.update(body)
    return made


def test_a_state_is_taken_once():
    hashes, state = Hashes(), hasher(b"abc")
    hashes.keep("a", "sha256", state)
    assert hashes.take("a", "sha256", 3) is state
    assert hashes.take("a", "sha256", 3).size == 0


def test_a_state_that_lags_behind_is_gone_on_with_and_one_that_is_ahead_is_not():
    hashes, state = Hashes(), hasher(b"abc")
    hashes.keep("a", "sha256", state)
    assert hashes.take("a", "sha256", 10) is state
    hashes.keep("a", "sha256", state)
    assert hashes.take("a", "sha256", 2).size == 0


def test_case_26_a_state_of_another_algorithm_is_of_no_use():
    hashes = Hashes()
    hashes.keep("a", "sha256", hasher(b"abc"))
    assert hashes.take("a", "sha512", 3).digest() == ChunkHasher("sha512").digest()


def test_states_are_bounded_in_number():
    hashes = Hashes(limit=3)
    for number in range(10):
        hashes.keep(str(number), "sha256", hasher(b"abc"))
        hashes.keep(f"empty {number}", "sha256", ChunkHasher())
    assert len(hashes) == 3
    assert hashes.take("9", "sha256", 3).size == 3
    hashes.forget("8")
    hashes.forget("8")
    assert len(hashes) == 1
