"""What a damaged frame of the journal still holds, and records with one flipped bit.

Each record has a checksum of its own, so one that was hit does not take its neighbours along. A checksum of 64 bits
also says which bit of so few was flipped: exactly one choice fits. Nothing is searched for inside a value, which a
client chose: what is read begins where a record before it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from holdfast_core import format as layout
from holdfast_core.errors import RecordDamaged
from holdfast_core.journal import frame as framing

#: a longer frame is mended record by record, because each try hashes all of it
_MENDED_BYTES = 16 << 10
_KEY_BYTES = 511


class SalvagedChange(NamedTuple):
    """A change as `frame.decode_frame` gives it. Not `intact`: it is lost, and the key is as it was found; without a
    key, so many bytes are `lost`, of records that are not known."""

    key: bytes
    value: bytes | None
    intact: bool = True
    lost: int = 0


def is_sealed(key: bytes, value: bytes) -> bool:
    """Whether a record is as it was written."""
    try:
        layout.unseal(key, value)
    except RecordDamaged:
        return False
    return True


def mended(key: bytes, value: bytes) -> tuple[bytes, bytes] | None:
    """(key, value) with one bit flipped so that it passes its checksum; None when that is not what happened to it."""
    length = len(key)
    record = _flipped(key + value, lambda data: is_sealed(data[:length], data[length:]))
    return None if record is None else (record[:length], record[length:])


def _flipped(data: bytes, fits: Callable[[bytes], bool]) -> bytes | None:
    tried = bytearray(data)
    for at in range(len(tried)):
        for bit in range(8):
            tried[at] ^= 1 << bit
            if fits(bytes(tried)):
                return bytes(tried)
            tried[at] ^= 1 << bit
    return None


def whole(damaged: bytes) -> list[SalvagedChange] | None:
    """The changes of a frame in which one bit was flipped; None when it is longer than 16 KiB, or more is wrong."""
    frame = _flipped(damaged, _fits) if len(damaged) <= _MENDED_BYTES else None
    changes = None if frame is None else framing.decode_frame(frame)
    return None if changes is None else [SalvagedChange(key, value) for key, value in changes]


def pieces(damaged: bytes) -> Iterator[SalvagedChange]:
    """The changes of damaged bytes that begin with a frame, one by one."""
    at, end = framing.FRAME_HEAD_BYTES, len(damaged) - layout.SEAL_BYTES
    while at < end:
        if _begins_frame(damaged, at):
            at += layout.SEAL_BYTES + framing.FRAME_HEAD_BYTES
            continue
        piece, size = _piece(damaged, at, end)
        yield piece
        at += size


def journal_head(damaged: bytes) -> tuple[bytes, int] | None:
    """(uuid, generation) of a journal's head in which one bit was flipped."""
    intact = _flipped(damaged, lambda head: framing.decode_journal_head(head) is not None)
    return None if intact is None else framing.decode_journal_head(intact)


def _fits(frame: bytes) -> bool:
    return framing.frame_bytes(frame) == len(frame) and framing.decode_frame(frame) is not None


def _piece(damaged: bytes, at: int, end: int) -> tuple[SalvagedChange, int]:
    """The entry there, and how long it is. One flipped bit of its lengths shows, too."""
    head = damaged[at : at + framing.ENTRY_BYTES]
    for lengths in (head, *_neighbours(head)):
        entry = _entry(lengths, damaged, at, end)
        if entry is not None and _is_good(entry[0], damaged, at + entry[1], end):
            return entry
    entry = _entry(head, damaged, at, end)
    if entry is None:
        return SalvagedChange(b"", None, intact=False, lost=end - at), end - at
    (key, value, *_), size = entry
    if value is None:  # what is behind it is damaged as well
        return SalvagedChange(key, None, intact=key[:1] in layout.FRAMED_TABLES), size
    again = mended(key, value)
    return (SalvagedChange(*again) if again is not None else SalvagedChange(key, None, intact=False)), size


def _entry(head: bytes, damaged: bytes, at: int, end: int) -> tuple[SalvagedChange, int] | None:
    """An entry of these lengths, when it fits between the two places."""
    key_bytes, value_bytes = framing.decode_entry(head)
    start = at + framing.ENTRY_BYTES + key_bytes
    stop = start if value_bytes is None else start + value_bytes
    if not 0 < key_bytes <= _KEY_BYTES or stop > end:
        return None
    key = damaged[at + framing.ENTRY_BYTES : start]
    return SalvagedChange(key, None if value_bytes is None else damaged[start:stop]), stop - at


def _is_good(piece: SalvagedChange, damaged: bytes, after: int, end: int) -> bool:
    """A value passes its checksum. A removal has none: no frame begins within it, and behind it is another entry,
    another frame, or the end."""
    if piece.key[:1] not in layout.FRAMED_TABLES:
        return False
    if piece.value is not None:
        return is_sealed(piece.key, piece.value)
    if framing.FRAME_MAGIC in piece.key:
        return False
    return (
        after == end
        or _begins_frame(damaged, after)
        or _entry(damaged[after : after + framing.ENTRY_BYTES], damaged, after, end) is not None
    )


def _begins_frame(damaged: bytes, at: int) -> bool:
    """Whether a frame ends here and another begins."""
    return damaged.startswith(framing.FRAME_MAGIC, at + layout.SEAL_BYTES)


def _neighbours(head: bytes) -> Iterator[bytes]:
    """With one bit flipped."""
    whole = int.from_bytes(head, "little")
    for bit in range(8 * len(head)):
        yield (whole ^ (1 << bit)).to_bytes(len(head), "little")
