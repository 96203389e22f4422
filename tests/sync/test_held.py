"""Tags whose move at the parent waits for the outbox: when they are requested, and that they are not before."""

from __future__ import annotations

from holdfast.backoff import CEILING_SECONDS
from holdfast.sync.source.held_tags import ECHO_SECONDS, HeldTags


def test_a_tag_that_waits_is_never_asked_for_and_looked_at_ever_more_seldom() -> None:
    looks = 0

    def waits(key: str, digest: str | None) -> bool:
        nonlocal looks
        looks += 1
        return True

    held, now, day = HeldTags({}, waits), 0.0, 86_400.0
    held.hold("a:x", "sha256:1", now, 1.0)
    while (at := held.next_at()) is not None and at < day:
        now = at
        assert held.due(now, 1.0) == []
        for _ in range(100):  # a message in between is no reason to look sooner
            held.hold("a:x", "sha256:1", now, 1.0)
    assert looks <= 8 + day / CEILING_SECONDS


def test_a_decision_is_followed_by_one_question() -> None:
    going_up = {"a:x", "a:y"}
    held = HeldTags({}, lambda key, digest: key in going_up)
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
    held = HeldTags()
    held.hold("a:x", "sha256:1", 0.0, 0.5)
    held.decided("a:x", 0.0, ours=True)
    held.forget("a:x")
    assert held.due(1e9, 0.5) == []
    held.decided("a:x", 0.0, ours=True)
    assert "a:x" not in held
    held.decided("a:x", 0.0, ours=False)  # the decision counts, whatever was in the log before
    assert held.due(0.0, 0.5) == ["a:x"]


def test_what_an_earlier_process_held_is_looked_at_at_once() -> None:
    before = HeldTags()
    before.hold("a:x", "", 0.0, 0.5)
    before.hold("a:y", None, 0.0, 0.5)
    assert before.is_gone("a:x")
    assert not before.is_gone("a:y")
    held = HeldTags(before.rows(), lambda key, digest: key == "a:y")
    assert held.due(0.0, 0.5) == ["a:x"]
    assert held.is_gone("a:x")
    held.again(held, 5.0)
    assert held.due(5.0, 0.5) == ["a:x"]
