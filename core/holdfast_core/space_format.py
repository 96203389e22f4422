"""Layouts of what is counted, kept and collected: children and edges, accounts, order of use, loose links, pins.

As `format` says: a repository is 16 bytes of hash, a digest its key, a number in a key is big-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from hashlib import sha256

from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.record import Child, DeletedManifest, RepositoryAccount, StoreAccount

HOUR_SECONDS = 3600.0
#: uses count half after so long (seconds); the counts on disk hang on it
HALF_LIFE_SECONDS = 3 * 86400.0
_LAST_HOUR = 0xFFFFFFFF

_HOUR = struct.Struct(">I")
_SEGMENTS = struct.Struct("<I")
_CHILD = struct.Struct("<cQ")
_REPOSITORY = struct.Struct("<5Q")
_STORE = struct.Struct("<6Q")
_PIN = struct.Struct("<dd?")


# --- keys ----------------------------------------------------------------------------------------------


def children_prefix(digest_key: bytes) -> bytes:
    """CHILDREN, all segments of one manifest."""
    return layout.CHILDREN + digest_key


def edge_prefix(repository: bytes, child: bytes) -> bytes:
    """EDGE, all manifests of a repository that name a digest."""
    return layout.EDGE + child + repository


def account_key(repository: bytes = b"") -> bytes:
    """ACCOUNT of a repository, or of the store."""
    return layout.ACCOUNT + repository


def hour_of(when: float) -> int:
    """The hour since 1970 that a wall time lies in."""
    return min(max(int(when // HOUR_SECONDS), 0), _LAST_HOUR)


def decayed(uses: float, seconds: float) -> float:
    """What uses count so many seconds later. A clock that was set back takes nothing from them."""
    return uses * math.exp2(-max(0.0, seconds) / HALF_LIFE_SECONDS)


def parent_mark(url: str) -> bytes:
    """What tells a parent from others in CONFIRMED."""
    return sha256(url.encode()).digest()[:16]


def use_prefix(hour: int) -> bytes:
    """USE, all of one hour."""
    return layout.USE + _HOUR.pack(hour)


def use_key(hour: int, repository: bytes, digest_key: bytes) -> bytes:
    """USE."""
    return use_prefix(hour) + repository + digest_key


def use_of(key: bytes) -> tuple[int, bytes, bytes]:
    """(hour, repository, digest key) of a key of USE."""
    return int(_HOUR.unpack(key[1:5])[0]), key[5:21], key[21:]


def loose_key(repository: bytes, digest_key: bytes) -> bytes:
    """LOOSE."""
    return layout.LOOSE + repository + digest_key


def pin_key(repository: str, kind: str, name: str) -> bytes:
    """PIN. Raises Mistake for a kind or a name that cannot be."""
    return layout.PIN + layout.repository_hash(repository) + layout.target_rest(kind, name)


# --- values --------------------------------------------------------------------------------------------


def encode_children(children: Sequence[Child]) -> list[bytes]:
    """CHILDREN: kind, size and digest of each, cut into segments. The first begins with their number, so that one that
    is missing is noticed."""
    segments, size = [bytearray()], _SEGMENTS.size
    for child in children:
        entry = _CHILD.pack(child.kind, child.size) + child.digest.key
        if size + len(entry) > layout.SEGMENT_BYTES:
            segments.append(bytearray())
            size = 0
        segments[-1] += entry
        size += len(entry)
    return [_SEGMENTS.pack(len(segments)) + bytes(segments[0]), *map(bytes, segments[1:])]


def decode_children(payloads: Sequence[bytes]) -> list[Child] | None:
    """The children out of all segments in order; None when one is missing."""
    if not payloads or _SEGMENTS.unpack_from(payloads[0])[0] != len(payloads):
        return None
    raw, at = payloads[0][_SEGMENTS.size :] + b"".join(payloads[1:]), 0
    children = []
    while at < len(raw):
        kind, size = _CHILD.unpack_from(raw, at)
        digest: Digest = layout.digest_in(raw, at + _CHILD.size)
        children.append(Child(kind, digest, size))
        at += _CHILD.size + len(digest.key)
    return children


def encode_repository_account(account: RepositoryAccount) -> bytes:
    """ACCOUNT of a repository."""
    return _REPOSITORY.pack(*account)


def decode_repository_account(payload: bytes | None) -> RepositoryAccount:
    """The record of `encode_repository_account`; zeros for none."""
    return RepositoryAccount() if payload is None else RepositoryAccount(*_REPOSITORY.unpack(payload))


def encode_store_account(account: StoreAccount) -> bytes:
    """ACCOUNT of the store."""
    return _STORE.pack(*account)


def decode_store_account(payload: bytes | None) -> StoreAccount:
    """The record of `encode_store_account`; zeros for none."""
    return StoreAccount() if payload is None else StoreAccount(*_STORE.unpack(payload))


def encode_pin(pinned_at: float, until: float, with_referrers: bool) -> bytes:
    """PIN: when it was made, until when it holds (infinity: for good), whether for its referrers as well."""
    return _PIN.pack(pinned_at, until, with_referrers)


def decode_pin(payload: bytes) -> tuple[float, float, bool]:
    """The record of `encode_pin`."""
    pinned_at, until, with_referrers = _PIN.unpack(payload)
    return pinned_at, until, with_referrers


def encode_deleted(deleted_at: float, media_type: str, tags: Sequence[str]) -> bytes:
    """LINK of a deleted manifest: when it was deleted, its media type, and the tags that it had, each after a NUL, as
    many as fit into a record."""
    payload = layout.encode_link(deleted_at, media_type)
    for name in tags:
        raw = b"\0" + name.encode()
        payload += raw if len(payload) + len(raw) <= layout.SEGMENT_BYTES else b""
    return payload


def decode_deleted(digest: Digest, payload: bytes) -> DeletedManifest:
    """The record of `encode_deleted`."""
    media_type, *tags = layout.decode_media_type(payload).split("\0")
    return DeletedManifest(digest, media_type, layout.decode_linked_at(payload), tuple(tags))
