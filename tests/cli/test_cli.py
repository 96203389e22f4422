"""The command line: exit codes, refusals, the address line, store tools, and a node that runs alone."""

import os
import socket
import subprocess
import sys

import pytest
from holdfast.cli.verbs.serve import overrides, warn_of_doors
from holdfast.config_file import from_table
from holdfast.testing.scripted_process import scripted_process
from support.command_line import command as here
from support.logs import captured_logs
from support.node import Node, parent_toml
from support.transfer import fetch


def command(*arguments, environ=None):
    return subprocess.run(
        [sys.executable, "-m", "holdfast", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(environ or {})},
    )


def test_version():
    done = command("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("holdfast 0.")


@pytest.mark.parametrize("verb", [("serve", "--config"), ("config", "check")])
def test_a_wrong_configuration_exits_2_and_says_why(tmp_path, verb):
    file = tmp_path / "holdfast.toml"
    file.write_text("workers = 900\n")
    done = command(*verb, str(file))
    assert done.returncode == 2
    assert done.stderr == "holdfast: workers: found 900; allowed: a whole number from -1 to 256\n"


def imported(*arguments):
    """The modules that Python imports for a command."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}


def test_a_node_imports_no_more_than_it_uses(tmp_path):
    """Each of these is megabytes and a tenth of a second in every process."""
    parts = {
        "holdfast.cli.verbs.serve": ("-m", "holdfast", "serve", "--config", str(tmp_path / "missing")),
        "holdfast.process.supervisor": ("-c", "import holdfast.process.supervisor"),
        "holdfast.process.worker": ("-c", "import holdfast.process.worker"),
        "holdfast.process.keeper_process": ("-c", "import holdfast.process.keeper_process"),
    }
    for part, arguments in parts.items():
        found = imported(*arguments)
        assert {part, "holdfast.log"} <= found
        assert not found & {"rich.console", "pygments", "aiohttp", "yarl", "jwt", "argon2"}, part
        if part in ("holdfast.cli.verbs.serve", "holdfast.process.supervisor"):
            assert not found & {"lmdb", "holdfast_core.store"}, f"{part} opens no store"


def test_a_right_configuration(tmp_path):
    file = tmp_path / "holdfast.toml"
    file.write_text('[[parent]]\nurl = "https://registry.example"\n')
    assert command("config", "check", str(file)).returncode == 0


REFUSED = [
    (("--listen", "here"), "listen: found 'here'"),
    (("--listen", "127.0.0.1:99999"), "listen: found"),
    (("--workers", "-2"), "workers: found -2"),
    (("--parent", "http://registry.example"), "--parent-insecure"),
    (("--parent", "ftp://registry.example"), "parent[0].url"),
    (
        ("--parent", "a=https://a.example", "--parent", "a=https://b.example"),
        "parent[0].name: found 'a' twice",
    ),
    (("--tls-cert", "cert.pem"), "tls.key"),
    (("--mode", "WriteBack"), "--mode"),
    (("--anonymous", "delete"), "--anonymous"),
    (("--tls-cert", "none.pem", "--tls-key", "none.pem"), "tls.cert: found 'none.pem'"),
]


@pytest.mark.parametrize(("flags", "said"), REFUSED)
def test_wrong_flags_exit_2(tmp_path, flags, said):
    done = command("serve", "--data", str(tmp_path), "--listen", "127.0.0.1:0", *flags)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr


def test_a_directory_that_is_not_a_store_is_refused(tmp_path):
    (tmp_path / "data" / "blobs" / "sha256" / "ab").mkdir(parents=True)
    (tmp_path / "data" / "blobs" / "sha256" / "ab" / ("ab" * 32)).write_bytes(b"x")
    done = command("serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert "holdfast rebuild" in done.stderr


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nowhere", ""])
def test_a_directory_that_cannot_be_is_refused_in_a_sentence(tmp_path, where):
    (tmp_path / "file").write_text("")
    data = str(tmp_path / where) if where.startswith("file") else where
    done = command("serve", "--data", data, "--listen", "127.0.0.1:0")
    assert (
        done.returncode,
        done.stderr.startswith(f"holdfast: data: found {data!r}; allowed: a directory"),
    ) == (
        2,
        True,
    ), done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('\ufefflisten = "127.0.0.1:5000"\r\n', ""),
        ("", ""),
        ('[tls]\ncert = "none.pem"\nkey = "none.pem"\n', "tls.cert: found 'none.pem'"),
        ('data = ""\n', "data: found ''"),
    ],
)
def test_what_serve_would_refuse_config_check_refuses(tmp_path, text, said):
    file = tmp_path / "holdfast.toml"
    file.write_bytes(text.encode())
    done = command("config", "check", str(file))
    assert (done.returncode, said in done.stderr) == (2 if said else 0, True), done.stderr


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        (
            '[admin]\nlisten = "0.0.0.0:0"\n',
            {},
            "admin.listen: found '0.0.0.0:0', which other machines reach",
        ),
        ("", {"ACR_REGISTRY_CONNECTION_STRING": "nonsense"}, "connection string: "),
        ("", {"ACR_REGISTRY_CERTIFICATE_VOLUME": "VOLUME"}, "has no tls.key"),
    ],
)
def test_case_trust_10_config_check_and_serve_refuse_the_same(tmp_path, text, environ, said):
    file = tmp_path / "holdfast.toml"
    file.write_text(text)
    (tmp_path / "tls.crt").touch()
    environ = {name: value.replace("VOLUME", str(tmp_path)) for name, value in environ.items()}
    checked = command("config", "check", str(file), environ=environ)
    data = tmp_path / "data"
    served = command(
        "serve", "--config", str(file), "--data", str(data), "--listen", "127.0.0.1:0", environ=environ
    )
    assert (checked.returncode, checked.stderr) == (served.returncode, served.stderr)
    assert (checked.returncode, said in checked.stderr, data.exists()) == (2, True, False), checked.stderr


SECRETS_AWAY = """
[[parent]]
url = "https://registry.example"
credentials = { username = "u", password_file = "/nowhere/password" }

[[webhook]]
name = "site"
url = "https://site.example"
secret_env = "NOT_SET_ANYWHERE"
"""


def test_case_trust_10_a_password_that_is_missing_is_named_and_stops_no_node(tmp_path):
    """The node serves what it holds; whoever checks the file hears of it."""
    file = tmp_path / "holdfast.toml"
    file.write_text(SECRETS_AWAY)
    said = command("config", "check", str(file))
    assert said.returncode == 2
    keys = ("parent[0].credentials.password_file: found '/nowhere/password'", "webhook[0].secret_env: found")
    assert [line.count(key) for line, key in zip(said.stderr.splitlines(), keys, strict=True)] == [1, 1]
    with Node(tmp_path, configuration=SECRETS_AWAY, workers=1) as node:
        warned = [event["problem"] for event in node.events() if event.get("event") == "secret not readable"]
        assert [told.count(key) for told, key in zip(warned, keys, strict=True)] == [1, 1]


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("taken", ["--listen", "--admin-listen"])
def test_case_trust_12_a_refused_start_makes_no_store_and_spends_no_password(tmp_path, workers, taken):
    """The password is printed once, and whoever starts again after a refusal must see it."""
    data = tmp_path / "data"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = f"127.0.0.1:{other.getsockname()[1]}"
        start = ("serve", "--data", str(data), "--workers", workers, "--listen", "127.0.0.1:0", taken, port)
        refused = command(*start)
    assert (refused.returncode, "cannot be bound" in refused.stderr) == (2, True), refused.stderr
    assert "password" not in refused.stderr
    assert [path.name for path in data.iterdir()] == ["supervisor.lock"]
    with Node(tmp_path, workers=int(workers)) as node:
        assert "with the password" in node.text()


def test_case_trust_12_an_operator_file_that_is_refused_leaves_no_store(tmp_path):
    (tmp_path / "operator.json").write_text("{}")
    refused = command("serve", "--data", str(tmp_path), "--listen", "127.0.0.1:0")
    assert (refused.returncode, "operator.json" in refused.stderr) == (2, True), refused.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"supervisor.lock", "operator.json"}


def test_no_store_is_said_once(tmp_path):
    done = command("fsck", "--data", str(tmp_path / "nothing"))
    assert (done.returncode, done.stdout) == (1, f"{tmp_path}/nothing holds no store.json\n1 problem\n")


@pytest.mark.parametrize(
    ("url", "insecure", "told"),
    [
        ("http://registry.example", True, 1),
        ("https://registry.example", True, 1),
        ("https://registry.example", False, 0),
        ("http://127.0.0.1:5000", True, 0),
        ("http://localhost:5000", True, 0),
    ],
)
def test_s8_a_parent_that_is_not_verified_is_told_of(url, insecure, told):
    config = from_table({"parent": [{"url": url, "insecure": insecure}]})
    with captured_logs() as lines:
        warn_of_doors(config)
    assert [line["parent"] for line in lines if line["event"] == "parent not verified"] == [url] * told


def test_flags_become_keys():
    flags = {
        **dict.fromkeys(("listen", "data", "workers", "on_miss", "tls_cert", "tls_key")),
        "parents": ("https://a.example",),
        "parent_insecure": False,
        "parent_ca": None,
        "parent_proxy": None,
        "mode": "Registry",
        "anonymous": "push",
    }
    config = from_table(overrides(flags))
    assert (config.mode, config.store_mode, config.anonymous) == ("ReadWrite", "ReadWrite", "push")
    nothing = from_table(overrides({**flags, "mode": None, "anonymous": None}))
    assert (nothing.store_mode, nothing.anonymous) == ("ReadOnly", "")


def test_two_nodes_cannot_share_a_directory_or_a_port(tmp_path):
    with Node(tmp_path, workers=1) as node:
        done = command("serve", "--data", str(node.data), "--listen", "127.0.0.1:0")
        assert (done.returncode, "another" in done.stderr) == (2, True), done.stderr
        done = command("serve", "--data", str(tmp_path / "other"), "--listen", node.address)
        assert (done.returncode, "cannot be bound" in done.stderr) == (2, True), done.stderr


def test_the_default_is_anything_but_an_open_door(tmp_path):
    keys = command("config", "keys").stdout
    assert '`listen` | str | `"127.0.0.1:5000"`' in keys


@pytest.mark.parametrize("workers", [0, 2])
def test_pull_restart_and_check(tmp_path, workers):
    """One process or several: the same bytes, the same store, and nothing for fsck to complain about."""
    with scripted_process("--sample", "library/sample:latest") as parent:
        node = Node(tmp_path, configuration=parent_toml(parent.url), workers=workers)
        first = fetch(node.url, "/v2/library/sample/manifests/latest")
        assert first.status == 200
    with node:
        node.restart()
        again = fetch(node.url, "/v2/library/sample/manifests/latest")
        assert (again.status, again.body) == (200, first.body)
        assert again.headers["warning"].startswith("299 ")
        assert node.stop() == 0
    for arguments in (("fsck", "--read-data"), ("rebuild",), ("fsck", "--read-data=1/2")):
        done = here(*arguments, "--data", str(node.data))
        assert (done.code, "no problems" in done.out) == (0, True), done.out


def test_fsck_finds_a_flipped_byte(tmp_path):
    with scripted_process("--sample", "library/sample:latest") as parent:
        digest = next(
            iter(parent.control("blob", {"name": "library/sample", "size": 100_000, "seed": "s"}).values())
        )
        with Node(tmp_path, configuration=parent_toml(parent.url), workers=0) as node:
            assert fetch(node.url, f"/v2/library/sample/blobs/{digest}").status == 200
            assert node.stop() == 0
    (file,) = (f for f in (node.data / "blobs").glob("*/*/*") if f.is_file())
    body = bytearray(file.read_bytes())
    body[5] ^= 1
    file.chmod(0o600)
    file.write_bytes(body)
    done = here("fsck", "--read-data", "--data", str(node.data))
    assert done.code == 1
    assert digest in done.out


@pytest.mark.parametrize("text", ["0/2", "3/2", "x", "1/"])
def test_a_wrong_share(tmp_path, text):
    done = command("fsck", f"--read-data={text}", "--data", str(tmp_path))
    assert (done.returncode, "n/m" in done.stderr) == (2, True)
