"""A miss in a closed window, at real nodes: it passes, or is refused until the window opens, as the file says."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from holdfast.demo.seed import seed
from holdfast.testing.sample import build_sample
from support.node import Node
from support.programs import wait_until
from support.transfer import fetch
from support.tree import QUICK, Operator, child

NAME = "team/app"
YEAR_SECONDS = 366 * 86400
WINDOW = '[sync]\nmisses = "window"\n'
POLLED = """
[[parent]]
url = "{url}"
insecure = true
[sync]
schedule = "0 3 1 1 *"
window = "PT1H"
misses = "{misses}"
[[sync.repositories]]
name = "team/other"
"""


@pytest.mark.parametrize(("misses", "status"), [("window", 503), ("always", 200)])
def test_case_trust_17_a_node_that_polls(misses: str, status: int, tmp_path: Path) -> None:
    with root_of(tmp_path) as root:
        file = POLLED.format(url=root.url, misses=misses)
        with Node(tmp_path / "node", configuration=file, workers=1) as node:
            answer = fetch(node.url, f"/v2/{NAME}/manifests/latest")
            assert answer.status == status
            if status == 503:
                says_when(node)


def test_case_trust_17_a_connected_registry(tmp_path: Path) -> None:
    """Its window is its parent's word, what misses do in it is its own file's."""
    with root_of(tmp_path) as root:
        operator = Operator(root)
        operator.registry("plant", "team/*")
        operator.change("plant", syncProperties={"schedule": "0 3 1 1 *", "syncWindow": "PT1H"})
        with child(
            tmp_path / "plant",
            operator.string("plant", root),
            "--anonymous",
            "pull",
            configuration=QUICK + WINDOW,
        ) as node:
            tags = map(str, count())  # another each time, as what was not there is remembered
            wait_until(lambda: fetch(node.url, f"/v2/{NAME}/manifests/{next(tags)}").status == 503, "closed")
            says_when(node)
            root.program.kill()  # what is refused for the window needs no parent to be refused
            says_when(node)


def root_of(place: Path) -> Node:
    """A root that has one image."""
    (place / "root").mkdir()
    seed(place / "root" / "data", NAME, "latest", build_sample(NAME), 1.0)
    return Node(place / "root", "--anonymous", "pull", configuration=QUICK, workers=1)


def says_when(node: Node) -> None:
    """A refusal that says why, and when to come again."""
    answer = fetch(node.url, f"/v2/{NAME}/manifests/latest")
    assert answer.status == 503
    assert 60 < int(answer.headers["retry-after"]) <= YEAR_SECONDS
    assert b"before the window opens at 20" in answer.body
    assert b"-01-01T03:00:00Z" in answer.body
