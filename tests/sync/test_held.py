"""Tags whose move at the parent waits for the outbox: when they are asked for, and that they are not before."""

from __future__ import annotations

from holdfast.sync.backoff import CEILING_SECONDS
from holdfast.sync.held import ECHO_SECONDS, Held


def test_a_tag_that_waits_is_never_asked_for_and_looked_at_ever_more_seldom() -> None:
    looks = 0

    def waits(key: str, word: str | None) -> bool:
        nonlocal looks
        looks += 1
        return True

    held, now, day = Held({}, waits), 0.0, 86_400.0
    held.hold("a:x", "sha256:1", now, 1.0)
    while (at := held.next_at()) is not None and at < day:
        now = at
        assert held.due(now, 1.0) == []
        for _ in range(100):  # a message in between is no reason to look sooner
            held.hold("a:x", "sha256:1", now, 1.0)
    assert looks <= 8 + day / CEILING_SECONDS


def test_a_decision_is_followed_by_one_question() -> None:
    going_up = {"a:x", "a:y"}
    held = Held({}, lambda key, word: key in going_up)
    for key in going_up:
        held.hold(key, "sha256:1", 0.0, 0.5)
    going_up.clear()
    held.decided("a:x", 1.0, ours=False)
    held.decided("a:y", 1.0, ours=True)
    assert held.due(1.0, 0.5) == ["a:x"]
    assert held.due(1.0 + ECHO_SECONDS, 0.5) == ["a:y"]
    assert held.due(1e9, 0.5) == []
    assert held.next_at() is None
    held.failed("a:x", 2e9, 0.5)
    assert held.due(2e9, 0.5) == []
    assert held.due(2e9 + CEILING_SECONDS, 0.5) == ["a:x"]


def test_a_newer_word_of_the_log_is_as_good_as_an_answer() -> None:
    held = Held()
    held.hold("a:x", "sha256:1", 0.0, 0.5)
    held.decided("a:x", 0.0, ours=True)
    held.forget("a:x")
    assert held.due(1e9, 0.5) == []
    held.decided("a:x", 0.0, ours=True)
    assert "a:x" not in held
    held.decided("a:x", 0.0, ours=False)  # that it gave way counts, whatever the log said before
    assert held.due(0.0, 0.5) == ["a:x"]


def test_what_an_earlier_process_held_is_looked_at_at_once() -> None:
    before = Held()
    before.hold("a:x", "", 0.0, 0.5)
    before.hold("a:y", None, 0.0, 0.5)
    assert before.is_gone("a:x")
    assert not before.is_gone("a:y")
    held = Held(before.rows(), lambda key, word: key == "a:y")
    assert held.due(0.0, 0.5) == ["a:x"]
    assert held.is_gone("a:x")
    held.again(held, 5.0)
    assert held.due(5.0, 0.5) == ["a:x"]
