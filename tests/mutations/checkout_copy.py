"""A copy of the checkout in which the source is changed and tests run; the checkout itself is not touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: not of git, and needed: the environment, and native modules as they were built
ENVIRONMENT, NATIVE = ".venv", ("core/**/*.so", "proxy/**/*.so", "build/**/*")
#: not of git, and faster with it: byte code, which counts as long as the times of the source are kept
BYTE_CODE = ("core/**/*.pyc", "proxy/**/*.pyc")
#: in memory where there is some
MEMORY = Path("/dev/shm")


def copied(place: Path) -> None:
    """Copies the checkout as it is, what is not committed included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    patterns = (*NATIVE, *BYTE_CODE)
    built = [path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)]
    for name in [*filter(None, listed.split("\0")), *built]:
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    (place / ENVIRONMENT).symlink_to(ROOT / ENVIRONMENT)


@contextmanager
def checkout_copy() -> Iterator[Path]:
    """A copy, until the context ends."""
    directory = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="holdfast-mutations-", dir=directory) as name:
        copied(Path(name))
        yield Path(name)


def packages(place: Path) -> list[str]:
    """Where the packages of a copy lie."""
    return [str(place / name) for name in ("core", "proxy")]


def environment(place: Path) -> dict[str, str]:
    """The environment of a process in a copy, whose packages come before the installed ones."""
    path = os.pathsep.join(packages(place))
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "300"}
