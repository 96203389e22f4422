"""The layout of lists that a parent gave, and the order in which they are kept, so that a page of one is found by a
search. docs/format.md, "Lists", is the prose."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from holdfast_core import format as layout
from holdfast_core.errors import RecordDamaged
from holdfast_core.record import Descriptor

#: beside the number of segments: each item is above the one before it, tags by their bytes, descriptors by digest
TAGS_RISE, DIGESTS_RISE = 1 << 31, 1 << 30
_LIST_HEAD = struct.Struct("<dI")
_HEX = re.compile("[0-9a-f]*")


def encode_descriptors(descriptors: Iterable[Descriptor]) -> list[bytes]:
    """REFERRER_LIST: the items, by digest, of each digest the first."""
    first: dict[str, Descriptor] = {}
    for descriptor in descriptors:
        first.setdefault(descriptor.digest, descriptor)
    return [layout.encode_descriptor(first[digest]) for digest in sorted(first)]


class _Place(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a descriptor begins with."""

    media_type: str
    digest: str


_place = msgspec.msgpack.Decoder(_Place)


def descriptor_place(item: bytes) -> bytes:
    """The digest of an encoded descriptor: its place in a list."""
    return _place.decode(item).digest.encode()


class ListOrder(NamedTuple):
    """How the items of a list are sorted: by what, and the bit that says that they are."""

    place: Callable[[bytes], bytes]
    bit: int


#: by table
LIST_ORDERS = {
    layout.TAG_LIST: ListOrder(bytes, TAGS_RISE),
    layout.REFERRER_LIST: ListOrder(descriptor_place, DIGESTS_RISE),
}


def encode_list(items: Iterable[bytes], fetched_at: float, order: ListOrder) -> list[bytes]:
    """TAG_LIST and REFERRER_LIST: payloads of the segments, at least one. The first starts with the time and
    the number of segments, and says whether the items rise; each holds items as a 4-byte length and the bytes."""
    segments, size = [[]], 0  # type: tuple[list[list[bytes]], int]
    last, rises = None, order.bit  # type: tuple[bytes | None, int]
    for item in items:
        if size and size + len(item) + 4 > layout.SEGMENT_BYTES:
            segments.append([])
            size = 0
        segments[-1].append(len(item).to_bytes(4, "little") + item)
        size += len(item) + 4
        place = order.place(item)
        rises = rises if last is None or last < place else 0
        last = place
    bodies = [b"".join(parts) for parts in segments]
    bodies[0] = _LIST_HEAD.pack(fetched_at, len(bodies) | rises) + bodies[0]
    return bodies


def decode_list(payloads: Sequence[bytes]) -> tuple[list[bytes], float]:
    """The items and the time. Raises RecordDamaged when a segment is missing."""
    fetched_at, count, _ = decode_list_head(payloads[0])
    if count != len(payloads):
        raise RecordDamaged(f"a list of {count} segments has {len(payloads)}")
    items = [item for number, payload in enumerate(payloads) for item in list_items(number, payload)]
    return items, fetched_at


def decode_list_head(first: bytes) -> tuple[float, int, int]:
    """What the first segment begins with: the time, how many segments there are, and the bits that say how the items
    rise."""
    fetched_at, count = _LIST_HEAD.unpack_from(first)
    rises = count & (TAGS_RISE | DIGESTS_RISE)
    return fetched_at, count - rises, rises


def list_items(number: int, payload: bytes) -> Iterator[bytes]:
    """The items of one segment."""
    at = _LIST_HEAD.size if number == 0 else 0
    while at < len(payload):
        end = at + 4 + int.from_bytes(payload[at : at + 4], "little")
        yield payload[at + 4 : end]
        at = end


def digest_floor(text: str) -> bytes:
    """The place among digest keys behind every digest that is `text` or sorts before it, whatever `text` is: keys
    above it are those of the others."""
    for number, (algorithm, digits) in enumerate((("sha256:", 64), ("sha512:", 128)), 1):
        if text.startswith(algorithm):
            known = _HEX.match(text, len(algorithm), len(algorithm) + digits)[0]  # type: ignore[index]
            behind = text[len(algorithm) + len(known) :][:1]
            if behind > "9" and len(known) < digits:
                known = f"{known}{'9' if behind < 'a' else 'f'}".ljust(digits, "f")
            return bytes([number]) + _below(known)
        if text < algorithm:
            return bytes([number])
    return b"\xff"


def _below(digits: str) -> bytes:
    """The highest place below all bytes whose hexadecimal begins with these digits; the bytes themselves, of all the
    digits that a digest has. Half a byte more is the end of the byte before: none of it is between two digests."""
    whole, half = digits[: len(digits) // 2 * 2], digits[len(digits) // 2 * 2 :]
    before = int(half, 16) * 16 - 1 if half else -1
    return bytes.fromhex(whole) + (bytes([before]) + b"\xff" * 64 if before >= 0 else b"")
