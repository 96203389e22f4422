"""Stores for tests, and the check that nothing is left open."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from holdfast_core import Store

Opener = Callable[..., Store]


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    """Opens stores (at `root` by default, for writing by default) and closes what a test left open; every
    reader and part must have been closed by then."""
    opened: list[Store] = []

    def open_store(path: Path | None = None, *, write: bool = True, **settings: Any) -> Store:
        store = Store.create_or_open(path or tmp_path / "store", write=write, **settings)
        opened.append(store)
        return store

    yield open_store
    left = [(s.statistics().open_readers, s.statistics().open_parts) for s in opened if not is_closed(s)]
    for store in opened:
        store.close()
    assert all(counts == (0, 0) for counts in left), f"(readers, parts) left open: {left}"


def is_closed(store: Store) -> bool:
    """Whether `close` was called."""
    return store._directory.blobs_fd < 0


@pytest.fixture
def store(opener: Opener) -> Store:
    """A new store, open for writing."""
    return opener()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where `opener` puts its store."""
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """As many descriptors after a test as before it."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    if len(os.listdir("/proc/self/fd")) > before:
        gc.collect()
    after = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd_exists(fd)}
    assert len(after) <= before, after


def fd_exists(fd: str) -> bool:
    """Whether the descriptor is still there (the one that listed them is not)."""
    return os.path.lexists(f"/proc/self/fd/{fd}")
