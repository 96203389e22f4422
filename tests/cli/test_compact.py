"""`holdfast compact`, and what a start does by itself."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest
from holdfast.cli.verbs import serve
from holdfast.config import Configuration
from holdfast_core import Store
from holdfast_core.recovery import compact
from support.command_line import command
from support.node import Node
from support.stores import push

SHORTER = r"[0-9.]+ KiB, now [0-9.]+ KiB\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A store whose index held 600 tags more."""
    place = tmp_path / "data"
    with closing(Store.create_or_open(place, write=True)) as store:
        gone = push(store, "r", b"gone", *(f"t{number}" for number in range(600)))
        store.references.delete_manifest("r", gone, now=2.0).result()
    return place


def length(data: Path) -> int:
    return (data / "index" / "data.mdb").stat().st_size


def test_the_verb_says_how_long_the_index_was_and_is(data: Path) -> None:
    long = length(data)
    done = command("compact", "--data", str(data))
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(f"index: {SHORTER}", done.out)
    assert length(data) < long / 2


def test_not_beside_a_serving_node(tmp_path: Path) -> None:
    with Node(tmp_path, "--anonymous", "push", workers=1) as node:
        done = command("compact", "--data", str(node.data))
    sentence = f"holdfast: {node.data} is written by another process\n"
    assert (done.code, done.out, done.err) == (2, "", sentence)


def test_a_start_compacts_and_says_so(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve._compact(data)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(compact, "SLACK_BYTES", 0)
    monkeypatch.setattr(compact, "DUE_TIMES", 2)
    serve._compact(data)
    assert re.fullmatch(f"holdfast: the index was compacted: {SHORTER}", capsys.readouterr().err)


def test_a_start_goes_on_when_a_reader_has_the_index(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compact, "SLACK_BYTES", 0)
    monkeypatch.setattr(compact, "DUE_TIMES", 2)
    long = length(data)
    with closing(Store.create_or_open(data, write=False)):
        serve._compact(data)
    reason = f"{data}/index is read by another process; stop it, then compact"
    assert capsys.readouterr().err == f"holdfast: the index was not compacted: {reason}\n"
    assert length(data) == long


def test_every_start_looks(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's start is `prepare_store`, whatever the number of its workers."""
    seen: list[Path] = []
    monkeypatch.setattr(serve, "_compact", seen.append)
    assert serve._prepare(Configuration(data=str(data)), 1) == 0
    assert seen == [data]
