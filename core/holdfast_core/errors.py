"""What can go wrong in the store. No HTTP here: `holdfast.errors` holds the one table to status codes.

Three branches say what a caller does: the caller erred (`Mistake`), the store is not to be trusted
(`Damaged`), or the disk takes no write now (`Unwritable`). `NotHeld`, `StoreReadOnly` and `ContentLocked` are answers.
"""

#: what an error tells the operator to do when the index is not to be trusted
REBUILD = "run `holdfast rebuild`"


class StoreError(Exception):
    """Base of every error the store raises on purpose."""


class Mistake(StoreError):
    """The caller passed something the store cannot accept."""


class MalformedDigest(Mistake):
    """Not `sha256:<64 lower hex>` or `sha512:<128 lower hex>` (image-spec, descriptor.md, "Digests")."""


class NotHeld(StoreError):
    """The object is not in the store, or not linked to that repository."""


class Damaged(StoreError):
    """Stored bytes or records do not match their checksum."""


class RecordDamaged(Damaged):
    """An index record fails its checksum or has an unknown version. `key` is the record's, b"" when it is another
    thing that cannot be read."""

    def __init__(self, message: str, key: bytes = b"") -> None:
        super().__init__(message)
        self.key = key


class FileDamaged(Damaged):
    """What lies in a blob's place is not a plain file of its size, or cannot be opened."""


class ChunkDamaged(Damaged):
    """A chunk of a blob fails its BLAKE3 check. `start` and `end` bound the bad bytes (end exclusive)."""

    def __init__(self, digest: str, start: int, end: int) -> None:
        super().__init__(f"{digest}: bytes {start}-{end - 1} do not match their checksum")
        self.digest, self.start, self.end = digest, start, end


class DigestMismatch(Damaged):
    """Bytes do not hash to the digest they were offered under."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"expected {expected}, the bytes hash to {actual}")
        self.expected, self.found = expected, actual


class StoreRefused(StoreError):
    """The directory is not a store this code may open; the message says why and what to do."""


class StoreNewer(StoreRefused):
    """The store has the format of a newer version, which this one neither reads nor rebuilds."""


class Unwritable(StoreError):
    """The write could not be done, and nothing was changed; what is held is served all the same."""


class Exhausted(Unwritable):
    """No space, or the index is full; or see `OutOfDescriptors`."""


class OutOfDescriptors(Exhausted):
    """This process, or the machine, has no file descriptor left: it says nothing of the disk, and passes."""


class DiskReadOnly(Unwritable):
    """The file system takes no writes."""


class DiskFailed(Unwritable):
    """The device, or the file system on it, failed."""


class SyncFailed(DiskFailed):
    """A sync call failed, and what it was to make durable may be lost: it is not acknowledged, and not synced again,
    because a second sync would succeed over lost data."""


class UploadNotFound(StoreError):
    """No such upload session: ended, expired, closed, or never begun."""


class UploadBusy(StoreError):
    """Another writer has the upload session."""


class Unsent(StoreError):
    """It was pushed here, and the parent does not have it yet: it is not removed on the parent's word."""


class StoreReadOnly(StoreError):
    """The store's mode takes no changes from clients. The text is for them."""


class ContentLocked(StoreError):
    """A lock on the repository, manifest or tag forbids it. The text names which, and is for the client."""


class NotEvictable(StoreError):
    """What may not be evicted; why."""
