"""Chunks of a fill that are noted beside its part: what was noted is read back, and nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast_core.blob_files.fill_file import drop_progress, progress_name, read_progress, write_progress
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import StoreError
from holdfast_core.store import Store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BLOB = Digest.of(b"a blob")
CHUNKS = st.dictionaries(st.integers(0, 300), st.binary(min_size=32, max_size=32).filter(any), max_size=40)


@pytest.fixture
def fills(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHUNKS, max_size=4), st.integers(1, 400 * CHUNK_BYTES))
def test_what_was_noted_last_is_read(fills: int, noted: list[dict[int, bytes]], size: int) -> None:
    drop_progress(fills, "r", BLOB)
    whole: dict[int, bytes] = {}
    for chunks in noted:
        write_progress(fills, "r", BLOB, chunks)
        whole |= chunks
    assert read_progress(fills, "r", BLOB, size) == {i: h for i, h in whole.items() if i * CHUNK_BYTES < size}
    assert read_progress(fills, "r", Digest.of(b"another"), size) == {}


def test_a_forgotten_fill_has_no_progress(store: Store) -> None:
    store.blobs.fills.open_part("r", BLOB, 3 * CHUNK_BYTES).close()
    store.blobs.fills.note_chunks("r", BLOB, {1: b"h" * 32})
    store.blobs.fills.drop("r", BLOB).result()
    store.blobs.fills.note_chunks("r", BLOB, {2: b"i" * 32})
    assert read_progress(store._directory.fills_fd, "r", BLOB, 3 * CHUNK_BYTES) == {2: b"i" * 32}
    store.blobs.fills.drop_part("r", BLOB)
    assert list(store._directory.fills.iterdir()) == []


def test_no_link_is_followed(fills: int, tmp_path: Path) -> None:
    """Whoever planted it chose where it leads."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"h" * 32)
    os.symlink(elsewhere, tmp_path / progress_name("r", BLOB))
    assert read_progress(fills, "r", BLOB, CHUNK_BYTES) == {}
    with pytest.raises(OSError, match="symbolic links"):
        write_progress(fills, "r", BLOB, {0: b"i" * 32})
    assert elsewhere.read_bytes() == b"h" * 32


def test_what_cannot_be_read_is_nothing_noted(fills: int, tmp_path: Path) -> None:
    (tmp_path / progress_name("r", BLOB)).mkdir()
    assert read_progress(fills, "r", BLOB, CHUNK_BYTES) == {}


def test_a_hash_that_is_cut_off_is_none(fills: int, tmp_path: Path) -> None:
    write_progress(fills, "r", BLOB, {0: b"h" * 32, 1: b"i" * 32})
    os.truncate(tmp_path / progress_name("r", BLOB), 63)
    assert read_progress(fills, "r", BLOB, 2 * CHUNK_BYTES) == {0: b"h" * 32}


def test_what_is_noted_is_the_owners_alone(fills: int) -> None:
    write_progress(fills, "r", BLOB, {0: b"x" * 32})
    assert os.stat(progress_name("r", BLOB), dir_fd=fills).st_mode & 0o777 == 0o600


def test_a_part_that_cannot_be_read_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no end, and no hole: what was read of it would be checked as if it were the bytes."""

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    part = store.blobs.fills.open_part("r", BLOB, 3 * CHUNK_BYTES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        with pytest.raises(StoreError, match=str(BLOB)):
            part.read(0, 10)
    part.close()
    part.close()
