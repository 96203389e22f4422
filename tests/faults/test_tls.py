"""The real command over TLS: pulls, and a certificate that is changed, badly and well, while it serves."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from holdfast.server.server import CERTIFICATE_SECONDS
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from support.certificates import make_pair
from support.node import Node, parent_toml
from support.programs import wait_until
from support.transfer import LIMIT

NAME = "library/tls"
WORKERS = 2
#: so many that each worker gets some: the kernel spreads connections over them
CONNECTIONS = 24
#: more than the socket buffers on the way hold
LARGE_BYTES = 40_000_000
#: nothing here may end because a loaded machine is slow
SLOW = "[limits]\nidle_timeout = 3600.0\nstall_timeout = 3600.0\n"


class SecureNode(Node):
    """A node that serves https with `cert.pem` and `key.pem` of `pair`; clients trust `trusted`."""

    def __init__(self, place: Path, pair: Path, trusted: ssl.SSLContext, configuration: str) -> None:
        self._trusted = trusted
        flags = ("--tls-cert", str(pair / "cert.pem"), "--tls-key", str(pair / "key.pem"))
        super().__init__(place, *flags, configuration=configuration, workers=WORKERS)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        try:
            with closing(self.connect()) as connection:
                return self.ask(connection, "/readyz")[0] == 200
        except OSError:
            return False

    def connect(self) -> http.client.HTTPSConnection:
        """A connection; its certificate is checked."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=LIMIT, context=self._trusted)
        connection.connect()
        return connection

    def ask(self, connection: http.client.HTTPSConnection, target: str) -> tuple[int, bytes]:
        """Status and body."""
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def names(self) -> set[str]:
        """Whom the certificates of many new connections name."""
        with ExitStack() as stack:
            return {name_of(stack.enter_context(closing(self.connect()))) for _ in range(CONNECTIONS)}

    def said(self, event: str) -> set[int]:
        """Processes that logged an event."""
        return {line["pid"] for line in self.events() if line["event"] == event}


def name_of(connection: http.client.HTTPSConnection) -> str:
    """The common name of the certificate that a connection was made with."""
    der = connection.sock.getpeercert(binary_form=True)
    assert der
    (name,) = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def put(source: Path, *names: str, to: Path) -> None:
    """Files of a pair, each replaced whole."""
    for name in names:
        (to / "new").write_bytes((source / name).read_bytes())
        os.replace(to / "new", to / name)


@pytest.fixture
def parent() -> Iterator[ScriptedProcess]:
    with scripted_process("--sample", f"{NAME}:latest", "--blob", f"{NAME}={LARGE_BYTES}") as started:
        yield started


@pytest.fixture
def node(parent: ScriptedProcess, tmp_path: Path) -> Iterator[SecureNode]:
    """A node with the pair `first`; `second` is trusted beside it, and neither is used by anyone else."""
    first, second = (make_pair(tmp_path / name, name) for name in ("first", "second"))
    trusted = ssl.create_default_context(cafile=str(first / "cert.pem"))
    trusted.load_verify_locations(second / "cert.pem")
    (tmp_path / "live").mkdir()
    put(first, "cert.pem", "key.pem", to=tmp_path / "live")
    configuration = parent_toml(parent.url) + SLOW
    with SecureNode(tmp_path / "node", tmp_path / "live", trusted, configuration) as started:
        yield started


def all_workers(node: SecureNode, event: str) -> None:
    """Wait until each worker logged an event."""
    wait_until(lambda: len(node.said(event)) == WORKERS, f"{event!r} by {WORKERS} workers, see {node.log}")


def test_a_pull_over_tls(node: SecureNode, parent: ScriptedProcess) -> None:
    sample = parent.hello["samples"][f"{NAME}:latest"]
    references = [
        f"manifests/{sample['index']}",
        *(f"blobs/{digest}" for digest in sample["layers"]["amd64"]),
    ]
    with closing(node.connect()) as connection:
        assert connection.sock.version() in ("TLSv1.2", "TLSv1.3")
        for reference in references * 2:
            status, body = node.ask(connection, f"/v2/{NAME}/{reference}")
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            assert (status, digest) == (200, reference.partition("/")[2])


def test_a_changed_pair_is_taken_up_when_it_is_good_and_old_connections_go_on(
    node: SecureNode, parent: ScriptedProcess, tmp_path: Path
) -> None:
    # the promise is 15 s; what decides here is that each worker looks that often, not how long this takes
    assert CERTIFICATE_SECONDS <= 15
    live, second = tmp_path / "live", tmp_path / "second"
    (large,) = parent.hello["blobs"].values()
    with closing(node.connect()) as idle, closing(node.connect()) as busy:
        assert node.ask(idle, "/v2/")[0] == 200
        old, transfer = idle.sock, start(busy, f"/v2/{NAME}/blobs/{large}")
        hasher = hashlib.sha256(transfer.read(1000))

        put(second, "cert.pem", to=live)
        all_workers(node, "certificate refused")
        assert node.names() == {"first"}

        put(second, "key.pem", to=live)
        all_workers(node, "certificate reloaded")
        assert node.names() == {"second"}

        assert (node.ask(idle, "/v2/")[0], idle.sock is old, name_of(idle)) == (200, True, "first")
        while block := transfer.read(1 << 16):
            hasher.update(block)
        assert f"sha256:{hasher.hexdigest()}" == large


def start(connection: http.client.HTTPSConnection, target: str) -> http.client.HTTPResponse:
    """An answer of which only the head was read."""
    connection.request("GET", target)
    answer = connection.getresponse()
    assert answer.status == 200
    return answer
