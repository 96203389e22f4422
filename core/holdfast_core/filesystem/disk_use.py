"""How much of the disk a store takes beside its blobs, which are counted in the index: blocks as allocated, because the
files of fills are sparse and those of uploads reserve room ahead of their bytes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from holdfast_core.filesystem.directory import Directory
from holdfast_core.filesystem.reserved_space import NAME as BALLAST_NAME
from holdfast_core.record import DiskUse

#: unit of `st_blocks` (bytes), whatever the file system's own is
BLOCK_BYTES = 512


def disk_use(directory: Directory, strays: int) -> DiskUse:
    """What an open store takes now, with so many bytes of files that no row counts on. Raises OSError."""
    path = directory.path
    return DiskUse(
        parts=allocated_in(directory.fills),
        uploads=_total(path / "uploads"),
        set_aside=sum(_total(folder) for folder in (path / "quarantine", *path.glob("index.old-*"))),
        journal=_total(directory.journal),
        index=_total(directory.index),
        fixed=allocated(path / BALLAST_NAME) + sum(map(_own_blocks, path.glob("blobs/*/*"))),
        strays=strays,
    )


def _total(folder: Path) -> int:
    return sum(allocated_in(folder).values())


def _own_blocks(folder: Path) -> int:
    return folder.lstat().st_blocks * BLOCK_BYTES


def allocated_in(folder: Path) -> dict[str, int]:
    """Bytes allocated to each plain file right in a folder; none of a folder that is not there."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return {}
    sizes = ((name, allocated(folder / name)) for name in names)
    return {name: size for name, size in sizes if size}


def allocated(path: Path) -> int:
    """Bytes allocated to a plain file; 0 for one that is gone, or anything else."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0
    return status.st_blocks * BLOCK_BYTES if stat.S_ISREG(status.st_mode) else 0
