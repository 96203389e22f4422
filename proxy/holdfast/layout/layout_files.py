"""An OCI image layout on the disk: `oci-layout`, `index.json` and `blobs/<algorithm>/<hex>`, in a directory or a tar.

Read, it is what a stranger wrote: files are found by digests alone, and no name of an archive becomes a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from holdfast_core.digest import Digest
from holdfast_core.errors import FileDamaged
from holdfast_core.filesystem.file_copies import FileCopies
from holdfast_core.filesystem.files import sync_directory
from holdfast_core.upkeep.fsck import hash_file

from holdfast.oci.manifest import ManifestUnreadable, decode

LAYOUT, INDEX, VERSION = "oci-layout", "index.json", '{"imageLayoutVersion":"1.0.0"}'
#: image-spec, annotations.md: the name of an entry of index.json
REF_NAME = "org.opencontainers.image.ref.name"
#: containerd's, for the whole name of an image (`ctr images import` takes it)
IMAGE_NAME = "io.containerd.image.name"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
#: bytes that are read of index.json; one of 100,000 entries has 30 MB
INDEX_BYTES = 64 << 20
BLOCK_BYTES = 1 << 20
Entry = Mapping[str, Any]


class LayoutInvalid(Exception):
    """A file or directory that is no layout, or that cannot become one. The text is for a person."""


def blob_path(digest: Digest) -> str:
    """Where a layout has a blob."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


# --- reading -----------------------------------------------------------------------------------------------


class LayoutSource(Protocol):
    """A layout that is read."""

    def open(self, path: str) -> IO[bytes]:
        """A file of it. Raises FileNotFoundError for what is absent or no plain file."""


class LayoutDirectory:
    """One in a directory."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def open(self, path: str) -> IO[bytes]:
        """As `LayoutSource`."""
        file = self._place / path
        if not file.is_file():
            raise FileNotFoundError(path)
        return file.open("rb")


class LayoutArchive:
    """One in a tar, open."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members = {member.name.removeprefix("./"): member for member in archive if member.isreg()}

    def open(self, path: str) -> IO[bytes]:
        """As `LayoutSource`."""
        file = self._archive.extractfile(self._members[path]) if path in self._members else None
        if file is None:
            raise FileNotFoundError(path)
        return file


@contextlib.contextmanager
def opened_layout(path: Path) -> Iterator[LayoutSource]:
    """The layout in a directory or a tar. Raises LayoutInvalid."""
    if path.is_dir():
        yield LayoutDirectory(path)
        return
    try:
        with tarfile.open(path) as archive:
            yield LayoutArchive(archive)
    except FileNotFoundError as error:
        raise LayoutInvalid(
            f"{path} is not there; allowed: a directory or a tar with an OCI layout"
        ) from error
    except tarfile.TarError as error:
        raise LayoutInvalid(
            f"{path} is neither a directory nor a tar ({error}); allowed: an OCI layout as one of these"
        ) from error


def entries_of(layout: LayoutSource, path: Path) -> list[Entry]:
    """The entries of its index.json. Raises LayoutInvalid."""
    for name in (LAYOUT, INDEX):
        try:
            with layout.open(name) as file:
                document = decode(file.read(INDEX_BYTES))
        except FileNotFoundError as error:
            raise LayoutInvalid(f"{path} has no {name}: it is no OCI layout") from error
        except ManifestUnreadable as error:
            raise LayoutInvalid(f"{path}: {name} cannot be read: {error}") from error
    entries = document.get("manifests") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise LayoutInvalid(f"{path}: {INDEX} lists no manifests")
    return entries


def name_of(entry: Entry) -> str:
    """What an entry of index.json is called, "" for one without a name."""
    return _annotation(entry, REF_NAME)


def image_of(entry: Entry) -> str:
    """The whole name of the image, with its repository; "" where it does not say."""
    return _annotation(entry, IMAGE_NAME)


def _annotation(entry: Entry, key: str) -> str:
    annotations = entry.get("annotations")
    name = annotations.get(key) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else ""


# --- writing -----------------------------------------------------------------------------------------------


class LayoutTarget(Protocol):
    """A layout that is written. `finish` makes it valid; without that a directory is what it was, with more blobs, and
    no tar is there. `counts` says how its files were made."""

    counts: Counter[str]

    def require_free(self, entries: Sequence[Entry]) -> None:
        """Raise LayoutInvalid when one of these would take the place of another image."""

    def add_bytes(self, digest: Digest, body: bytes) -> None:
        """A blob in hand. Raises OSError."""

    def add_file(self, digest: Digest, fd: int, size: int) -> None:
        """A blob in an open file. Raises FileDamaged when its bytes are others, OSError."""

    def finish(self, entries: Sequence[Entry]) -> None:
        """Write index.json. Raises OSError."""


@contextlib.contextmanager
def opened_target(path: Path, *, hard_links: bool = False) -> Iterator[LayoutTarget]:
    """A layout to write: FILE.tar is a tar, every other path a directory, in which files may be links with
    `hard_links`. Raises LayoutInvalid, OSError."""
    if path.suffix == ".tar":
        fresh = path.with_name(f"{path.name}.new")
        try:
            with tarfile.open(fresh, "w", format=tarfile.PAX_FORMAT) as archive:
                yield ArchiveTarget(path, fresh, archive)
        finally:
            fresh.unlink(missing_ok=True)
    else:
        yield DirectoryTarget(path, hard_links=hard_links)


class DirectoryTarget:
    """Into a directory: a new one, an empty one, or one that has a layout, whose other entries stay."""

    def __init__(self, place: Path, *, hard_links: bool = False) -> None:
        """Raises LayoutInvalid, OSError."""
        self._copies = FileCopies(links=hard_links)
        self.counts = self._copies.counts
        self._place = place
        self._kept: list[Entry] = []
        if place.exists() and any(place.iterdir()):
            self._kept = entries_of(LayoutDirectory(place), place)
        place.mkdir(parents=True, exist_ok=True)
        _write_whole(place / LAYOUT, VERSION.encode())

    def require_free(self, entries: Sequence[Entry]) -> None:
        """As `LayoutTarget`. An entry of the same name that does not say whose it is may be anybody's."""
        kept = {name_of(entry): entry for entry in self._kept if name_of(entry)}
        for entry in entries:
            other = kept.get(name_of(entry), entry)
            if (other.get("digest"), image_of(other)) not in (
                (entry.get("digest"), ""),
                (other.get("digest"), image_of(entry)),
            ):
                whose = image_of(other) or f"{other.get('digest')}, which does not say its repository"
                raise LayoutInvalid(
                    f"{self._place} has an image {name_of(entry)!r} already: {whose}; {image_of(entry)} would take its"
                    " place. Allowed: another directory, or export both with one command into a new one"
                )

    def add_bytes(self, digest: Digest, body: bytes) -> None:
        """As `LayoutTarget`."""
        if not self._has(digest, len(body)):
            _write_whole(self._place_of(digest), body)

    def add_file(self, digest: Digest, fd: int, size: int) -> None:
        """As `LayoutTarget`; shared blocks where the file system has them."""
        if not self._has(digest, size):
            self._copies.make(fd, self._place_of(digest), digest, mode=0o644)

    def _place_of(self, digest: Digest) -> Path:
        place = self._place / blob_path(digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _has(self, digest: Digest, size: int) -> bool:
        """Whether it is there with the right bytes: what somebody changed is written anew."""
        file = self._place / blob_path(digest)
        if file.is_symlink() or not file.is_file() or file.stat().st_size != size:
            return False
        return hash_file(os.open(file, os.O_RDONLY | os.O_CLOEXEC), digest.algorithm)[0] == digest

    def finish(self, entries: Sequence[Entry]) -> None:
        """As `LayoutTarget`. An entry takes the place of that of its name, one without a name of that of its digest."""
        merged = {name_of(entry) or entry.get("digest"): entry for entry in (*self._kept, *entries)}
        _write_whole(self._place / INDEX, _index(list(merged.values())))
        sync_directory(self._place)


class ArchiveTarget:
    """Into a new tar, which takes its name once it is whole."""

    def __init__(self, path: Path, fresh: Path, archive: tarfile.TarFile) -> None:
        self.counts: Counter[str] = Counter()
        self._path, self._fresh, self._archive = path, fresh, archive
        self._has: set[Digest] = set()
        self._put(LAYOUT, io.BytesIO(VERSION.encode()), len(VERSION))

    def require_free(self, entries: Sequence[Entry]) -> None:
        """As `LayoutTarget`: a new one has none."""

    def add_bytes(self, digest: Digest, body: bytes) -> None:
        """As `LayoutTarget`."""
        if digest not in self._has:
            self._has.add(digest)
            self._put(blob_path(digest), io.BytesIO(body), len(body))

    def add_file(self, digest: Digest, fd: int, size: int) -> None:
        """As `LayoutTarget`."""
        if digest in self._has:
            return
        self._has.add(digest)
        with open(fd, "rb", closefd=False) as file:
            read = _Hashed(file, digest.algorithm)
            self._put(blob_path(digest), read, size)
        if read.hexdigest() != digest.hex:
            raise FileDamaged(f"{digest}: its file hashes to {digest.algorithm}:{read.hexdigest()}")

    def _put(self, name: str, file: io.BytesIO | _Hashed, size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o644
        self._archive.addfile(member, file)

    def finish(self, entries: Sequence[Entry]) -> None:
        """As `LayoutTarget`."""
        body = _index(entries)
        self._put(INDEX, io.BytesIO(body), len(body))
        self._archive.close()
        with self._fresh.open("rb") as file:
            os.fsync(file.fileno())
        os.rename(self._fresh, self._path)
        sync_directory(self._path.parent)


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes], algorithm: str) -> None:
        self._file, self._hasher = file, hashlib.new(algorithm)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hasher.update(data)
        return data

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()


def _index(entries: Sequence[Entry]) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    return json.dumps(document, indent=2).encode()


def _write_whole(path: Path, body: bytes) -> None:
    """A file that is there with all of its bytes, or not. Raises OSError."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
