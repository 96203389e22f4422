"""The child's side of activation, by itself and in thousands of simulated hours with outages, lost answers, restarts
and a second instance."""

from __future__ import annotations

from dataclasses import replace

import pytest
from holdfast.gateway.agent_state import (
    AccessRefused,
    Activated,
    AgentState,
    AskActivation,
    BrokenOff,
    Configured,
    Deactivated,
    FetchConfiguration,
    NoAnswer,
    OtherInstanceActive,
    Outcome,
    Reported,
    Rest,
    SendReport,
    Unchanged,
)
from holdfast.resources.model import SyncProperties
from support.executed_word import ExecutedWord
from support.lease_world import START, SYNC, ModelWord, Word, World

SEEDS = range(60)
HOUR = 3600.0


def child(**more: object) -> AgentState:
    """A child that draws the longest pause each time."""
    return AgentState(60.0, lambda limit: limit, **more)  # type: ignore[arg-type]


def activated(now: float = 0.0) -> AgentState:
    """A child that is active and configured."""
    one = child()
    one.apply(Activated(1, 300.0), now, now)
    one.apply(Configured("v1", SYNC), now, now)
    return one


def test_the_first_words_are_activate_config_status() -> None:
    one = child()
    assert one.next(0, START) == AskActivation()
    one.apply(Activated(3, 300.0), 0, 1)
    assert one.next(1, START) == FetchConfiguration("", 0.0)
    one.apply(Configured("v1", SYNC), 1, 2)
    assert one.next(2, START) == SendReport()
    one.apply(Reported(300.0), 2, 3)
    assert one.next(3, START) == FetchConfiguration("v1", 55.0)
    one.apply(Unchanged(), 3, 58)
    assert one.next(58, START) == FetchConfiguration("v1", 5.0)
    one.apply(Unchanged(), 58, 63)
    assert one.next(63, START) == SendReport()


def test_a_parent_that_does_not_wait_is_not_asked_in_a_loop() -> None:
    one = activated()
    one.apply(Reported(300.0), 0, 0)
    one.apply(Unchanged(), 0, 0)
    assert one.next(0, START) == Rest(1.0)


def test_a_change_is_reported_at_once() -> None:
    one = activated()
    one.apply(Reported(300.0), 0, 0)
    one.apply(Configured("v2", SYNC), 0, 20)
    assert one.next(20, START) == SendReport()
    assert one.etag == "v2"


def test_a_lease_counts_from_the_asking() -> None:
    one = child()
    one.apply(Activated(1, 300.0), 100, 109)
    assert one.holds_lease(398)
    assert not one.holds_lease(399)
    one.apply(Reported(300.0), 350, 350)
    assert one.holds_lease(648)


def test_a_lease_is_renewed_in_time_whatever_the_poll_is() -> None:
    one = activated()
    one.apply(Reported(30.0), 0, 0)
    assert one.next(9, START) == FetchConfiguration("v1", 1.0)
    assert one.next(10, START) == SendReport()


def test_the_parent_never_gives_the_place_away_while_its_child_holds_it() -> None:
    for tenth in range(20):
        word, asked = ExecutedWord(), START + tenth / 10
        one = child()
        one.apply(word.activate("a", 10.0, asked), asked, asked)
        for later in range(80, 120):
            at = asked + later / 10
            if one.holds_lease(at):
                assert word.activate("b", 10.0, at) == OtherInstanceActive(), (tenth, later)


def test_pauses_double_up_to_the_poll_and_end_with_an_answer() -> None:
    one, now, pauses = activated(), 0.0, []
    for _ in range(9):
        one.apply(NoAnswer("away"), now, now)
        rest = one.next(now, START)
        assert isinstance(rest, Rest)
        pauses.append(rest.seconds)
        now += rest.seconds
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert one.trouble == "away"
    one.apply(Reported(300.0), now, now)
    assert one.trouble == ""
    one.apply(NoAnswer("away", retry_after=120.0), now, now)
    assert one.next(now, START) == Rest(120.0)


def test_case_trust_19_configuration_is_fetched_whatever_becomes_of_the_report() -> None:
    one, now, asked = activated(), 0.0, {SendReport: 0, FetchConfiguration: 0}
    while now < HOUR:
        action = one.next(now, START)
        if isinstance(action, Rest):
            now += action.seconds
        elif isinstance(action, SendReport):
            asked[SendReport] += 1
            one.apply(NoAnswer("the parent answered 400"), now, now)
        else:
            assert isinstance(action, FetchConfiguration)
            asked[FetchConfiguration] += 1
            one.apply(Unchanged(), now, now + action.wait)
            now += action.wait
            assert one.trouble == "the parent answered 400"
    assert asked[SendReport] <= HOUR / 60 + 10
    assert asked[FetchConfiguration] >= asked[SendReport]
    one.apply(Configured("v2", SYNC), now, now)
    assert one.next(now, START) == SendReport()
    one.apply(Reported(300.0), now, now)
    assert one.trouble == ""


def test_case_trust_19_a_link_that_comes_back_is_reported_over_at_once() -> None:
    one, now = activated(), 0.0
    for _ in range(8):
        assert isinstance(one.next(now, START), SendReport | FetchConfiguration)
        one.apply(NoAnswer("away"), now, now)
        rest = one.next(now, START)
        assert isinstance(rest, Rest)
        now += rest.seconds
    while isinstance(one.next(now, START), SendReport):
        one.apply(NoAnswer("away"), now, now)
        now += 60.0
    one.apply(Unchanged(), now, now)
    assert one.next(now + 1.0, START) == SendReport()


def test_case_trust_19_news_keep_no_question_from_being_answered() -> None:
    one, now, answered = activated(), 0.0, 0
    for _ in range(60):
        action = one.next(now, START)
        if isinstance(action, Rest):
            now += action.seconds
        elif isinstance(action, SendReport):
            one.apply(Reported(300.0), now, now)
        else:
            assert isinstance(action, FetchConfiguration)
            answered += action.wait == 0.0
            one.apply(BrokenOff() if action.wait else Unchanged(), now, now)
    assert answered >= 60 // 5


def test_a_refused_token_is_said_and_tried_again() -> None:
    one = activated()
    one.apply(AccessRefused("the parent refuses the sync token"), 0, 0)
    assert "sync token" in one.trouble
    assert one.next(0, START) == Rest(1.0)
    assert one.active


def test_who_is_cut_loose_leaves_room_for_a_lease() -> None:
    one = activated()
    one.apply(Deactivated(), 10, 10)
    assert not one.holds_lease(10)
    assert one.next(10, START) == Rest(300.0)
    assert one.next(310, START) == AskActivation()
    assert "deactivated" in one.trouble


def test_a_second_instance_asks_again_within_a_poll() -> None:
    one = child()
    one.apply(OtherInstanceActive(), 0, 0)
    assert one.next(0, START) == Rest(60.0)
    assert "ALREADY_ACTIVATED" in one.trouble


#: eight o'clock is closed
NINE = SyncProperties(token_id="t", schedule="0 9 * * *", sync_window="PT1H")
DAY = 86_400.0


def contacted(one: AgentState, now: float) -> list[str]:
    """What is asked outside the window until the node rests."""
    asked = list[str]()
    while not isinstance(action := one.next(now, START), Rest):
        asked.append(type(action).__name__)
        answers: dict[type, Outcome] = {
            AskActivation: Activated(1, 300.0),
            FetchConfiguration: Unchanged(),
            SendReport: Reported(300.0),
        }
        one.apply(answers[type(action)], now, now)
    return asked


def test_outside_its_window_it_stays_silent() -> None:
    one = child(etag="v1", sync=NINE)
    contacted(one, 0)
    assert one.next(0, START) == Rest(60.0)
    assert one.next(3570, START + 3570) == Rest(30.0)
    assert one.next(3600, START + 3600) == SendReport()
    one.apply(Reported(300.0), 3600, 3600)
    assert one.next(3600, START + 3600) == FetchConfiguration("v1", 55.0)
    one.apply(Unchanged(), 3600, 3655)
    assert isinstance(one.next(7200, START + 7200), Rest)


def test_case_trust_14_a_contact_outside_the_window_at_the_start_on_demand_and_daily() -> None:
    one = child(etag="v1", sync=NINE)
    assert contacted(one, 0) == ["AskActivation", "FetchConfiguration", "SendReport"]
    assert contacted(one, DAY - 1) == []
    one.contact(DAY - 1)
    assert contacted(one, DAY - 1) == ["FetchConfiguration", "SendReport"]
    assert contacted(one, 2 * DAY - 2) == []
    assert contacted(one, 2 * DAY - 1) == ["FetchConfiguration", "SendReport"]


def test_case_trust_14_another_schedule_that_a_contact_brings_counts_at_once() -> None:
    one = child(etag="v1", sync=NINE)
    one.apply(Activated(1, 300.0), 0, 0)
    assert one.next(0, START) == FetchConfiguration("v1", 0.0)
    one.apply(Configured("v2", SYNC), 0, 0)
    assert one.next(0, START) == SendReport()
    one.apply(Reported(300.0), 0, 0)
    assert one.next(0, START) == FetchConfiguration("v2", 55.0)


def test_case_trust_14_a_schedule_that_closes_is_reported_once_it_is_taken_over() -> None:
    one = activated()
    one.apply(Reported(300.0), 0, 0)
    one.apply(Configured("v2", NINE), 0, 5)
    assert contacted(one, 5) == ["SendReport"]
    assert contacted(one, DAY) == []
    assert contacted(one, DAY + 5) == ["FetchConfiguration", "SendReport"]


def test_case_trust_14_a_link_that_is_there_in_windows_alone_is_no_trouble() -> None:
    one, now, tries = child(etag="v1", sync=NINE), 0.0, 0
    while now < 3600:
        action = one.next(now, START)
        if isinstance(action, Rest):
            now += action.seconds
            continue
        tries += 1
        one.apply(NoAnswer("away"), now, now)
    assert tries <= 15
    assert one.trouble == ""
    one.contact(now)  # an operator waits for no pause
    assert one.next(now, START) == AskActivation()
    one.apply(NoAnswer("away"), now, now)
    assert one.next(now + 1, START + 3600) == AskActivation()  # and the window for none
    assert one.next(now + 1, START) == Rest(60.0)
    one.contact(now)
    one.next(now, START)
    one.apply(AccessRefused("the parent refuses the sync token"), now, now)
    assert "sync token" in one.trouble


def test_case_trust_14_a_report_that_is_not_taken_keeps_nobody_from_the_configuration() -> None:
    """Outside the window, too: else a schedule that was wrong could not be undone while reports are refused."""
    one = child(etag="v1", sync=NINE)
    one.apply(Activated(1, 300.0), 0, 0)
    assert one.next(0, START) == FetchConfiguration("v1", 0.0)
    one.apply(Unchanged(), 0, 0)
    assert one.next(0, START) == SendReport()
    one.apply(NoAnswer("the parent answered 400"), 0, 0)
    rest = one.next(0, START)
    assert isinstance(rest, Rest)
    assert one.next(rest.seconds, START) == FetchConfiguration("v1", 0.0)
    one.apply(Configured("v2", SYNC), rest.seconds, rest.seconds)
    assert one.next(rest.seconds, START) == SendReport()


def test_case_trust_14_a_second_instance_asks_seldom_outside_the_window() -> None:
    one, now, tries = child(etag="v1", sync=NINE), 0.0, 0
    while now < 3600:
        action = one.next(now, START)
        if isinstance(action, Rest):
            now += action.seconds
            continue
        assert action == AskActivation()
        tries += 1
        one.apply(OtherInstanceActive(), now, now)
    assert tries == 4


def test_case_trust_14_an_operator_is_not_kept_waiting_by_a_failure() -> None:
    one = activated()
    for _ in range(6):
        one.apply(NoAnswer("away"), 0, 0)
    assert isinstance(one.next(0, START), Rest)
    one.contact(0)
    assert one.next(0, START) == SendReport()


def test_who_was_never_configured_waits_for_no_window() -> None:
    assert child().next(0, START) == AskActivation()


def test_a_wall_clock_that_jumps_holds_nothing_up() -> None:
    one = activated()
    one.apply(Reported(300.0), 0, 0)
    one.apply(Unchanged(), 0, 58)
    for wall in (0.0, START, START + 1e9):
        assert one.next(60, wall) == SendReport()


def disturbed(world: World, until: float, *, deactivations: bool) -> None:
    """Let things go wrong at random until then, and look after every event."""
    loose: dict[str, int] = {}
    serving: set[str] = set()
    while world.now < until:
        for _ in world.run(world.now + world.chance.uniform(1, 400)):
            look(world, loose, serving)
        name = world.chance.choice(world.names)
        event = world.chance.choice(["cut", "crash", "start", "change", "deactivate"])
        one = world.instances[name]
        if event == "cut":
            one.cut_until = world.now + world.chance.uniform(1, 1500)
        elif event == "crash":
            world.stop(name)
        elif event == "start" and one.child is None:
            world.start(name)
        elif event == "change":
            world.version += 1
        elif event == "deactivate" and deactivations:
            loose = {n: w.child.generation for n, w in world.instances.items() if w.child}
            world.word.deactivate(START + world.now)
        look(world, loose, serving)


def look(world: World, loose: dict[str, int], serving: set[str]) -> None:
    """Never two that take themselves for the only one, but for who was cut loose and does not know it yet; and who
    served once serves whenever it runs."""
    believers = [n for n in world.believers() if world.instances[n].child.generation > loose.get(n, 0)]  # type: ignore[union-attr]
    assert len(believers) <= 1, (world.seed, world.now, believers, world.history[-20:])
    for name, one in world.instances.items():
        serving |= {name} if one.serves() else set()
        assert one.child is None or name not in serving or one.serves(), (world.seed, name)


def settle(world: World) -> None:
    """Heal everything, and see that within two leases all is as it should be."""
    for name, one in world.instances.items():
        one.cut_until = 0.0
        if one.child is None:
            world.start(name)
    for _ in world.run(world.now + 2 * (world.lease + 2 * world.poll)):
        look(world, dict.fromkeys(world.names, 1 << 60), set())
    children = {name: one.child for name, one in world.instances.items() if one.child}
    active = [name for name, one in children.items() if one.active]
    holder = world.word.holder()
    assert holder is not None, (world.seed, world.history[-20:])
    assert active == [holder[0]], (world.seed, active, holder, world.history[-20:])
    assert children[active[0]].etag == world.etag, (world.seed, world.history[-20:])
    assert world.believers() == active
    for name, other in children.items():
        if name not in active:
            assert "ALREADY_ACTIVATED" in other.trouble, (world.seed, name, other)


WORDS = pytest.mark.parametrize("word", [ModelWord, ExecutedWord])


@WORDS
@pytest.mark.parametrize("seed", SEEDS)
def test_there_is_one_active_instance_and_all_ends_well(seed: int, word: type[Word]) -> None:
    world = World(word(), seed)
    disturbed(world, 6 * HOUR, deactivations=False)
    settle(world)


@WORDS
@pytest.mark.parametrize("seed", SEEDS)
def test_deactivation_makes_room_and_all_ends_well(seed: int, word: type[Word]) -> None:
    world = World(word(), seed, names=("a", "b", "c"))
    disturbed(world, 6 * HOUR, deactivations=True)
    settle(world)


def test_a_crashed_instance_is_replaced_after_its_lease() -> None:
    world = World(ModelWord(), 1, names=("a",))
    for _ in world.run(100):
        pass
    world.stop("a")
    world.instances["b"] = replace(world.instances["a"], name="b", child=None, etag="", sync=None)
    world.start("b")
    crashed, (_, _, expires) = world.now, world.word.holder() or ("", 0, 0.0)
    while (world.word.holder() or ("",))[0] != "b":
        for _ in world.run(world.now + 1):
            pass
        assert world.now < crashed + world.lease + 2 * world.poll
    assert START + world.now >= expires


class Reckless(ModelWord):
    """A parent that lets anybody in: the simulation must notice."""

    def activate(self, instance: str, lease: float, now: float) -> Activated:
        """Yes."""
        self.generation += 1
        self.held = (instance, self.generation, now + lease)
        return Activated(self.generation, lease)


def test_the_simulation_can_fail() -> None:
    def all_seeds() -> None:
        for seed in SEEDS:
            disturbed(World(Reckless(), seed), HOUR, deactivations=False)

    with pytest.raises(AssertionError):
        all_seeds()
