"""The operations that are killed at each of their writes. Each has its own content for every number."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import closing

from holdfast.testing.random_content import digest_of
from holdfast.testing.sample import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from holdfast.testing.scripted_process import ScriptedProcess
from torture.client import Connection, Content, Unexpected, fetched
from torture.ledger import ABSENT
from torture.load import PADDING, Pusher, World

REPOSITORY = "push/flow"
SMALL, LARGE = 3_000, 150_000


class Flow:
    """`prepare` makes what is needed, unharmed; `run` may be cut off anywhere, and be called again after that."""

    def __init__(self, world: World, parent: ScriptedProcess, name: str) -> None:
        self.world, self.parent, self.name = world, parent, name
        self._prepare, self._run = FLOWS[name]

    def prepare(self, url: str, number: int) -> None:
        """Before the trap is armed."""
        if self._prepare:
            with closing(Connection(url)) as http:
                self._prepare(self, self._pusher(http), number)

    def run(self, url: str, number: int) -> None:
        """The operation. Raises what is in GONE when the node dies, Unexpected for an answer that is wrong."""
        with closing(Connection(url)) as http:
            self._run(self, self._pusher(http), number)

    def content(self, size: int, number: int) -> Content:
        """Not used by another flow or number."""
        return Content(size, f"{self.name} {number}")

    def _pusher(self, http: Connection) -> Pusher:
        return Pusher(self.world, http, REPOSITORY, random.Random(0))

    def manifest(self, number: int, *, large: bool = False, turn: int = 0) -> str:
        """Make a manifest of the blob that `push_part` pushed; its digest."""
        part = self.content(SMALL, number)
        described = {"mediaType": OCI_CONFIG, "digest": part.digest, "size": part.size}
        notes = {"turn": str(turn), **({"padding": PADDING} if large else {})}
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": described,
                "layers": [{**described, "mediaType": OCI_LAYER}],
                "annotations": notes,
            }
        ).encode()
        digest = digest_of(body)
        self.world.manifests[digest] = OCI_MANIFEST, body
        return digest

    def put(self, pusher: Pusher, digest: str, *tags: str) -> None:
        """Push it, by its tag when there is one."""
        changes = [(("manifest", REPOSITORY, digest), OCI_MANIFEST)]
        changes += [(("tag", REPOSITORY, tag), digest) for tag in tags]
        pusher.put(tags[0] if len(tags) == 1 else digest, list(tags[1:]) and list(tags), digest, changes)


def push_part(flow: Flow, pusher: Pusher, number: int) -> None:
    """A small blob in one request."""
    pusher.push(flow.content(SMALL, number))


def push_whole(flow: Flow, pusher: Pusher, number: int) -> None:
    """A blob that fits into the index and one that does not, each in one request."""
    pusher.push(flow.content(SMALL, number))
    pusher.push(flow.content(LARGE, number))


def push_in_chunks(flow: Flow, pusher: Pusher, number: int) -> None:
    """A session of two chunks and a closing PUT with the rest."""
    content = flow.content(LARGE, number)
    pusher.push_by_session(content, [LARGE // 3, LARGE // 2], finish=True)


def put_manifest(flow: Flow, pusher: Pusher, number: int) -> None:
    """A manifest that fits into the index, and one that does not under two tags."""
    flow.put(pusher, flow.manifest(number), f"small-{number}")
    flow.put(pusher, flow.manifest(number, large=True), f"large-{number}", f"also-{number}")


def stand(flow: Flow, pusher: Pusher, number: int) -> None:
    """Two manifests, and a tag at the first."""
    push_part(flow, pusher, number)
    flow.put(pusher, flow.manifest(number), "moving")
    flow.put(pusher, flow.manifest(number, turn=1))


def move_tag(flow: Flow, pusher: Pusher, number: int) -> None:
    """The tag goes to the second."""
    digest = flow.manifest(number, turn=1)
    pusher.put("moving", [], digest, [(("tag", REPOSITORY, "moving"), digest)])


def delete(flow: Flow, pusher: Pusher, number: int) -> None:
    """The tag, the manifests and the blob, those that are there still."""
    for kind, noun, names in (
        ("tag", "manifests", ["moving"]),
        ("manifest", "manifests", [flow.manifest(number), flow.manifest(number, turn=1)]),
        ("blob", "blobs", [flow.content(SMALL, number).digest]),
    ):
        for name in names:
            if ABSENT not in flow.world.ledger.allowed((kind, REPOSITORY, name)):
                pusher.delete(noun, name, [((kind, REPOSITORY, name), ABSENT)])


def stock(flow: Flow, _: Pusher, number: int) -> None:
    """The parent has an image and a blob."""
    flow.parent.control("sample", {"name": f"cold/{number}"})
    content = flow.content(LARGE, number)
    flow.parent.control("blob", {"name": f"cold/{number}", "size": content.size, "seed": content.seed})


def pull(flow: Flow, pusher: Pusher, number: int) -> None:
    """By tag, by digest, and a blob."""
    name, digest = f"cold/{number}", flow.content(LARGE, number).digest
    index = pusher.http.expect(200, "GET", f"/v2/{name}/manifests/latest")
    first = json.loads(index.body)["manifests"][0]["digest"]
    for noun, wanted in (("manifests", first), ("blobs", digest)):
        flow.world.ledger.may_be([("cached", name, f"{noun}/{wanted}")], noun)
        answer = pusher.http.expect(200, "GET", f"/v2/{name}/{noun}/{wanted}")
        if not fetched(answer, wanted):
            raise Unexpected(f"{name} {noun} {wanted}: {len(answer.body)} wrong bytes")


Act = Callable[[Flow, Pusher, int], None]
FLOWS: dict[str, tuple[Act | None, Act]] = {
    "cold pull": (stock, pull),
    "monolithic push": (None, push_whole),
    "chunked push": (None, push_in_chunks),
    "manifest put": (push_part, put_manifest),
    "tag move": (stand, move_tag),
    "delete": (stand, delete),
}
