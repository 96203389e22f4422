"""The append-only copy of every index change that a rebuild needs.

A frame is one commit. It is appended before LMDB commits, and synced first when the commit holds an owned
change; a frame whose LMDB commit failed is cut off again. The index records how far the journal goes for its
own state, so after a crash the tail is compared with that, not searched for.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from holdfast_core import format as layout
from holdfast_core.filesystem.files import sync_directory, write_all
from holdfast_core.journal import frame as framing

NAME, FRESH = "log", "log.new"
_REWRITE_BYTES = 1 << 20  # frames of about this size when rewriting
_SEARCH_BYTES = 1 << 20
_PAGE_BYTES = 4096
_CHAIN_BYTES = 128 << 10  # longer than any value that a client or a parent chooses


class Journal:
    """The open journal of a writing store. Owned by the writer thread."""

    def __init__(self, directory: Path, fd: int, generation: int, length: int, synced: int) -> None:
        self._directory = directory
        self._fd = fd
        self.generation = generation
        self.length = length
        self.synced = synced
        #: bytes may lie beyond `length`: what was to be taken back could not be cut off
        self._ragged = False
        #: a sync failed, perhaps that of an earlier process: what lies beyond `synced` is in memory, and the kernel
        #: believes that it is on disk
        self._doubtful = synced < length

    @classmethod
    def open(cls, directory: Path, uuid: bytes, state: layout.Journaled | None) -> Journal | None:
        """The journal that `state` describes, without what lies behind its end. None when it is not that journal, too
        short, or torn before its recorded end: then it must be rewritten."""
        try:
            fd = os.open(directory / NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        head = framing.decode_journal_head(os.pread(fd, framing.JOURNAL_HEAD_BYTES, 0))
        intact = (
            state is not None
            and head == (uuid, state.generation)
            and os.fstat(fd).st_size >= state.length
            and _tail_intact(fd, state)
        )
        if not intact or state is None:
            os.close(fd)
            return None
        if os.fstat(fd).st_size > state.length:
            os.ftruncate(fd, state.length)
        return cls(directory, fd, state.generation, state.length, state.synced)

    @classmethod
    def rewrite(
        cls, directory: Path, uuid: bytes, generation: int, records: Iterable[tuple[bytes, bytes]]
    ) -> Journal:
        """A new journal that holds exactly `records` (key, sealed value), durable beside the old one. Once the index
        has recorded it, `replace` puts it in place."""
        fresh = cls.begin(directory, uuid, generation)
        try:
            for group in grouped(records):
                fresh.append(group)
            fresh.sync()
        except BaseException:
            fresh.abandon()
            raise
        return fresh

    @classmethod
    def begin(cls, directory: Path, uuid: bytes, generation: int) -> Journal:
        """A new journal without a record, beside the old one. Its name is durable. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fresh = cls(directory, os.open(directory / FRESH, flags, 0o600), generation, 0, 0)
        try:
            fresh.length = write_all(fresh._fd, 0, framing.encode_journal_head(uuid, generation))
            sync_directory(directory)
        except BaseException:
            fresh.abandon()
            raise
        return fresh

    def abandon(self) -> None:
        """Remove a new journal that the index does not know of."""
        os.close(self._fd)
        with contextlib.suppress(OSError):
            os.unlink(self._directory / FRESH)

    def copy(self, other: Journal, start: int, end: int) -> None:
        """Append the frames of another journal from `start` to `end`. Raises OSError."""
        while start < end:
            part = os.pread(other._fd, min(_REWRITE_BYTES, end - start), start)
            if not part:
                raise OSError(errno.EIO, f"the journal ends at byte {start}, before {end}")
            self.length += write_all(self._fd, self.length, part)
            start += len(part)

    def replace(self) -> None:
        """Put a rewritten journal in the place of the old one. Raises OSError."""
        os.rename(self._directory / FRESH, self._directory / NAME)
        sync_directory(self._directory)

    def append(self, changes: list[tuple[bytes, bytes | None]]) -> None:
        """Add one frame, unsynced. Raises OSError; then nothing was added."""
        if self._ragged:
            os.ftruncate(self._fd, self.length)
            self._ragged = False
        try:
            self.length += write_all(self._fd, self.length, framing.encode_frame(changes))
        except OSError:
            self.cut(self.length)
            raise

    def sync(self) -> None:
        """Everything appended so far is on disk. Raises OSError. A failed sync is not repeated: the kernel takes the
        pages for written, so a second one succeeds over lost data. They are written again first."""
        if self._doubtful:
            self._write_again()
        self._doubtful = True
        os.fdatasync(self._fd)
        # older kernels sync nothing on a file system that turned read-only, and say that it is done
        if os.fstatvfs(self._fd).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self._doubtful = False
        self.synced = self.length

    def cut(self, length: int) -> None:
        """Take back what lies past `length`: its commit failed. Where the disk does not let it, the next append does:
        until then no index knows of those bytes."""
        self.length = length
        self.synced = min(self.synced, length)
        self._ragged = True
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, length)
            self._ragged = False

    def _write_again(self) -> None:
        """Make dirty what no sync covered, from the beginning of its page. Raises OSError, also when it is not whole:
        then only a journal written from the index is sound."""
        state = layout.Journaled(self.generation, self.length, self.synced, b"")
        if not _tail_intact(self._fd, state):
            raise OSError(errno.EIO, "the end of the journal is lost")
        start = self.synced - self.synced % _PAGE_BYTES
        write_all(self._fd, start, os.pread(self._fd, self.length - start, start))

    def state(self, boot: bytes) -> layout.Journaled:
        """What the index records about this journal."""
        return layout.Journaled(self.generation, self.length, self.synced, boot)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


def sync(directory: Path) -> None:
    """Sync what lies in the journal, whichever process wrote it. Raises OSError."""
    fd = os.open(directory / NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def grouped(records: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes | None]]]:
    """Records (key, sealed value) for `append`, about 1 MiB a frame."""
    group: list[tuple[bytes, bytes | None]] = []
    size = 0
    for key, value in records:
        group.append((key, value))
        size += len(key) + len(value)
        if size >= _REWRITE_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _tail_intact(fd: int, state: layout.Journaled) -> bool:
    """Whether the frames between the last sync and the recorded end are whole."""
    at = state.synced
    while at < state.length:
        frame = _frame_at(fd, at)
        if frame is None or not framing.is_intact(frame):
            return False
        at += len(frame)
    return at == state.length


def _frame_at(fd: int, at: int) -> bytes | None:
    size = framing.frame_bytes(os.pread(fd, framing.FRAME_HEAD_BYTES, at))
    if size is None or at + size > os.fstat(fd).st_size:
        return None
    return os.pread(fd, size, at)


class Frame(msgspec.Struct, frozen=True):
    """What `frames` yields: the changes of an intact frame, or the bounds of damage."""

    start: int
    end: int
    changes: list[tuple[bytes, bytes | None]] | None


def head_of(directory: Path, name: str = NAME) -> tuple[bytes, int] | None:
    """(uuid, generation) of the journal there, or None when it is absent or its head is damaged."""
    try:
        with (directory / name).open("rb") as file:
            return framing.decode_journal_head(file.read(framing.JOURNAL_HEAD_BYTES))
    except FileNotFoundError:
        return None


def finish_rewrite(directory: Path, uuid: bytes, state: layout.Journaled | None) -> None:
    """After a crash between the record of a rewritten journal and its rename: the rename. One that the index does not
    know of is removed. Raises OSError."""
    head = head_of(directory, FRESH)
    if state is not None and head == (uuid, state.generation):
        os.rename(directory / FRESH, directory / NAME)
        sync_directory(directory)
    else:
        (directory / FRESH).unlink(missing_ok=True)


def name_of(directory: Path, generation: int) -> str:
    """The file that is the journal of a generation: a new one has its name after the index knows it. "" for none."""
    return next(
        (name for name in (NAME, FRESH) if (head_of(directory, name) or (b"", -1))[1] == generation), ""
    )


def frames(directory: Path, start: int = framing.JOURNAL_HEAD_BYTES, name: str = NAME) -> Iterator[Frame]:
    """All frames from `start` on, in order. Damage is skipped to the next intact frame and reported with its bounds;
    damage with nothing behind it is the torn tail of a crash."""
    fd = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        size, at = os.fstat(fd).st_size, start
        while at < size:
            changes = _changes_at(fd, at)
            end = _end_of_damage(fd, at, size) if changes is None else at + _size_at(fd, at)
            yield Frame(at, end, changes)
            at = end
    finally:
        os.close(fd)


def bytes_of(directory: Path, frame: Frame, name: str = NAME) -> bytes:
    """What lies within its bounds."""
    with (directory / name).open("rb") as file:
        file.seek(frame.start)
        return file.read(frame.end - frame.start)


def _size_at(fd: int, at: int) -> int:
    return framing.frame_bytes(os.pread(fd, framing.FRAME_HEAD_BYTES, at)) or 0


def _changes_at(fd: int, at: int) -> list[tuple[bytes, bytes | None]] | None:
    frame = _frame_at(fd, at)
    return None if frame is None else framing.decode_frame(frame)


def _end_of_damage(fd: int, at: int, size: int) -> int:
    """Where the damaged frame ends: where its length says, or its length with one bit flipped, when other frames or
    nothing follow there. Else it is searched for."""
    length = int.from_bytes(os.pread(fd, 4, at + 4), "little")
    for mask in (0, *(1 << bit for bit in range(32))):
        end = at + framing.FRAME_HEAD_BYTES + (length ^ mask) + layout.SEAL_BYTES
        if end <= size and _goes_on(fd, end, size):
            return end
    return _next_frame(fd, at + 1, size)


def _next_frame(fd: int, at: int, size: int) -> int:
    """Where the next intact frame begins; `size` when there is none."""
    while at < size:
        window = os.pread(fd, _SEARCH_BYTES, at)
        offset = window.find(framing.FRAME_MAGIC)
        if offset < 0:
            at += max(len(window) - len(framing.FRAME_MAGIC) + 1, 1)
            continue
        at += offset
        if _goes_on(fd, at, size):
            return at
        at += 1
    return size


def _goes_on(fd: int, at: int, size: int) -> bool:
    """Whether intact frames follow each other from there for longer than any record is, or to the end. One alone proves
    nothing: a small blob may hold what looks like frames."""
    stop = min(size, at + _CHAIN_BYTES)
    while at < stop and _changes_at(fd, at) is not None:
        at += _size_at(fd, at)
    return at >= stop
