"""A layer far larger than memory ought to hold, and one with no byte at all, into a root and out again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from holdfast.testing.random_content import digest_of
from support.node import Node
from support.transfer import Answer, connect, fetch, target_of

#: GiB of the large layer; `make torture` sets 5
SIZE = int(os.environ.get("HOLDFAST_LAYER_GIB", "1")) << 30
BLOCK = bytes(1 << 20)
#: How much more memory any process of the node may have taken at its peak than before (bytes)
GROWTH = 64 << 20
UPLOADS = "/v2/large/blobs/uploads/"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A root that takes pushes from anybody."""
    with Node(tmp_path_factory.mktemp("root"), "--anonymous", "push", workers=2) as node:
        yield node


class Zeros:
    """A body of zeros, made a block at a time and hashed as it goes; iterate once."""

    def __init__(self, size: int) -> None:
        self._blocks, self._state = size // len(BLOCK), hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self._blocks):
            self._state.update(BLOCK)
            yield BLOCK

    def digest(self) -> str:
        """Of what was taken so far."""
        return f"sha256:{self._state.hexdigest()}"


class Memory:
    """The most anonymous memory that each process of a node was seen to hold (bytes). Pages of blobs that are mapped to
    see whether they stay in memory are the page cache's, and not counted."""

    def __init__(self, node: Node) -> None:
        pids = (node.program.process.pid, *node.children("keeper"), *node.children("worker"))
        self.first = {pid: anonymous(pid) for pid in pids}
        self.most = dict(self.first)

    def watch(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The blocks, with a look beside every sixteenth."""
        for number, block in enumerate(blocks):
            if number % 16 == 0:
                self.look()
            yield block
        self.look()

    def look(self) -> None:
        """Remember what each process holds now, where it is more."""
        for pid, most in self.most.items():
            self.most[pid] = max(most, anonymous(pid))


def anonymous(pid: int) -> int:
    """Bytes of a process that no file backs."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) << 10


def begin(node: Node) -> str:
    """A new session's path and query."""
    begun = fetch(node.url, UPLOADS, "POST", body=b"")
    assert begun.status == 202, begun
    return target_of(begun.headers["location"])


def with_digest(target: str, digest: str) -> str:
    """The path and query of the PUT that ends a session."""
    return f"{target}{'&' if '?' in target else '?'}digest={digest}"


def stream(node: Node, method: str, target: str, body: Iterable[bytes]) -> Answer:
    """A request with a chunked body, whose length is nowhere said."""
    with closing(connect(node.url)) as connection:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


def read_blocks(node: Node, target: str) -> Iterator[bytes]:
    """A blob, a block at a time."""
    with closing(connect(node.url)) as connection:
        connection.request("GET", target)
        answer = connection.getresponse()
        assert answer.status == 200
        while data := answer.read(len(BLOCK)):
            yield data


def zeros_in(blocks: Iterable[bytes]) -> int:
    """The size of a blob that has nothing but zeros."""
    size = 0
    for data in blocks:
        assert data == BLOCK[: len(data)]
        size += len(data)
    return size


def test_a_large_layer_needs_little_memory_in_and_out(root: Node) -> None:
    memory, zeros = Memory(root), Zeros(SIZE)
    sent = stream(root, "PATCH", begin(root), memory.watch(zeros))
    assert (sent.status, sent.headers["range"]) == (202, f"0-{SIZE - 1}")
    target = with_digest(target_of(sent.headers["location"]), zeros.digest())
    assert fetch(root.url, target, "PUT", body=b"").status == 201
    assert zeros_in(memory.watch(read_blocks(root, f"/v2/large/blobs/{zeros.digest()}"))) == SIZE
    assert set(memory.most) == {root.program.process.pid, *root.children("keeper"), *root.children("worker")}
    grown = {pid: most - memory.first[pid] for pid, most in memory.most.items()}
    assert max(grown.values()) < GROWTH, grown


def single_post(node: Node) -> Answer:
    return fetch(node.url, with_digest(UPLOADS, digest_of(b"")), "POST", body=b"")


def post_then_put(node: Node) -> Answer:
    return fetch(node.url, with_digest(begin(node), digest_of(b"")), "PUT", body=b"")


def chunked_put(node: Node) -> Answer:
    return stream(node, "PUT", with_digest(begin(node), digest_of(b"")), ())


def streamed(node: Node) -> Answer:
    sent = stream(node, "PATCH", begin(node), ())
    assert sent.status == 202
    return fetch(node.url, with_digest(target_of(sent.headers["location"]), digest_of(b"")), "PUT", body=b"")


@pytest.mark.parametrize("method", [single_post, post_then_put, chunked_put, streamed])
def test_case_32_an_empty_blob_by_every_method(method: Callable[[Node], Answer], root: Node) -> None:
    done = method(root)
    assert (done.status, done.headers["docker-content-digest"]) == (201, digest_of(b""))
    for verb in ("GET", "HEAD"):
        answer = fetch(root.url, target_of(done.headers["location"]), verb)
        assert (answer.status, answer.headers["content-length"], answer.body) == (200, "0", b"")
