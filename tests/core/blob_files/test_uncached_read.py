"""What is read past the page cache: the bytes of the disk, and no page comes or goes."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from pathlib import Path

import pytest
from holdfast_core.blob_files.uncached_read import read_past_cache
from support.pages import PAGE, drop_cached
from support.stores import some_bytes

MIB = 1 << 20
SIZE = 3 * MIB + 100
BODY = some_bytes(SIZE)

_mincore = ctypes.CDLL(None, use_errno=True).mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


def resident(path: Path) -> list[int]:
    """Numbers of the pages of a file that are in memory."""
    count = -(-os.stat(path).st_size // PAGE)
    with (
        path.open("r+b") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped,
    ):
        there = ctypes.create_string_buffer(count)
        view = (ctypes.c_char * len(mapped)).from_buffer(mapped)
        assert _mincore(ctypes.addressof(view), len(mapped), there) == 0
        del view
        return [page for page in range(count) if there.raw[page] & 1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of which nothing is in memory."""
    path = tmp_path / "file"
    path.write_bytes(BODY)
    drop_cached(path)
    return path


def read_all(path: Path) -> bytes:
    fd, parts = os.open(path, os.O_RDONLY), []
    try:
        with mmap.mmap(-1, MIB) as memory:
            for at in range(0, SIZE, MIB):
                length = min(MIB, SIZE - at)
                assert read_past_cache(fd, at, length, memory)
                parts.append(memory[:length])
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
    finally:
        os.close(fd)
    return b"".join(parts)


@pytest.mark.disk
def test_no_page_is_left_in_memory(file: Path) -> None:
    assert resident(file) == []
    assert read_all(file) == BODY
    assert resident(file) == []


@pytest.mark.disk
def test_what_was_in_memory_stays(file: Path) -> None:
    with file.open("rb", buffering=0) as one:
        os.posix_fadvise(one.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for page in (3, 4, 5, 300, 768):
            os.pread(one.fileno(), PAGE, page * PAGE)
    before = resident(file)
    assert set(before) >= {3, 4, 5, 300, 768}
    assert len(before) < 100
    assert read_all(file) == BODY
    assert resident(file) == before


def test_a_file_system_that_knows_only_its_cache_is_read_all_the_same(file: Path) -> None:
    """Files of these tests lie in memory."""
    assert read_all(file) == BODY


def test_a_file_that_ends_early_is_not_read(file: Path) -> None:
    os.truncate(file, 2 * MIB)
    fd = os.open(file, os.O_RDONLY)
    try:
        with mmap.mmap(-1, MIB) as memory:
            assert read_past_cache(fd, MIB, MIB, memory)
            assert not read_past_cache(fd, 2 * MIB, MIB, memory)
            os.truncate(file, 2 * MIB - 5)
            assert not read_past_cache(fd, MIB, MIB, memory)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("offset", "length", "room"), [(1, 10, MIB), (0, 0, MIB), (0, MIB + 1, 2 * MIB), (0, MIB, PAGE)]
)
def test_what_does_not_fit_is_refused(file: Path, offset: int, length: int, room: int) -> None:
    fd = os.open(file, os.O_RDONLY)
    try:
        with mmap.mmap(-1, room) as memory, pytest.raises(ValueError, match="do not fit"):
            read_past_cache(fd, offset, length, memory)
    finally:
        os.close(fd)
