"""Two instances of one connected registry, and where a node that listens on every address is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.node import Node
from support.programs import wait_until
from support.tree import QUICK, Operator, child, troubles

#: who hears of a deactivation by a report, or a new question, hears of it in an hour
SELDOM = "[gateway]\npoll = 3600.0\nlease = 7200.0\n"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path / "root", configuration=QUICK, workers=1) as node:
        yield node


class Everywhere(Node):
    """A node that listens on every address."""

    @property
    def listen(self) -> str:
        return f"0.0.0.0:{self.port}"


def test_case_trust_18_who_is_deactivated_hears_of_it_in_the_question_that_is_open(
    tmp_path: Path, root: Node
) -> None:
    operator = Operator(root)
    operator.registry("plant", "library/*")
    string = operator.string("plant", root)

    def asked() -> list[tuple[str, int]]:
        lines = [one for one in root.events() if one["event"] == "request answered"]
        return [
            (one["path"].rpartition("/")[2], one["status"]) for one in lines if "/gateway/" in one["path"]
        ]

    with child(tmp_path / "first", string, configuration=SELDOM) as first:
        operator.wait_online("plant")
        wait_until(lambda: ("status", 200) in asked(), "its report")
        before = len(asked())
        operator.call("POST", "connectedRegistries/plant/deactivate")
        wait_until(lambda: "the operator deactivated this instance" in troubles(first), "it hears of that")
        with child(tmp_path / "second", string, configuration=SELDOM) as second:
            operator.wait_online("plant")
            wait_until(lambda: troubles(second) == "", "the second is the active one")
            assert "the operator deactivated this instance" in troubles(first)
            after = asked()[before:]
            assert any(status == 409 for _, status in after)
            assert ("config", 304) not in after, "no question was left to its time"
            assert ("activate", 409) not in after


def test_case_trust_18_children_find_a_parent_that_listens_on_every_address(
    tmp_path: Path, root: Node
) -> None:
    operator = Operator(root)
    operator.registry("plant", "library/*")
    environ = {"ACR_REGISTRY_CONNECTION_STRING": operator.string("plant", root)}
    with Everywhere(tmp_path / "plant", configuration=QUICK, workers=1, env=environ) as plant:
        operator.wait_online("plant")
        wait_until(lambda: operator.shown("plant")["loginServer"]["host"] != "", "it says where it is")
        assert operator.shown("plant")["loginServer"]["host"] == f"127.0.0.1:{plant.port}"
        operator.registry("line4", "library/app", parent="plant")
        said = operator.call("POST", "connectedRegistries/line4/settings", {"parentProtocol": "http"})
        assert f"ParentGatewayEndpoint=127.0.0.1:{plant.port};" in said["ACR_REGISTRY_CONNECTION_STRING"]
