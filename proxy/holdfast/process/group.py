"""The process group of a data directory: one supervisor at a time, and no orphan left holding the store.

A supervisor that was killed leaves its children serving (hits go on). The next one finds them in `group.json`, ends
the keeper, and takes over; the workers end once others listen. A recorded process is signalled only when its start
time matches, so a reused process id is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import signal
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog
from holdfast_core.errors import StoreRefused

log = structlog.get_logger()

#: How long a child has to end, beyond what it may take to drain, before it is killed (seconds).
GRACE_SECONDS = 10.0


class Member(msgspec.Struct, frozen=True):
    """A child by process id, kernel start time (clock ticks since boot) and role."""

    pid: int
    started: int
    role: str = ""


class Group:
    """The lock and the list. `Group(data)` raises StoreRefused when another supervisor lives, and for a directory that
    cannot be made or read."""

    def __init__(self, data: Path) -> None:
        self._list = data / "group.json"
        #: workers of a supervisor that died: they serve until `end_workers`
        self.old_workers: list[Member] = []
        try:
            self._lock = _lock_file(data)
        except OSError as error:
            raise StoreRefused(
                f"data: found {str(data)!r}; allowed: a directory that this user may make and write to"
                f" ({error.strerror})"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StoreRefused(
                f"{data}: another holdfast serves from this directory; stop it first"
            ) from None

    def orphans(self) -> list[Member]:
        """Children of a supervisor that died, still alive."""
        try:
            members = msgspec.json.decode(self._list.read_bytes(), type=list[Member])
        except (FileNotFoundError, msgspec.DecodeError):
            return []
        return [member for member in members if start_time(member.pid) == member.started]

    def take_over(self) -> None:
        """End what holds the store of a supervisor that died: its keeper, at once, because whatever a keeper is doing
        the next one finds out from the disk. Its workers hold nothing but their clients, so they go on serving until
        others listen. Blocks until the keeper is gone, and for nothing else."""
        for member in self.orphans():
            if member.role == "worker":
                self.old_workers.append(member)
                continue
            log.warning("orphan ended", orphan=member.pid, role=member.role)
            if (descriptor := opened(member)) is not None:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _wait(descriptor)

    async def end_workers(self, limit: float) -> None:
        """Let the workers of a supervisor that died finish what they are sending; end those that are not through after
        `limit` seconds. Others must listen by now."""
        found = {member.pid: opened(member) for member in self.old_workers}
        waiting = {pid: descriptor for pid, descriptor in found.items() if descriptor is not None}
        for pid, descriptor in waiting.items():
            log.warning("orphan draining", orphan=pid, limit=limit)
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        loop = asyncio.get_running_loop()
        ends = [loop.run_in_executor(None, _wait, descriptor, limit) for descriptor in waiting.values()]
        await asyncio.gather(*ends)
        self.old_workers.clear()

    def record(self, pids: Mapping[int, str]) -> None:
        """Write the children down by role, atomically. Not synced: after a reboot it means nothing."""
        members = [Member(pid, at, role) for pid, role in pids.items() if (at := start_time(pid)) is not None]
        new = self._list.with_suffix(".new")
        new.write_bytes(msgspec.json.encode([*members, *self.old_workers]))
        new.rename(self._list)

    def close(self) -> None:
        """Give the directory up."""
        with contextlib.suppress(OSError):  # on a disk that takes no writes it says who is no more
            self._list.unlink(missing_ok=True)
        os.close(self._lock)


def _lock_file(data: Path) -> int:
    """A descriptor to lock; that of the directory where it is read-only and nothing ever served from it. Raises
    OSError."""
    data.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(data / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    try:
        return os.open(data / "supervisor.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def opened(member: Member) -> int | None:
    """A descriptor of the process that was recorded; None when it is no more, whoever has its number now."""
    try:
        descriptor = os.pidfd_open(member.pid)
    except ProcessLookupError:
        return None
    if start_time(member.pid) == member.started:
        return descriptor
    os.close(descriptor)
    return None


def _wait(descriptor: int, limit: float | None = None) -> None:
    """Wait until a process is gone, and end it after `limit` seconds. Closes the descriptor."""
    gone = select.poll()
    gone.register(descriptor, select.POLLIN)
    if limit is not None and not gone.poll(limit * 1000):
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    gone.poll()
    os.close(descriptor)


def start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot (proc(5), field 22), or None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(") ")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
