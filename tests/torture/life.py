"""The life of a store on a disk whose power is cut again and again under load."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import sleep

from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from support.disk import Disk
from support.node import parent_toml
from support.programs import run, wait_until
from torture.check import check, go_on, sound
from torture.client import Connection, Content
from torture.load import COLD, MIXED, Load, Work, World
from torture.machine import Machine

#: things of earlier cuts that are read again after each one; at the end of a life everything is
AGAIN = 40
#: one start in so many is cut off as well, up to so many seconds after it began
STARTS, MOST_START = 4, 1.5
#: a cut comes when so many changes were acknowledged, and up to so many seconds later
MOST_ACKS, MOST_DELAY = 60, 0.03
#: so many requests are refused while the disk is full, before it is looked at
ENOUGH_REFUSED = 12
SHARED = tuple(Content(size, f"shared {size}") for size in (20_000, 70_001, 400_001, 2_500_001))
FRESH_SIZES = (30_000, 250_000, 1_500_000)

BUDGET = 1_500_000_000
#: Pushes by anybody are taken; what no repository has is removed at once, and images of the parent are evicted.
CONFIGURATION = """\
mode = "ReadWrite"
anonymous = "push"
[push]
sweep_interval = 1.0
sweep_grace = 0.0
[garbage_collection]
cached_after = "PT1M"
[store]
max_bytes = {most}
min_free = "0"
[[store.shares]]
parent = "registry.example"
hard = 0.01
"""
#: the wall clock is off by up to so many seconds, less than a lease; a process is stopped before one fault in so many
MOST_JUMP, SUSPENSIONS = 6 * 3600.0, 3


def configuration(parent: ScriptedProcess, disk_bytes: int = 2 * BUDGET) -> str:
    """A node under that parent. Whatever is not found here is asked for there. A budget has to fit on the disk."""
    return CONFIGURATION.format(most=min(BUDGET, disk_bytes * 3 // 4)) + parent_toml(parent.url)


@dataclass
class Life:
    """See `life`."""

    disk: Disk
    machine: Machine
    parent: ScriptedProcess
    world: World
    chance: random.Random
    work: Work
    cuts: int = 0
    #: cuts during a start, which are not among `cuts`
    starts: int = 0
    fills: int = 0

    def cut(self) -> None:
        """Load, power cut, start, look."""
        self.cuts += 1
        self._stock()
        self.world.faulted.clear()
        load, ledger = Load(self.world, self.machine.url, self.work, self.chance), self.world.ledger
        enough = ledger.acknowledged + self.chance.randint(1, MOST_ACKS)
        self._disturb()
        wait_until(lambda: ledger.acknowledged >= enough or not load.working(), f"{enough} acknowledgements")
        sleep(self.chance.uniform(0, MOST_DELAY))
        self.world.faulted.set()
        self._lose_power()
        load.join()
        while self.chance.randrange(STARTS) == 0:
            self.machine.begin(booted=True)
            sleep(self.chance.uniform(0, MOST_START))
            self._lose_power()
            self.starts += 1
        self.machine.start()
        self._look()

    def fill(self) -> None:
        """Load, a full disk under it, a look, room again: the same process goes on."""
        self.fills += 1
        self._stock()
        self.world.faulted.clear()
        over, ledger = Event(), self.world.ledger
        load = Load(self.world, self.machine.url, self.work, self.chance, over)
        enough = ledger.acknowledged + self.chance.randint(1, MOST_ACKS)
        try:
            self._disturb()
            wait_until(
                lambda: ledger.acknowledged >= enough or not load.working(), f"{enough} acknowledgements"
            )
            self.world.faulted.set()
            filler, refused = self.disk.fill_up(), self.world.seen["refused while full"]
            wait_until(lambda: self.world.seen["refused while full"] >= refused + ENOUGH_REFUSED, "refusals")
        finally:  # a client that nobody stops keeps the process of a job that broke off
            over.set()
        load.join()
        check(self.world, self.machine.url, ledger.keys())
        filler.unlink()
        with closing(Connection(self.machine.url)) as http:
            wait_until(lambda: self._is_taken(http), "a push to be taken again")
        assert self.machine.program.process.poll() is None, self.machine.program.output()
        self._look(lost=False)

    def _disturb(self) -> None:
        """What a node has to live with beside its load: another time of day, a process that stands still."""
        self.machine.jump(self.chance.uniform(-MOST_JUMP, MOST_JUMP))
        self.world.seen["clock jumps"] += 1
        if self.chance.randrange(SUSPENSIONS) == 0:
            self.machine.suspend(self.chance)
            self.world.seen["processes suspended"] += 1

    def _is_taken(self, http: Connection) -> bool:
        content = Content(70_000, f"room again {self.fills}")
        target = f"/v2/push/room/blobs/uploads/?digest={content.digest}"
        key = "blob", "push/room", content.digest
        with self.world.ledger.changing((key, str(content.size))) as change:
            octets = {"Content-Type": "application/octet-stream"}
            change.acknowledged = http.ask("POST", target, content.bytes(), octets).status == 201
        return change.acknowledged

    def _lose_power(self) -> None:
        self.disk.cut()
        self.machine.kill()
        self.disk.unmount()
        self.disk.mount()

    def _stock(self) -> None:
        """What the parent has and the node has not."""
        name, world = f"cold/{self.cuts}", self.world
        made = self.parent.control("sample", {"name": name})
        world.cold = [(COLD, "blobs", content.digest) for content in SHARED]
        world.cold += [(name, "manifests", digest) for digest in (made["index"], *made["images"].values())]
        world.cold += [(name, "blobs", digest) for layers in made["layers"].values() for digest in layers]
        for size in FRESH_SIZES:
            wanted = {"name": COLD, "size": size, "seed": f"{self.cuts} {size}"}
            world.cold.append((COLD, "blobs", self.parent.control("blob", wanted)["digest"]))

    def _look(self, *, lost: bool = True) -> None:
        ledger = self.world.ledger
        go_on(self.world, self.machine.url, lost=lost)
        fresh, known = ledger.keys(fresh=True), ledger.keys()
        again = self.chance.sample(known, min(AGAIN, len(known)))
        check(self.world, self.machine.url, sorted({*fresh, *again}))
        sound(self.world, self.machine.data)

    def end(self) -> None:
        """Everything of all cuts, and every byte of the store."""
        check(self.world, self.machine.url, self.world.ledger.keys())
        assert self.machine.program.stop() == 0, self.machine.program.output()
        sound(self.world, self.machine.data, read_data=True)


@contextmanager
def life(
    place: Path,
    seed: str,
    work: Work = MIXED,
    *,
    kind: str = "ext4",
    workers: int = 0,
    synced: bool = True,
    size: int = 2 << 30,
) -> Iterator[Life]:
    """A new disk with a new store in it, a node at work there, and its parent elsewhere."""
    shared = [f for content in SHARED for f in ("--blob", f"{COLD}={content.size}:{content.seed}")]
    with scripted_process(*shared) as parent, Disk(place / "disk", kind, size) as disk:
        toml = configuration(parent, size)
        with Machine(place, disk.root / "store", toml, workers=workers, synced=synced) as machine:
            machine.start()
            run("sync", "--file-system", disk.root)
            world = World(shared=list(SHARED), upkeep=machine.upkeep)
            yield Life(disk, machine, parent, world, random.Random(seed), work)
