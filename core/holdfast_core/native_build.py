"""Whether the native modules were compiled from the source that lies beside them. An old one runs on with other layouts
and names than the Python beside it expects, and fails in the middle of a request."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def mark_of(source: Path) -> str:
    """What the build puts into the module that it compiles from `source`, a .pyx: the digest of it and what
    lies beside it under its name: declarations (.pxd), C (.h)."""
    hasher = sha256(source.read_bytes())
    for part in beside(source):
        hasher.update(part.read_bytes())
    return f"holdfast-source:{hasher.hexdigest()}"


def beside(source: Path) -> list[Path]:
    """What is compiled into the module of a .pyx besides it."""
    return [part for suffix in (".pxd", ".h") if (part := source.with_suffix(suffix)).exists()]


def stale_sources(packages: Iterable[Path]) -> list[Path]:
    """The .pyx below these directories whose module is missing or has another mark. None in an installed package, which
    has no sources."""
    return [
        source
        for package in packages
        for source in sorted(package.rglob("*.pyx"))
        if not _is_current(source, source.with_suffix(EXTENSION_SUFFIXES[0]))
    ]


def _is_current(source: Path, module: Path) -> bool:
    return module.exists() and mark_of(source).encode() in module.read_bytes()


def why_stale(packages: Iterable[Path]) -> str | None:
    """What is wrong and what to do, in a sentence; None when all is right."""
    if not (sources := stale_sources(packages)):
        return None
    found = " ".join(map(str, sources))
    return f"native modules were not compiled from the source beside them; run: touch {found} && make build"
