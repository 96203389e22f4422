"""docs/format.md says what is on the disk: a reader made from it alone finds nothing wrong but what is planted."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgspec
import pytest
from holdfast_core import Store, rebuild
from support import golden
from support.format_reader import FormatReader, seal
from support.stores import flip_bit

Opener = Callable[..., Store]
READER = Path(golden.__file__).with_name("format_reader.py")
DATA = Path(golden.__file__).parent.parent / "data"


def test_the_reader_uses_nothing_of_the_store() -> None:
    tree = ast.parse(READER.read_text())
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if name.split(".")[0] in ("holdfast", "holdfast_core", "support")}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_golden_stores_are_as_the_document_says(tmp_path: Path, number: int) -> None:
    root = golden.unpack(DATA / f"store-format-{number}.tar.xz", tmp_path)
    Store.create_or_open(root, write=True).close()
    assert FormatReader(root).run() == []
    assert rebuild(root).problems == []
    reader = FormatReader(root)
    assert reader.run() == []
    assert reader.counts["files hashed"] >= 2


class Planted:
    """A store in which something is put wrong. Keys begin with the table, and are found by their beginning."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def rows(self, beginning: bytes) -> dict[bytes, bytes]:
        """Values as they are."""
        with self._open() as environment, environment.begin() as transaction, transaction.cursor() as cursor:
            return {key: value for key, value in cursor if key.startswith(beginning)}

    def first(self, beginning: bytes) -> tuple[bytes, bytes]:
        """Key and payload."""
        key, value = next(iter(self.rows(beginning).items()))
        return key, value[1:-8]

    def put(self, key: bytes, payload: bytes) -> None:
        """With its seal."""
        self.put_raw(key, seal(key, payload))

    def put_raw(self, key: bytes, value: bytes | None) -> None:
        """Or, with None, without the record."""
        with self._open() as environment, environment.begin(write=True) as transaction:
            transaction.delete(key) if value is None else transaction.put(key, value)

    def change(self, beginning: bytes, at: int, new: bytes) -> None:
        """Bytes of a payload."""
        key, payload = self.first(beginning)
        at = at if at >= 0 else len(payload) + at
        self.put(key, payload[:at] + new + payload[at + len(new) :])

    def drop(self, beginning: bytes) -> None:
        """The record and nothing else."""
        self.put_raw(self.first(beginning)[0], None)

    def _open(self) -> lmdb.Environment:
        return lmdb.open(str(self.root / "index"), map_size=1 << 28)


def files(store: Planted, place: str) -> list[Path]:
    return sorted(path for path in (store.root / place).rglob("*") if path.is_file() and path.name != "uuid")


def size_of(path: Path) -> int:
    return path.stat().st_size


def linked(source: str, target: str) -> None:
    """Long files are nowhere written to."""
    (os.link if size_of(Path(source)) > 1 << 20 else shutil.copy)(source, target)


def moved_blob(store: Planted) -> None:
    path = files(store, "blobs")[0]
    path.rename(path.parent.parent / ("00" if path.parent.name != "00" else "01") / path.name)


def other_document(store: Planted) -> None:
    store.put(b"Etoken\0plant", msgspec.msgpack.encode(["Plant", 1, b"{no JSON"]))


ONE = (1).to_bytes(8, "little")
#: what is planted, and the beginning of what the reader says
WRONG: dict[str, tuple[Callable[[Planted], object], str]] = {
    "a seal": (lambda s: s.put_raw(s.first(b"L")[0], b"\1" + bytes(16)), "record 4c"),
    "a version": (lambda s: s.put_raw(b"Sx", b"\2" + bytes(8)), "record 53"),
    "a table": (lambda s: s.put(b"?x", b""), "record 3f"),
    "the uuid": (lambda s: s.put(b"S", b"u" * 16), "identity"),
    "a repository's name": (lambda s: s.drop(b"R"), "L "),
    "a repository's time": (lambda s: s.change(b"R", 0, b"\xff" * 8), "R "),
    "big-endian times": (lambda s: s.change(b"R", 0, s.first(b"R")[1][::-1]), "R "),
    "a link's kind": (lambda s: s.put(s.first(b"L")[0][:17] + b"x" + s.first(b"L")[0][18:], bytes(8)), "L "),
    "a link's bytes": (lambda s: s.drop(b"B"), "L "),
    "a blob's flags": (lambda s: s.change(b"B", 0, b"\x0b"), "B "),
    "a blob's size": (lambda s: s.change(b"B", 1, ONE), "B "),
    "a blob's boot id": (lambda s: s.drop(b"U"), "B "),
    "an unsynced note": (lambda s: s.put(b"U" + bytes([1]) + bytes(32), b""), "U "),
    "the damage flag": (lambda s: s.drop(b"X"), "B "),
    "a damaged chunk": (lambda s: s.put(s.first(b"X")[0][:-1] + b"\xff", b""), "X "),
    "a chunk's hash": (lambda s: s.change(b"C", 0, b"hash"), "B "),
    "a segment of chunks": (lambda s: s.drop(b"C"), "B "),
    "chunks of nothing": (lambda s: s.put(b"C" + bytes([1]) + bytes(36), bytes(32)), "C "),
    "a blob's byte": (lambda s: flip_bit(min(files(s, "blobs"), key=size_of), 5), "B "),
    "the owner of the blobs": (lambda s: (s.root / "blobs" / "uuid").write_text("another\n"), "blobs"),
    "a blob's file": (lambda s: files(s, "blobs")[0].unlink(), "B "),
    "a file in a wrong place": (moved_blob, "files"),
    "a tag's target": (lambda s: s.change(b"T", -32, bytes(32)), "T "),
    "a tag's origin": (lambda s: s.change(b"T", 16, b"x"), "T "),
    "a tag's moves": (lambda s: s.drop(b"H"), "journal"),
    "a move": (lambda s: s.change(b"H", 8, b"x"), "H "),
    "a segment of a list": (lambda s: s.drop(b"P"), "lists"),
    "a list's segments": (lambda s: s.change(b"P", 8, b"\x09"), "lists"),
    "an item's length": (lambda s: s.change(b"P", 12, b"\xff"), "lists"),
    "a referrer": (lambda s: s.put(s.first(b"D")[0][:-32] + bytes(32), s.first(b"D")[1]), "D "),
    "a listed descriptor": (lambda s: s.change(b"G", 16, b"\x90"), "lists"),
    "a fill's part": (lambda s: files(s, "fills")[0].unlink(), "F "),
    "a fill's extents": (lambda s: s.put(s.first(b"F")[0], msgspec.msgpack.encode(["x"])), "F "),
    "a fill's chunks": (lambda s: s.drop(b"F"), "K "),
    "an access": (lambda s: s.change(b"A", 0, b"\xff" * 8), "A "),
    "a lock": (lambda s: s.change(b"O", 8, b"\x10"), "O "),
    "a lock's noun": (lambda s: s.put(b"O" + bytes(16) + b"x", bytes(9)), "O "),
    "a pending note": (lambda s: s.change(b"N", 8, b"other"), "N "),
    "a deletion": (lambda s: s.put(b"Z" + bytes(16) + b"rname", bytes(8)), "Z "),
    "an outbox number": (lambda s: s.put(b"V" + b"\xff" * 8, b""), "V "),
    "an unlinked note": (lambda s: s.put(b"Q" + s.first(b"W")[0][1:34], bytes(8)), "Q "),
    "a document": (other_document, "E "),
    "a document's name": (lambda s: s.put(b"Etoken\0other", s.first(b"Etoken\0p")[1]), "E "),
    "a kind": (lambda s: s.put(b"Ewhat\0x", msgspec.msgpack.encode(["x", 1, b""])), "E "),
    "a count": (lambda s: s.put(b"Etoken\0", bytes([7]) + bytes(7)), "counted"),
    "a holder": (lambda s: s.drop(b"W"), "derived"),
    "a tagged record": (lambda s: s.drop(b"Y"), "derived"),
    "a subject": (lambda s: s.put(b"I" + bytes(16) + b"\1" * 66, b""), "derived"),
    "an event": (lambda s: s.drop(b"M" + bytes(7)), "events"),
    "the head of events": (lambda s: s.drop(b"M"), "events"),
    "the journal's length": (lambda s: s.change(b"J", 8, ONE), "journal"),
    "the journal's generation": (lambda s: s.change(b"J", 0, b"\x63"), "journal"),
    "a frame": (lambda s: flip_bit(s.root / "journal" / "log", 90), "journal"),
    "the journal's head": (lambda s: flip_bit(s.root / "journal" / "log", 20), "journal"),
    "a record of the index alone": (lambda s: s.put(b"Rnew", bytes(8)), "journal"),
    "a record of the journal alone": (lambda s: s.drop(b"O"), "journal"),
    "a fill's name": (lambda s: (s.root / "fills" / "x").touch(), "files"),
    "an upload's name": (lambda s: (s.root / "uploads" / "x").touch(), "files"),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a record of every kind."""
    root = tmp_path_factory.mktemp("golden") / "store"
    golden.build(root)
    return root


@pytest.mark.parametrize("what", WRONG)
def test_it_finds_what_is_planted(tmp_path: Path, template: Path, what: str) -> None:
    plant, said = WRONG[what]
    root = tmp_path / "store"
    shutil.copytree(template, root, copy_function=linked)
    plant(Planted(root))
    problems = FormatReader(root, bodies="byte" in what or "hash" in what).run()
    assert any(problem.startswith(said) for problem in problems), problems
