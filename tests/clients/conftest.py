"""What tests of real clients share."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty directory with a short name: podman takes 50 characters, a Unix socket 107.

    Letters and digits only, because podman makes an image's name of it.
    """
    place = Path(tempfile.gettempdir()) / f"hf{secrets.token_hex(4)}"
    place.mkdir()
    yield place
    shutil.rmtree(place, ignore_errors=True)
