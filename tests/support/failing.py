"""Calls of a process that fail as a test says (strace)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.programs import program, wait_until


@contextmanager
def failing(pid: int, faults: Mapping[str, str], *paths: Path) -> Iterator[None]:
    """What strace is to inject, by the name of the call, into a process and whatever it starts meanwhile, where one of
    the paths is concerned. Skips the test where there is no strace."""
    command = [program("strace"), "-f", "-qq", "-o", "/dev/null", "-e", f"trace={','.join(faults)}"]
    for path in paths:
        command += ["-P", str(path.resolve())]
    for call, fault in faults.items():
        command += ["-e", f"inject={call}:{fault}"]
    with subprocess.Popen([*command, "-p", str(pid)]) as strace:
        try:
            wait_until(lambda: is_traced(pid), "strace to be attached")
            yield
        finally:
            strace.terminate()


def is_traced(pid: int) -> bool:
    """Whether a tracer is attached to every thread of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)
