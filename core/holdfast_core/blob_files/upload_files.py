"""Uploads on their way in: the directory of staging files is the table of sessions.

    uploads/<64 hex>            an open session; its length is the offset that was reached
    uploads/<64 hex>.<32 hex>   the same, sealed: every byte is there and was verified, and nothing is written any more

A session's name is a short hash of its client, which its id contains (`Uploads.session`), and then the BLAKE3 of id,
repository and identity, so an id used elsewhere names nothing, and a listing of the directory gives no id away. Who
writes holds an exclusive flock on the file; a process that dies lets go of it. So any process goes on with any session,
and a restart changes nothing.

A seal is new each time. The store commits a sealed name; a writer that takes the session back renames it first. One
of the two renames wins, so a commit that comes late never finds a file that is written to again. Where the store's
came first and its outcome is not known, the session goes on with a copy.

A session that comes back from a commit is *in doubt*, by a permission bit of its file: a sync of it may have failed and
lost bytes that were hashed as they came, and no second sync would report it. So it is hashed from the file, and written
again, before the next commit. On a file system without permissions every session is in doubt.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import uuid
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from blake3 import blake3

from holdfast_core.errors import StoreError, UploadBusy, UploadNotFound
from holdfast_core.filesystem.directory import CANNOT_RESERVE, IN_DOUBT, NAMELESS_BYTES, DoubtMark
from holdfast_core.filesystem.files import os_error, write_all
from holdfast_core.filesystem.syscalls import reserve, start_writeback

if TYPE_CHECKING:
    from typing_extensions import Buffer

NAME_LENGTH = 64
#: the part of a name that is its client's
CLIENT_LENGTH = 8
#: written bytes are flushed to the disk in steps of this, so that the sync at the end has little left (bytes)
WRITEBACK_BYTES = 8 << 20
#: each process begins so much of the sessions that there is room for before it counts again
SHARES = 16
#: a session that is sealed and taken back at the same moment is looked for again so often
TRIES = 3

_T = TypeVar("_T")
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Uploads:
    """The sessions of a store, in any process. Holds nothing but the descriptor of their directory, which stays
    its owner's. Calls are short enough for an event loop; those of `Staging` are not. `require` raises StoreReadOnly
    where clients may change nothing: called by `create`, `open` and `remove`, and not by `expire`."""

    def __init__(self, directory_fd: int, require: Callable[[], None] = lambda: None) -> None:
        self._directory, self._require = directory_fd, require
        self._mark = DoubtMark(directory_fd)
        self._counted: tuple[int, Counter[str]] = (-1, Counter())
        #: sessions that may be begun before they are counted again, all together and by client
        self._room = 0
        self._rooms: dict[str, int] = {}

    @property
    def ready(self) -> bool:
        """False for a reader that opened a store of format 1 before the writer updated it."""
        return self._directory >= 0

    @staticmethod
    def name(session: str, repository: str, identity: str = "") -> str:
        """The name of a session's file."""
        return (_client_in(session) + Uploads.former_name(session, repository, identity))[:NAME_LENGTH]

    @staticmethod
    def former_name(session: str, repository: str, identity: str = "") -> str:
        """The name that releases before this one gave it."""
        return _hash(session, repository, identity)

    @staticmethod
    def client(*of: str) -> str:
        """What the name of every session of one client begins with."""
        return _hash(*of)[:CLIENT_LENGTH]

    @staticmethod
    def session(client: str, chance: uuid.UUID) -> str:
        """An id of a session of this client; every bit of it looks like chance."""
        rest = str(chance)[CLIENT_LENGTH:]
        return f"{int(client, 16) ^ _mask(rest):08x}{rest}"

    def exists(self, name: str) -> bool:
        """Whether a session is open, and not sealed, under this name."""
        return os.access(name, os.F_OK, dir_fd=self._directory, follow_symlinks=False)

    def create(self, name: str) -> None:
        """Begin a session. Raises StoreReadOnly, Exhausted."""
        self._require()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            os.close(os.open(name, flags, 0o600, dir_fd=self._directory))
        except OSError as error:
            raise os_error(error, "upload") from error
        self._room -= 1
        client = name[:CLIENT_LENGTH]
        self._rooms[client] = self._rooms.get(client, 0) - 1

    def count(self) -> int:
        """Sessions that are open. Counted again when the directory has changed (to a few ms)."""
        return self._by_client().total()

    def is_known_roomy(self, client: str) -> bool:
        """Whether a client may begin a session without counting them again."""
        return self._room > 0 and self._rooms.get(client, 0) > 0

    def has_room(self, limit: int, client: str = "", most: int | None = None, idle: float = 0.0) -> bool:
        """Whether fewer than `limit` sessions are open, and fewer than `most` of the client. Up to SHARES processes
        that call this before each `create` stay within it; far below it they seldom count. Where there is no room but
        for sessions of the client that has the most, and it is another one, those end that were not written to since
        `idle` (seconds since 1970). Lists the directory."""
        if not self.is_known_roomy(client):
            counts = self._by_client()
            if counts.total() >= limit and self._make_room(counts, client, max(1, limit // SHARES), idle):
                counts = self._by_client()
            if len(self._rooms) > limit:
                self._rooms.clear()
            self._room = _part(limit - counts.total())
            self._rooms[client] = (
                _part((limit if most is None else most) - counts[client]) if client else self._room
            )
        return self.is_known_roomy(client)

    def _by_client(self) -> Counter[str]:
        changed = os.fstat(self._directory).st_mtime_ns
        if changed != self._counted[0]:
            self._counted = (changed, Counter(name[:CLIENT_LENGTH] for name in os.listdir(self._directory)))
        return self._counted[1]

    def _make_room(self, counts: Counter[str], asking: str, needed: int, before: float) -> int:
        """End the idle sessions of the client with the most, those first that were not written to for longest; how many
        that were."""
        (greedy, most), gone = counts.most_common(1)[0], 0
        if most <= max(1, counts[asking]):
            return 0
        for name in self._idle(greedy, before):
            if gone == needed:
                break
            with contextlib.suppress(OSError, StoreError):
                gone += self._end(name)
        self._counted = (-1, Counter()) if gone else self._counted
        return gone

    def _idle(self, client: str, before: float) -> list[str]:
        """A client's sessions that were not written to lately, the oldest first."""
        idle = list[tuple[float, str]]()
        for name in os.listdir(self._directory):
            if name.startswith(client):
                with contextlib.suppress(OSError):
                    idle.append((_stat(name, self._directory).st_mtime, name))
        return [name for written, name in sorted(idle) if written < before]

    def _end(self, name: str) -> bool:
        """Remove a session unless it is open. Raises OSError, StoreError."""
        staging = self._lock(name, name)
        if staging is None:
            return False
        with contextlib.closing(staging):
            staging.remove()
        return True

    def size(self, name: str) -> int:
        """The offset that a session has reached. Raises UploadNotFound."""
        return self._either(name, lambda file: _stat(file, self._directory)).st_size

    def remove(self, name: str) -> None:
        """End a session, even while it is written to. Raises StoreReadOnly, UploadNotFound."""
        self._require()
        self._either(name, lambda file: os.unlink(file, dir_fd=self._directory))

    def open(self, name: str) -> Staging:
        """Open a session as its one writer; a seal that its owner died over is taken back. Raises
        StoreReadOnly, UploadNotFound, UploadBusy while another writer has it, Exhausted."""
        self._require()
        for _ in range(TRIES):
            try:
                staging = self._lock(name, name)
            except FileNotFoundError:
                staging = self._take_back(name)
            if staging is not None:
                return staging
        raise UploadNotFound(f"no upload {name}")

    def expire(self, before: float) -> int:
        """Remove the sessions last written to before `before` (seconds since 1970) that are not open; how
        many that were. What cannot be removed is passed over."""
        gone = 0
        for file in os.listdir(self._directory):
            # a file that is no session (in lost+found, for one) does not keep the others from being removed
            with contextlib.suppress(OSError, StoreError):
                if _stat(file, self._directory).st_mtime >= before:
                    continue
                gone += self._end(file)
        return gone

    def _take_back(self, name: str) -> Staging | None:
        """A sealed session whose owner has ended, as an open one; None when it does not exist any more."""
        sealed = self._sealed(name)
        try:
            staging = self._lock(sealed, name)
        except FileNotFoundError:
            return None
        if staging is None:
            return None
        try:
            staging.mark(IN_DOUBT)
            os.rename(sealed, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as error:
            staging.close()
            if isinstance(error, FileNotFoundError):
                return None
            raise os_error(error, "upload") from error
        return staging

    def _lock(self, file: str, name: str) -> Staging | None:
        """The file, locked; None when it was removed meanwhile. Raises FileNotFoundError."""
        try:
            fd = os.open(file, _OPEN, dir_fd=self._directory)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise os_error(error, "upload") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(fd, _stat(file, self._directory)):
                return Staging(self._directory, name, fd, self._mark)
        except BlockingIOError as error:
            os.close(fd)
            raise UploadBusy(f"upload {name} is being written to") from error
        except FileNotFoundError:
            pass
        os.close(fd)
        return None

    def _either(self, name: str, call: Callable[[str], _T]) -> _T:
        """`call` with the name that the session has now, open or sealed. Raises UploadNotFound."""
        for _ in range(TRIES):
            with contextlib.suppress(FileNotFoundError):
                return call(name)
            with contextlib.suppress(FileNotFoundError):
                return call(self._sealed(name))
        raise UploadNotFound(f"no upload {name}")

    def _sealed(self, name: str) -> str:
        """The sealed name of a session. Raises UploadNotFound. Looks at every name, so it is only called for
        sessions that are being closed, or that do not exist."""
        for file in os.listdir(self._directory):
            if file.startswith(name):
                return file
        raise UploadNotFound(f"no upload {name}")


class Staging:
    """One session's file, locked: its bytes only grow, but for `roll_back`. Every call may wait for the disk;
    one thread at a time. Raises Exhausted when the disk is full, StoreError for what else a disk does."""

    def __init__(self, directory_fd: int, name: str, fd: int, mark: DoubtMark) -> None:
        self._directory, self._mark = directory_fd, mark
        self._at = name
        self.name = name
        self.fd = fd
        status = os.fstat(fd)
        #: bytes in place
        self.size = self._written_back = status.st_size
        #: where the room ends that is taken; a writer that died may have reserved some
        self._reserved = status.st_blocks * 512

    def reserve(self, length: int) -> None:
        """Reserve disk space for `length` more bytes, or raise Exhausted before any of them arrives. A file
        system that cannot reserve is left alone."""
        try:
            # compared first: ext4 allocates all free space before it reports that it is not enough
            disk = os.fstatvfs(self.fd)
            if length > disk.f_bavail * disk.f_frsize:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            reserve(self.fd, self.size, length)
            self._reserved = self.size + length
        except OSError as error:
            if error.errno not in CANNOT_RESERVE:
                self.roll_back(self.size)
                raise os_error(error, "upload") from error

    def append(self, data: Buffer) -> None:
        """Write all of `data` at the end. After an error `size` still is the number of bytes in place."""
        view = memoryview(data).cast("B")
        try:
            while view:
                done = os.pwrite(self.fd, view, self.size)
                self.size, view = self.size + done, view[done:]
        except OSError as error:
            raise os_error(error, "upload") from error
        if self.size - self._written_back >= WRITEBACK_BYTES:
            # what fails here fails again in the store's sync: a write-back that is not waited for takes no
            # notice of errors
            with contextlib.suppress(OSError):
                start_writeback(self.fd, self._written_back, self.size - self._written_back)
            self._written_back = self.size

    def read(self, offset: int, buffer: Buffer) -> int:
        """Fill `buffer` from `offset`; how many bytes that were, 0 at the end."""
        try:
            return os.preadv(self.fd, [buffer], offset)
        except OSError as error:
            raise os_error(error, "upload") from error

    def roll_back(self, size: int) -> None:
        """Forget the bytes beyond `size`, and room that was reserved for more."""
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            raise os_error(error, "upload") from error
        self.size = self._reserved = size
        self._written_back = min(self._written_back, size)

    def seal(self) -> str:
        """Give the file, whose bytes were verified, the name under which the store commits it: from now on the
        bytes under that name do not change. Syncing them is the store's part. Raises UploadNotFound when the
        session was removed meanwhile."""
        if self._reserved > self.size:  # room beyond the end would stay with the blob
            self.roll_back(self.size)
        self._rename(f"{self.name}.{secrets.token_hex(16)}")
        return self._at

    def claim(self) -> None:
        """Take the session out of reach, for a commit that does not need its file: a name that no id
        leads to, so that from now on no call can end it. `unseal` and `remove` follow. Dying in between ends the
        session; what is left of it expires. Raises UploadNotFound when it was removed meanwhile."""
        self._rename(secrets.token_hex(NAMELESS_BYTES))

    def unseal(self) -> None:
        """Take the session back, in doubt, from a commit that failed. Raises UploadNotFound when it did not fail after
        all, when the session was removed, or when its file was taken and could not be given back."""
        self._marked(IN_DOUBT)  # first: a process may die in between
        try:
            self._rename(self.name)
        except UploadNotFound:
            self._marked(0)  # it has become a blob, or was removed
            raise

    def leave(self, size: int) -> None:
        """Go on with a copy, in doubt, of the first `size` bytes: the store has the file, and it may be a blob yet."""
        name = secrets.token_hex(NAMELESS_BYTES)  # which no id leads to, until all is there
        try:
            fd = os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._set(fd, IN_DOUBT)
                _copy(self.fd, fd, size)
                os.rename(name, self.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            except BaseException:
                os.close(fd)
                os.unlink(name, dir_fd=self._directory)
                raise
        except OSError as error:
            raise os_error(error, "upload") from error
        os.close(self.fd)
        self.fd, self._at = fd, self.name
        self.size = self._reserved = self._written_back = size

    @property
    def is_in_doubt(self) -> bool:
        """Whether the bytes have to be read and written again before the session can be sealed."""
        return bool(os.fstat(self.fd).st_mode & IN_DOUBT) or not self._mark.works()

    def rewrite(self, offset: int, data: Buffer) -> None:
        """Write bytes again where they were read, so that the next sync counts for them."""
        try:
            write_all(self.fd, offset, data)
        except OSError as error:
            raise os_error(error, "upload") from error

    def trust(self) -> None:
        """All bytes were read, verified, and written again."""
        self._marked(0)

    def mark(self, doubt: int) -> None:
        """Set or clear the bit of doubt. Raises OSError."""
        self._set(self.fd, doubt)

    def _set(self, fd: int, doubt: int) -> None:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        new_mode = mode & ~IN_DOUBT | doubt
        if new_mode == mode:
            return
        try:
            os.fchmod(fd, new_mode)
        except PermissionError:
            if not self._mark.fails():
                raise

    def _marked(self, doubt: int) -> None:
        try:
            self.mark(doubt)
        except OSError as error:
            raise os_error(error, "upload") from error

    def _rename(self, name: str) -> None:
        try:
            os.rename(self._at, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except FileNotFoundError as error:
            raise UploadNotFound(f"no upload {self.name}") from error
        except OSError as error:
            raise os_error(error, "upload") from error
        self._at = name

    @property
    def is_sealed(self) -> bool:
        """Whether the file may be the store's by now: then it is not to be touched."""
        return self._at != self.name

    def is_open(self) -> bool:
        """Whether the session still exists: another process may have ended it meanwhile."""
        return os.fstat(self.fd).st_nlink > 0

    def remove(self) -> None:
        """End the session, if it has not ended."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._at, dir_fd=self._directory)

    def close(self) -> None:
        """Let others write to it. May be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _hash(*fields: str) -> str:
    parts = (field.encode() for field in fields)
    return blake3(b"".join(len(part).to_bytes(4) + part for part in parts)).hexdigest()


def _mask(rest: str) -> int:
    """What hides the client in an id, from the rest of the id."""
    return int(_hash(rest)[:CLIENT_LENGTH], 16)


def _client_in(session: str) -> str:
    """The client of an id; for an id that this node did not make, a name that no client has."""
    head, rest = session[:CLIENT_LENGTH], session[CLIENT_LENGTH:]
    is_ours = len(head) == CLIENT_LENGTH and set(head) <= set("0123456789abcdef")
    return f"{int(head, 16) ^ _mask(rest):08x}" if is_ours else _hash(session)[:CLIENT_LENGTH]


def _part(left: int) -> int:
    """How much of what is left one process may use before it counts again."""
    return max(left // SHARES, min(left, 1))


def _copy(source: int, target: int, size: int) -> None:
    """The first `size` bytes, sharing blocks where the file system can. Raises OSError."""
    done = 0
    while done < size:
        count = os.copy_file_range(source, target, size - done, done, done)
        if count == 0:
            raise OSError(errno.EIO, f"the upload ends at {done}, {size} bytes were written")
        done += count


def _stat(name: str, directory_fd: int) -> os.stat_result:
    return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)


def _is(fd: int, named: os.stat_result) -> bool:
    """Whether a descriptor is a plain file and the one that the name means."""
    status = os.fstat(fd)
    return stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) == (named.st_dev, named.st_ino)
