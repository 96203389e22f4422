"""A blob in the middle of its way: the link is cut, the keeper is killed, the machine starts again.

Each byte crosses the link once: what the parent sent is counted and compared with the blob's size.
"""

import hashlib
import os
import signal
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from holdfast.testing.fault import Fault
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from holdfast_core.digest import CHUNK_BYTES
from holdfast_core.store import Store
from support.node import Node, parent_toml, restarted
from support.programs import wait_until
from support.transfer import connect

NAME = "library/long"
MB = 1_000_000
CHECKPOINTS = "\n[fills]\ncheckpoint_bytes = 4194304\n"


def started_pull(node: Node, digest: str) -> tuple[HTTPConnection, HTTPResponse]:
    connection = connect(node.url)
    connection.request("GET", f"/v2/{NAME}/blobs/{digest}")
    answer = connection.getresponse()
    assert answer.status == 200
    return connection, answer


def hashed(answer: HTTPResponse, already: bytes = b"") -> str:
    """The digest of a body, read in pieces."""
    found = hashlib.sha256(already)
    while piece := answer.read(1 << 20):
        found.update(piece)
    return f"sha256:{found.hexdigest()}"


def sent(parent: ScriptedProcess, digest: str) -> int:
    """Bytes of that blob that the parent put on the link."""
    return int(parent.stats()["bytes"].get(digest, 0))


def test_a_gigabyte_over_a_link_cut_every_50_megabytes(tmp_path: Path) -> None:
    with scripted_process("--blob", f"{NAME}={1000 * MB}:g") as parent:
        (digest,) = parent.hello["blobs"].values()
        parent.script(Fault(method="GET", path=digest, times=-1, cut_after=50 * MB))
        with Node(tmp_path, configuration=parent_toml(parent.url), workers=1) as node:
            connection, answer = started_pull(node, digest)
            with closing(connection), closing(answer):
                assert hashed(answer) == digest
            assert sent(parent, digest) <= 1.02 * 1000 * MB
            gets = sum(count for key, count in parent.stats()["requests"].items() if digest in key)
            assert 20 <= gets <= 25


def checkpointed(node: Node) -> int:
    """How much of its one fill a node's store would find again after a kill (bytes)."""
    store = Store.create_or_open(node.data, write=False)
    try:
        return sum(end - start for state in store.fills() for start, end in state.extents)
    finally:
        store.close()


def whole_chunks(size: int) -> int:
    """What of so many first bytes a checkpoint can claim."""
    return size - size % CHUNK_BYTES


@pytest.mark.parametrize("whole_node", [False, True], ids=["keeper killed", "node killed"])
def test_a_kill_in_the_middle_of_a_blob(tmp_path: Path, whole_node: bool) -> None:
    """The keeper's death is a pause for its clients; the node's costs them their connection, and the link
    no more than what came after the last checkpoint."""
    size, there = 60 * MB, 25 * MB
    with scripted_process("--blob", f"{NAME}={size}:k") as parent:
        (digest,) = parent.hello["blobs"].values()
        parent.script(Fault(method="GET", path=digest, stall_after=there))
        configuration = parent_toml(parent.url) + CHECKPOINTS
        with Node(tmp_path, configuration=configuration, workers=2) as node:
            connection, answer = started_pull(node, digest)
            first = answer.read(there)
            wait_until(lambda: checkpointed(node) > 0, "a checkpoint")
            if whole_node:
                node.program.kill()
                answer.close()
                connection.close()
                kept = checkpointed(node)
                node.start()
                connection, answer = started_pull(node, digest)
                first = b""
            else:
                (keeper,) = node.children("keeper")
                kept = checkpointed(node)  # it may write another one yet
                os.kill(keeper, signal.SIGKILL)
                wait_until(lambda: restarted(node, "keeper", [keeper]), "another keeper")
            with closing(connection), closing(answer):
                assert hashed(answer, first) == digest
            wait_until(lambda: held(node, digest), "the blob is held")
        assert size <= sent(parent, digest) <= size + there - kept, "what was checkpointed came twice"


def held(node: Node, digest: str) -> bool:
    """Whether the node keeps the blob as a file."""
    return any(path.is_file() for path in (node.data / "blobs").rglob(digest.partition(":")[2]))


def test_a_fill_goes_on_after_a_restart_without_a_client(tmp_path: Path) -> None:
    """Somebody wanted all of it; that nobody waits any more is no reason to fetch it twice."""
    size, there = 40 * MB, 15 * MB
    with scripted_process("--blob", f"{NAME}={size}:r") as parent:
        (digest,) = parent.hello["blobs"].values()
        parent.script(Fault(method="GET", path=digest, stall_after=there))
        with Node(tmp_path, configuration=parent_toml(parent.url) + CHECKPOINTS, workers=1) as node:
            connection, answer = started_pull(node, digest)
            answer.read(there)
            answer.close()
            connection.close()
            node.restart()
            wait_until(lambda: held(node, digest), "the blob is held")
        assert sent(parent, digest) == size + there - whole_chunks(there)
