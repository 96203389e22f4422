"""The state of a run: retries, parking, fairness, progress, what is stored; and the warning of a stall."""

from __future__ import annotations

import msgspec
import pytest
from holdfast.backoff import CEILING_SECONDS, DENIED_CEILING_SECONDS, pause
from holdfast.bandwidth.progress import Rate
from holdfast.sync.fair_queue import FairQueue
from holdfast.sync.plan import Image, PlannedAction, PlanStep, SyncTarget
from holdfast.sync.run_state import TRIES, Job, RunState, next_job, parse_key, retry_parked, stall_of
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000.0
MB = 1_000_000


def image(name: str, repository: str = "a", size: int = MB, parent: str = "") -> Image:
    return Image(
        SyncTarget(repository, name, name, parent),
        (PlannedAction(PlanStep.FETCH_BLOB, repository, name, size),),
        size,
    )


def job() -> Job:
    return Job(1, "Scheduled", NOW)


def took(run: RunState, now: float = NOW, **given: object) -> str:
    image = run.take(now, **given)  # type: ignore[arg-type]
    return image.target.key if image else ""


def test_a_failing_image_stops_nothing_and_is_left_after_its_tries() -> None:
    bad, good = image("bad"), image("good")
    run, now = RunState(job(), [bad, good], slots=1), NOW
    assert took(run) == "a:bad"
    run.failed(bad, "transient", "reset", now, 1.0)
    assert took(run) == "a:good"
    run.done(good, now)
    for _ in range(TRIES - 1):
        now = run.wake(now) or now
        assert took(run, now) == "a:bad"
        run.failed(bad, "transient", "reset", now, 1.0)
    assert run.is_over(now)
    assert [(key, trouble.attempts) for key, trouble in run.report()] == [("a:bad", TRIES)]
    again = RunState(next_job(run.job(now), "Scheduled", now, {"a:bad"}), [bad], slots=1)
    assert took(again, now) == "a:bad"


def test_what_is_refused_is_parked_over_runs_and_never_dropped() -> None:
    denied, now = image("denied"), NOW
    run = RunState(job(), [denied])
    run.take(now)
    run.failed(denied, "denied", "403", now, 1.0)
    assert run.is_over(now)
    assert run.progress(now).parked == 1
    for _ in range(50):
        kept = next_job(run.job(now), "Scheduled", now, {"a:denied"})
        run = RunState(kept, [denied])
        assert took(run, now) == ""
        now = kept.next_try() or 0.0
        assert took(run, now) == "a:denied"
        run.failed(denied, "denied", "403", now, 1.0)
    assert run.job(now).troubles["a:denied"].wait == DENIED_CEILING_SECONDS
    due = retry_parked(run.job(now), now)
    last = RunState(next_job(due, "Changes", now, {"a:denied"}), [denied])
    assert took(last, now) == "a:denied"
    last.done(denied, now)
    assert last.job(now).troubles == {}


def test_the_trouble_of_what_nobody_wants_is_over() -> None:
    run = RunState(job(), [image("x")])
    first = run.take(NOW)
    assert first is not None
    run.failed(first, "denied", "403", NOW, 0.0)
    assert next_job(run.job(NOW), "Scheduled", NOW, set()).troubles == {}


def test_a_parent_that_is_away_costs_no_try_and_holds_up_no_other() -> None:
    here, away = image("x", "a", parent="p"), image("y", "b", parent="q")
    run = RunState(job(), [away, here], slots=4)
    assert took(run, away={"q"}) == "a:x"
    assert took(run, away={"q"}) == ""
    assert took(run) == "b:y"
    run.failed(away, "offline", "no route", NOW, 1.0)
    assert run.report() == []
    assert took(run) == "b:y"


def test_retry_after_is_kept_and_gone_and_wrong_are_left_to_later_runs() -> None:
    slow, gone = image("slow"), image("gone")
    run = RunState(job(), [slow, gone])
    run.take(NOW)
    run.take(NOW)
    assert run.failed(slow, "transient", "429", NOW, 0.0, after=120.0).wait == 120.0
    run.failed(gone, "gone", "404", NOW, 0.0)
    assert run.wake(NOW) == NOW + 120
    assert took(run, NOW + 120) == "a:slow"
    run.done(slow, NOW + 121)
    assert run.is_over(NOW + 121)
    kept = next_job(run.job(NOW + 121), "Scheduled", NOW + 121, {"a:gone"})
    assert RunState(kept, [gone]).is_over(NOW + 122)


def test_a_clock_set_back_makes_nothing_wait_for_years() -> None:
    run = RunState(job(), [image("x")])
    first = run.take(NOW)
    assert first is not None
    run.failed(first, "transient", "reset", NOW, 1.0)
    assert took(run, NOW - 1e8) == "a:x"


def test_a_cancelled_run_goes_on() -> None:
    images = [image("x"), image("y")]
    run = RunState(job(), images, slots=2)
    done = run.take(NOW)
    run.take(NOW)
    assert done is not None
    run.done(done, NOW)
    run.received(MB, NOW)
    run.released()
    kept = run.job(NOW)
    assert not kept.over
    assert took(run) == "a:y"
    again = next_job(kept, "Scheduled", NOW + 9, None)
    assert (again.serial, again.images_done, again.bytes_done) == (1, 1, MB)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(kept), type=Job) == kept


def test_images_planned_again_count_what_they_turned_out_to_need() -> None:
    unread = image("x", size=0)
    run = RunState(job(), [unread])
    run.take(NOW)
    run.grown(image("x", size=5 * MB))
    assert run.progress(NOW).bytes == 5 * MB


def test_progress_and_time_left() -> None:
    run, now = RunState(job(), [image(str(n), size=10 * MB) for n in range(10)]), NOW
    assert took(run, now) == "a:0"
    for _ in range(100):
        now += 0.5
        run.received(MB // 2, now)
    progress = run.progress(now)
    assert progress.rate == pytest.approx(MB, rel=0.05)
    assert progress.left == pytest.approx(50, rel=0.1)
    assert run.progress(now + 120).rate < MB / 10
    assert run.stillness(now) == ""
    assert "no byte came for 11 min while a:0" in run.stillness(now + 660)


def test_no_repository_waits_for_the_bytes_of_another() -> None:
    large = [image(f"l{n}", "large", 100 * MB) for n in range(20)]
    small = [image(f"s{n}", "small", MB) for n in range(20)]
    run, order = RunState(job(), [*large, *small], slots=1), []
    while (turn := run.take(NOW)) is not None:
        order.append(turn.target.repository)
        run.done(turn, NOW)
    assert order.index("small") <= 1
    assert order[:22].count("small") == 20


def test_parents_take_turns() -> None:
    images = [image(f"x{n}", f"r{n}", parent="big") for n in range(50)] + [image("y", "a", parent="other")]
    run = RunState(job(), images, slots=100)
    assert "a:y" in [took(run) for _ in range(2)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 100)), max_size=60))
def test_turns_lose_nothing_and_keep_the_order_of_each_queue(items: list[tuple[str, int]]) -> None:
    turns: FairQueue[tuple[str, int, int]] = FairQueue()
    for number, (key, cost) in enumerate(items):
        turns.put(key, (key, cost, number))
    taken = []
    while (turn := turns.take()) is not None:
        turns.charge(turn[0], turn[1][1])
        taken.append(turn[1])
    assert sorted(taken, key=lambda t: t[2]) == [(k, c, n) for n, (k, c) in enumerate(items)]
    for key in "abc":
        mine = [t[2] for t in taken if t[0] == key]
        assert mine == sorted(mine)
    assert not turns


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), min_size=40, max_size=80))
def test_two_that_wait_are_never_further_apart_than_one_item(items: list[tuple[str, int]]) -> None:
    turns: FairQueue[int] = FairQueue()
    for key, cost in items:
        turns.put(key, cost)
    left = {k: sum(1 for key, _ in items if key == k) for k in "ab"}
    got = {"a": 0, "b": 0}
    while all(left.values()):
        turn = turns.take()
        assert turn is not None
        key, cost = turn
        turns.charge(key, cost)
        got[key], left[key] = got[key] + cost, left[key] - 1
        assert abs(got["a"] - got["b"]) <= 9 or not all(left.values())


@given(
    st.sampled_from(["transient", "denied", "gone", "wrong", "full", "offline"]),
    st.integers(1, 10_000),
    st.floats(0, 1),
)
def test_every_wait_has_a_bound(kind: str, attempts: int, share: float) -> None:
    wait = pause(kind, attempts, share)  # type: ignore[arg-type]
    most = DENIED_CEILING_SECONDS if kind == "denied" else max(CEILING_SECONDS, 3600.0)
    assert 0 <= wait <= most


def test_a_rate_needs_no_regular_pieces() -> None:
    rate = Rate()
    for second in range(0, 120, 3):
        rate.add(3 * MB, NOW + second)
    assert rate.at(NOW + 120) == pytest.approx(MB, rel=0.2)


def test_silence_is_told_before_messages_expire() -> None:
    day = 86400.0
    assert stall_of(0.0, NOW, day) is None
    assert stall_of(NOW - 0.4 * day, NOW, day) is None
    warned = stall_of(NOW - 0.6 * day, NOW, day)
    assert warned is not None
    assert not warned.alarm
    assert "in 10 h the parent's messages expire" in warned.words
    alarmed = stall_of(NOW - 0.9 * day, NOW, day)
    assert alarmed is not None
    assert alarmed.alarm
    expired = stall_of(NOW - 2 * day, NOW, day)
    assert expired is not None
    assert "have expired" in expired.words


def test_keys_are_taken_apart() -> None:
    assert parse_key("docker.io:library/a:v1") == ("docker.io:library/a", "v1", "")
    assert parse_key("a/b@sha256:0") == ("a/b", "", "sha256:0")
