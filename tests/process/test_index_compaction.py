"""A node that serves for months compacts its index without a hand, and no hit is refused meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from holdfast.config import Configuration
from holdfast.process import index_compaction
from holdfast.process.index_compaction import LOOK_SECONDS, until_long
from holdfast.process.inheritance import COMPACTED, UNCHANGED
from holdfast.testing.manual_clock import FakeClock
from holdfast_core import Store, fsck
from holdfast_core.errors import StoreRefused
from holdfast_core.recovery import compact
from support.node import Node
from support.plain_push import at, push
from support.programs import wait_until
from support.stores import push as push_to_store
from support.transfer import fetch

#: in each process of the node: an index of twice its live pages is long, and a keeper looks at once and again
SOON = """
import holdfast_core.recovery.compact as compact
compact.SLACK_BYTES, compact.DUE_TIMES = 0, 2
import holdfast.process.index_compaction as compaction
compaction.LOOK_SECONDS = 0.5
"""
#: in a process of its own, because LMDB lets one open an index once
ALONE = f"""
{SOON}
import sys
from holdfast.config import Configuration
sys.exit(compaction.run(Configuration(data=sys.argv[1])))
"""


#: a compaction that has its copy, and does not come to an end
STANDS = """
import time
compact._require_same = lambda *files: time.sleep(600)
"""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "SLACK_BYTES", 0)
    monkeypatch.setattr(compact, "DUE_TIMES", 2)


def with_long_index(place: Path) -> None:
    """A store whose index held 600 tags more."""
    with closing(Store.create_or_open(place, write=True)) as store:
        gone = push_to_store(store, "r", b"gone", *(f"t{number}" for number in range(600)))
        store.references.delete_manifest("r", gone, now=2.0).result()


def length(data: Path) -> int:
    return (data / "index" / "data.mdb").stat().st_size


@pytest.mark.usefixtures("soon")
def test_beside_readers_alone_and_only_when_it_is_long(tmp_path: Path) -> None:
    with_long_index(tmp_path)
    before, config = length(tmp_path), Configuration(data=str(tmp_path))
    with closing(Store.create_or_open(tmp_path, write=True)):
        assert index_compaction.run(config) == UNCHANGED
    with closing(Store.create_or_open(tmp_path, write=False)) as reader:
        held = reader.references.tags("r")
        with pytest.raises(StoreRefused, match="is read by another process"):
            compact.compact(tmp_path)
        done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], check=False)
        assert done.returncode == COMPACTED
        assert reader.references.tags("r") == held
    assert length(tmp_path) < before / 2
    assert index_compaction.run(config) == UNCHANGED
    assert fsck(tmp_path, (1, 1)).problems == []


@pytest.mark.usefixtures("soon")
async def test_a_keeper_looks_once_a_day(tmp_path: Path) -> None:
    clock = FakeClock(jump=False)
    looking = asyncio.create_task(until_long(tmp_path, clock))
    while not clock.sleepers:
        await asyncio.sleep(0)
    with_long_index(tmp_path)
    clock.advance(LOOK_SECONDS - 1)
    await asyncio.sleep(0)
    assert not looking.done()
    clock.advance(1)
    await looking


def is_free(data: Path) -> bool:
    """Whether no process writes to a store, which is opened once for that."""
    try:
        Store.create_or_open(data, write=True).close()
    except StoreRefused:
        return False
    return True


class Clients:
    """Hits without end; what was not answered with the bytes."""

    def __init__(self, url: str, path: str, body: bytes) -> None:
        self._url, self._path, self._body = url, path, body
        self.hits, self.failures = 0, list[str]()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                answer = fetch(self._url, self._path)
                self.hits += 1
                if answer.status != 200 or answer.body != self._body:
                    self.failures.append(str(answer.status))
            except OSError as error:
                self.failures.append(str(error))


def test_a_serving_node_compacts_and_refuses_no_hit(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SOON)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    place, layer = tmp_path / "node", os.urandom(50_000)
    with_long_index(place / "data")
    reader = Store.create_or_open(place / "data", write=False)  # so that the start does not do it
    with Node(place, "--anonymous", "push", env={**os.environ, "PYTHONPATH": path}) as node:
        reader.close()
        before, workers, keepers = length(node.data), node.children("worker"), node.children("keeper")
        digest = push(node.url, "app/web", "v1", layer)
        manifest = fetch(node.url, f"/v2/app/web/manifests/{digest}", headers={"Accept": "*/*"}).body
        blob = json.loads(manifest)["layers"][0]["digest"]
        with Clients(node.url, f"/v2/app/web/blobs/{blob}", layer) as clients:
            wait_until(
                lambda: any(event.get("event") == "index compacted" for event in node.events()),
                f"a compaction, see {node.log}",
            )
            wait_until(
                lambda: not set(workers) & set(node.children("worker")), f"new workers, see {node.log}"
            )
            node.wait_ready()
        assert (clients.failures, clients.hits > 0) == ([], True)
        assert length(node.data) < before
        assert node.children("keeper") != keepers
        for number in range(8):  # every worker reads what the next keeper wrote
            pushed = push(node.url, "app/web", f"w{number}", b"later %d" % number)
            assert {at(node.url, "app/web", f"w{number}") for _ in range(8)} == {pushed}
        assert not [event for event in node.events() if event.get("event") == "child died"]
    assert fsck(node.data, (1, 1)).problems == []


@pytest.mark.parametrize("killed", [True, False])
def test_a_compaction_ends_with_its_supervisor_and_changes_nothing(tmp_path: Path, killed: bool) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SOON + STANDS)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    place = tmp_path / "node"
    with_long_index(place / "data")
    reader = Store.create_or_open(place / "data", write=False)  # so that the start does not do it
    with Node(place, "--anonymous", "push", env={**os.environ, "PYTHONPATH": path}) as node:
        reader.close()
        wait_until((node.data / "index.new" / "data.mdb").exists, f"a compaction, see {node.log}")
        before = length(node.data)
        if killed:
            node.program.process.kill()
            node.program.process.wait()
        else:
            assert node.stop() == 0
        assert length(node.data) == before
        wait_until(lambda: is_free(node.data), "the end of the compaction")
        assert fsck(node.data, (1, 1)).problems == []
