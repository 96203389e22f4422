"""Chance that can be repeated."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from torture.machine import memory


@pytest.fixture
def seed() -> str:
    """HOLDFAST_SEED repeats a run, as far as the machine's timing can be repeated."""
    found = os.environ.get("HOLDFAST_SEED", str(random.SystemRandom().randrange(1 << 32)))
    print(f"HOLDFAST_SEED={found}")
    return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty directory, in memory where that is to be had."""
    if not (found := memory()):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=found, prefix="holdfast-") as made:
        yield Path(made)
