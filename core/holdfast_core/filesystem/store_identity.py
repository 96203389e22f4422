"""store.json: the uuid of a store and its format."""

from __future__ import annotations

import json
import os
import uuid as uuids
from pathlib import Path
from typing import NamedTuple

from holdfast_core import format as layout
from holdfast_core.errors import REBUILD, DiskFailed, StoreRefused
from holdfast_core.filesystem.disk_state import BROKEN
from holdfast_core.filesystem.files import for_owner, sync_directory


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
        or document.get("format") not in layout.FORMATS
        or document.get("engine") != layout.ENGINE
    ):
        formats = " or ".join(map(str, layout.FORMATS))
        raise StoreRefused(f"{path}/store.json is not of format {formats} on {layout.ENGINE}")
    try:
        return StoreIdentity(uuids.UUID(str(document.get("uuid"))).bytes, int(document["format"]))
    except ValueError as error:
        raise StoreRefused(f"{path}/store.json holds no uuid; {REBUILD}") from error


def write_identity(path: Path, uuid: bytes) -> None:
    """Write store.json, durably and whole. It is the last step of creating a store, and of bringing one of an
    earlier format up to date."""
    text = {"uuid": str(uuids.UUID(bytes=uuid)), "format": layout.FORMAT, "engine": layout.ENGINE}
    fresh = path / "store.json.new"
    with open(fresh, "wb", opener=for_owner) as file:
        file.write(json.dumps(text).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path / "store.json")
    sync_directory(path)
