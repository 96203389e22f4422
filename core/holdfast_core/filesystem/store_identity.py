"""store.json: the uuid of a store and its format; copy.json: that a directory is a copy of one, and no store."""

from __future__ import annotations

import json
import os
import uuid as uuids
from pathlib import Path
from typing import NamedTuple

from holdfast_core import format as layout
from holdfast_core.errors import REBUILD, DiskFailed, StoreNewer, StoreRefused
from holdfast_core.filesystem.disk_state import BROKEN
from holdfast_core.filesystem.files import for_owner, sync_directory

COPY = "copy.json"


class StoreIdentity(NamedTuple):
    """What store.json says."""

    uuid: bytes
    format: int


def read_identity(path: Path) -> StoreIdentity | None:
    """store.json, or None when there is no such file. Raises StoreRefused when it is none or of a format that
    this code does not read."""
    try:
        document = json.loads((path / "store.json").read_bytes())
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


def write_document(path: Path, name: str, body: bytes) -> None:
    """Write a small file of a store, durably and whole. Raises OSError."""
    fresh = path / f"{name}.new"
    with open(fresh, "wb", opener=for_owner) as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path / name)
    sync_directory(path)


class StoreCopyMark(NamedTuple):
    """What copy.json says: the uuid of the store, and "backup" or "restore"."""

    uuid: bytes
    purpose: str


def read_mark(path: Path) -> StoreCopyMark | None:
    """copy.json, None when there is none. Raises StoreRefused when it cannot be read."""
    try:
        document = json.loads((path / COPY).read_bytes())
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
