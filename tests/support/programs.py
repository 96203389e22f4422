"""Programs that tests start: found or skipped with a reason, waited for with a limit, never left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
from support.patience import PROGRAM_PATIENCE

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools" / "bin"
SEARCH = os.pathsep.join([str(TOOLS), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def program(name: str) -> str:
    """The path of a program; the test is skipped, with the reason, where there is none."""
    found = shutil.which(name, path=SEARCH)
    if not found:
        pytest.skip(f"{name} is not on this machine (make tools installs it where it may)")
    return found


def wait_until(condition: Callable[[], object], what: str, limit: float = PROGRAM_PATIENCE) -> None:
    """Look every 10 ms until the condition holds. Raises AssertionError that says what was waited for."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit:g} s in vain: {what}")
        time.sleep(0.01)


def run(*command: str | Path, env: Mapping[str, str] | None = None, limit: float = 120.0) -> str:
    """`run_bytes`, as text."""
    return run_bytes(*command, env=env, limit=limit).decode()


def run_bytes(*command: str | Path, env: Mapping[str, str] | None = None, limit: float = 120.0) -> bytes:
    """Run a program to its end and return its stdout. Raises AssertionError with all it said when it fails."""
    done = subprocess.run(
        command,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=limit,
        check=False,
    )
    said = f"{command}: exit {done.returncode}\n{done.stdout.decode(errors='replace')}"
    assert done.returncode == 0, f"{said}\n{done.stderr.decode(errors='replace')}"
    return done.stdout


def whole_lines(said: str) -> str:
    """Without the line that is just being written: half a number is a number too."""
    return said[: said.rfind("\n") + 1]


class Program:
    """A program in a process group of its own, with stdout and stderr in one file. Use it as a context."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self._start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def output(self) -> str:
        """What this run said so far."""
        with self.log.open("rb") as said:
            said.seek(self._start)
            return said.read().decode(errors="replace")

    def wait_for(self, pattern: str, limit: float = PROGRAM_PATIENCE) -> re.Match[str]:
        """Wait until it says something in a whole line. Raises AssertionError with all it said when it ends
        first."""
        match: re.Match[str] | None = None

        def said() -> bool:
            nonlocal match
            ended = self.process.poll() is not None
            so_far = self.output()
            match = re.search(pattern, so_far if ended else whole_lines(so_far))
            assert match or not ended, f"{self.process.args!r} ended:\n{so_far}"
            return match is not None

        wait_until(said, f"{pattern} in {self.log}", limit)
        assert match
        return match

    def signal(self, number: signal.Signals) -> None:
        """Signal the program itself."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def stop(self, limit: float = PROGRAM_PATIENCE) -> int:
        """SIGTERM, and wait for the end; its exit code. Whatever is left of its group is killed."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(limit)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL for the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PROGRAM_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
