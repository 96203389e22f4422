"""Real nodes: a root and connected registries below it that were given nothing but a connection string."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast.testing.sample import build_sample
from support.node import COMMAND, Node, restarted
from support.programs import wait_until
from support.push_clients import skopeo as push
from support.transfer import fetch
from support.tree import ARRIVES, QUICK, Operator, bearer, child, login, pull, troubles

REPOSITORY = "team/app"
READ = ("content/read", "metadata/read")
SCOPE = f"repository:{REPOSITORY}:pull"
#: how long a revocation may take to have effect once it has arrived (seconds)
EFFECT = 5.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A root that holds one image and manages connected registries, one a test."""
    sample, under = build_sample("app"), tmp_path_factory.mktemp("root")
    with Node(under / "root", "--anonymous", "push", configuration=QUICK, workers=1) as node:
        (place := under / "layout").mkdir()
        push(node.address, place, REPOSITORY, sample)
        yield node


def plant(operator: Operator, place: Path, name: str = "plantA", **more: object) -> tuple[Node, str]:
    """A connected registry below the root with one client, and the password of that."""
    password = operator.token(f"{name}client", REPOSITORY, *READ)
    operator.registry(name, REPOSITORY, clients=(f"{name}client",), **more)  # type: ignore[arg-type]
    node = child(place, operator.string(name, operator.root))
    wait_until(lambda: pull(node, REPOSITORY, login(f"{name}client", password)).status == 200, "a first pull")
    return node, password


def test_a_string_makes_a_child_that_its_clients_log_in_to(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    node, password = plant(operator, tmp_path / "plant")
    with node:
        operator.wait_online("plantA")
        shown = operator.shown("plantA")
        assert shown["activation"] == {"status": "Active"}
        assert shown["loginServer"]["host"] == node.address
        assert shown["version"]
        wait_until(
            lambda: operator.shown("plantA")["parent"]["syncProperties"]["lastSyncTime"], "it is synchronised"
        )
        assert pull(node, REPOSITORY, {}).status == 401
        assert pull(node, REPOSITORY, login("plantAclient", "wrong")).status == 401
        sync = operator.string("plantA", root).split("SyncTokenPassword=")[1].split(";")[0]
        assert pull(node, REPOSITORY, login("plantA", sync)).status == 401  # the sync token is for the parent
        assert password not in node.text()
        assert sync not in node.text()


@pytest.mark.parametrize("how", ["disable", "delete", "unlist", "rotate", "narrow"])
def test_a_revocation_arrives_and_counts_for_tokens_already_issued(
    how: str, tmp_path: Path, root: Node
) -> None:
    operator = Operator(root)
    name = f"plant{how}"
    node, password = plant(operator, tmp_path / "plant", name)
    with node:
        issued = bearer(node, f"{name}client", password, SCOPE)
        assert pull(node, REPOSITORY, issued).status == 200
        path = f"tokens/{name}client"
        if how == "disable":
            operator.status(f"{name}client", "disabled")
        elif how == "delete":
            operator.call("DELETE", path)
        elif how == "unlist":
            operator.change(name, removeClientTokens=[f"{name}client"])
        elif how == "rotate":
            operator.call("POST", f"{path}/credentials", {"passwords": ["password1"]})
        else:
            actions = {"removeActions": [f"repositories/{REPOSITORY}/content/read"]}
            operator.call("PATCH", f"scopeMaps/{name}client-scope-map", {"properties": actions})
        began = time.monotonic()
        wait_until(
            lambda: pull(node, REPOSITORY, issued).status in (401, 403), f"{how} counts", ARRIVES + EFFECT
        )
        assert pull(node, REPOSITORY, login(f"{name}client", password)).status in (401, 403)
        print(f"{how}: {time.monotonic() - began:.2f} s from the root's command to the child's refusal")


def test_a_change_of_the_client_list_and_the_log_level_arrives(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    node, _ = plant(operator, tmp_path / "plant", "changing")
    with node:
        password = operator.token("newcomer", REPOSITORY, *READ)
        assert pull(node, REPOSITORY, login("newcomer", password)).status == 401
        operator.change("changing", addClientTokens=["newcomer"])
        wait_until(lambda: pull(node, REPOSITORY, login("newcomer", password)).status == 200, "listed")
        operator.change("changing", logging={"logLevel": "None"})
        wait_until(lambda: silent(node), "nothing is logged")
        operator.change("changing", logging={"logLevel": "Information"})
        wait_until(lambda: not silent(node), "all is logged")


def silent(node: Node) -> bool:
    """Whether a request leaves no line."""
    before = len(node.text())
    assert pull(node, REPOSITORY, {}).status == 401
    time.sleep(0.3)
    return len(node.text()) == before


def test_a_second_instance_is_refused_and_takes_over_after_the_lease(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    operator.registry("twofold", REPOSITORY)
    string = operator.string("twofold", root)
    with child(tmp_path / "one", string) as one:
        operator.wait_online("twofold")
        with child(tmp_path / "two", string) as two:
            wait_until(lambda: "ALREADY_ACTIVATED" in troubles(two), "the second is told")
            assert "ALREADY_ACTIVATED" in two.text()
            assert troubles(one) == ""
            time.sleep(3)
            assert "ALREADY_ACTIVATED" in troubles(two)
            assert troubles(one) == ""
            one.program.kill()
            died = time.monotonic()
            wait_until(lambda: troubles(two) == "", "the second takes over")
            assert time.monotonic() - died > 2.0  # not before the lease ran out, less what had passed
            one.start()
            wait_until(lambda: "ALREADY_ACTIVATED" in troubles(one), "the first learns at its next contact")
            assert troubles(two) == ""


def test_deactivation_makes_room_for_another_instance(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    operator.registry("deactivated", REPOSITORY)
    string = operator.string("deactivated", root)
    with child(tmp_path / "one", string) as one:
        operator.wait_online("deactivated")
        with child(tmp_path / "two", string) as two:
            wait_until(lambda: "ALREADY_ACTIVATED" in troubles(two), "the second is refused")
            operator.call("POST", "connectedRegistries/deactivated/deactivate")
            wait_until(lambda: troubles(two) == "", "the second is active")
            wait_until(lambda: "ALREADY_ACTIVATED" in troubles(one), "the first asks again and is refused")


def test_a_disabled_sync_token_stops_the_words_and_not_the_service(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    node, password = plant(operator, tmp_path / "plant", "disabled")
    with node:
        operator.status("disabled", "disabled")
        wait_until(lambda: "refuses the sync token" in troubles(node), "it says so")
        assert pull(node, REPOSITORY, login("disabledclient", password)).status == 200
        node.restart()
        assert pull(node, REPOSITORY, login("disabledclient", password)).status == 200
        operator.status("disabled", "enabled")
        wait_until(lambda: troubles(node) == "", "all is well again")


def test_a_node_that_never_reached_its_parent_starts_and_lets_nobody_in(tmp_path: Path) -> None:
    string = (
        "ConnectedRegistryName=plantA;SyncTokenName=plantA;SyncTokenPassword=abcdefghijklmnop;"
        "ParentGatewayEndpoint=127.0.0.1:9;ParentEndpointProtocol=http"
    )
    with child(tmp_path / "plant", string) as node:
        assert pull(node, REPOSITORY, {}).status == 401
        assert pull(node, REPOSITORY, login("plantA", "abcdefghijklmnop")).status == 401
        wait_until(lambda: "connection" in troubles(node), "it says so")
        assert "holds nothing yet" in troubles(node)
        assert "abcdefghijklmnop" not in node.text()


def test_a_new_string_is_taken_up_at_a_reload(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    operator.registry("rotated", REPOSITORY)
    (file := tmp_path / "string").write_text(operator.string("rotated", root))
    configuration = f'{QUICK}connection_string_file = "{file}"\n'
    with Node(tmp_path / "node", configuration=configuration, workers=1) as node:
        operator.wait_online("rotated")
        string = operator.string("rotated", root)
        wait_until(lambda: "refuses the sync token" in troubles(node), "the old password is over")
        file.write_text(string)
        node.hang_up()
        wait_until(lambda: troubles(node) == "", "the new one is taken")


def test_one_process_is_a_child_as_well(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    operator.registry("alone", REPOSITORY, mode="ReadWrite")
    with child(tmp_path / "alone", operator.string("alone", root), workers=0) as node:
        operator.wait_online("alone")
        assert operator.shown("alone")["loginServer"]["host"] == node.address


def test_a_read_write_child_takes_pushes_after_a_restart_without_its_parent(tmp_path: Path) -> None:
    """The mode is the parent's word, and is held like the rest."""
    with Node(tmp_path / "root", configuration=QUICK, workers=1) as root:
        operator = Operator(root)
        password = operator.token("pusher", REPOSITORY, "content/read", "content/write")
        operator.registry("writing", REPOSITORY, mode="ReadWrite", clients=("pusher",))
        node = child(tmp_path / "writing", operator.string("writing", root))
        with node:
            operator.wait_online("writing")
            wait_until(lambda: upload(node, login("pusher", password)) == 202, "the mode is taken up")
            root.program.kill()
            node.restart()
            assert upload(node, login("pusher", password)) == 202
            blob = b"pushed while nobody was above"
            digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
            path = f"/v2/{REPOSITORY}/blobs/uploads/?digest={digest}"
            assert fetch(node.url, path, "POST", headers=login("pusher", password), body=blob).status == 201


def upload(node: Node, headers: dict[str, str]) -> int:
    """The status of an upload that begins."""
    return fetch(node.url, f"/v2/{REPOSITORY}/blobs/uploads/", "POST", headers=headers).status


def test_a_keeper_that_dies_keeps_its_place(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    operator.registry("killed", REPOSITORY)
    with child(tmp_path / "killed", operator.string("killed", root)) as node:
        operator.wait_online("killed")
        (keeper,) = node.children("keeper")
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: restarted(node, "keeper", [keeper]) and node.ready(), "another keeper")
        time.sleep(2)
        assert troubles(node) == ""
        assert operator.shown("killed")["connectionState"] == "Online"


def test_a_store_belongs_to_one_connected_registry(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    for name in ("belongs", "others"):
        operator.registry(name, REPOSITORY)
    with child(tmp_path / "belongs", operator.string("belongs", root)) as node:
        operator.wait_online("belongs")
    refusals = [
        (
            node.data,
            operator.string("others", root),
            "is that of connected registry 'belongs', the connection string names 'others'",
        ),
        (node.data, "", "is that of connected registry 'belongs'; give its connection string"),
    ]
    for data, string, why in refusals:
        assert why in refused(data, string)
    with Node(tmp_path / "managing", workers=0) as managing:
        Operator(managing).registry("someone", REPOSITORY)
    assert "holds a control plane of its own" in refused(managing.data, operator.string("others", root))


def refused(data: Path, string: str) -> str:
    """What `holdfast serve` says when it refuses to start."""
    command = [*COMMAND, "--data", str(data), "--listen", "127.0.0.1:0"]
    environ = {**os.environ, "ACR_REGISTRY_CONNECTION_STRING": string}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done
    return done.stderr
