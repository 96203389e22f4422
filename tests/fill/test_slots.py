"""The node's cap on transfers, with holders and waiters that do nothing by themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.fill.context import Slots, TransferSlot


@dataclass(eq=False)
class Transfer:
    background: bool = False
    stopped: int = 0

    def __post_init__(self) -> None:
        self.slot = TransferSlot(lambda: self.background, self.stop)

    def stop(self) -> None:
        self.stopped += 1


@dataclass(eq=False)
class Fill:
    slots: Slots
    background: bool = False
    running: list[Transfer] = field(default_factory=list)
    woken: int = 0

    def wake(self) -> None:
        self.woken += 1

    def start(self) -> bool:
        transfer = Transfer(self.background)
        if not self.slots.take(self.wake, transfer.slot, self.background):
            return False
        self.running.append(transfer)
        return True

    def end(self) -> None:
        self.slots.release(self.running.pop().slot)


def test_no_more_than_the_limit() -> None:
    slots = Slots(2)
    fills = [Fill(slots) for _ in range(3)]
    assert [fill.start() for fill in fills] == [True, True, False]
    fills[0].end()
    assert [fill.woken for fill in fills] == [0, 0, 1]
    assert not fills[0].start(), "the slot is kept for whom it was given to"
    assert fills[2].start()
    assert len(slots.holders) == 2


def test_turns_are_taken_in_order_one_slot_a_turn() -> None:
    slots = Slots(1)
    first, second, third = (Fill(slots) for _ in range(3))
    first.start()
    assert not second.start()
    assert not third.start()
    assert not second.start(), "asking twice is one place in the queue"
    first.end()
    assert (second.woken, third.woken) == (1, 0)
    assert second.start()
    assert not second.start()
    second.end()
    assert (second.woken, third.woken) == (1, 1)


def test_a_turn_that_is_not_used_goes_on() -> None:
    slots = Slots(1)
    first, second, third = (Fill(slots) for _ in range(3))
    first.start()
    second.start()
    third.start()
    first.end()
    slots.settle(second.wake)
    assert third.woken == 1
    assert third.start()


def test_one_that_is_gone_keeps_nobody_waiting() -> None:
    slots = Slots(1)
    first, second, third = (Fill(slots) for _ in range(3))
    first.start()
    second.start()
    third.start()
    slots.forget(second.wake)
    first.end()
    assert (second.woken, third.woken) == (0, 1)


def test_people_come_first_and_one_background_transfer_gives_way() -> None:
    slots = Slots(2)
    work = Fill(slots, background=True)
    assert work.start()
    assert work.start()
    waiting = Fill(slots, background=True)
    assert not waiting.start()
    person = Fill(slots)
    assert not person.start()
    assert not person.start()
    assert sum(transfer.stopped for transfer in work.running) == 1
    work.end()
    assert (person.woken, waiting.woken) == (1, 0)
    assert person.start()


def test_people_do_not_push_each_other_out() -> None:
    slots = Slots(1)
    first, second = Fill(slots), Fill(slots)
    first.start()
    assert not second.start()
    assert first.running[0].stopped == 0
