"""What the figures were taken on, and what a group of processes holds and has used."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import ssl
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Machine:
    """Said beside every table. Load is the 1-minute average before the run, per core."""

    date: str
    commit: str
    cores: int
    processor: str
    memory_gb: float
    kernel: str
    load: float
    versions: dict[str, str]

    def document(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)


def describe() -> Machine:
    """This machine, now."""
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=commit(),
        cores=cores(),
        processor=_processor(),
        memory_gb=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        kernel=platform.release().split("-")[0],
        load=round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
        versions=versions(),
    )


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def allow_descriptors(wanted: int) -> None:
    """Let this process, and those that it starts, have so many open files. Raises OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise OSError(
            f"{wanted} open files are needed and {hard} are allowed: raise the hard limit (ulimit -Hn)"
        )
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def commit() -> str:
    """The commit, "+" behind it when files differ from it; "none" outside a repository."""
    head = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = _output(
        "git", "-C", str(ROOT), "status", "--porcelain", "--", "core", "proxy", "benchmarks/*.py"
    )
    return f"{head}{'+' if changed else ''}" if re.fullmatch("[0-9a-f]{7,}", head) else "none"


def versions() -> dict[str, str]:
    """Of everything whose speed is in the figures."""
    found = {name: version(name) for name in ("holdfast", "uvloop", "h11", "lmdb", "aiohttp", "blake3")}
    found["python"] = platform.python_version()
    found["openssl"] = ssl.OPENSSL_VERSION.split()[1]
    for name, command in (
        ("nginx", ("nginx", "-v")),
        ("docker-registry", (installed("docker-registry"), "--version")),
        ("distribution", (installed("registry"), "--version")),
        ("wrk", ("wrk", "-v")),
    ):
        number = re.search(r"\d+\.\d+[\w.+-]*", _output(*command))
        found[name] = number[0] if number else "none"
    return found


def installed(program: str) -> str:
    """Where a program is: on the path, or among those that `tools/packages` fetches."""
    return shutil.which(program) or str(ROOT / ".tools/bin" / program)


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return (done.stdout + done.stderr).strip()


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def touch_memory(place: Path, size: int) -> None:
    """Use `size` bytes of page cache once and give them back.

    A virtual machine gets its memory from the host at the first touch: 0.47 GB/s was measured for writing
    a file to memory that the guest had never used, 4.5 GB/s the second time. That is no server's speed.
    """
    piece, path = bytes(1 << 20), place / "touched"
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(piece)
    path.unlink()


def group(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def processor_seconds(pids: Iterable[int]) -> float:
    """User and system time these processes have used so far, and their children that have ended."""
    total = 0
    for pid in pids:
        with suppress(OSError):  # one that has just ended is counted with its parent
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / TICKS


def written(pid: int) -> int:
    """Bytes that a process and the children it has waited for made dirty for a disk: `write_bytes` of proc(5). Also of
    one that has ended and was not waited for."""
    found = re.search(r"(?m)^write_bytes: (\d+)", Path(f"/proc/{pid}/io").read_text())
    assert found is not None
    return int(found[1])


def resident(pids: Iterable[int]) -> tuple[int, int]:
    """Bytes resident in these processes: summed (shared pages counted in each), and shared out (PSS)."""
    rss = pss = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        rss += _kilobytes(text, "Rss")
        pss += _kilobytes(text, "Pss")
    return rss, pss


def _kilobytes(text: str, name: str) -> int:
    found = re.search(rf"(?m)^{name}:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0
