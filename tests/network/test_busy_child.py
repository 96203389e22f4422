"""A ReadWrite child whose outbox stands still while its parent changes: what it asks the parent is bounded by what
changed there, and none of it is for tags whose own push waits. Counted in the access log of the root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from holdfast_core.store import Store
from support.node import Node
from support.plain_push import push
from support.programs import wait_until
from support.transfer import fetch
from support.tree import QUICK, Operator, child, login

REPOSITORY = "plant/app"
RIGHTS = ("content/read", "content/write", "content/delete", "metadata/read")
#: nothing goes up
STILL = f'{QUICK}\n[[link.caps]]\nmbit = 0\nwork = "push"\n'
TAGS, CHANGES = 8, 12


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


def tags_of(node: Node) -> dict[str, str]:
    """What its store has in the repository."""
    store = Store.create_or_open(node.data, write=False)
    try:
        found = {tag: store.tag(REPOSITORY, tag) for tag in store.tags(REPOSITORY)}
        return {tag: str(held.digest) for tag, held in found.items() if held is not None}
    finally:
        store.close()


def waiting(node: Node) -> int:
    """Rows of its outbox."""
    store = Store.create_or_open(node.data, write=False)
    try:
        return len(list(store.outbox()))
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
        password = operator.token("pusher", REPOSITORY, *RIGHTS)
        operator.registry("plant", REPOSITORY, mode="ReadWrite", clients=("pusher",))
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
