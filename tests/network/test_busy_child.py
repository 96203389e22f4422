"""A ReadWrite child whose outbox stands still while its parent changes: what it asks the parent is bounded by what
changed there, and none of it is for tags whose own push waits. Counted in the access log of the root.

HOLDFAST_BUSY_MINUTES makes the mixed load last so long, over more repositories and tags (`make torture`)."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from holdfast_core.store import Store
from support.node import COMMAND, Node
from support.plain_push import digest_of, push
from support.programs import run, wait_until
from support.transfer import fetch
from support.tree import QUICK, Operator, child, login

REPOSITORY = "plant/app"
RIGHTS = ("content/read", "content/write", "content/delete", "metadata/read")
#: nothing goes up
STILL = f'{QUICK}\n[[link.caps]]\nmbit = 0\nwork = "push"\n'
TAGS, CHANGES = 8, 12
MINUTES = float(os.environ.get("HOLDFAST_BUSY_MINUTES", "0"))
#: of the mixed load: repositories, tags in each, images before the outbox may go and after
REPOSITORIES, NAMES = (30, 20) if MINUTES else (3, 5)
BEFORE, AFTER = 50, 30
#: rows of an outbox that keeps up with the load, and images within which it does so
FEW, SOON = 20, 400 + int(MINUTES * 3000)
#: of a process of the child (bytes, descriptors)
MEMORY, DESCRIPTORS = 200 << 20, 150


def asked(root: Node) -> Counter[str]:
    """Requests that the root answered: questions for tags, for manifests by digest, and the rest by method."""
    found: Counter[str] = Counter()
    for event in root.events():
        if event.get("event") != "request answered":
            continue
        method, path = event["method"], event["path"]
        if "/manifests/" in path:
            kind = "digest" if "/manifests/sha256:" in path else "tag"
            found[f"{method} {kind}"] += 1
        else:
            found[method] += 1
    return found


def tags_of(node: Node, repository: str = REPOSITORY) -> dict[str, str]:
    """What its store has in the repository."""
    store = Store.create_or_open(node.data, write=False)
    try:
        found = {tag: store.references.tag(repository, tag) for tag in store.references.tags(repository)}
        return {tag: str(held.digest) for tag, held in found.items() if held is not None}
    finally:
        store.close()


def waiting(node: Node) -> int:
    """Rows of its outbox."""
    store = Store.create_or_open(node.data, write=False)
    try:
        return len(list(store.references.outbox.rows()))
    finally:
        store.close()


def has(node: Node, wanted: dict[str, str]) -> bool:
    """Whether its store has these tags."""
    found = tags_of(node)
    return all(found.get(tag) == digest for tag, digest in wanted.items())


@contextmanager
def pair(place: Path, configuration: str, workers: int) -> Iterator[tuple[Node, Node, dict[str, str]]]:
    """A root and a ReadWrite child that is connected all the time, and the login of a client at both."""
    with Node(place / "root", configuration=QUICK, workers=1) as root:
        operator = Operator(root)
        password = operator.token("pusher", "plant/*", *RIGHTS)
        operator.registry("plant", "plant/*", mode="ReadWrite", clients=("pusher",))
        string = operator.string("plant", root)
        with child(place / "child", string, configuration=configuration, workers=workers) as plant:
            known, begin = login("pusher", password), f"/v2/{REPOSITORY}/blobs/uploads/"
            wait_until(
                lambda: fetch(plant.url, begin, "POST", headers=known).status == 202, "the mode is taken up"
            )
            yield root, plant, known


@pytest.mark.parametrize("workers", [0, 1])
def test_case_fault_14_a_change_at_the_parent_costs_nothing_for_tags_that_wait_to_go_up(
    workers: int, tmp_path: Path
) -> None:
    """Each of the changes begins a run. The tags that were moved on both sides are asked for when the outbox is through
    with them, once, and not before."""
    with pair(tmp_path, STILL, workers) as (root, plant, known):

        def pushed(node: Node, tag: str, text: str) -> str:
            return push(node.url, REPOSITORY, tag, text.encode(), known)

        both = [f"both{n}" for n in range(TAGS)]
        first = {tag: pushed(root, tag, f"first {tag}") for tag in both}
        wait_until(lambda: has(plant, first), "the first images at the child")
        ours = {tag: pushed(plant, tag, f"ours {tag}") for tag in both}
        theirs = {tag: pushed(root, tag, f"theirs {tag}") for tag in both}
        before = asked(root)
        for number in range(CHANGES):
            tag = f"other{number}"
            digest = pushed(root, tag, f"other {number}")
            wait_until(lambda tag=tag, digest=digest: has(plant, {tag: digest}), tag)  # type: ignore[misc]
        assert has(plant, ours)
        asks = asked(root) - before
        assert asks["HEAD tag"] == asks["HEAD digest"] == asks["GET tag"] == 0, asks
        # what moved on both sides is not brought before the outbox decided
        assert asks["GET digest"] <= CHANGES, asks

        plant.file.write_text(QUICK)
        # one process cannot replace itself; what is held back outlasts a restart as well
        plant.hang_up() if workers else plant.restart()
        wait_until(lambda: waiting(plant) == 0, "everything went up, or gave way")
        wait_until(lambda: has(plant, theirs), "the parent's tags at the child")
        asks = asked(root) - before
        # the outbox asks once for each tag, and so does what synchronises, since the parent's won
        assert asks["HEAD tag"] <= 2 * TAGS, asks
        assert asks["GET tag"] == 0, asks


class Load:
    """Pushes, tag moves, deletes and pulls at all nodes, one after another, by chance that can be repeated."""

    def __init__(self, nodes: tuple[Node, ...], known: dict[str, str]) -> None:
        self.nodes, self.known, self.chance = nodes, known, random.Random(14)
        #: pushes at each, and what was pushed: repository, layer, manifest
        self.pushed, self.live = Counter[Node](), list[tuple[str, str, str]]()

    def images(self, count: int, seconds: float) -> None:
        """At least so many, and for so long."""
        end = time.monotonic() + seconds
        while count > 0 or time.monotonic() < end:
            self._push()
            for _ in range(2):
                self._pull()
            if sum(self.pushed.values()) % 6 == 0 and len(self.live) > 20:
                self._delete()
            count -= 1

    def _push(self) -> None:
        node, repository = self.chance.choice(self.nodes), f"plant/r{self.chance.randrange(REPOSITORIES)}"
        tag, layer = (
            f"t{self.chance.randrange(NAMES)}",
            self.chance.randbytes(self.chance.choice((2_000, 60_000))),
        )
        digest = push(node.url, repository, tag, layer, self.known)
        self.pushed[node] += 1
        self.live.append((repository, digest_of(layer), digest))

    def _pull(self) -> None:
        repository, layer, _ = self.chance.choice(self.live[-200:])
        answer = fetch(
            self.chance.choice(self.nodes).url, f"/v2/{repository}/blobs/{layer}", headers=self.known
        )
        assert answer.status in (200, 404), answer  # 404: it was pushed at the other one, or deleted
        assert answer.status == 404 or digest_of(answer.body) == layer

    def _delete(self) -> None:
        repository, _, digest = self.live.pop(self.chance.randrange(len(self.live) - 10))
        node = self.chance.choice(self.nodes)
        answer = fetch(node.url, f"/v2/{repository}/manifests/{digest}", "DELETE", headers=self.known)
        assert answer.status in (202, 404), answer


def is_bounded(node: Node) -> bool:
    """Whether memory and descriptors of each of its processes are within bounds."""
    for pid in (*node.children("keeper"), *node.children("worker")):
        status = Path(f"/proc/{pid}/status").read_text()
        memory = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) << 10
        count = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        if memory > MEMORY or count > DESCRIPTORS:
            return False
    return True


def best_rate(node: Node) -> float:
    """Images a second that went up in the best ten seconds of its log."""
    events = (event for event in node.events() if event.get("event") == "outbox entry confirmed")
    tens = Counter(event["timestamp"][:18] for event in events if event["deed"] == "manifest")
    return max(tens.values(), default=0) / 10


def all_tags(node: Node) -> dict[str, dict[str, str]]:
    """Of all repositories."""
    return {name: tags_of(node, name) for name in (f"plant/r{n}" for n in range(REPOSITORIES))}


def test_case_fault_14_a_mixed_load_at_both_costs_the_parent_what_changed(tmp_path: Path) -> None:
    """First the outbox stands still, then it drains beside the load. Both are sound."""
    with pair(tmp_path, STILL, 1) as (root, plant, known):
        load = Load((root, plant), known)
        load.images(BEFORE, MINUTES * 30)
        asks, changes = asked(root), load.pushed[root]
        assert asks["HEAD tag"] == asks["HEAD digest"] == 0, asks
        assert asks["GET tag"] == 0, asks
        assert asks["GET digest"] <= changes, asks
        assert waiting(plant) >= load.pushed[plant]

        plant.file.write_text(QUICK)
        plant.hang_up()
        load.images(AFTER, MINUTES * 30)
        for _ in range(0, SOON, 10):
            if waiting(plant) <= FEW:
                break
            load.images(10, 0)
        assert waiting(plant) <= FEW + 20, "the outbox stands still beside the load"
        print(f"{best_rate(plant):.0f} images a second went up beside the load, in its best ten seconds")
        wait_until(lambda: waiting(plant) == 0, "the outbox drains", 300 + 60 * MINUTES)
        wait_until(lambda: all_tags(plant) == all_tags(root), "both have the same tags", 120)
        asks, changes = asked(root), load.pushed[root]
        # once by the outbox for each change from here, once by what synchronises for each that moved there, too
        assert asks["HEAD tag"] <= load.pushed[plant] + changes, asks
        assert asks["GET tag"] == 0, asks
        assert asks["GET digest"] <= changes + load.pushed[plant], asks
        assert is_bounded(plant)
        assert is_bounded(root)
        assert plant.stop() == root.stop() == 0
        for node in (plant, root):
            run(*COMMAND[:-1], "fsck", "--data", node.data, "--read-data")


def test_case_fault_14_a_mixed_load_at_three_levels_costs_each_parent_what_changed(tmp_path: Path) -> None:
    """What is pushed at the lowest level goes up through the middle, and what moves at the top comes down to all."""
    with pair(tmp_path, QUICK, 1) as (root, plant, known):
        operator = Operator(root)
        operator.registry("annex", "plant/*", parent="plant", mode="ReadWrite", clients=("pusher",))
        with child(tmp_path / "annex", operator.string("annex", plant)) as annex:
            begin = f"/v2/{REPOSITORY}/blobs/uploads/"
            wait_until(
                lambda: fetch(annex.url, begin, "POST", headers=known).status == 202, "the mode is taken up"
            )
            load = Load((root, plant, annex), known)
            load.images(BEFORE + AFTER, MINUTES * 60)
            wait_until(
                lambda: waiting(annex) == 0 and waiting(plant) == 0, "the outboxes drain", 60 + 60 * MINUTES
            )
            wait_until(lambda: all_tags(annex) == all_tags(plant) == all_tags(root), "the same tags", 120)
            pushes = sum(load.pushed.values())
            top, middle = asked(root), asked(plant)
            for asks in (top, middle):
                # once by the child's outbox for each push, once by what synchronises for each that comes down
                assert asks["HEAD tag"] <= pushes, asks
                assert asks["GET digest"] <= pushes, asks
            # the middle answers for a tag with what the root has now: the HEADs of the lowest level alone reach it
            assert top["GET tag"] <= middle["HEAD tag"], (top, middle)
            assert middle["GET tag"] == 0, middle
            for node in (annex, plant, root):
                assert is_bounded(node)
            assert annex.stop() == plant.stop() == root.stop() == 0
            for node in (annex, plant, root):
                run(*COMMAND[:-1], "fsck", "--data", node.data, "--read-data")
