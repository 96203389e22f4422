"""`holdfast status` on real nodes: each screen names what is wrong first, and what to do; the exit code says whether
anything is."""

from __future__ import annotations

import contextlib
import re
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from holdfast.demo.seed import seed
from holdfast.testing.sample import build_sample
from support.certificates import make_pair
from support.disk import SMALL, Disk
from support.disk_node import data_on, pull_image
from support.node import COMMAND, Node
from support.plain_push import push
from support.programs import wait_until
from support.transfer import fetch
from support.tree import QUICK, Operator, child, login

NAME = "library/sample"
ABSENT = f"/v2/{NAME}/manifests/new"


def status(node: Node) -> tuple[int, str]:
    """Exit code, and the screen with its lines joined."""
    command = (*COMMAND[:-1], "status", "--data", str(node.data))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == "", done.stderr
    return done.returncode, done.stdout


def wrong(node: Node) -> str:
    """What the screen says is wrong, which comes right behind the health."""
    code, screen = status(node)
    assert code == 1, screen
    found = re.match(r"HEALTH +\S[^\n]*\nWRONG +(.*?)\nNODE ", screen, re.DOTALL)
    assert found is not None, screen
    return found[1]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "root").mkdir()
    seed(tmp_path / "root" / "data", NAME, "latest", build_sample(NAME), 1.0)
    with Node(tmp_path / "root", configuration=QUICK, workers=1) as node:
        yield node


def below(url: str, *lines: str) -> str:
    """The configuration of a node with one parent."""
    return "\n".join((f'[[parent]]\nurl = "{url}"\ninsecure = true\nprobe_interval = 1.0', *lines))


def test_a_healthy_node(root: Node) -> None:
    code, screen = status(root)
    assert code == 0
    assert screen.startswith("HEALTH  healthy\n")
    assert "WRONG" not in screen
    assert "root, ReadWrite, version" in screen


def test_case_trust_5_a_wrong_password_and_one_that_cannot_be_read(tmp_path: Path, root: Node) -> None:
    Operator(root).registry("plant", "library/*")
    for number, secret in enumerate(('password = "wrong"', 'password_file = "/nowhere"')):
        configuration = below(root.url, f'[parent.credentials]\nusername = "plant"\n{secret}')
        with Node(tmp_path / f"node{number}", configuration=configuration, workers=1) as node:
            assert fetch(node.url, ABSENT).status == 404
            said = wrong(node)
            assert "is denied: it refuses the login; look at the name and the password" in said


class Stranger(socketserver.BaseRequestHandler):
    """Somebody with a certificate of his own making."""

    def handle(self) -> None:
        """The client ends it at the certificate."""
        with contextlib.suppress(OSError):
            self.server.context.wrap_socket(self.request, server_side=True)  # type: ignore[attr-defined]


def test_a_connected_registry_with_a_wrong_authority(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "pair", "own", authority=True)
    flags = ("--tls-cert", str(pair / "cert.pem"), "--tls-key", str(pair / "key.pem"))
    with SecureRoot(tmp_path / "root", *flags, configuration=QUICK, workers=1) as root:
        operator = Operator(root)
        operator.registry("plant", "library/*")
        wanted = {"parentProtocol": "https", "generatePassword": 1, "parentEndpoint": root.address}
        said = operator.call("POST", "connectedRegistries/plant/settings", wanted)
        with child(tmp_path / "plant", said["ACR_REGISTRY_CONNECTION_STRING"]) as plant:
            wait_until(lambda: "TLS with the parent failed" in wrong(plant), "it knows")
            assert "look at `gateway.ca`" in wrong(plant)
            assert "SYNC     idle, no schedule is known yet, last run never" in status(plant)[1]
        lines = [one for one in root.events() if one["event"] == "handshake failed"]
        assert "it may not trust it" in lines[0]["reason"]


class SecureRoot(Node):
    """A root whose readiness is not asked for in clear."""

    def wait_ready(self) -> None:
        self.program.wait_for("worker ready")


def test_case_trust_5_a_wrong_authority(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "pair", "own")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Stranger) as server:
        server.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # type: ignore[attr-defined]
        server.context.load_cert_chain(pair / "cert.pem", pair / "key.pem")  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        configuration = f'[[parent]]\nurl = "https://127.0.0.1:{server.server_address[1]}"\n'
        with Node(tmp_path / "node", configuration=configuration, workers=1) as node:
            assert fetch(node.url, ABSENT).status == 502
            assert "is untrusted: its certificate proves nothing here; look at `ca`" in wrong(node)
        server.shutdown()


#: the clock of every process of a node, two hours ahead
AHEAD = "import time\nnow = time.time\ntime.time = lambda: now() + 7200\n"


def test_a_wrong_clock(tmp_path: Path, root: Node) -> None:
    (tmp_path / "ahead").mkdir()
    (tmp_path / "ahead" / "sitecustomize.py").write_text(AHEAD)
    environ = {"PYTHONPATH": str(tmp_path / "ahead")}
    with Node(tmp_path / "node", configuration=below(root.url), workers=1, env=environ) as node:

        def is_known() -> bool:
            fetch(node.url, ABSENT)
            return status(node)[0] == 1

        wait_until(is_known, "two answers said so")
        said = wrong(node)
        assert said.startswith("the clock of this node is 2 h ahead of that of parent")
        assert "set it, or have it set by NTP" in said


def test_a_closed_window(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    operator.registry("plant", "library/*")
    with child(tmp_path / "plant", operator.string("plant", root)) as plant:
        operator.wait_online("plant")
        wait_until(lambda: "last run 2" in status(plant)[1], "it has synchronised")
        month = (datetime.now(UTC).month + 5) % 12 + 1
        operator.change("plant", syncProperties={"schedule": f"0 3 1 {month} *", "syncWindow": "PT1H"})
        wait_until(lambda: "window closed" in status(plant)[1], "it knows its window")
        code, screen = status(plant)
        assert code == 0, screen
        assert re.search(
            rf"SYNC +idle, window closed until \d+-{month:02}-01T03:00:00Z: nothing is synchronised"
            r" \(holdfast sync run does it now\), last run \d",
            screen,
        ), screen


def test_a_cap_of_nothing_on_pushes(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    password = operator.token("pusher", "library/*", "content/read", "content/write", "metadata/read")
    operator.registry("plant", "library/*", mode="ReadWrite", clients=("pusher",))
    cap = f'{QUICK}[[link.caps]]\nmbit = 0\nwork = "push"\n'
    with child(tmp_path / "plant", operator.string("plant", root), configuration=cap) as plant:
        known = login("pusher", password)
        begin = "/v2/library/app/blobs/uploads/"
        wait_until(
            lambda: fetch(plant.url, begin, "POST", headers=known).status == 202, "the mode is taken up"
        )
        push(plant.url, "library/app", "v1", b"layer", known)
        held = r"OUTBOX +2 to go up, 2 of them when a cap of 0 on pushes is over \(link\.caps\)"
        wait_until(lambda: re.search(held, status(plant)[1]) is not None, "it says what holds it")


def test_no_such_host(tmp_path: Path) -> None:
    with Node(tmp_path / "node", configuration=below("http://no.such.host.invalid"), workers=1) as node:
        wait_until(
            lambda: fetch(node.url, ABSENT).status == 503 and "offline" in wrong(node), "it is offline"
        )
        assert "(the parent's name does not resolve)" in wrong(node)
        assert "look at its `url`, at DNS and the link" in wrong(node)


def test_case_trust_6_a_parents_parent_that_is_away(tmp_path: Path) -> None:
    flags = ("--anonymous", "pull")
    with (
        Node(tmp_path / "top", *flags, workers=1) as top,
        Node(tmp_path / "middle", *flags, configuration=below(top.url), workers=1) as middle,
        Node(tmp_path / "node", *flags, configuration=below(middle.url), workers=1) as node,
    ):
        top.program.kill()
        wait_until(lambda: fetch(node.url, ABSENT).status == 503, "the loss is known")
        assert "level 2 above this node is away" in wrong(node)
        assert "`holdfast status` at the parent says why" in wrong(node)


def test_case_trust_15_a_full_disk_is_seen_here_and_at_the_root(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    operator.registry("plant", "library/*")
    string = operator.string("plant", root)
    with (
        Disk(tmp_path / "disk", size=4 * SMALL["ext4"]) as disk,
        child(data_on(disk, tmp_path / "plant"), string, "--anonymous", "pull") as plant,
    ):
        operator.wait_online("plant")
        disk.fill_up()
        pull_image(plant, NAME)
        wait_until(lambda: "DiskError: the disk is full" in status(plant)[1], "the node knows")
        wait_until(lambda: operator.shown("plant")["connectionState"] == "Unhealthy", "the root knows")
        details = [(row["type"], row["code"]) for row in operator.shown("plant")["statusDetails"]]
        assert details == [("Disk", "DiskError")]


def test_a_revoked_sync_token(tmp_path: Path, root: Node) -> None:
    operator = Operator(root)
    operator.registry("plant", "library/*")
    with child(tmp_path / "plant", operator.string("plant", root)) as plant:
        operator.wait_online("plant")
        assert status(plant)[0] == 0
        (token,) = [row["name"] for row in operator.call("GET", "tokens")["value"]]
        operator.status(token, "disabled")
        wait_until(lambda: status(plant)[0] == 1, "the node hears of it")
        assert "connected registry plant serves what it holds: the parent" in wrong(plant)
