"""The original's environment names are aliases of keys, and a connection string alone makes a complete child."""

from __future__ import annotations

from pathlib import Path

import pytest
from holdfast.cli.verbs.serve import join
from holdfast.config import ConfigInvalid, Configuration
from holdfast.config_file import from_table, load
from holdfast.gateway.agent import login_server
from holdfast.gateway.connection_string import parse
from holdfast.gateway.environment import crosses_network_in_clear, joined

STRING = (
    "ConnectedRegistryName=plantA;SyncTokenName=plantA;SyncTokenPassword=a+b/c==;"
    "ParentGatewayEndpoint=root.example:8443;ParentEndpointProtocol=https"
)


def child(environ: dict[str, str], **flags: object) -> Configuration:
    """The configuration of `holdfast serve` with that environment and no file."""
    return join(load(None, flags, environ), environ)


def test_the_string_alone_makes_a_child() -> None:
    config = child({"ACR_REGISTRY_CONNECTION_STRING": f"\ufeff{STRING}\r\n"}, data="here")
    (parent,) = config.parent
    assert (parent.url, parent.name, parent.default) == ("https://root.example:8443", "", True)
    assert (parent.credentials.username, parent.credentials.password) == ("plantA", "a+b/c==")
    assert not parent.insecure
    assert (config.store_mode, config.anonymous, config.data) == ("ReadOnly", "", "here")
    assert parse(config.gateway.connection_string).registry == "plantA"


@pytest.mark.parametrize("quote", ["'", '"', ""])
def test_case_trust_27_quotes_that_docker_hands_on_are_taken_off(quote: str) -> None:
    """`get-settings -o env` quotes for a shell; docker --env-file takes what follows the `=` as it stands."""
    environ = {
        "ACR_REGISTRY_CONNECTION_STRING": f"{quote}{STRING}{quote}\r\n",
        "ACR_REGISTRY_DATA_VOLUME": f"{quote}/var/acr/data{quote}",
        "ACR_REGISTRY_LOGIN_SERVER": f"{quote}edge.example:5000{quote}",
        "ACR_PARENT_GATEWAY_ENDPOINT": f"{quote}upper:1{quote}",
    }
    config = child(environ)
    assert config.parent[0].url == "https://upper:1"
    assert config.parent[0].credentials.password == "a+b/c=="
    assert (config.data, config.login.server) == ("/var/acr/data", "edge.example:5000")


def test_a_file_may_hold_the_string(tmp_path: Path) -> None:
    (secret := tmp_path / "string").write_text(f"{STRING}\n")
    config = join(load(None, {"gateway": {"connection_string_file": str(secret)}}), {})
    assert config.gateway.connection_string == STRING
    assert config.gateway.connection_string_file == ""
    with pytest.raises(ConfigInvalid, match="absent: cannot be read: No such file"):
        join(load(None, {"gateway": {"connection_string_file": str(tmp_path / "absent")}}), {})


def test_the_environment_lies_over_the_file_and_under_the_flags(tmp_path: Path) -> None:
    (file := tmp_path / "holdfast.toml").write_text(
        'data = "file"\n[login]\nserver = "file"\ntoken_ttl = 60.0\n[gateway]\npoll = 5.0\n'
        f'connection_string_file = "{tmp_path}/absent"\n'
    )
    environ = {
        "ACR_REGISTRY_CONNECTION_STRING": STRING,
        "ACR_REGISTRY_LOGIN_SERVER": "edge.example:5000",
        "ACR_REGISTRY_DATA_VOLUME": "volume",
        "ACR_PARENT_GATEWAY_ENDPOINT": "$UPPER:1",
        "UPPER": "upper",
    }
    config = join(load(file, {}, environ), environ)
    assert (config.login.server, config.login.token_ttl) == ("edge.example:5000", 60.0)
    assert (config.data, config.gateway.poll) == ("volume", 5.0)
    assert config.parent[0].url == "https://upper:1"
    assert load(file, {"data": "flag"}, environ).data == "flag"


def test_certificates_switch_https_on_when_they_are_there(tmp_path: Path) -> None:
    environ = {"ACR_REGISTRY_CERTIFICATE_VOLUME": str(tmp_path)}
    assert load(None, {}, environ).tls.cert == ""
    assert load(None, {}, {"ACR_REGISTRY_CERTIFICATE_VOLUME": str(tmp_path / "absent")}).tls.cert == ""
    (tmp_path / "tls.crt").touch()
    with pytest.raises(ConfigInvalid, match=r"ACR_REGISTRY_CERTIFICATE_VOLUME: .* has no tls.key"):
        load(None, {}, environ)
    (tmp_path / "tls.key").touch()
    tls = load(None, {}, environ).tls
    assert (tls.cert, tls.key) == (str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))


def test_plain_http_is_taken_at_its_word() -> None:
    config = child({"ACR_REGISTRY_CONNECTION_STRING": STRING.replace("=https", "=http")})
    assert config.parent[0].insecure
    assert crosses_network_in_clear(config)
    for local in ("127.0.0.1", "localhost", "[::1]"):
        text = STRING.replace("=https", "=http").replace("root.example", local)
        assert not crosses_network_in_clear(child({"ACR_REGISTRY_CONNECTION_STRING": text}))
    assert not crosses_network_in_clear(child({"ACR_REGISTRY_CONNECTION_STRING": STRING}))
    assert not crosses_network_in_clear(Configuration())


def test_other_parents_stay_behind_it() -> None:
    hub = {"name": "docker.io", "url": "https://registry-1.docker.io"}
    config = child({"ACR_REGISTRY_CONNECTION_STRING": STRING}, parent=[hub])
    assert [parent.name for parent in config.parent] == ["", "docker.io"]


def test_without_a_string_nothing_changes() -> None:
    assert joined(Configuration(), {"ACR_PARENT_GATEWAY_ENDPOINT": "upper"}) == Configuration()


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"mode": "ReadWrite"}, "^mode: found 'ReadWrite' beside a connection string"),
        ({"parent": [{"url": "https://a"}]}, r"^parent\[0\]: found a default parent beside"),
        ({"parent": [{"url": "https://a", "name": "a", "default": True}]}, r"^parent\[0\]: found a default"),
        ({"gateway": {"ca": "/nowhere"}}, "^gateway.ca: found '/nowhere'"),
    ],
)
def test_what_the_parent_says_may_not_be_said_here(flags: dict[str, object], why: str) -> None:
    gateway = {"connection_string": STRING, **flags.pop("gateway", {})}  # type: ignore[dict-item]
    with pytest.raises(ConfigInvalid, match=why):
        load(None, {"gateway": gateway, **flags})


def test_a_malformed_string_is_refused_with_its_key_and_without_its_password() -> None:
    with pytest.raises(
        ConfigInvalid, match="connection string: ParentEndpointProtocol: found 'ftp'"
    ) as refusal:
        child({"ACR_REGISTRY_CONNECTION_STRING": STRING.replace("=https", "=ftp")})
    assert "a+b" not in str(refusal.value)
    with pytest.raises(ConfigInvalid, match=r"beside gateway\.connection_string_file"):
        load(None, {"gateway": {"connection_string": STRING, "connection_string_file": "x"}})


@pytest.mark.parametrize(
    ("listen", "server", "found"),
    [
        ("192.0.2.7:5000", "", "192.0.2.7:5000"),
        ("[2001:db8::7]:5000", "", "[2001:db8::7]:5000"),
        ("0.0.0.0:5000", "", ""),
        (":5000", "", ""),
        ("[::]:5000", "", ""),
        ("0.0.0.0:5000", "plant.example:8443", "plant.example:8443"),
    ],
)
def test_a_node_that_listens_everywhere_does_not_know_where_it_is_reached(
    listen: str, server: str, found: str
) -> None:
    config = from_table({"listen": listen, "login": {"server": server}})
    assert login_server(config).host == found


@pytest.mark.parametrize(
    ("listen", "own", "found"),
    [
        ("0.0.0.0:5000", "10.0.0.7", "10.0.0.7:5000"),
        ("[::]:5000", "2001:db8::7", "[2001:db8::7]:5000"),
        ("[::]:5000", "fe80::7%eth0", "[fe80::7]:5000"),
        ("192.0.2.7:5000", "10.0.0.7", "192.0.2.7:5000"),
        ("0.0.0.0:0", "10.0.0.7", ""),
    ],
)
def test_case_trust_18_a_node_that_listens_everywhere_says_where_it_meets_its_parent(
    listen: str, own: str, found: str
) -> None:
    assert login_server(from_table({"listen": listen}), own).host == found
