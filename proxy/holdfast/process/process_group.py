"""The process group of a data directory: one supervisor at a time, and no orphan left holding the store.

A supervisor that was killed leaves its children serving (hits go on). The next one ends the keeper, and takes over;
the workers end once others listen. Who they are the kernel knows: each child holds a lock on the data directory, at an
offset that says which process it is and what it does. Such a lock ends with its process, and needs no disk that takes
writes. A process is signalled only when it began when the lock says and was started as a child of a node, so neither a
process id that was given out again nor a lock of another program does harm.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from holdfast_core.errors import StoreRefused, Unwritable
from holdfast_core.filesystem.disk_state import refusal
from holdfast_core.filesystem.files import keep_private

from holdfast.log import log
from holdfast.process.inheritance import VARIABLE, Inheritance, is_orphan

#: How long a child has to end, beyond what it may take to drain, before it is killed (seconds).
GRACE_SECONDS = 10.0
#: struct flock of fcntl(2): type, whence, start, length, process id
LOCK = struct.Struct("@hhqqi4x")
ROLES = ("keeper", "worker")
PID_BITS = 22  # PID_MAX_LIMIT of the kernel
#: first byte and length of what a child locks from before it is forked until it has joined: no member's place
UNBORN = (0, 2)
LOOK_SECONDS = 0.02


class GroupMember(NamedTuple):
    """A child by process id, kernel start time (clock ticks since boot) and role."""

    pid: int
    started: int
    role: str

    @property
    def offset(self) -> int:
        """The byte of the data directory that it locks."""
        return (self.started << PID_BITS | self.pid) << 1 | ROLES.index(self.role)

    @classmethod
    def at(cls, offset: int) -> GroupMember:
        """Who locks that byte."""
        rest = offset >> 1
        return cls(rest & ((1 << PID_BITS) - 1), rest >> PID_BITS, ROLES[offset & 1])


class Membership:
    """A child's place in the group of a data directory, which it has until its process ends."""

    def __init__(self, data: Path, gift: Inheritance) -> None:
        self._data, self._gift = data, gift
        self._directory = -1

    def hold(self) -> bool:
        """Take the place, once; False when the supervisor was gone by then: the process must end, because the next one
        may have looked before. Raises Unwritable as long as the directory cannot be read, StoreError when there is
        none."""
        if self._directory >= 0:
            return True
        self._directory = join(self._data, self._gift.role)
        if is_orphan(self._gift):
            return False  # unborn until its end, which the next supervisor awaits: it has a listening socket
        if self._gift.unborn >= 0:
            os.close(self._gift.unborn)
        return True


def join(data: Path, role: str) -> int:
    """Be a child of the node of that directory until the process ends; a descriptor that has to stay open. Raises as
    `Membership.hold`."""
    started = start_time(os.getpid())
    assert started is not None
    try:
        directory = _opened_directory(data)
    except OSError as error:
        raise refusal(error.errno, f"{data}: {error.strerror}") from error
    mark = LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, GroupMember(os.getpid(), started, role).offset, 1, 0)
    try:
        fcntl.fcntl(directory, fcntl.F_OFD_SETLK, mark)
    except OSError as error:  # a file system without such locks
        log.warning("group not joined", reason=str(error))
    return directory


def unborn(data: Path) -> int:
    """A descriptor for a child that is about to be forked, by which the next supervisor sees it before it could join;
    -1 where there is none to be had."""
    try:
        directory = _opened_directory(data)
        fcntl.fcntl(directory, fcntl.F_OFD_SETLK, LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, *UNBORN, 0))
    except OSError as error:
        log.warning("child will join late", reason=str(error))
        return -1
    return directory


def are_unborn(data: Path) -> bool:
    """Whether a child of that directory was started and has not joined yet. Raises OSError."""
    directory = _opened_directory(data)
    try:
        return UNBORN in _locked(directory, *UNBORN)
    finally:
        os.close(directory)


def members(data: Path) -> list[GroupMember]:
    """Every process that joined and lives. Locks of other lengths belong to other programs. Raises OSError."""
    directory = _opened_directory(data)
    try:
        return [GroupMember.at(start) for start, length in _locked(directory, 0, 0) if length == 1]
    finally:
        os.close(directory)


def _locked(directory: int, start: int, length: int) -> Iterator[tuple[int, int]]:
    """Locks of others that touch `length` bytes from `start` on (0: all), by first byte and length. The kernel names
    any of them, so what is before and behind it is looked at as well."""
    query = LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, _, found, size, _ = LOCK.unpack(fcntl.fcntl(directory, fcntl.F_OFD_GETLK, query))
    if kind == fcntl.F_UNLCK:
        return
    yield found, size
    if found > start:
        yield from _locked(directory, start, found - start)
    if not size:  # up to the end of all offsets
        return
    behind = found + size
    if not length:
        yield from _locked(directory, behind, 0)
    elif behind < start + length:
        yield from _locked(directory, behind, start + length - behind)


def _opened_directory(data: Path) -> int:
    return os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class Group:
    """The lock of the one supervisor, and what others left. `Group(data)` raises StoreRefused when another supervisor
    lives, and for a directory that cannot be made or read."""

    def __init__(self, data: Path) -> None:
        self._data = data
        #: workers of a supervisor that died: they serve until `end_workers`
        self.old_workers: list[GroupMember] = []
        try:
            data.mkdir(0o700, parents=True, exist_ok=True)
            _close_to_others(data)
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

    def orphans(self) -> list[GroupMember]:
        """Children of a supervisor that died, still alive."""
        return [member for member in members(self._data) if is_child(member)]

    def take_over(self) -> None:
        """End what holds the store of a supervisor that died: its keeper, at once, because whatever a keeper is doing
        the next one finds out from the disk. Its workers hold nothing but their clients, so they go on serving until
        others listen. Blocks until the keeper is gone, and until what was just being started joined or ended."""
        self._await_births()
        for member in self.orphans():
            if member.role == "worker":
                self.old_workers.append(member)
                continue
            log.warning("orphan ended", orphan=member.pid, role=member.role)
            if (descriptor := opened(member)) is not None:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _wait(descriptor)

    def _await_births(self) -> None:
        """A child that the dead supervisor had just started holds its sockets, and is not registered yet. It ends by
        itself as soon as it runs far enough to see that it is an orphan."""
        if not are_unborn(self._data):
            return
        log.warning("orphan starting", note="waits until it has ended", limit=GRACE_SECONDS)
        nothing = select.poll()
        for _ in range(int(GRACE_SECONDS / LOOK_SECONDS)):
            if not are_unborn(self._data):
                return
            nothing.poll(LOOK_SECONDS * 1000)

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

    def close(self) -> None:
        """Give the directory up."""
        os.close(self._lock)


def _close_to_others(data: Path) -> None:
    """What a disk that takes no writes holds is served as it is. Raises StoreRefused, OSError."""
    try:
        if mode := keep_private(data):
            log.warning("data directory was open to others", data=str(data), mode=f"{mode:04o}", now="0700")
    except Unwritable as error:
        log.warning("data directory is open to others", data=str(data), reason=str(error))


def _lock_file(data: Path) -> int:
    """A descriptor to lock; that of the directory where it is read-only and nothing ever served from it. Raises
    OSError."""
    try:
        return os.open(data / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    try:
        return os.open(data / "supervisor.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def is_child(member: GroupMember) -> bool:
    """Whether the process is the one that joined, and a child of a node."""
    try:
        variables = Path(f"/proc/{member.pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    named = any(variable.startswith(VARIABLE.encode() + b"=") for variable in variables)
    return named and start_time(member.pid) == member.started


def opened(member: GroupMember) -> int | None:
    """A descriptor of the process that joined; None when it has ended, also when its number was given out again."""
    try:
        descriptor = os.pidfd_open(member.pid)
    except ProcessLookupError:
        return None
    if is_child(member):
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
