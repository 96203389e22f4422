"""Stores for tests of disk space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast_core import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new store, open for writing."""
    opened = Store.create_or_open(tmp_path / "store", write=True)
    yield opened
    opened.close()
