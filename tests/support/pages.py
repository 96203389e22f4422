"""The page cache, as memory pressure treats it: pages leave it although a process has them mapped."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from pathlib import Path

#: linux/mman.h
MADV_PAGEOUT = 21
PAGE = os.sysconf("SC_PAGESIZE")

_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def maps_of(path: Path, process: int | str = "self") -> list[tuple[int, int, int]]:
    """(address, bytes, offset in the file) of each map that a process has of a file, a removed one too."""
    found = []
    for line in Path(f"/proc/{process}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].removesuffix(" (deleted)") == str(path):
            start, end = (int(part, 16) for part in fields[0].split("-"))
            found.append((start, end - start, int(fields[2], 16)))
    return found


def evict(path: Path, start: int = 0, end: int | None = None) -> None:
    """Have the kernel evict [start, end) of a file, whole pages, from this process's maps and from memory.

    One call is a wish: a page that waits in another processor's list of pages to be filed stays. So it is repeated
    until none of them is mapped; fadvise has the lists of all processors emptied."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk yet is not evicted
    last = os.stat(path).st_size if end is None else end
    for address, length, offset in maps_of(path):
        first, stop = max(start, offset), min(-(-last // PAGE) * PAGE, offset + length)
        if first < stop:
            _page_out(path, address + first - offset, stop - first)
    if start == 0 and end is None:
        drop_cached(path)


def _page_out(path: Path, address: int, length: int) -> None:
    for _ in range(100):
        if _madvise(address, length, MADV_PAGEOUT) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        if not _mapped(address, length):
            return
        drop_cached(path)
        time.sleep(0.01)
    raise OSError(f"the kernel keeps pages of {path} in memory")


def _mapped(address: int, length: int) -> bool:
    """Whether this process has a page of a range in its map (/proc/pid/pagemap: bit 63 of its entry)."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entries = os.pread(pagemap.fileno(), length // PAGE * 8, address // PAGE * 8)
    return any(entry >> 63 for (entry,) in struct.iter_unpack("=Q", entries))


def drop_cached(path: Path) -> None:
    """Write a file out and let the page cache forget it; what a process has mapped or locked stays."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
