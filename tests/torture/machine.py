"""A node on a machine that may die: a real `holdfast serve`, started by launch.py."""

from __future__ import annotations

import base64
import os
import platform
import random
import signal
import socket
import sys
import uuid
from contextlib import suppress
from glob import glob
from pathlib import Path
from time import sleep
from typing import Self

import pytest
from holdfast.admin import address_file, auth
from holdfast.config import ConfigInvalid
from support.programs import Program, wait_until
from support.transfer import fetch

MEMORY = Path("/dev/shm")
UNSYNCED = "import os\nos.fsync = os.fdatasync = lambda descriptor: None\n"
#: the wall clock of a node is so many seconds off as a file says now
CLOCK = """
import time
real, monotonic, file, seen = time.time, time.monotonic, {file!r}, [-1.0, 0.0]
def jumping():
    if monotonic() - seen[0] > 0.1:
        with open(file) as said:
            seen[:] = monotonic(), float(said.read() or seen[1])
    return real() + seen[1]
time.time = jumping
"""
#: a process is stopped for so long (s)
SUSPENDED_SECONDS = 0.1, 0.6
LAUNCH = Path(__file__).with_name("launch.py")


def memory() -> Path | None:
    """Where files are in memory, when there is such a place: the disks here are images with syncs of their own."""
    return MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None


def require(trapped: bool) -> None:
    """Skip the test, with the reason, where launch.py cannot do its work."""
    if os.geteuid() != 0:
        pytest.skip(f"a boot id of its own for a node needs root; this is uid {os.geteuid()}")
    if trapped and platform.machine() != "x86_64":
        pytest.skip(f"launch.py knows the system calls of x86_64, not of {platform.machine()}")


class Machine:
    """A node whose store is `data`; configuration, log and the trap's files lie in `place`. Its port is kept for it
    while it is down: a socket that does not listen keeps all from it who do not name it with SO_REUSEADDR.

    With `trapped`, `arm` chooses the write at which it dies. `synced=False` is a node that syncs its index and
    nothing else, to see that somebody notices.
    """

    def __init__(
        self,
        place: Path,
        data: Path,
        configuration: str,
        *,
        workers: int = 0,
        synced: bool = True,
        trapped: bool = False,
    ) -> None:
        require(trapped)
        place.mkdir(parents=True, exist_ok=True)
        self.place, self.data, self._boot = place, data, place / "boot"
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(("127.0.0.1", 0))
        self.port: int = self._kept.getsockname()[1]
        self._order, self._calls, file = place / "order", place / "calls", place / "holdfast.toml"
        file.write_text(configuration)
        self._workers, self._file, self._trapped = workers, file, trapped
        paths = filter(None, (str(place), os.environ.get("PYTHONPATH", "")))
        self._environment, self._clock = {"PYTHONPATH": os.pathsep.join(paths)}, place / "clock"
        self.jump(0.0)
        code = CLOCK.format(file=str(self._clock))
        (place / "sitecustomize.py").write_text(code if synced else UNSYNCED + code)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, booted: bool = True) -> None:
        """Start and wait until it is ready; `booted`: as the first start after the machine's own."""
        self.begin(booted=booted)
        assert self.comes_up(), self.program.output()

    def begin(self, *, booted: bool, fatal: int = -1) -> None:
        """Start, and do not wait; with `fatal`, as `arm`, from the first write on."""
        self._calls.write_text("")
        self._order.unlink(missing_ok=True)
        if fatal >= 0:
            self._order.write_text(str(fatal))
        if booted:
            self._boot.write_text(f"{uuid.uuid4()}\n")
        self.program = Program(self._command(), self.place / "log", self._environment)

    def _command(self) -> list[str]:
        trap = ["--trap", self.place] if self._trapped else []
        launch = [sys.executable, LAUNCH, "--data", self.data, "--boot", self._boot, *trap, "--"]
        serve = [sys.executable, "-m", "holdfast", "serve", "--config", self._file, "--data", self.data]
        listen = ["--listen", f"127.0.0.1:{self.port}", "--workers", self._workers]
        return [str(word) for word in (*launch, *serve, *listen)]

    def comes_up(self) -> bool:
        """Wait until it is ready, or has ended: then False."""
        process = self.program.process
        wait_until(lambda: process.poll() is not None or self._ready(), f"a start, see {self.program.log}")
        return process.poll() is None

    def _ready(self) -> bool:
        if f"serving on {self.url} " not in self.program.output():
            return False
        try:
            return fetch(self.url, "/readyz").status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL for all its processes, and wait until they are gone: they hold files open."""
        group = self.program.process.pid
        self.program.kill()
        wait_until(lambda: not group_lives(group), f"the processes of group {group} to be gone")

    def upkeep(self) -> None:
        """Have a collection and a scrub begin; one that is under way goes on. Raises OSError, HTTPException."""
        try:
            operator, url = auth.read(self.data), address_file.read(self.data)
        except ConfigInvalid as error:  # the disk has gone
            raise OSError(str(error)) from error
        login = base64.b64encode(f"{operator.username}:{operator.password}".encode()).decode()
        for what in ("scrub", "garbageCollection"):
            fetch(url, f"/api/v1/{what}/run", "POST", headers={"Authorization": f"Basic {login}"})

    def jump(self, seconds: float) -> None:
        """The wall clock of its processes is so many seconds off from now on."""
        self._clock.write_text(f"{seconds}")

    def suspend(self, chance: random.Random) -> None:
        """Stop one of its processes for a moment, and let it go on."""
        group = self.program.process.pid
        members = [int(place) for place in os.listdir("/proc") if place.isdigit() and is_member(place, group)]
        victim = chance.choice(sorted(members))
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGSTOP)
            sleep(chance.uniform(*SUSPENDED_SECONDS))
            os.kill(victim, signal.SIGCONT)

    # --- the trap

    def arm(self, fatal: int) -> None:
        """From now on count the calls that change the store; the `fatal`-th kills (0: none)."""
        self._calls.write_text("")
        self._order.write_text(str(fatal))
        self.program.signal(signal.SIGUSR1)
        wait_until(lambda: self._calls.read_text().startswith("armed\n"), "the trap to be armed")

    def calls(self) -> list[str]:
        """The calls counted since `arm`: number, name, path below the store."""
        return [line for line in self._calls.read_text().splitlines() if line[0].isdigit()]

    def killed(self) -> bool:
        """Whether the trap has closed: the process that it killed is gone, or going."""
        fatal = int(self._order.read_text())
        return 0 < fatal <= len(self.calls())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "program"):
            self.kill()
        self._kept.close()


def is_member(pid: str, group: int) -> bool:
    """Whether a process belongs to a group and lives."""
    state, member = state_of(f"/proc/{pid}")
    return member == group and state not in "ZX"


def group_lives(group: int) -> bool:
    """Whether a thread of the group is left that is not a zombie: a process whose first thread is one has its files
    open as long as another is still on its way out."""
    return any(
        member == group and state not in "ZX"
        for place in os.listdir("/proc")
        if place.isdigit() and state_of(f"/proc/{place}")[1] == group
        for state, member in map(state_of, glob(f"/proc/{place}/task/*"))
    )


def state_of(place: str) -> tuple[str, int]:
    """State and group of a process or thread; of one that is gone, that it is dead."""
    try:
        state, _, group = Path(place, "stat").read_text().rpartition(") ")[2].split()[:3]
    except OSError:
        return "X", 0
    return state, int(group)
