"""The OCI distribution conformance program against a root that is served by real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.conformance import DEV, STABLE, Demand, allowed_skips, complaints, run
from support.node import Node

SPARSE = "[push]\nrequire_blobs = false\n"


def conforms(node: Node, demand: Demand, place: Path) -> None:
    """One run, judged."""
    outcome = run(node.address, demand, place)
    assert complaints(outcome, demand, allowed_skips()) == [], outcome.said
    assert not any(event.get("level") == "error" for event in node.events())


@pytest.mark.parametrize("workers", [1, 3])
def test_stable(workers: int, tmp_path: Path) -> None:
    with Node(tmp_path / "root", "--anonymous", "push", workers=workers) as node:
        conforms(node, STABLE, tmp_path)
        if workers == 3:  # again, over what the first run left behind
            conforms(node, STABLE, tmp_path)


@pytest.mark.parametrize("workers", [1, 3])
def test_dev_with_sparse_data(workers: int, tmp_path: Path) -> None:
    with Node(tmp_path / "root", "--anonymous", "push", configuration=SPARSE, workers=workers) as node:
        conforms(node, DEV, tmp_path)


def test_a_root_that_refuses_pushes_does_not_conform(tmp_path: Path) -> None:
    """The program and the gate together can fail."""
    with Node(tmp_path / "root", workers=1) as node:
        found = complaints(run(node.address, STABLE, tmp_path), STABLE)
    assert {"exit code 1", "Manifest put by tag is FAIL", "Image is FAIL"} <= set(found)
