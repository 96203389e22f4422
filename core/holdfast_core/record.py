"""What the store hands out and takes in. Plain values: frozen, comparable, safe to keep.

They are msgspec structs because the hit path makes one or two of them a request: 0.1 µs each, where a
frozen dataclass takes 1 µs.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from holdfast_core.digest import Digest

Verb = Literal["push", "delete", "conflict"]


class Value(msgspec.Struct, frozen=True, gc=False):
    """Base of the values below."""


class Blob(Value, frozen=True):
    """Bytes held. `boot` is b"" once they are on the disk for certain, else the boot they were written in.
    `inline` is the bytes themselves when they live in the index."""

    digest: Digest
    size: int
    owned: bool
    boot: bytes
    inline: bytes | None
    damaged: bool = False


class Damage(Value, frozen=True):
    """A blob with `chunks` that were found to be bad, and repositories that have it, as far as they were looked for.
    What is `owned` is only here until the parent has it."""

    digest: Digest
    owned: bool
    chunks: tuple[int, ...]
    repositories: tuple[str, ...]


class ScrubbedSlice(Value, frozen=True):
    """What a slice of a scrub looked at: `bytes_read` of the disk, `found` damage that nobody knew of (digest, start,
    end), and where to go `on`, b"" at the end."""

    bytes_read: int
    found: tuple[tuple[Digest, int, int], ...]
    on: bytes


class Manifest(Value, frozen=True):
    """A manifest, byte for byte as it was put."""

    digest: Digest
    media_type: str
    body: bytes
    owned: bool


class Tag(Value, frozen=True):
    """`checked_at`: when the origin last confirmed it; `moved_at`: when it last changed (wall seconds).
    `origin` is "parent" or "local"."""

    name: str
    digest: Digest
    checked_at: float
    moved_at: float
    origin: str


class TagMove(Value, frozen=True):
    """One earlier or present target of a tag; `digest` None: the tag was deleted."""

    digest: Digest | None
    moved_at: float
    origin: str


class DeletedManifest(Value, frozen=True):
    """A manifest that a client deleted at that wall time, and the `tags` that it had."""

    digest: Digest
    media_type: str
    deleted_at: float
    tags: tuple[str, ...]


class Child(Value, frozen=True):
    """A manifest or a blob (`kind` b"m" or b"b") that the body of a manifest names. `size` is what the body says."""

    kind: bytes
    digest: Digest
    size: int


class RepositoryAccount(NamedTuple):
    """What a repository links: how many manifests and blobs, and of different digests the bytes in files, those of them
    that no other repository links, and the bytes in the index, which free no disk."""

    manifests: int = 0
    blobs: int = 0
    file_bytes: int = 0
    own_bytes: int = 0
    inline_bytes: int = 0


class StoreAccount(NamedTuple):
    """What the store holds, linked or not: files and their bytes, those of them that one repository alone links, and
    that several do; and what is kept in the index."""

    files: int = 0
    file_bytes: int = 0
    own_bytes: int = 0
    shared_bytes: int = 0
    inlines: int = 0
    inline_bytes: int = 0


class Pin(Value, frozen=True):
    """A tag or a manifest (`kind`) that is not evicted or collected, nor anything that it names. `until` is wall
    seconds, infinity for good; `pinned_at` is when it was made."""

    repository: str
    kind: str
    name: str
    until: float
    with_referrers: bool = False
    pinned_at: float = 0.0


class CollectionRule(NamedTuple):
    """Since when something must be without a name to be collected, in wall seconds; None: it stays. Blobs that were
    pushed here; manifests; and what was cached, which counts from its last use as well. A manifest that was cached goes
    when the last two let it. A manifest that a client deleted counts from then on."""

    blobs_before: float | None
    manifests_before: float | None
    cached_before: float | None
    deleted_before: float | None = None


class Departure(NamedTuple):
    """What left a repository: digests, bytes of the disk that only it had, and digests that are still to go."""

    digests: int = 0
    freed_bytes: int = 0
    left: int = 0


class ImageUse(NamedTuple):
    """A digest of a repository and the hour since 1970 in which it was last used."""

    hour: int
    repository: str
    digest: Digest


class ImageHolding(NamedTuple):
    """What would go if a manifest that no other names, or a blob, were evicted: the `digests` that nothing else in its
    repository names, with the bytes of files that each would free and how often it was used (`space_format.decayed`),
    and the bytes of all that other repositories need as well. `hour` (since 1970) is when the manifest or blob itself
    was last used, `named` is what they name, held or not, `pushed` those of the digests that were pushed here and that
    the parent confirmed, `kept` why it may not go, or ""."""

    repository: str
    digest: Digest
    digests: tuple[Digest, ...]
    freed: tuple[int, ...]
    uses: tuple[float, ...]
    shared_bytes: int
    hour: int
    named: tuple[Digest, ...]
    pushed: tuple[Child, ...]
    kept: str

    @property
    def freed_bytes(self) -> int:
        """Bytes of the disk that would be free."""
        return sum(self.freed)


class DiskUse(Value, frozen=True):
    """Bytes of the disk that a store takes beside its blobs, as allocated: the growing files of fills by name, uploads,
    files and indexes set aside, the journal, the index, what is always there (directories, the space that is reserved
    for deletes), and files among the blobs that no row counts on."""

    parts: dict[str, int]
    uploads: int
    set_aside: int
    journal: int
    index: int
    fixed: int
    strays: int


class Lock(Value, frozen=True):
    """What is allowed on a repository, a manifest or a tag; all of it unless a client set a lock."""

    read: bool = True
    write: bool = True
    delete: bool = True
    list: bool = True


class LockChange(Value, frozen=True):
    """What is to be allowed from now on; None stays as it is."""

    read: bool | None = None
    write: bool | None = None
    delete: bool | None = None
    list: bool | None = None


class LockTarget(Value, frozen=True):
    """What a lock is on. `kind` is "repository", "manifest" or "tag"; `name` the manifest's digest or the tag,
    "" for the repository itself."""

    kind: str
    name: str = ""


class Descriptor(msgspec.Struct, frozen=True, array_like=True):
    """A referrer as lists show it (image-spec, descriptor.md). `digest` is the text as received."""

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] = {}


class Resource(Value, frozen=True):
    """A document of the control plane. `name` keeps its casing; documents are distinguished without it. `revision`
    rises with every change of the document, also when it was removed in between, but for those of quiet kinds."""

    kind: str
    name: str
    revision: int
    body: bytes


class ResourceChange(Value, frozen=True):
    """A document to put, or with `body` None to remove."""

    kind: str
    name: str
    body: bytes | None


class RepositoryMember(Value, frozen=True):
    """A tag and the manifest it names, or with `tag` "" a manifest that no tag names. `media_type` is "" when the
    manifest is not held; `subject` is that of a referrer."""

    tag: str
    digest: Digest
    media_type: str
    size: int
    subject: Digest | None


class MemberPage(Value, frozen=True):
    """A part of what a repository has. `end` is the place to go on from, b"" when there is no more; so many records
    were `looked` at."""

    members: tuple[RepositoryMember, ...]
    end: bytes
    looked: int


class NamePage(NamedTuple):
    """A part of a list, sorted: all that it shows up to `through`, which is how far was looked; None is the end."""

    names: tuple[str, ...]
    through: str | None


class ReferrerPage(NamedTuple):
    """The same of referrers, by digest."""

    descriptors: tuple[Descriptor, ...]
    through: str | None


class EventRecord(Value, frozen=True, array_like=True):
    """One change of what is here. `number` rises in the order of the commits, and is given once; 0 before the store
    gave it. `at` is wall seconds. `kind` is "tag", "manifest" or "repository"; of a repository nothing but its name (as
    the store knows it) is said. A "conflict" is a tag that was moved here, to `digest` ("" deleted), and at the parent,
    to `theirs`; `winner` is "parent", "child", or "undecided".

    A tag that moved has the digest that it names now, one that was deleted the digest that it named, "" when that could
    not be read. `artifact_type` is as far as it is known without reading the manifest, `subject` that of a referrer,
    "" for none. `origin` is "local" for what a client did here, "parent" for what followed the parent. `registry` names
    the connected registry in which it happened, "" for this node. One from there has the `id` and the time (`happened`,
    wall seconds) that it has there; `at` is when it was heard of."""

    verb: Verb
    kind: Literal["tag", "manifest", "repository"]
    repository: str
    at: float
    tag: str = ""
    digest: str = ""
    media_type: str = ""
    size: int = 0
    artifact_type: str = ""
    subject: str = ""
    origin: str = "local"
    registry: str = ""
    number: int = 0
    id: str = ""
    happened: float = 0.0
    theirs: str = ""
    winner: str = ""


class EventHead(Value, frozen=True):
    """Where the log of events stands. `log` is its id, random hex, another one whenever it was begun anew. `last` is
    the number of the last event, `floor` the number up to which none is kept any more; without events the two are the
    same. `count` is how many are kept."""

    log: str
    last: int
    floor: int
    count: int


class TagList(Value, frozen=True):
    """The parent's tags, in its order, as fetched at `fetched_at` (wall seconds)."""

    tags: tuple[str, ...]
    fetched_at: float


class ReferrersList(Value, frozen=True):
    """Referrers of one subject. `fetched_at` is 0 when the parent's list was never fetched."""

    descriptors: tuple[Descriptor, ...]
    fetched_at: float


class FillState(msgspec.Struct, frozen=True):
    """A parked or running fill, as last checkpointed.

    `extents` are the byte ranges on disk, [start, end). `chunks` holds the BLAKE3 of each complete chunk in
    them, so that a resume after a power cut checks before it trusts. `whole`: all of it is to be fetched.
    """

    repository: str
    digest: Digest
    size: int
    etag: str
    extents: tuple[tuple[int, int], ...]
    chunks: dict[int, bytes]
    whole: bool
    updated_at: float


class StoreStatistics(Value, frozen=True):
    """Counters of one open store. `failed` is why it takes no more writes, or "". `condition` is what the disk lets it
    write (disk_state.py), `reason` why it is not "writable"."""

    open_readers: int
    open_parts: int
    descriptors: int
    queued: int
    committed: int
    batches: int
    checked_chunks: int
    damaged_chunks: int
    index_bytes: int
    index_limit: int
    journal_bytes: int
    failed: str
    condition: str = "writable"
    reason: str = ""
