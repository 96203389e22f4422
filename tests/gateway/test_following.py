"""Real nodes: connected registries that hold the repositories of their scope before anybody asks, and hear of what
changes by their parent's log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.node import Node, restarted
from support.plain_push import push, put_blob
from support.programs import wait_until
from support.pushing import OCI_MANIFEST, image
from support.transfer import fetch
from support.tree import QUICK, Operator, child, login

READ = ("content/read", "metadata/read")
#: answers clients from what is held, so that a pull brings nothing
STRICT = f'on_miss = "strict"\n{QUICK}'
TAGS = 1000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A registry that everybody may push to, and that manages connected registries."""
    with Node(tmp_path_factory.mktemp("root"), "--anonymous", "push", configuration=QUICK, workers=1) as node:
        yield node


def reader(operator: Operator, name: str, repository: str) -> dict[str, str]:
    """The login of a new client token."""
    return login(name, operator.token(name, repository, *READ))


def holds(node: Node, repository: str, headers: Mapping[str, str], wanted: dict[str, str]) -> bool:
    """Whether a node has these tags, with all bytes; it asks nobody (`STRICT`)."""
    return all(has(node, repository, tag, headers) == wanted[tag] for tag in reversed(wanted))


def has(node: Node, repository: str, tag: str, headers: Mapping[str, str]) -> str:
    """The digest of a tag, "" when it is not there whole."""
    path, kinds = f"/v2/{repository}", {"Accept": OCI_MANIFEST, **headers}
    answer = fetch(node.url, f"{path}/manifests/{tag}", headers=kinds)
    if answer.status != 200:
        return ""
    manifest = json.loads(answer.body)
    blobs = [manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]
    whole = all(
        fetch(node.url, f"{path}/blobs/{blob}", "HEAD", headers=headers).status == 200 for blob in blobs
    )
    return answer.headers["docker-content-digest"] if whole else ""


def result(operator: Operator, name: str) -> dict[str, str]:
    """The last full synchronisation, as the root shows it."""
    found: dict[str, str] = operator.shown(name)["registrySyncResult"]
    return found


def pulls(node: Node, repository: str, *methods: str) -> list[str]:
    """Paths below a repository that a node was asked for, by GET or HEAD unless told."""
    pulled = (event for event in node.events() if event.get("method") in (methods or ("GET", "HEAD")))
    return [event["path"] for event in pulled if event["path"].startswith(f"/v2/{repository}/")]


def test_a_child_holds_its_scope_and_hears_of_changes(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    wanted = {tag: push(root.url, "app/web", tag, tag.encode()) for tag in ("1", "2")}
    headers = reader(operator, "webclient", "app/web")
    operator.registry("web01", "app/web", clients=("webclient",))
    with child(tmp_path / "web", operator.string("web01", root), configuration=STRICT) as node:
        wait_until(lambda: holds(node, "app/web", headers, wanted), "the initial synchronisation")
        wait_until(lambda: result(operator, "web01")["syncState"] == "Succeeded", "it is told")
        assert result(operator, "web01")["syncTrigger"] == "InitialSync"
        assert operator.shown("web01")["parent"]["syncProperties"]["lastSyncTime"]
        times = []
        for tag in ("3", "4", "2"):
            began = time.monotonic()
            wanted[tag] = push(root.url, "app/web", tag, os.urandom(1000))
            wait_until(lambda: holds(node, "app/web", headers, wanted), f"{tag} is there")
            times.append(time.monotonic() - began)
        print("from the push to the child:", " ".join(f"{t:.2f} s" for t in times))
        assert fetch(root.url, "/v2/app/web/manifests/1", "DELETE").status == 202
        wait_until(lambda: not has(node, "app/web", "1", headers), "the delete is there")
        assert holds(node, "app/web", headers, {tag: wanted[tag] for tag in ("2", "3", "4")})


def test_a_thousand_tags_cost_no_request_each(tmp_path: Path, root: Node) -> None:
    """A restart, a full synchronisation on the operator's word, the scope widened and narrowed: counted at the root."""
    operator = Operator(root)
    manifest = image(put_blob(root.url, "many", b"{}"), put_blob(root.url, "many", b"layer"))
    kind = {"Content-Type": OCI_MANIFEST}
    for number in range(TAGS):
        path = f"/v2/many/manifests/1.0.{number}"
        assert fetch(root.url, path, "PUT", headers=kind, body=manifest).status == 201
    headers = reader(operator, "manyclient", "*")
    operator.registry("many01", "many", clients=("manyclient",))
    with child(tmp_path / "many", operator.string("many01", root), configuration=STRICT) as node:
        wait_until(lambda: has(node, "many", f"1.0.{TAGS - 1}", headers), "the last tag")
        wait_until(lambda: result(operator, "many01")["syncState"] == "Succeeded", "it is told")
        assert len(pulls(root, "many")) < 20
        node.restart()
        operator.wait_online("many01")
        before = len(pulls(root, "many"))
        began = operator.call("POST", "connectedRegistries/many01/resync")
        assert began["properties"]["registrySyncResult"]["syncState"] == "Pending"

        def is_done() -> bool:
            found = result(operator, "many01")
            return (found["syncTrigger"], found["syncState"]) == ("ManualResync", "Succeeded")

        wait_until(is_done, "the operator's wish is done")
        assert len(pulls(root, "many")) == before
        extra = push(root.url, "more/a/b", "1", b"deep")
        change = {"add": ["more/*"]}
        operator.call("POST", "connectedRegistries/many01/permissions", change)
        wait_until(lambda: has(node, "more/a/b", "1", headers) == extra, "the scope is wider")
        wait_until(lambda: result(operator, "many01")["syncTrigger"] == "SyncTokenUpdate", "it is told why")
        wait_until(lambda: pulls(root, "more/a/b", "GET"), "the log of requests has come so far")
        assert len(pulls(root, "many")) == before


def test_kills_lose_nothing(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    headers = reader(operator, "killclient", "killed")
    operator.registry("killed01", "killed", clients=("killclient",))
    wanted: dict[str, str] = {}
    with child(tmp_path / "node", operator.string("killed01", root), configuration=STRICT) as node:
        wait_until(lambda: result(operator, "killed01")["syncState"] == "Succeeded", "it follows")
        for number in range(30):
            wanted[f"t{number}"] = push(root.url, "killed", f"t{number}", os.urandom(100_000))
            if number % 10 == 5:
                (keeper,) = node.children("keeper")
                os.kill(keeper, signal.SIGKILL)
                wait_until(lambda old=keeper: restarted(node, "keeper", [old]), "another keeper")  # type: ignore[misc]
            if number == 17:
                node.program.kill()
            if number == 22:
                node.start()
        wait_until(lambda: holds(node, "killed", headers, wanted), "all that was pushed")
        assert result(operator, "killed01")["syncTrigger"] == "InitialSync"  # no full one was needed
    blobs = [path for path in pulls(root, "killed") if "/blobs/" in path]
    # what a kill cut off is asked for again: up to 16 bodies are on their way at once (docs/sync.md)
    assert len(blobs) <= 2 * 30 + 4 * 16
    assert max(Counter(blobs).values()) <= 1 + 4


def test_referrers_of_what_is_synchronised_are_known_without_the_parent(tmp_path: Path) -> None:
    """What refers to an image is a message of the log as well, so an image without any has none (`oras copy -r` asks).
    Of what is not here nobody knows."""
    with Node(tmp_path / "root", "--anonymous", "push", configuration=QUICK, workers=1) as root:
        operator = Operator(root)
        wanted = {"1": push(root.url, "app", "1", b"one")}
        headers = reader(operator, "appclient", "app")
        operator.registry("lonely", "app", clients=("appclient",))
        with child(tmp_path / "node", operator.string("lonely", root)) as node:
            wait_until(lambda: holds(node, "app", headers, wanted), "the initial synchronisation")
            wait_until(lambda: result(operator, "lonely")["syncState"] == "Succeeded", "it is through")
            root.stop()
            known, unknown = wanted["1"], f"sha256:{0:064x}"
            for restarted_ in (False, True):
                if restarted_:
                    node.restart()
                answer = fetch(node.url, f"/v2/app/referrers/{known}", headers=headers)
                assert (answer.status, json.loads(answer.body)["manifests"]) == (200, []), answer
                assert "warning" in answer.headers
                assert fetch(node.url, f"/v2/app/referrers/{unknown}", headers=headers).status == 503


def test_a_log_that_was_begun_anew_is_noticed(tmp_path: Path) -> None:
    """The root's index is made anew, and nobody can tell what a child missed: 410, and everything is compared."""
    with Node(tmp_path / "root", "--anonymous", "push", configuration=QUICK, workers=1) as root:
        operator = Operator(root)
        wanted = {"1": push(root.url, "app", "1", b"one")}
        headers = reader(operator, "appclient", "app")
        operator.registry("again", "app", clients=("appclient",))
        with child(tmp_path / "node", operator.string("again", root), configuration=STRICT) as node:
            wait_until(lambda: holds(node, "app", headers, wanted), "the initial synchronisation")
            wait_until(lambda: result(operator, "again")["syncState"] == "Succeeded", "it is told")
            root.stop()
            command = [sys.executable, "-m", "holdfast", "rebuild", "--data", str(root.data)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            root.start()
            wanted["2"] = push(root.url, "app", "2", b"two")
            wait_until(lambda: holds(node, "app", headers, wanted), "what came after it")

            def recovered() -> bool:
                found = result(operator, "again")
                return (found["syncTrigger"], found["syncState"]) == ("RecoveryService", "Succeeded")

            wait_until(recovered, "a full synchronisation, and why")


def test_a_push_at_a_read_write_child_comes_back_and_costs_nothing(tmp_path: Path, root: Node) -> None:
    """And what its operator asks it: where it stands, what would come, and a run of its own."""
    operator = Operator(root)
    rights = ("content/read", "content/write")
    writer = login("writer", operator.token("writer", "site/*", *rights))
    operator.registry("site01", "site/*", mode="ReadWrite", clients=("writer",))
    with child(tmp_path / "site", operator.string("site01", root), configuration=STRICT) as node:
        wait_until(lambda: result(operator, "site01")["syncState"] == "Succeeded", "it follows")
        mine = push(node.url, "site/app", "1", b"pushed at the site", writer)
        wait_until(lambda: has(root, "site/app", "1", {}) == mine, "it is at the root")
        theirs = push(root.url, "site/app", "2", b"pushed at the root")
        wait_until(lambda: has(node, "site/app", "2", writer) == theirs, "what came after it is here")

        def blobs() -> int:
            return sum("/blobs/" in path for path in pulls(root, "site/app", "GET"))

        wait_until(lambda: blobs() >= 2, "the log tells of the second image")
        assert blobs() == 2  # and of no other's
        assert not [path for path in pulls(root, "site/app", "GET") if path.endswith(mine)]
        site = Operator(node)
        said = site.call("GET", "sync")
        assert (said["schedule"], said["windowOpen"], said["troubles"]) == ("* * * * *", True, [])
        plan = site.call("GET", "sync/plan")
        assert (plan["ready"], plan["images"]) == (True, [])
        site.call("POST", "sync/run")
        wait_until(lambda: result(operator, "site01")["syncTrigger"] == "ManualResync", "it is told above")


def test_three_levels_hear_of_a_push_within_seconds(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    headers = reader(operator, "deepclient", "deep/app")
    for name, above in (("level1", None), ("level2", "level1"), ("level3", "level2")):
        operator.registry(name, "deep/app", parent=above, clients=("deepclient",))
    with ExitStack() as nodes:
        last = root
        for name in ("level1", "level2", "level3"):
            string = operator.string(name, last)
            last = nodes.enter_context(child(tmp_path / name, string, configuration=STRICT))

        def follows(name: str) -> bool:
            return result(operator, name)["syncState"] == "Succeeded"

        wait_until(lambda: all(map(follows, ("level1", "level2", "level3"))), "all follow")
        times = []
        for number in range(5):
            began = time.monotonic()
            wanted = {f"{number}": push(root.url, "deep/app", f"{number}", os.urandom(10_000))}
            wait_until(lambda wanted=wanted: holds(last, "deep/app", headers, wanted), "three levels down")  # type: ignore[misc]
            times.append(time.monotonic() - began)
        print("three levels down:", " ".join(f"{t:.2f} s" for t in times))
        assert min(times) <= 5.0
        operator.call("POST", "connectedRegistries/level3/resync")
        wait_until(lambda: result(operator, "level3")["syncTrigger"] == "ManualResync", "the wish is down")
        wait_until(lambda: follows("level3"), "and done")
