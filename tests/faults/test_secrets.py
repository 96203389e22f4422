"""No secret reaches a log, a file of the node or a command line: canaries travel everywhere a secret does."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from support.node import Node
from support.programs import wait_until
from support.receiver import Receiver, answer
from support.transfer import fetch

USER, PASSWORD = "canary-user", "canary-password-7f3a"
REFRESH, CLIENT, SIGNATURE = "canary-refresh-51bd", "canary-client-90ce", "canary-signature-22d8"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
#: the scripted parent's tokens read token-1, token-2, …
CANARIES = re.compile("|".join((PASSWORD, REFRESH, CLIENT, SIGNATURE, re.escape(BASIC), r"token-\d+\b")))
NAME = "library/secrets"

CONFIGURATION = """\
log_level = "debug"
[tags]
floating_ttl = 0.0
[[parent]]
url = "{url}"
insecure = true
default = true
realms = ["{url}"]
[parent.credentials]
username = "{user}"
password = "{password}"
"""


@pytest.fixture(params=["basic", "bearer"])
def parent(request: pytest.FixtureRequest) -> Iterator[ScriptedProcess]:
    with scripted_process("--sample", f"{NAME}:latest") as started:
        door = {"scheme": request.param, "username": USER, "password": PASSWORD, "give_refresh": REFRESH}
        started.control("settings", {"door": door})
        yield started


def configuration(url: str, password: str = PASSWORD) -> str:
    """A node with credentials in its file, logging all it can."""
    return CONFIGURATION.format(url=url, user=USER, password=password)


def written_by(node: Node) -> Iterator[tuple[str, str]]:
    """(where, text) of the log, of every file of the store, and of what every process shows of itself."""
    yield "the log", node.text()
    for path in (path for path in node.data.rglob("*") if path.is_file()):
        yield str(path), path.read_bytes().decode("latin-1")
    for pid in (node.program.process.pid, *node.children("keeper"), *node.children("worker")):
        for name in ("cmdline", "environ"):
            yield f"{name} of {pid}", Path(f"/proc/{pid}/{name}").read_bytes().decode("latin-1")


def pull(node: Node, image: str, layer: str) -> tuple[int, int]:
    """Statuses of a manifest and a layer, asked for as a client with secrets of its own would."""
    headers = {"Authorization": f"Bearer {CLIENT}", "Cookie": f"session={CLIENT}"}
    query = f"?account={CLIENT}"
    manifest = fetch(node.url, f"/v2/{NAME}/manifests/{image}{query}", headers=headers)
    return manifest.status, fetch(node.url, f"/v2/{NAME}/blobs/{layer}{query}", headers=headers).status


def test_nothing_that_a_node_writes_holds_a_secret(parent: ScriptedProcess, tmp_path: Path) -> None:
    sample = parent.hello["samples"][f"{NAME}:latest"]
    first, second = sample["layers"]["amd64"]
    with Node(tmp_path, configuration=configuration(parent.url)) as node:
        signed = f"{parent.url}{{path}}?X-Amz-Signature={SIGNATURE}"
        parent.script(ScriptedFault(path=f"blobs/{first}$", redirect=signed))
        assert pull(node, "latest", first) == (200, 200)
        parent.control("expire")
        parent.script(
            ScriptedFault(path=f"blobs/{second}", redirect="ftp://x/{path}?X-Amz-Signature=" + SIGNATURE)
        )
        pull(node, sample["index"], second)
        parent.control("settings", {"offline": True})
        pull(node, "latest", second)
        found = [(where, hit[0]) for where, text in written_by(node) if (hit := CANARIES.search(text))]
        assert found == []


def test_nothing_of_a_webhook_but_its_name_is_told(tmp_path: Path) -> None:
    """Its URL is a secret as well: whoever has it can post to the receiver."""
    with Receiver(otherwise=answer(403)) as receiver:
        hook = {
            "name": "ci",
            "url": f"{receiver.url}/{PASSWORD}?code={REFRESH}",
            "secret": CLIENT,
            "headers": [f"Authorization: {BASIC}"],
            "insecure": True,
        }
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in hook.items())
        configuration = f'log_level = "debug"\n[[webhook]]\n{lines}\n'
        with Node(tmp_path, "--anonymous", "push", configuration=configuration) as node:
            body = b'{"schemaVersion": 2, "manifests": []}'
            kind = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
            assert fetch(node.url, f"/v2/{NAME}/manifests/v1", "PUT", headers=kind, body=body).status == 201
            receiver.wait_for(1)
            wait_until(lambda: "webhook failed" in node.text(), "the failure is in the log")
            assert "answered 403" in fetch(node.url, "/readyz").body.decode()
            found = [(where, hit[0]) for where, text in written_by(node) if (hit := CANARIES.search(text))]
            assert found == []


def test_a_refused_password_is_not_told(parent: ScriptedProcess, tmp_path: Path) -> None:
    wrong = PASSWORD + "-wrong"
    with Node(tmp_path, configuration=configuration(parent.url, wrong)) as node:
        assert fetch(node.url, f"/v2/{NAME}/manifests/latest").status == 404
        assert CANARIES.search(node.text()) is None


URL_LINE = 'url = "https://registry.example"\n'
LOGIN = URL_LINE + "[parent.credentials]\n"
BROKEN = [
    LOGIN + 'password = 5\nusername = "{secret}"',
    LOGIN + 'pasword = "{secret}"',
    LOGIN + 'password = "{secret}"\npassword_env = "{secret}"',
    LOGIN + 'exec = "{secret}"',
    URL_LINE + 'credentials = "{secret}"',
    URL_LINE + 'mirrors = { password = "{secret}" }',
    'url = "ftp://u:{secret}@h"',
    'url = "https://u:{secret}@h/?x"',
    'url = "https://u:{secret}@h"',
    'url = "https://u:{secret}@h:99999"',
    'url = "https://u:a@{secret}@h/#x"',
    'url = "https://u:a/{secret}@h"',
    'url = "https://u:{secret}@h\uff0fx"',
    URL_LINE + 'mirrors = ["http://u:{secret}@h"]',
    URL_LINE + 'realms = ["https://u:{secret}@h/token"]',
    URL_LINE + 'proxy = "socks5://u:{secret}@h:1"',
    URL_LINE + 'proxy = "http://u:{secret}@h:99999"',
    URL_LINE + 'redirects = ["https://u:{secret}@h"]',
    URL_LINE + 'hosts = ["https://u:{secret}@h"]',
]


@pytest.mark.parametrize(
    "broken", [*("[[parent]]\n" + row for row in BROKEN), "[parent]\n" + LOGIN + 'password = "{secret}"']
)
def test_a_refused_configuration_does_not_tell_its_secrets(broken: str, tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_text(broken.replace("{secret}", PASSWORD))
    command = [sys.executable, "-m", "holdfast", "config", "check", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
