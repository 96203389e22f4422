"""store.json: the uuid of a store and its format; blobs/uuid: the store that the files are of; copy.json: that a
directory is a copy of one, and no store."""

from __future__ import annotations

import json
import os
import uuid as uuids
from pathlib import Path
from typing import NamedTuple

from holdfast_core import format as layout
from holdfast_core.errors import REBUILD, DiskFailed, StoreNewer, StoreRefused
from holdfast_core.filesystem.disk_state import BROKEN
from holdfast_core.filesystem.files import for_owner, read_plain, sync_directory

COPY = "copy.json"
#: below the directory of a store; blobs/ may be a volume of its own
BLOBS_UUID = "blobs/uuid"
#: what every blobs/ has from the first start on
FIRST_DIRECTORY = "blobs/sha256"


class StoreIdentity(NamedTuple):
    """What store.json says."""

    uuid: bytes
    format: int

    @property
    def text(self) -> str:
        """The uuid as it is written."""
        return str(uuids.UUID(bytes=self.uuid))


def read_identity(path: Path) -> StoreIdentity | None:
    """store.json, or None when there is no such file. Raises StoreRefused when it is none or of a format that
    this code does not read."""
    try:
        document = json.loads(read_plain(path / "store.json"))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in BROKEN:
            raise DiskFailed(f"the disk cannot be read: {path}/store.json: {error.strerror}") from error
        raise StoreRefused(f"{path}/store.json cannot be read: {error}") from error
    except ValueError as error:
        raise StoreRefused(f"{path}/store.json cannot be read: {error}; {REBUILD}") from error
    if (
        not isinstance(document, dict)
        or document.get("engine") != layout.ENGINE
        or not _is_read(path, document)
    ):
        formats = " or ".join(map(str, layout.FORMATS))
        raise StoreRefused(f"{path}/store.json is not of format {formats} on {layout.ENGINE}")
    try:
        return StoreIdentity(uuids.UUID(str(document.get("uuid"))).bytes, int(document["format"]))
    except ValueError as error:
        raise StoreRefused(f"{path}/store.json holds no uuid; {REBUILD}") from error


def _is_read(path: Path, document: dict[str, object]) -> bool:
    """Whether this code reads a store of that format. Raises StoreNewer."""
    found = document.get("format")
    if isinstance(found, int) and found > layout.FORMAT:
        raise StoreNewer(
            f"{path}/store.json is of format {found}, which a newer version wrote; this one reads up to"
            f" {layout.FORMAT}. Start the newer one, or restore a backup of before the update (`holdfast restore`)"
        )
    return found in layout.FORMATS


def write_identity(path: Path, uuid: bytes) -> None:
    """Write store.json, durably and whole. It is the last step of creating a store, and of bringing one of an
    earlier format up to date."""
    text = {"uuid": str(uuids.UUID(bytes=uuid)), "format": layout.FORMAT, "engine": layout.ENGINE}
    write_document(path, "store.json", json.dumps(text).encode() + b"\n")


def require_store(path: Path, uuid: str) -> None:
    """Raise StoreRefused unless the directory has the store of that uuid: a volume that is not mounted leaves an empty
    directory, in which a new store would be made."""
    identity = read_identity(path)
    if identity is None:
        found = "none"
    elif identity.text == uuid:
        return
    else:
        found = f"store {identity.text}"
    raise StoreRefused(
        f"{path} must have store {uuid}; found: {found}. Mount the volume of that store, or for another one"
        " set `uuid` in [store] to its uuid, which is in its store.json, or to nothing for any"
    )


def require_blobs(path: Path, uuid: bytes) -> None:
    """Raise StoreRefused when blobs/ is that of another store, or an empty directory where a volume is not mounted."""
    owner = _owner_of_blobs(path)
    expected = str(uuids.UUID(bytes=uuid))
    if owner not in ("", expected):
        raise StoreRefused(
            f"{path}/blobs is of store {owner}; allowed: that of store {expected}, whose index this is. Mount the"
            f" volume of its blobs, or remove {path}/{BLOBS_UUID} if they are this store's"
        )
    if not (path / FIRST_DIRECTORY).is_dir():
        raise StoreRefused(
            f"{path}/blobs is empty; allowed: the blobs of store {expected}, whose index this is. Mount the volume of"
            f" its blobs, or make {path}/{FIRST_DIRECTORY} if they are lost and `holdfast rebuild` is to say what was"
        )


def _owner_of_blobs(path: Path) -> str:
    """The store that blobs/ is of; "" where no uuid is noted, or the note was lost: damage to it is no other store."""
    try:
        return str(uuids.UUID(read_plain(path / BLOBS_UUID).decode().strip()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return ""
    except OSError as error:
        if error.errno not in BROKEN:
            raise
        return ""


def mark_blobs(path: Path, uuid: bytes, *, anew: bool) -> None:
    """Note whose blobs these are; with `anew` whatever is noted. Raises OSError."""
    if anew or not _owner_of_blobs(path):
        write_document(path, BLOBS_UUID, str(uuids.UUID(bytes=uuid)).encode() + b"\n")


def write_document(path: Path, name: str, body: bytes) -> None:
    """Write a small file of a store, durably and whole. Raises OSError."""
    fresh = path / f"{name}.new"
    with open(fresh, "wb", opener=for_owner) as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path / name)
    sync_directory(fresh.parent)


class StoreCopyMark(NamedTuple):
    """What copy.json says: the uuid of the store, and "backup" or "restore"."""

    uuid: bytes
    purpose: str


def read_mark(path: Path) -> StoreCopyMark | None:
    """copy.json, None when there is none. Raises StoreRefused when it cannot be read."""
    try:
        document = json.loads(read_plain(path / COPY))
        return StoreCopyMark(uuids.UUID(document["uuid"]).bytes, str(document["purpose"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreRefused(f"{path}/{COPY} cannot be read: {error}") from error


def refuse_copy(path: Path) -> None:
    """Raise StoreRefused for a directory that is written to by `holdfast backup` or `restore` alone."""
    if (mark := read_mark(path)) is not None:
        what = "a backup" if mark.purpose == "backup" else "a restore that did not come to its end"
        raise StoreRefused(f"{path} is {what}; `holdfast restore` makes a store of a backup")


def write_mark(path: Path, mark: StoreCopyMark) -> None:
    """Write copy.json, before anything else of a copy. Raises OSError."""
    text = {"uuid": str(uuids.UUID(bytes=mark.uuid)), "purpose": mark.purpose}
    write_document(path, COPY, json.dumps(text).encode() + b"\n")
