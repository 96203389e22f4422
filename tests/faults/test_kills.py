"""Processes of a node die at any moment: hits go on, the rest recovers by itself, and every byte is right."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from threading import Lock

import pytest
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from support.node import Node, parent_toml, restarted
from support.patience import PROGRAM_PATIENCE
from support.programs import run, wait_until
from support.transfer import connect, fetch

NAME = "library/kills"
PULLS, KILLS, BLOBS, BLOB_BYTES = 200, 20, 50, 1_500_000
BLOCK_BYTES = 1 << 16
#: more than the socket buffers on the way hold
LARGE_BYTES = 64_000_000
#: A real client waits so long (s) before it goes on where its last try stopped
PAUSE = 0.2


@pytest.fixture
def parent() -> Iterator[ScriptedProcess]:
    with scripted_process("--sample", f"{NAME}:latest") as started:
        yield started


def add_blobs(parent: ScriptedProcess, number: int, size: int) -> list[str]:
    """So many blobs of that size at the parent; their digests."""
    wanted = [{"name": NAME, "size": size, "seed": str(n)} for n in range(number)]
    return [parent.control("blob", blob)["digest"] for blob in wanted]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


class Killer:
    """Kills a child of the node at the moments that the seed says, counted in blocks that clients read."""

    def __init__(self, node: Node, seed: int, blocks: int) -> None:
        self._node, self._chance, self._lock = node, random.Random(seed), Lock()
        self._moments = sorted(self._chance.sample(range(blocks), KILLS), reverse=True)
        self._read = 0
        self.killed: list[str] = []

    def block_read(self) -> None:
        """A client got a block."""
        with self._lock:
            self._read += 1
            if self._moments and self._read >= self._moments[-1]:
                self._moments.pop()
                self._kill()

    def _kill(self) -> None:
        """One that lives: a child that is about to be started again cannot die."""
        wait_until(self._living, "a child to live")
        living = self._living()
        victim = self._chance.choice(sorted(living))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not alive(victim), "it to be dead")
        self.killed.append(living[victim])

    def _living(self) -> dict[int, str]:
        """Process id to role."""
        children = {pid: role for role in ("keeper", "worker") for pid in self._node.children(role)}
        return {pid: role for pid, role in children.items() if alive(pid)}


class Download:
    """A blob as a patient client gets it: by Range from where the last try stopped."""

    def __init__(self, base: str, digest: str, killer: Killer) -> None:
        self._base, self._target = base, f"/v2/{NAME}/blobs/{digest}"
        self._killer, self._hasher, self._size = killer, hashlib.sha256(), 0

    def run(self) -> str:
        """The digest of what came, or a sentence when it did not."""
        size, given_up = -1, 0.0
        while self._size > size or time.monotonic() < given_up:  # tries without a byte come to an end
            if self._size > size:
                size, given_up = self._size, time.monotonic() + PROGRAM_PATIENCE
            with suppress(OSError, http.client.HTTPException):
                if self._go_on():
                    return f"sha256:{self._hasher.hexdigest()}"
            time.sleep(PAUSE)
        return f"gave up after {self._size} bytes"

    def _go_on(self) -> bool:
        """One try; whether the end was reached."""
        with closing(connect(self._base)) as connection:
            connection.request("GET", self._target, headers={"Range": f"bytes={self._size}-"})
            answer = connection.getresponse()
            if answer.status != 206:
                return False
            while block := answer.read(BLOCK_BYTES):
                self._hasher.update(block)
                self._size += len(block)
                self._killer.block_read()
            return self._size == int(answer.headers["Content-Range"].rpartition("/")[2])


def node_before(parent: ScriptedProcess, place: Path, workers: int = 2) -> Node:
    """A node of that parent."""
    return Node(place, configuration=parent_toml(parent.url), workers=workers)


def test_every_byte_is_right_whatever_dies(parent: ScriptedProcess, tmp_path: Path) -> None:
    seed = int(os.environ.get("HOLDFAST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"HOLDFAST_SEED={seed}")
    digests = add_blobs(parent, BLOBS, BLOB_BYTES)
    wanted = random.Random(seed).choices(digests, k=PULLS)
    with node_before(parent, tmp_path) as node:
        killer = Killer(node, seed, blocks=PULLS * BLOB_BYTES // BLOCK_BYTES * 9 // 10)
        with ThreadPoolExecutor(8) as clients:
            got = list(clients.map(lambda digest: Download(node.url, digest, killer).run(), wanted))
        assert got == wanted
        assert len(killer.killed) == KILLS
        wait_until(lambda: deaths(node) >= KILLS, "the supervisor to see every death")
        node.wait_ready()
        (fresh,) = add_blobs(parent, BLOBS + 1, BLOB_BYTES)[-1:]
        assert Download(node.url, fresh, killer).run() == fresh
        assert node.stop() == 0
    run(sys.executable, "-m", "holdfast", "fsck", "--read-data", "--data", node.data)


def deaths(node: Node) -> int:
    """Children that the supervisor saw die."""
    return sum(event.get("event") == "child died" for event in node.events())


def test_hits_do_not_notice_that_the_keeper_died(parent: ScriptedProcess, tmp_path: Path) -> None:
    (digest,) = add_blobs(parent, 1, BLOB_BYTES)
    body = GeneratedContent(BLOB_BYTES, "0").read(0, BLOB_BYTES)
    with node_before(parent, tmp_path) as node:
        target = f"/v2/{NAME}/blobs/{digest}"
        wait_until(lambda: fetch(node.url, target).body == body, "the blob to be here")
        wait_until(lambda: held(node, digest), "the blob to be held")
        for _ in range(3):
            old = node.children("keeper")
            os.kill(old[0], signal.SIGKILL)
            for _ in range(30):
                answer = fetch(node.url, target)
                assert (answer.status, answer.body == body) == (200, True)
            wait_until(partial(restarted, node, "keeper", old), "a new keeper")
        node.wait_ready()
        (fresh,) = add_blobs(parent, 2, BLOB_BYTES)[1:]
        assert fetch(node.url, f"/v2/{NAME}/blobs/{fresh}").status == 200


def held(node: Node, digest: str) -> bool:
    """Whether the blob lies among the finished ones."""
    return any(
        digest.partition(":")[2] in path.name
        for path in (node.data / "blobs").glob("*/*/*")
        if path.is_file()
    )


def test_a_killed_worker_is_replaced_and_the_other_goes_on(parent: ScriptedProcess, tmp_path: Path) -> None:
    with node_before(parent, tmp_path) as node:
        for victim in node.children("worker"):
            os.kill(victim, signal.SIGKILL)
            answers = [fetch(node.url, f"/v2/{NAME}/manifests/latest").status for _ in range(20)]
            assert set(answers) == {200}
            wait_until(partial(replaced, node, victim), "a new worker")
        assert len(node.children("worker")) == 2


def replaced(node: Node, pid: int) -> bool:
    """Whether another worker stands in that one's place."""
    return pid not in node.children("worker")


def test_a_killed_supervisor_leaves_hits_and_the_next_one_takes_over(
    parent: ScriptedProcess, tmp_path: Path
) -> None:
    with node_before(parent, tmp_path) as node, node.program:
        target = f"/v2/{NAME}/manifests/latest"
        first = fetch(node.url, target)
        orphans = node.children("worker") + node.children("keeper")
        os.kill(node.program.process.pid, signal.SIGKILL)
        node.program.process.wait()
        assert fetch(node.url, target).body == first.body
        node.start()
        wait_until(lambda: not any(map(alive, orphans)), "the orphans to be gone")
        assert fetch(node.url, target).body == first.body
        assert node.stop() == 0


def test_case_fault_9_a_start_over_orphans_waits_for_no_client(
    parent: ScriptedProcess, tmp_path: Path
) -> None:
    """The keeper of a supervisor that was killed is ended at once; a worker finishes what it is sending while others
    serve on the same address. Whatever a client does, the start waits for nobody but the keeper."""
    (digest,) = add_blobs(parent, 1, LARGE_BYTES)
    target = f"/v2/{NAME}/blobs/{digest}"
    with node_before(parent, tmp_path) as node, node.program, closing(connect(node.url)) as slow:
        assert fetch(node.url, target).status == 200
        wait_until(lambda: held(node, digest), "the blob to be held")
        slow.request("GET", target)
        answer, hasher = slow.getresponse(), hashlib.sha256()
        keeper, workers = node.children("keeper"), node.children("worker")
        os.kill(node.program.process.pid, signal.SIGKILL)
        node.program.process.wait()
        node.start()
        assert not any(map(alive, keeper))
        serving = list(filter(alive, workers))
        assert serving, "a client is still being sent its blob"
        assert fetch(node.url, target).status == 200
        while block := answer.read(BLOCK_BYTES):
            hasher.update(block)
        assert f"sha256:{hasher.hexdigest()}" == digest
        wait_until(lambda: not any(map(alive, workers)), "the old workers to be gone")
        assert not [event for event in node.events() if event.get("event") == "child died"]
        assert node.stop() == 0


def test_case_trust_16_children_that_were_just_started_do_not_block_the_next_start(
    parent: ScriptedProcess, tmp_path: Path
) -> None:
    """Keeper and workers are killed, then the supervisor, while those that it started in their place are not yet far
    enough to be known. They hold the address."""
    with node_before(parent, tmp_path) as node, node.program, ThreadPoolExecutor(1) as pool:
        old = {role: node.children(role) for role in ("keeper", "worker")}
        for pid in (*old["keeper"], *old["worker"]):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(restarted(node, role, pids) for role, pids in old.items()), "others")
        young = [*node.children("keeper"), *node.children("worker")]
        for pid in young:
            os.kill(pid, signal.SIGSTOP)
        node.program.process.kill()
        node.program.process.wait()
        start = pool.submit(node.start)
        wait_until(lambda: start.done() or "orphan starting" in node.text(), "the start to wait")
        for pid in young:
            os.kill(pid, signal.SIGCONT)
        start.result()
        assert not any(map(alive, young))
        assert fetch(node.url, f"/v2/{NAME}/manifests/latest").status == 200
        assert node.stop() == 0


def begin_drain(node: Node, connection: http.client.HTTPConnection, digest: str) -> http.client.HTTPResponse:
    """SIGTERM to a node while it sends a blob whose first block has been read by nobody yet."""
    connection.request("GET", f"/v2/{NAME}/blobs/{digest}")
    answer = connection.getresponse()
    node.program.signal(signal.SIGTERM)
    node.program.wait_for("node draining")
    return answer


def test_a_drain_finishes_what_is_being_sent(parent: ScriptedProcess, tmp_path: Path) -> None:
    (digest,) = add_blobs(parent, 1, LARGE_BYTES)
    with node_before(parent, tmp_path) as node, closing(connect(node.url)) as connection:
        answer = begin_drain(node, connection, digest)
        hasher = hashlib.sha256()
        while block := answer.read(BLOCK_BYTES):
            hasher.update(block)
        assert f"sha256:{hasher.hexdigest()}" == digest
        assert node.program.process.wait(PROGRAM_PATIENCE) == 0


def test_a_drain_refuses_new_connections(parent: ScriptedProcess, tmp_path: Path) -> None:
    (digest,) = add_blobs(parent, 1, LARGE_BYTES)
    with node_before(parent, tmp_path) as node, closing(connect(node.url)) as connection:
        begin_drain(node, connection, digest)
        wait_until(lambda: not accepts(node), "new connections to be refused")


def accepts(node: Node) -> bool:
    """Whether a new connection is taken, if only by the kernel."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", node.port)) == 0


def test_hanging_up_reads_the_configuration_again_or_says_why_not(
    parent: ScriptedProcess, tmp_path: Path
) -> None:
    with (
        node_before(parent, tmp_path) as node,
        scripted_process("--sample", "library/second:latest") as second,
    ):
        target = "/v2/library/second/manifests/latest"
        old = node.children("worker")
        node.file.write_text("lissen = 'x'\n")
        node.hang_up()
        assert "lissen" in node.program.wait_for('"configuration refused".*|.*lissen.*refused.*')[0]
        assert (fetch(node.url, target).status, node.children("worker")) == (404, old)
        node.file.write_text(parent_toml(second.url))
        node.hang_up()
        node.program.wait_for("configuration reloaded")
        wait_until(lambda: restarted(node, "worker", old), "new workers")
        wait_until(lambda: fetch(node.url, target).status == 200, "the new parent to be asked")
        assert node.stop() == 0
