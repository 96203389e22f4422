"""Every key and value layout of the index, with its versions. docs/format.md is the prose; `frame` has the journal's,
`list_format` that of lists, `space_format` that of what is counted and collected.

One key space. A key is one table byte and what follows it; integers in keys are big-endian so that byte
order is their order, integers in values little-endian. A repository is the first 16 bytes of the BLAKE3 of
its name; a digest is one algorithm byte and its raw bytes.

A value is sealed: version byte, payload, first 8 bytes of BLAKE3(key + version + payload). LMDB does not
notice a flipped bit in a value; this does, and it also catches a right value under a wrong key.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

import msgspec
from blake3 import blake3

from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import MalformedDigest, Mistake, RecordDamaged
from holdfast_core.record import (
    Blob,
    Descriptor,
    EventRecord,
    FillState,
    Lock,
    LockTarget,
    Resource,
    Tag,
    TagMove,
)

FORMAT = 5
#: those that are read; a store of an earlier one is brought up to date when it is opened for writing
FORMATS = (1, 2, 3, 4, 5)
ENGINE = "lmdb-0.9"
VERSION = b"\x01"
SEAL_BYTES = 8  # of the BLAKE3 that ends a value, and a frame of the journal

# One byte a table.
IDENTITY = b"S"  # the store's uuid
JOURNALED = b"J"  # how far the journal goes for this state of the index
REPOSITORY = b"R"  # name -> when it was first seen
LINK = b"L"  # repository, kind, digest
BLOB = b"B"  # digest -> size, flags, bytes when inline
CHUNKS = b"C"  # digest, segment -> BLAKE3 of 60 chunks
UNSYNCED = b"U"  # digest of a cached file that no syncfs has covered yet
QUARANTINE = b"X"  # digest, chunk: bytes that must not be served
TAG = b"T"  # repository, name
MOVES = b"H"  # repository, name -> the last 16 targets
TAG_LIST = b"P"  # repository, segment -> the parent's tags
REFERRER = b"D"  # repository, subject, referrer -> descriptor of a manifest held here
REFERRER_LIST = b"G"  # repository, subject, segment -> the parent's referrers
FILL = b"F"  # digest, repository
FILL_CHUNKS = b"K"  # digest, repository, segment -> BLAKE3 of complete chunks of a fill
SEEN = b"A"  # repository, digest -> last access, how often
LOCK = b"O"  # repository, kind, name -> what is allowed
PENDING = b"N"  # repository, digest of a manifest pushed here that the parent does not know yet
CONFIRMED = b"n"  # repository, digest pushed here that the parent confirmed -> which parent
DELETED = b"Z"  # repository, kind, name -> when it was deleted: a miss does not bring it back
OUTBOX = b"V"  # number -> what is still to go up to the parent; nothing -> the last number
EVENT = b"M"  # number -> what changed here; nothing -> the head of the log, while it has readers
UNLINKED = b"Q"  # digest that no repository links -> since when
RESOURCE = b"E"  # kind, name -> a document of the control plane; kind -> how many; nothing -> the revision
# Derived from the keys of others, turned round; never journaled.
HOLDER = b"W"  # digest, kind, repository: of LINK
TAGGED = b"Y"  # repository, digest, name: of TAG
SUBJECT = b"I"  # repository, referrer, subject: of REFERRER
# Derived from links, access times and the bodies of manifests; never journaled.
CHILDREN = b"c"  # digest of a manifest, segment -> the manifests and blobs that its body names
EDGE = b"e"  # digest, repository, digest of a manifest of that repository that names it
ACCOUNT = b"a"  # repository -> how many links and bytes; nothing -> those of the store
USE = b"u"  # hour of the last use, repository, digest: what LINK and SEEN say, in order
LOOSE = b"g"  # repository, digest that no tag and no manifest of it names -> since when
PIN = b"p"  # repository, kind, name -> until when it is not evicted

TABLES = {
    IDENTITY: "identity",
    JOURNALED: "journaled",
    REPOSITORY: "repository",
    LINK: "link",
    BLOB: "blob",
    CHUNKS: "chunks",
    UNSYNCED: "unsynced",
    QUARANTINE: "quarantine",
    TAG: "tag",
    MOVES: "moves",
    TAG_LIST: "tag list",
    REFERRER: "referrer",
    REFERRER_LIST: "referrer list",
    FILL: "fill",
    FILL_CHUNKS: "fill chunks",
    SEEN: "seen",
    LOCK: "lock",
    PENDING: "pending",
    CONFIRMED: "confirmed",
    DELETED: "deleted",
    OUTBOX: "outbox",
    EVENT: "event",
    UNLINKED: "unlinked",
    RESOURCE: "resource",
    HOLDER: "holder",
    TAGGED: "tagged",
    SUBJECT: "subject",
    CHILDREN: "children",
    EDGE: "edge",
    ACCOUNT: "account",
    USE: "use",
    LOOSE: "loose",
    PIN: "pin",
}
#: tables that a rebuild takes from the journal; the others are about this index or this moment
JOURNALED_TABLES = frozenset(
    (
        *(REPOSITORY, LINK, BLOB, CHUNKS, TAG, MOVES, TAG_LIST, REFERRER, REFERRER_LIST),
        *(LOCK, PENDING, DELETED, OUTBOX, RESOURCE, PIN),
    )
)
#: tables of which a frame has records, for a commit that a kill lost: events of documents, and what a parent confirmed,
#: of which a rebuild believes nothing
FRAMED_TABLES = JOURNALED_TABLES | {EVENT, CONFIRMED}
#: derived table -> the table whose keys it turns round
DERIVED_TABLES = {HOLDER: LINK, TAGGED: TAG, SUBJECT: REFERRER}

#: tables whose keys go on with the hash of a repository
REPOSITORY_TABLES = frozenset(
    (
        *(LINK, TAG, MOVES, TAG_LIST, REFERRER, REFERRER_LIST, SEEN, LOCK, PENDING, DELETED, TAGGED, SUBJECT),
        *(LOOSE, PIN, CONFIRMED),
    )
)

AS_BLOB, AS_MANIFEST, AS_DELETED = b"b", b"m", b"d"
#: kinds of LINK, and those of them that hold what a manifest names
LINK_KINDS, MANIFEST_KINDS = (AS_BLOB, AS_MANIFEST, AS_DELETED), (AS_MANIFEST, AS_DELETED)
#: what a client names, as it stands in the keys of LOCK and DELETED
NOUNS = {"repository": b"r", "blob": AS_BLOB, "manifest": AS_MANIFEST, "tag": b"t"}

# LMDB keeps a record in its page up to 2,038 bytes of node (4 KiB pages: half a page, less the headers);
# a larger one takes pages of its own and fragments the free list. 60 hashes with key and seal stay below.
SEGMENT_CHUNKS = 60
SEGMENT_BYTES = 1900
MOVES_KEPT = 16
NAME_BYTES = 480  # LMDB keys end at 511
KIND_BYTES, RESOURCE_NAME_BYTES = 32, 255
TAG_BYTES = 128  # distribution-spec, "Pulling manifests"

OWNED, INLINE, DAMAGED = 1, 2, 4

_BLOB = struct.Struct("<BQ16s")
_TIME = struct.Struct("<d")
_SEEN = struct.Struct("<df")
_LINK = struct.Struct("<d")
_TAG = struct.Struct("<ddc")
_MOVE = struct.Struct("<dcB")
_LOCK = struct.Struct("<dB")
_JOURNALED = struct.Struct("<QQQ16s")
_SEGMENT = struct.Struct(">I")
_NUMBER = struct.Struct("<Q")
_OUTBOX = struct.Struct(">Q")
ORIGINS = {"parent": b"p", "local": b"l"}
ORIGIN_NAMES = {raw: name for name, raw in ORIGINS.items()}
NO_BOOT = bytes(16)


# --- sealing -------------------------------------------------------------------------------------------


def seal(key: bytes, payload: bytes) -> bytes:
    """The value to store under `key`."""
    body = VERSION + payload
    return body + blake3(key + body).digest(SEAL_BYTES)


def unseal(key: bytes, value: bytes) -> bytes:
    """The payload. Raises RecordDamaged when the checksum does not match or the version is unknown."""
    if blake3(key + value[:-SEAL_BYTES]).digest(SEAL_BYTES) != value[-SEAL_BYTES:]:
        raise RecordDamaged(f"{describe(key)} does not match its checksum", key)
    if value[:1] != VERSION:
        raise RecordDamaged(f"{describe(key)} has version {value[0]}, this code reads {VERSION[0]}", key)
    return value[1:-SEAL_BYTES]


def is_intact(key: bytes, value: bytes) -> bool:
    """Whether a sealed value matches its checksum."""
    try:
        unseal(key, value)
    except RecordDamaged:
        return False
    return True


def is_mendable(key: bytes) -> bool:
    """Whether a damaged record may get its value back. What the log of events says has no copy; a reader of it
    compares everything."""
    return key[:1] != EVENT


def describe(key: bytes) -> str:
    """The record's name for a person."""
    return f"{TABLES.get(key[:1], 'unknown')} record {key[1:].hex()}"


# --- keys ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def repository_hash(name: str) -> bytes:
    """16 bytes that stand for a repository in keys. Raises Mistake for an empty or over-long name."""
    raw = name.encode("utf-8", "surrogatepass")
    if not 0 < len(raw) <= NAME_BYTES:
        raise Mistake(f"repository name of {len(raw)} bytes; allowed: 1 to {NAME_BYTES}")
    return blake3(raw).digest(16)


def repository_key(name: str) -> bytes:
    """REPOSITORY: the full name, so that listings work and are sorted."""
    repository_hash(name)
    return REPOSITORY + name.encode("utf-8", "surrogatepass")


def repository_name(key: bytes) -> str:
    """The inverse of `repository_key`."""
    return key[1:].decode("utf-8", "surrogatepass")


def link_key(repository: str, kind: bytes, digest_key: bytes) -> bytes:
    """LINK: the bytes belong to the repository, as a blob or as a manifest."""
    return LINK + repository_hash(repository) + kind + digest_key


def tag_key(repository: str, name: str) -> bytes:
    """TAG. Raises Mistake for a name that no tag can have."""
    return TAG + repository_hash(repository) + tag_bytes(name)


def moves_key(repository: str, name: str) -> bytes:
    """MOVES."""
    return MOVES + repository_hash(repository) + tag_bytes(name)


def tag_bytes(name: str) -> bytes:
    """A tag's name as it stands in keys."""
    raw = name.encode("utf-8", "surrogatepass")
    if not 0 < len(raw) <= TAG_BYTES:
        raise Mistake(f"tag of {len(raw)} bytes; allowed: 1 to {TAG_BYTES}")
    return raw


def referrer_prefix(repository: str, subject: Digest) -> bytes:
    """REFERRER, all of one subject."""
    return REFERRER + repository_hash(repository) + subject.key


def referrer_list_prefix(repository: str, subject: Digest) -> bytes:
    """REFERRER_LIST, all segments."""
    return REFERRER_LIST + repository_hash(repository) + subject.key


def tag_list_prefix(repository: str) -> bytes:
    """TAG_LIST, all segments."""
    return TAG_LIST + repository_hash(repository)


def segment_key(prefix: bytes, segment: int) -> bytes:
    """A numbered record below a prefix."""
    return prefix + _SEGMENT.pack(segment)


def segment_number(key: bytes) -> int:
    """The number at the end of a segment's key."""
    return int(_SEGMENT.unpack(key[-4:])[0])


def fill_key(repository: str, digest: Digest) -> bytes:
    """FILL. The digest comes first: a commit ends the fills of all repositories."""
    return FILL + digest.key + repository_hash(repository)


def fill_chunks_prefix(repository: str, digest: Digest) -> bytes:
    """FILL_CHUNKS, all segments of one fill."""
    return FILL_CHUNKS + digest.key + repository_hash(repository)


def seen_key(repository: str, digest: Digest) -> bytes:
    """SEEN."""
    return SEEN + repository_hash(repository) + digest.key


def target_rest(kind: str, name: str) -> bytes:
    """The end of a key of LOCK and DELETED. Raises Mistake for an unknown kind or a name that fits none."""
    if kind not in NOUNS:
        raise Mistake(f"kind {kind!r}; allowed: {', '.join(NOUNS)}")
    if kind == "repository":
        return NOUNS[kind]
    return NOUNS[kind] + (tag_bytes(name) if kind == "tag" else Digest.parse(name).key)


def lock_key(repository: str, target: LockTarget) -> bytes:
    """LOCK."""
    return LOCK + repository_hash(repository) + target_rest(target.kind, target.name)


def lock_target(key: bytes) -> LockTarget:
    """What the lock under a key of LOCK is on."""
    kind = next(kind for kind, noun in NOUNS.items() if noun == key[17:18])
    if kind == "manifest":
        return LockTarget(kind, str(digest_from(key, key[18:])))
    return LockTarget(kind, key[18:].decode("utf-8", "surrogatepass"))


def deleted_key(repository: str, kind: str, name: str) -> bytes:
    """DELETED."""
    return DELETED + repository_hash(repository) + target_rest(kind, name)


def pending_key(repository: str, digest: Digest) -> bytes:
    """PENDING."""
    return PENDING + repository_hash(repository) + digest.key


def outbox_key(number: int) -> bytes:
    """OUTBOX."""
    return OUTBOX + _OUTBOX.pack(number)


def outbox_number(key: bytes) -> int:
    """The inverse of `outbox_key`."""
    return int(_OUTBOX.unpack(key[1:])[0])


def event_key(number: int) -> bytes:
    """EVENT."""
    return EVENT + _OUTBOX.pack(number)


def event_number(key: bytes) -> int:
    """The inverse of `event_key`."""
    return outbox_number(key)


def resource_prefix(kind: str) -> bytes:
    """RESOURCE, all of one kind; itself the key of their number. Raises Mistake for a kind that is none."""
    raw = kind.encode("utf-8", "surrogatepass")
    if not 0 < len(raw) <= KIND_BYTES or b"\0" in raw:
        raise Mistake(f"kind {kind!r}; allowed: 1 to {KIND_BYTES} bytes without NUL")
    return RESOURCE + raw + b"\0"


def resource_prefix_of(key: bytes) -> bytes:
    """The prefix of a document's key, or of itself."""
    return key[: key.index(b"\0", 1) + 1]


def resource_range(kind: str, prefix: str, after: str) -> tuple[bytes, bytes]:
    """(what the keys begin with, what they are above) of the documents of a kind. The count of the kind, whose key is
    the shortest, is never among them; a document named exactly `prefix` is not either."""
    whole = resource_prefix(kind)
    below = whole + resource_name(prefix)
    return below, max(below, whole + resource_name(after))[:511]


def resource_name(name: str) -> bytes:
    """A document's name as it stands in keys: ASCII letters in lower case, every other character as it is."""
    return name.encode("utf-8", "surrogatepass").lower()


def resource_key(kind: str, name: str) -> bytes:
    """RESOURCE. Raises Mistake for an empty or over-long name."""
    raw = resource_name(name)
    if not 0 < len(raw) <= RESOURCE_NAME_BYTES:
        raise Mistake(f"{kind} name of {len(raw)} bytes; allowed: 1 to {RESOURCE_NAME_BYTES}")
    return resource_prefix(kind) + raw


def holder_key(link: bytes) -> bytes:
    """HOLDER: a link's key turned round."""
    return HOLDER + link[18:] + link[17:18] + link[1:17]


def holder_link(holder: bytes) -> bytes:
    """The inverse of `holder_key`."""
    return LINK + holder[-16:] + holder[-17:-16] + holder[1:-17]


def tagged_prefix(repository: str, digest: Digest) -> bytes:
    """TAGGED, all tags that point to one manifest."""
    return TAGGED + repository_hash(repository) + digest.key


def tagged_key(tag: bytes, digest: Digest) -> bytes:
    """TAGGED: a tag's key with its digest."""
    return TAGGED + tag[1:17] + digest.key + tag[17:]


def subject_prefix(repository: str, referrer: Digest) -> bytes:
    """SUBJECT, all subjects (there is one) of a referrer."""
    return SUBJECT + repository_hash(repository) + referrer.key


def subject_key(referrer: bytes) -> bytes:
    """SUBJECT: a referrer's key turned round."""
    subject = digest_in(referrer, 17).key
    return SUBJECT + referrer[1:17] + referrer[17 + len(subject) :] + subject


def subject_referrer(subject: bytes) -> bytes:
    """The inverse of `subject_key`."""
    referrer = digest_in(subject, 17).key
    return REFERRER + subject[1:17] + subject[17 + len(referrer) :] + referrer


def derived_key(key: bytes, payload: bytes) -> bytes:
    """The derived record of a record of LINK, TAG or REFERRER."""
    if key[:1] == LINK:
        return holder_key(key)
    if key[:1] == TAG:
        return tagged_key(key, decode_tag("", payload).digest)
    return subject_key(key)


def digest_in(key: bytes, start: int) -> Digest:
    """The digest that begins at `start` of a key and may be followed by more."""
    length = {1: 33, 2: 65}.get(key[start] if start < len(key) else 0, 0)
    return digest_from(key, key[start : start + length])


def digest_from(key: bytes, raw: bytes) -> Digest:
    """A digest out of a record. Raises RecordDamaged, naming the record."""
    try:
        return Digest.from_key(raw)
    except MalformedDigest as error:
        raise RecordDamaged(f"{describe(key)} holds no digest") from error


# --- values --------------------------------------------------------------------------------------------


def encode_blob(size: int, *, flags: int, boot: bytes = NO_BOOT, inline: bytes = b"") -> bytes:
    """BLOB: flags, size, boot id (zero when on disk for certain), the bytes when INLINE is set."""
    return _BLOB.pack(flags, size, boot) + inline


def decode_blob(digest: Digest, payload: bytes) -> Blob:
    """The record of `encode_blob`."""
    flags, size, boot = _BLOB.unpack_from(payload)
    inline = payload[_BLOB.size :] if flags & INLINE else None
    return Blob(
        digest, size, flags & OWNED != 0, b"" if boot == NO_BOOT else boot, inline, flags & DAMAGED != 0
    )


def encode_link(linked_at: float, media_type: str = "") -> bytes:
    """LINK: when, and for a manifest its media type."""
    return _LINK.pack(linked_at) + media_type.encode()


def decode_media_type(payload: bytes) -> str:
    """The media type of a manifest's link."""
    return payload[_LINK.size :].decode()


def decode_linked_at(payload: bytes) -> float:
    """When a link was made, in wall seconds."""
    return float(_LINK.unpack_from(payload)[0])


def encode_time(when: float) -> bytes:
    """REPOSITORY and others: one wall time."""
    return _TIME.pack(when)


def decode_time(payload: bytes) -> float:
    """The record of `encode_time`."""
    return float(_TIME.unpack(payload)[0])


def encode_seen(seen_at: float, uses: float) -> bytes:
    """SEEN: the last access, and the uses as they counted then."""
    return _SEEN.pack(seen_at, uses)


def decode_seen(payload: bytes) -> tuple[float, float]:
    """The record of `encode_seen`. One of before format 5 has the time alone: it was used once."""
    if len(payload) == _TIME.size:
        return decode_time(payload), 1.0
    seen_at, uses = _SEEN.unpack(payload)
    return seen_at, uses


def encode_tag(digest: Digest, checked_at: float, moved_at: float, origin: str) -> bytes:
    """TAG. Raises Mistake for an unknown origin."""
    if origin not in ORIGINS:
        raise Mistake(f"tag origin {origin!r}; allowed: {', '.join(ORIGINS)}")
    return _TAG.pack(checked_at, moved_at, ORIGINS[origin]) + digest.key


def decode_tag(name: str, payload: bytes) -> Tag:
    """The record of `encode_tag`."""
    checked_at, moved_at, origin = _TAG.unpack_from(payload)
    return Tag(name, Digest.from_key(payload[_TAG.size :]), checked_at, moved_at, ORIGIN_NAMES[origin])


def encode_moves(moves: Sequence[TagMove]) -> bytes:
    """MOVES: the last 16, newest first. No digest: deleted."""
    entries = ((m, m.digest.key if m.digest is not None else b"") for m in moves[:MOVES_KEPT])
    return b"".join(_MOVE.pack(m.moved_at, ORIGINS[m.origin], len(key)) + key for m, key in entries)


def decode_moves(payload: bytes) -> list[TagMove]:
    """The record of `encode_moves`."""
    moves, at = [], 0
    while at < len(payload):
        moved_at, origin, length = _MOVE.unpack_from(payload, at)
        at += _MOVE.size + length
        digest = Digest.from_key(payload[at - length : at]) if length else None
        moves.append(TagMove(digest, moved_at, ORIGIN_NAMES[origin]))
    return moves


def encode_lock(lock: Lock, now: float) -> bytes:
    """LOCK: when it was set, and a bit for each of read, write, delete, list that is allowed."""
    bits = lock.read | lock.write << 1 | lock.delete << 2 | lock.list << 3
    return _LOCK.pack(now, bits)


def decode_lock(payload: bytes) -> Lock:
    """The record of `encode_lock`."""
    _, bits = _LOCK.unpack(payload)
    return Lock(*(bool(bits & 1 << place) for place in range(4)))


def encode_pending(repository: str, now: float) -> bytes:
    """PENDING: when it was pushed, and the repository's name."""
    return _TIME.pack(now) + repository.encode("utf-8", "surrogatepass")


def decode_pending(payload: bytes) -> str:
    """The repository's name out of `encode_pending`."""
    return payload[_TIME.size :].decode("utf-8", "surrogatepass")


def encode_number(number: int) -> bytes:
    """RESOURCE: the revision, or the number of documents of a kind. OUTBOX: the last number."""
    return _NUMBER.pack(number)


def decode_number(payload: bytes | None) -> int:
    """The record of `encode_number`; 0 for none."""
    return 0 if payload is None else int(_NUMBER.unpack(payload)[0])


class LogHead(msgspec.Struct, frozen=True, array_like=True):
    """EVENT: MessagePack array of the log's id, 16 bytes (none: it has no readers), the number of its last event, the
    number after which the next is given, the number up to which none is kept, and how many there are."""

    log: bytes
    last: int
    given: int
    floor: int
    count: int


_log_head = msgspec.msgpack.Decoder(LogHead)
_event = msgspec.msgpack.Decoder(EventRecord)


def encode_log_head(head: LogHead) -> bytes:
    """EVENT: the head."""
    return msgspec.msgpack.encode(head)


def decode_log_head(payload: bytes) -> LogHead:
    """The record of `encode_log_head`."""
    return _log_head.decode(payload)


def encode_event(event: EventRecord) -> bytes:
    """EVENT: MessagePack array of its fields in the order of `record.Event`; the number counts in the key."""
    return msgspec.msgpack.encode(event)


def decode_event(key: bytes, payload: bytes) -> EventRecord:
    """The record of `encode_event`."""
    return msgspec.structs.replace(_event.decode(payload), number=event_number(key))


class ResourceRow(msgspec.Struct, frozen=True, array_like=True):
    """RESOURCE: MessagePack array of a document's name with its casing, its revision and its body."""

    name: str
    revision: int
    body: bytes


_resource = msgspec.msgpack.Decoder(ResourceRow)


def encode_resource(name: str, revision: int, body: bytes) -> bytes:
    """RESOURCE."""
    return msgspec.msgpack.encode(ResourceRow(name, revision, body))


def decode_resource(kind: str, payload: bytes) -> Resource:
    """The record of `encode_resource`."""
    row = _resource.decode(payload)
    return Resource(kind, row.name, row.revision, row.body)


def encode_descriptor(descriptor: Descriptor) -> bytes:
    """REFERRER: MessagePack array [media type, digest, size, artifact type, annotations]."""
    return msgspec.msgpack.encode(descriptor)


_descriptor = msgspec.msgpack.Decoder(Descriptor)


def decode_descriptor(payload: bytes) -> Descriptor:
    """The record of `encode_descriptor`."""
    return _descriptor.decode(payload)


def chunk_count(size: int) -> int:
    """Chunks of a blob; none for an empty one."""
    return -(-size // CHUNK_BYTES)


def encode_table(table: bytes) -> list[bytes]:
    """CHUNKS: a chunk table cut into segments of 60 hashes."""
    step = SEGMENT_CHUNKS * 32
    return [table[at : at + step] for at in range(0, len(table), step)]


class FillHead(msgspec.Struct, frozen=True, array_like=True):
    """FILL: MessagePack array of all but the chunk hashes."""

    repository: str
    size: int
    etag: str
    extents: tuple[tuple[int, int], ...]
    whole: bool
    updated_at: float


_fill = msgspec.msgpack.Decoder(FillHead)


def encode_fill(state: FillState) -> bytes:
    """FILL."""
    return msgspec.msgpack.encode(
        FillHead(state.repository, state.size, state.etag, state.extents, state.whole, state.updated_at)
    )


def decode_fill(payload: bytes) -> FillHead:
    """The record of `encode_fill`."""
    return _fill.decode(payload)


def encode_fill_chunks(chunks: dict[int, bytes]) -> dict[int, bytes]:
    """FILL_CHUNKS: segment number -> payload; an entry is the chunk's place in the segment and its BLAKE3."""
    segments: dict[int, list[bytes]] = {}
    for chunk in sorted(chunks):
        segment, place = divmod(chunk, SEGMENT_CHUNKS)
        segments.setdefault(segment, []).append(bytes([place]) + chunks[chunk])
    return {segment: b"".join(entries) for segment, entries in segments.items()}


def decode_fill_chunks(segment: int, payload: bytes) -> dict[int, bytes]:
    """One segment of `encode_fill_chunks`."""
    return {
        segment * SEGMENT_CHUNKS + payload[at]: payload[at + 1 : at + 33] for at in range(0, len(payload), 33)
    }


class Journaled(msgspec.Struct, frozen=True):
    """JOURNALED: which journal this index belongs to, its length, how much of it is on disk for certain,
    and the boot in which it was written."""

    generation: int
    length: int
    synced: int
    boot: bytes


def encode_journaled(state: Journaled) -> bytes:
    """JOURNALED."""
    return _JOURNALED.pack(state.generation, state.length, state.synced, state.boot)


def decode_journaled(payload: bytes) -> Journaled:
    """The record of `encode_journaled`."""
    return Journaled(*_JOURNALED.unpack(payload))
