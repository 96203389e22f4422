"""A page's shell blocks, run one after another in one shell, and what they print compared with what the page shows.

A block of ```sh is a step: every command in it must succeed. One of ```sh fails must fail, once. A block of ```text
after a step is all that it prints, stdout and stderr as a person sees them; runs of spaces count as one, `…` stands for
any text in a line, and alone on a line for any lines.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from support.patience import PROGRAM_PATIENCE

FENCE = re.compile(r"^```(sh|text)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Step:
    """One block. `shown` is None where the page shows nothing: then anything may be printed."""

    line: int
    script: str
    fails: bool = False
    shown: str | None = None


def steps(page: str) -> list[Step]:
    """The steps of a page, in order."""
    found: list[Step] = []
    for block in FENCE.finditer(page):
        kind, flags, text = block[1], block[2].split(), block[3]
        if kind == "sh":
            found.append(Step(page.count("\n", 0, block.start()) + 1, text, "fails" in flags))
        else:
            assert found, "the page shows what nothing has printed"
            assert found[-1].shown is None, f"line {found[-1].line}: two outputs"
            found[-1].shown = text
    return found


def spaced(text: str) -> list[str]:
    """Lines with single spaces, without those that are empty."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def matches(shown: str, printed: str) -> bool:
    """Whether what was printed is what the page shows."""
    pattern = ""
    for line in spaced(shown):
        pattern += r"(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + r"\n"
    return re.fullmatch(pattern, "".join(line + "\n" for line in spaced(printed))) is not None


@dataclass
class Shell:
    """A bash in a directory of its own, with nothing on its stdin but its steps."""

    place: Path
    env: Mapping[str, str]
    number: int = 0
    process: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.place,
            env=dict(self.env),
            start_new_session=True,
        )
        os.set_blocking(self._output, False)
        self._say("set -E; failures=0; trap 'failures=$((failures+1)); echo \"failed: $BASH_COMMAND\"' ERR")
        return self

    @property
    def _output(self) -> int:
        assert self.process.stdout
        return self.process.stdout.fileno()

    def _say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def run(self, script: str, limit: float = PROGRAM_PATIENCE) -> tuple[int, str]:
        """How many commands failed, and what was printed without the notes on that."""
        self.number += 1
        file, end = self.place / f".step-{self.number}", f"end-of-step-{self.number}"
        file.write_text(script + "\n:\n")  # else the last failure counts twice: in the file, and of the file
        self._say(f"failures=0; . {file} < /dev/null; printf '\\n{end} %s\\n' $failures")
        printed = self._read_to(end, limit)
        said, _, count = printed.rpartition(end)
        lines = [line for line in said.splitlines() if not line.startswith("failed: ")]
        return int(count), "\n".join(lines)

    def _read_to(self, end: str, limit: float) -> str:
        printed, deadline = b"", time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while not re.search(rb"^" + end.encode() + rb" \d+\n", printed, re.MULTILINE):
                assert time.monotonic() < deadline, f"no end after {limit:g} s:\n{printed.decode()}"
                if selector.select(deadline - time.monotonic()):
                    more = os.read(self._output, 65536)
                    assert more, f"the shell ended:\n{printed.decode()}"
                    printed += more
        return printed.decode()

    def __exit__(self, *_: object) -> None:
        """Whatever the steps started ends, in order if it can."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()


def logs(place: Path) -> Iterator[str]:
    """What the programs of a walk-through logged, for a failure's message."""
    for file in sorted(place.rglob("*.log")):
        yield f"--- {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-25:])
