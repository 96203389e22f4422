"""The process group of a data directory: one supervisor at a time, and no orphan left holding the store.

A supervisor that was killed leaves its children serving (hits go on). The next one finds them in
`group.json`, asks them to end, and takes over. A recorded process is signalled only when its start time
matches, so a reused process id is safe.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
from pathlib import Path

import msgspec
import structlog
from holdfast_core.errors import StoreRefused

log = structlog.get_logger()

#: How long the children of a killed supervisor have to end before they are killed (seconds).
GRACE_SECONDS = 10.0


class Member(msgspec.Struct, frozen=True):
    """A child by process id and kernel start time (clock ticks since boot)."""

    pid: int
    started: int


class Group:
    """The lock and the list. `Group(data)` raises StoreRefused when another supervisor lives, and for a directory that
    cannot be made or written to."""

    def __init__(self, data: Path) -> None:
        self._list = data / "group.json"
        try:
            data.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(data / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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

    def end_orphans(self) -> None:
        """Ask orphans to end, and end them after `GRACE_SECONDS`. Blocks until they are gone: only then are
        the store and the port free."""
        gone = select.poll()
        waiting = set()
        for member in self.orphans():
            log.warning("orphan ending", orphan=member.pid)
            with contextlib.suppress(ProcessLookupError):  # it may end by itself in between
                waiting.add(descriptor := os.pidfd_open(member.pid))
                gone.register(descriptor, select.POLLIN)
                end(member, signal.SIGTERM)
        while waiting:
            ended = [descriptor for descriptor, _ in gone.poll(GRACE_SECONDS * 1000)]
            for descriptor in ended:
                gone.unregister(descriptor)
                waiting.discard(descriptor)
                os.close(descriptor)
            if not ended:
                for descriptor in waiting:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)

    def record(self, pids: list[int]) -> None:
        """Write the children down, atomically. Not synced: after a reboot it means nothing."""
        members = [Member(pid, started) for pid in pids if (started := start_time(pid)) is not None]
        new = self._list.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(members))
        new.rename(self._list)

    def close(self) -> None:
        """Give the directory up."""
        self._list.unlink(missing_ok=True)
        os.close(self._lock)


def start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot (proc(5), field 22), or None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(") ")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def end(member: Member, number: signal.Signals) -> None:
    """Signal a member if it is still the process that was recorded."""
    if start_time(member.pid) == member.started:
        os.kill(member.pid, number)
