"""One operation after another, each killed at one of its writes, on one store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

from holdfast.testing.scripted_process import scripted_process
from torture.check import check, go_on, sound
from torture.client import GONE
from torture.flows import Flow
from torture.life import configuration
from torture.load import World
from torture.machine import Machine

#: no write for so long after the operation: it was the last one. Decides only how many points there are.
QUIET = 0.1


class Killer:
    """See `killer`."""

    def __init__(self, machine: Machine, flow: Flow) -> None:
        self.machine, self.flow, self.world = machine, flow, flow.world
        self.hits: list[str] = []

    def points(self, first: int, step: int) -> Iterator[str]:
        """Kill at the write `first`, then at every `step`-th from there, until an operation came through; what was
        hit each time. A step that is wrong is among the ledger's complaints."""
        number = first
        while (hit := self._kill_at(number)) is not None:
            self.hits.append(hit)
            yield hit
            number += step

    def starts(self, first: int, step: int) -> Iterator[str]:
        """The same for the writes of a start after a power cut that took nothing."""
        number = first
        while (hit := self._start_killed_at(number)) is not None:
            self.hits.append(hit)
            yield hit
            number += step

    def _start_killed_at(self, number: int) -> str | None:
        self.flow.prepare(self.machine.url, number)
        self.flow.run(self.machine.url, number)
        self.machine.kill()
        self.machine.begin(booted=True, fatal=number)
        if self.machine.comes_up():
            return None
        assert self.machine.killed(), self.machine.program.output()
        hit = self.machine.calls()[number - 1]
        self._recover(number)
        return hit

    def births(self, first: int, step: int) -> Iterator[str]:
        """The same for the writes of a first start, which makes the store; each on a new one."""
        number, data = first, self.machine.data
        while True:
            self.machine.kill()
            self.machine.data = data.with_name(f"new-{number}")
            self.world.ledger.forget()
            self.machine.begin(booted=False, fatal=number)
            if self.machine.comes_up():
                return
            assert self.machine.killed(), self.machine.program.output()
            hit = self.machine.calls()[number - 1]
            self.machine.start(booted=False)
            self.flow.prepare(self.machine.url, number)
            self.flow.run(self.machine.url, number)
            self._look()
            self.hits.append(hit)
            yield hit
            number += step

    def _kill_at(self, number: int) -> str | None:
        """One kill, a start, a look, and the operation again; None when there were not so many writes."""
        url = self.machine.url
        self.flow.prepare(url, number)
        self.machine.arm(number)
        try:
            self.flow.run(url, number)
            self._wait_quiet()
        except GONE:
            assert self.machine.killed(), self.machine.program.output()
        if not self.machine.killed():
            return None
        hit = self.machine.calls()[number - 1]
        self._recover(number)
        return hit

    def _wait_quiet(self) -> None:
        """What goes on behind the answer is over."""
        seen = -1
        while seen != (now := len(self.machine.calls())):
            seen = now
            sleep(QUIET)

    def _recover(self, number: int) -> None:
        """No hand but `start`."""
        self.machine.kill()
        self.machine.start(booted=False)
        self._look()
        self.flow.run(self.machine.url, number)
        self._look()

    def _look(self) -> None:
        ledger = self.world.ledger
        go_on(self.world, self.machine.url, lost=False)
        check(self.world, self.machine.url, ledger.keys(fresh=True))
        sound(self.world, self.machine.data)

    def end(self) -> None:
        """Everything of all operations, and every byte of the store."""
        self.machine.arm(0)
        check(self.world, self.machine.url, self.world.ledger.keys())
        assert self.machine.program.stop() == 0, self.machine.program.output()
        sound(self.world, self.machine.data, read_data=True)


@contextmanager
def killer(place: Path, flow: str) -> Iterator[Killer]:
    """A node in one process, before a parent of its own."""
    with scripted_process() as parent:
        machine = Machine(place, place / "store", configuration(parent), trapped=True)
        with machine:
            machine.start()
            yield Killer(machine, Flow(World(), parent, flow))
