"""What is kept for a while and read by nobody: files set aside, an index that a rebuild replaced, what a cut left over.

The writer of the store takes it away; a rebuild, which makes some of it, cannot be at work then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

KEPT_SECONDS = 30 * 86400.0
PRESSED_SECONDS = 86400.0  # on a full disk
#: names in the store's directory of which nothing is of use once their maker is dead
CUT = ("index.new", "store.json.new")


def remove(path: Path, now: float, *, pressed: bool) -> int:
    """Take away what lies in the store at `path` for 30 days, on a full disk for a day, by the time of its last change
    of name; how many bytes that was. `now` is wall seconds. What cannot be removed stays for the next call."""
    before = now - (PRESSED_SECONDS if pressed else KEPT_SECONDS)
    return sum(_removed(place) for place in _candidates(path) if _changed_at(place) <= before)


def _candidates(path: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (path / "quarantine").iterdir()
    with contextlib.suppress(OSError):
        yield from path.glob("index.old-*")
    yield from (path / name for name in CUT)


def _changed_at(place: Path) -> float:
    try:
        return place.lstat().st_ctime
    except OSError:
        return float("inf")


def _removed(place: Path) -> int:
    try:
        if place.is_dir() and not place.is_symlink():
            size = sum(file.lstat().st_size for file in place.iterdir())
            shutil.rmtree(place)
        else:
            size = place.lstat().st_size
            os.unlink(place)
    except OSError:
        return 0
    return size
