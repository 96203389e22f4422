"""The layout of the journal's file: a head, and a frame for each commit. docs/format.md is the prose."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from blake3 import blake3

from holdfast_core.format import SEAL_BYTES

JOURNAL_MAGIC = b"HFJOURN1"
FRAME_MAGIC = b"\xf5HFj"
_JOURNAL_HEAD = struct.Struct("<8s16sQ")
_FRAME_HEAD = struct.Struct("<4sI")
_ENTRY = struct.Struct("<HI")
JOURNAL_HEAD_BYTES = _JOURNAL_HEAD.size + SEAL_BYTES
FRAME_HEAD_BYTES = _FRAME_HEAD.size
ENTRY_BYTES = _ENTRY.size
REMOVED = 0xFFFFFFFF  # in place of a value's length


def encode_journal_head(uuid: bytes, generation: int) -> bytes:
    """The first 40 bytes: magic, uuid of the store, generation, checksum."""
    head = _JOURNAL_HEAD.pack(JOURNAL_MAGIC, uuid, generation)
    return head + blake3(head).digest(SEAL_BYTES)


def decode_journal_head(head: bytes) -> tuple[bytes, int] | None:
    """(uuid, generation), or None for anything that is not an intact head."""
    if len(head) < JOURNAL_HEAD_BYTES:
        return None
    body, check = head[: _JOURNAL_HEAD.size], head[_JOURNAL_HEAD.size : JOURNAL_HEAD_BYTES]
    magic, uuid, generation = _JOURNAL_HEAD.unpack(body)
    if magic != JOURNAL_MAGIC or blake3(body).digest(SEAL_BYTES) != check:
        return None
    return uuid, generation


def encode_frame(changes: Iterable[tuple[bytes, bytes | None]]) -> bytes:
    """One commit: magic, payload length, entries (key length, value length, key, sealed value), checksum.
    A removed key has no value. A frame is taken whole or not at all, like the transaction it mirrors."""
    parts = []
    for key, value in changes:
        parts.append(_ENTRY.pack(len(key), REMOVED if value is None else len(value)) + key + (value or b""))
    payload = b"".join(parts)
    head = _FRAME_HEAD.pack(FRAME_MAGIC, len(payload))
    return head + payload + blake3(head + payload).digest(SEAL_BYTES)


def frame_bytes(head: bytes) -> int | None:
    """The whole length of the frame that begins with `head`, or None when no frame begins here."""
    if len(head) < FRAME_HEAD_BYTES:
        return None
    magic, length = _FRAME_HEAD.unpack(head[:FRAME_HEAD_BYTES])
    return FRAME_HEAD_BYTES + int(length) + SEAL_BYTES if magic == FRAME_MAGIC else None


def is_intact(frame: bytes) -> bool:
    """Whether the checksum of a whole frame matches. Costs a hash, however many changes it has."""
    return blake3(frame[:-SEAL_BYTES]).digest(SEAL_BYTES) == frame[-SEAL_BYTES:]


def decode_frame(frame: bytes) -> list[tuple[bytes, bytes | None]] | None:
    """The changes of a whole frame, values still sealed; None when its checksum does not match."""
    if not is_intact(frame):
        return None
    changes: list[tuple[bytes, bytes | None]] = []
    at, end = FRAME_HEAD_BYTES, len(frame) - SEAL_BYTES
    while at < end:
        key_length, value_length = _ENTRY.unpack_from(frame, at)
        at += _ENTRY.size
        key, at = frame[at : at + key_length], at + key_length
        value = None
        if value_length != REMOVED:
            value, at = frame[at : at + value_length], at + value_length
        changes.append((key, value))
    return changes


def decode_entry(head: bytes) -> tuple[int, int | None]:
    """(key's length, value's length) of the entry that begins so; None when the key was removed. (0, 0) for a head that
    is cut off."""
    if len(head) < ENTRY_BYTES:
        return 0, 0
    key_length, value_length = _ENTRY.unpack_from(head)
    return key_length, None if value_length == REMOVED else value_length
