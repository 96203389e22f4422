"""A real node with its admin listener: what is announced and written, what is refused at the start, SIGHUP, TLS."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

import pytest
from holdfast.process.process_group import Group
from holdfast.process.serving import ADMIN_CONNECTIONS
from holdfast_core.errors import StoreRefused
from support.certificates import make_pair
from support.node import Node
from support.plain_push import push
from support.programs import wait_until
from support.transfer import Answer, fetch

#: a line of the log
OPEN = "data directory was open to others"
BODY = {"properties": {"actions": ["repositories/team/app/content/read"]}}


def operator(data: Path) -> dict[str, str]:
    kept: dict[str, str] = json.loads((data / "operator.json").read_text())
    return kept


def authorization(data: Path) -> str:
    kept = operator(data)
    return "Basic " + base64.b64encode(f"{kept['username']}:{kept['password']}".encode()).decode()


def url_of(data: Path) -> str:
    return str(json.loads((data / "admin.json").read_text())["url"])


def ask(node: Node, method: str, path: str, body: object = None) -> Answer:
    headers = {"Authorization": authorization(node.data)}
    content = None if body is None else json.dumps(body).encode()
    if content:
        headers["Content-Type"] = "application/json"
    return fetch(url_of(node.data), f"/api/v1/{path}", method, headers=headers, body=content)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_node_takes_orders_and_knows_them_after_a_restart(tmp_path: Path, workers: int) -> None:
    with Node(tmp_path, workers=workers) as node:
        url = url_of(node.data)
        assert f"holdfast: admin on {url}" in node.program.output()
        made = ask(node, "PUT", "tokens/client1", BODY)
        assert made.status == 201, made
        for _ in range(8):  # whichever worker takes the connection
            assert ask(node, "GET", "tokens/client1").status == 200
        assert fetch(url, "/api/v1/tokens").status == 401
        assert fetch(url, "/healthz").status == 200
        assert fetch(url, "/readyz").status == 200
        assert fetch(url, "/v2/").status == 404
        assert (
            fetch(node.url, "/api/v1/tokens", headers={"Authorization": authorization(node.data)}).status
            == 404
        )
        first = operator(node.data)
        node.restart()
        assert operator(node.data) == first
        assert json.loads(ask(node, "GET", "tokens/client1").body)["name"] == "client1"


@pytest.mark.parametrize("workers", [0, 1])
def test_s31_the_first_start_makes_the_operator_and_tells_it_once(tmp_path: Path, workers: int) -> None:
    with Node(tmp_path, workers=workers) as node:
        kept = operator(node.data)
        told = re.findall(
            r"holdfast: the operator is (\S+), with the password (\S+) \(also in (\S+)\)", node.text()
        )
        assert told == [(kept["username"], kept["password"], str(node.data / "operator.json"))]
        assert len(base64.urlsafe_b64decode(kept["password"] + "==")) == 32
        node.restart()
        assert node.text().count(kept["password"]) == 1
        assert not [event for event in node.events() if kept["password"] in json.dumps(event)]


def test_s36_the_files_that_hold_secrets_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Node(tmp_path, workers=1) as node:
            ask(node, "PUT", "tokens/client1", BODY)
            private = ["operator.json", "admin.json", "token-key.pem"]
            found = {name: node.data / name for name in private if (node.data / name).exists()}
            assert {"operator.json", "admin.json"} <= set(found)
            modes = {name: stat.S_IMODE(file.stat().st_mode) for name, file in found.items()}
            assert set(modes.values()) == {0o600}, modes
            password = operator(node.data)["password"].encode()
            holders = [
                file for file in node.data.rglob("*") if file.is_file() and password in file.read_bytes()
            ]
            assert holders == [node.data / "operator.json"]
    finally:
        os.umask(before)


def refused(place: Path, *flags: str, limit: float = 60) -> str:
    """What a start that must be refused says."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "holdfast",
            "serve",
            "--data",
            str(place / "data"),
            "--listen",
            "127.0.0.1:0",
            *flags,
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=limit,
    )
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("password", "workers"), [("", "0"), ("password", "1"), ("changemechangeme", "0"), ("Passw0rd1234", "1")]
)
def test_s31_a_start_with_an_example_secret_is_refused(tmp_path: Path, password: str, workers: str) -> None:
    file = tmp_path / "data" / "operator.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"username": "operator", "password": password}))
    file.chmod(0o600)
    said = refused(tmp_path, "--workers", workers)
    assert said.startswith(f"holdfast: {file}: password: found")
    assert not re.search(rf"found .*{re.escape(password or 'never')}", said)


def test_s36_a_start_with_a_secret_that_others_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data" / "operator.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"username": "operator", "password": "k3-Vh7rWq0pLm2x"}))
    file.chmod(0o644)
    assert "found mode 0644; allowed: 0600" in refused(tmp_path, "--workers", "1")


@pytest.mark.parametrize(("listen", "workers"), [("0.0.0.0:0", "0"), ("[::]:0", "2"), (":0", "2")])
def test_beyond_this_machine_without_a_certificate_is_refused(
    tmp_path: Path, listen: str, workers: str
) -> None:
    if listen.startswith("[") and not ipv6():
        pytest.skip("this machine has no IPv6")
    said = refused(tmp_path, "--admin-listen", listen, "--workers", workers)
    assert said.startswith(f"holdfast: admin.listen: found {listen!r}, which other machines reach")
    assert "tls.cert" in said


def ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("listen", ["here", "127.0.0.1:99999", "host.invalid:0"])
def test_an_address_that_cannot_be(tmp_path: Path, listen: str) -> None:
    assert f"admin.listen: found {listen!r}" in refused(tmp_path, "--admin-listen", listen, "--workers", "1")


def test_an_address_that_somebody_has(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused(tmp_path, "--admin-listen", listen, "--workers", "1")
    assert said.startswith(f"holdfast: admin.listen: found {listen!r}; cannot be bound")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_node_may_have_no_admin_api(tmp_path: Path, workers: int) -> None:
    with Node(tmp_path, "--admin-listen", "", workers=workers) as node:
        assert "admin on" not in node.text()
        assert not (node.data / "admin.json").exists()
        assert not (node.data / "operator.json").exists()
        assert fetch(node.url, "/api/v1/tokens").status == 404


@pytest.mark.parametrize("workers", [0, 2])
def test_the_place_is_gone_with_the_node(tmp_path: Path, workers: int) -> None:
    with Node(tmp_path, workers=workers) as node:
        assert (node.data / "admin.json").exists()
        assert node.stop() == 0
        assert not (node.data / "admin.json").exists()
        assert (node.data / "operator.json").exists()


def test_sighup_keeps_the_admin_listener(tmp_path: Path) -> None:
    with Node(tmp_path, workers=2) as node:
        url, old = url_of(node.data), node.children("worker")
        assert ask(node, "PUT", "tokens/client1", BODY).status == 201
        node.hang_up()
        wait_until(lambda: any(e["event"] == "configuration reloaded" for e in node.events()), "reloaded")
        wait_until(node.ready, "ready")
        assert url_of(node.data) == url
        assert not set(node.children("worker")) & set(old)
        for _ in range(8):
            assert ask(node, "GET", "tokens/client1").status == 200


def test_sighup_does_not_move_the_admin_listener(tmp_path: Path) -> None:
    with Node(tmp_path, workers=1) as node:
        node.file.write_text('[admin]\nlisten = "127.0.0.1:1"\n')
        node.hang_up()
        said = node.program.wait_for(".*configuration refused.*")[0]
        assert "admin.listen: cannot change while serving" in said
        assert ask(node, "GET", "tokens").status == 200


def test_a_worker_that_dies_is_replaced_on_both_listeners(tmp_path: Path) -> None:
    with Node(tmp_path, workers=1) as node:
        (worker,) = node.children("worker")
        os.kill(worker, 9)
        wait_until(lambda: node.children("worker") != [worker], "another worker")
        wait_until(node.ready, "ready")
        assert ask(node, "GET", "tokens").status == 200


def test_the_admin_listener_drains_too(tmp_path: Path) -> None:
    with Node(tmp_path, workers=2) as node:
        url = url_of(node.data)
        assert node.stop() == 0
        with pytest.raises(OSError, match="refused"):
            fetch(url, "/healthz")


def test_beyond_this_machine_with_the_nodes_certificate(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "pair", "node", authority=True)
    cert, key = pair / "cert.pem", pair / "key.pem"
    flags = ("--admin-listen", "0.0.0.0:0", "--tls-cert", str(cert), "--tls-key", str(key))
    with TlsNode(tmp_path, *flags) as node:
        url = url_of(node.data)
        assert url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(cert))
        request = Request(f"{url}/api/v1/tokens", headers={"Authorization": authorization(node.data)})
        with urlopen(request, context=context) as answer:
            assert json.loads(answer.read()) == {"value": [], "nextLink": None}
        for path in ("/healthz", "/api/v1/tokens"):
            said = fetch(url.replace("https", "http"), path)
            assert (said.status, b"ask https://" in said.body) == (400, True)


class TlsNode(Node):
    """A node whose readiness is not asked for in clear."""

    def wait_ready(self) -> None:
        self.program.wait_for("worker ready")


def test_on_this_machine_the_admin_listener_has_no_certificate(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "pair", "node", authority=True)
    cert, key = pair / "cert.pem", pair / "key.pem"
    with TlsNode(tmp_path, "--tls-cert", str(cert), "--tls-key", str(key), workers=1) as node:
        assert url_of(node.data).startswith("http://127.0.0.1:")
        assert ask(node, "GET", "tokens").status == 200


def open_to_others(data: Path) -> list[str]:
    return [str(path) for path in (data, *data.rglob("*")) if stat.S_IMODE(path.lstat().st_mode) & 0o077]


def test_s36_case_trust_21_the_data_directory_is_its_owners_alone(tmp_path: Path) -> None:
    """Also one that an earlier version left open: others read images and verifiers in it, and a lock of theirs stopped
    the next start."""
    before = os.umask(0)
    try:
        with Node(tmp_path, "--anonymous", "push", workers=1) as node:
            push(node.url, "team/app", "1", b"layer" * 100_000)
            ask(node, "PUT", "tokens/client1", BODY)
            assert open_to_others(node.data) == []
            everybody = [node.program.process.pid, *node.children("keeper"), *node.children("worker")]
            masks = [Path(f"/proc/{pid}/status").read_text() for pid in everybody]
            assert all("Umask:\t0077\n" in status for status in masks), "what a library writes, too"
            node.data.chmod(0o755)
            node.restart()
            assert open_to_others(node.data) == []
            assert [event["mode"] for event in node.events() if event["event"] == OPEN] == ["0755"]
    finally:
        os.umask(before)


def test_s36_case_trust_21_a_directory_that_cannot_be_closed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fchmod(fd: int, mode: int) -> None:
        raise OSError(code, os.strerror(code))

    tmp_path.chmod(0o755)
    code = errno.EPERM
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchmod", fchmod)
        with pytest.raises(StoreRefused, match="found mode 0755"):
            Group(tmp_path)
        assert list(tmp_path.iterdir()) == []
        code = errno.EROFS
        Group(tmp_path).close()


NOBODY = 65534
LOCKING = """
import fcntl, os, sys
try:
    fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
except PermissionError:
    sys.exit("not allowed")
print("locked", flush=True)
sys.stdin.read()
"""


def test_s36_case_trust_21_a_lock_of_another_user_stops_no_start() -> None:
    """Another user who may get as far as the data directory gets no further."""
    if os.geteuid() != 0:
        pytest.skip(f"another user's process needs root; this is uid {os.geteuid()}")
    with TemporaryDirectory() as place, Node(Path(place), workers=1) as node:
        Path(place).chmod(0o755)
        node.data.chmod(0o755)  # as an earlier version made it
        (node.data / "lock").chmod(0o644)
        node.restart()
        assert node.stop() == 0
        other = subprocess.Popen(
            ["/usr/bin/python3", "-c", LOCKING, str(node.data / "lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            user=NOBODY,
            cwd="/",
        )
        assert other.stdout is not None
        assert other.stdout.readline() == b"", "it got the lock"
        node.start()
        assert other.communicate()[1] == b"not allowed\n"


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: a", b"POST /api/v1/tokens HTTP/1.1\r\nHost: a\r\n"]
)
def test_case_trust_24_idle_connections_do_not_shut_the_operator_out(tmp_path: Path, sent: bytes) -> None:
    """Whoever opens connections and asks nothing on them, or has his answer and goes on sending: the one whose time
    would be over first makes room."""
    if sent.startswith(b"POST"):
        sent += b"Content-Length: 10000000\r\n\r\n" + b"x" * 1000
    with Node(tmp_path, workers=0) as node:
        host, _, port = url_of(node.data).removeprefix("http://").partition(":")
        with ExitStack() as held:
            connections = [
                held.enter_context(socket.create_connection((host, int(port))))
                for _ in range(ADMIN_CONNECTIONS + 12)
            ]
            for connection in connections:
                connection.sendall(sent)
            for _ in range(3):
                assert ask(node, "GET", "tokens").status == 200
        assert ask(node, "PUT", "tokens/client1", BODY).status == 201
