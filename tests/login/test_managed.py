"""Who logs in where: on a managed node its client tokens and the sync tokens below; on a root everybody. Who may
without a login: by certificate and by address."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from holdfast.config import (
    ConfigInvalid,
    Configuration,
    GatewaySection,
    LoginSection,
    ParentSection,
    TlsSection,
)
from holdfast.config_file import from_table
from holdfast.control import command as commands
from holdfast.control.catalogue import Catalogue
from holdfast.resources.model import Identity, Mode
from support.certificates import make_pair
from support.control import create_registry, update_registry
from support.login import ALL, CLOSED, READ, Client, actions, bearer, challenge, claims, do, token
from support.pushing import Registry, code, pushing, running
from support.serving import Client as Connection
from support.serving import serving

IDENTITY = Identity(name="plant", instance="here", activated="2026-11-26T22:00:00Z", generation=1)


async def tree(root: Registry, mode: Mode = "ReadOnly") -> dict[str, str]:
    """plant with line below it, a client token of each, and one that is nobody's; their passwords."""
    secrets = {name: await token(root, name, *actions("a", *READ)) for name in ("clerk", "robot", "outsider")}
    await do(root, create_registry(name="plant", mode=mode, repositories=("a",), client_tokens=("clerk",)))
    await do(
        root,
        create_registry(
            name="line1", mode="ReadOnly", parent="plant", repositories=("a",), client_tokens=("robot",)
        ),
    )
    for name in ("plant", "line1"):
        made = await do(root, commands.GenerateCredentials(token=name, passwords=("password1",)))
        secrets[name] = made.passwords[0].value
    return secrets


async def receive(root: Registry, node: Registry) -> None:
    """The child takes its configuration."""
    found = Catalogue(root.store).configuration_for("plant")
    assert found is not None
    await do(node, commands.Receive(identity=IDENTITY, configuration=found))


async def may_log_in(node: Registry, secrets: dict[str, str]) -> set[str]:
    found = set()
    for name, secret in secrets.items():
        answer = await Client(node, name, secret).ask("GET", "/v2/")
        assert answer.status in (200, 401)
        found |= {name} if answer.status == 200 else set()
    return found


async def test_who_logs_in_where(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as root:
        secrets = await tree(root)
        assert await may_log_in(root, secrets) == set(secrets)
        async with pushing(tmp_path / "child", Configuration()) as node:
            await receive(root, node)
            assert await may_log_in(node, secrets) == {"clerk", "line1"}
            assert (
                await node.ask("GET", "/v2/a/manifests/x")
            ).status == 401  # no strangers at a managed node
            clerk = Client(node, "clerk", secrets["clerk"])
            said = bearer(await clerk.token("repository:a:pull"))
            assert (await node.ask("GET", "/v2/a/manifests/x", Authorization=said)).status == 404
            # taken off the list at the root, and arrived: at once, for tokens already issued too
            await do(root, update_registry(name="plant", remove_client_tokens=("clerk",)))
            await receive(root, node)
            assert (await node.ask("GET", "/v2/a/manifests/x", Authorization=said)).status == 401
            assert await may_log_in(node, secrets) == {"line1"}


async def test_the_log_says_why_a_login_failed_and_the_answer_does_not(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as root:
        secrets = await tree(root)
        async with pushing(tmp_path / "child", Configuration()) as node:
            await receive(root, node)
            asked = {
                "robot": ("robot", secrets["robot"], "not a client token of this node"),
                "clerk": ("clerk", "wrong", "the password is wrong, or has expired"),
                "outsider": ("", secrets["outsider"], "no such token"),
                "a password in the wrong place": ("", "x", "no such token"),
            }
            bodies = set()

            async def failure(number: int) -> dict[str, Any]:
                """The log line of one; it comes after the answer."""
                while len(lines := [one for one in node.logs if one.get("event") == "login failed"]) < number:
                    await asyncio.sleep(0.001)
                return dict(lines[number - 1])

            for number, (name, (known, secret, why)) in enumerate(asked.items(), 1):
                bodies.add((await Client(node, name, secret).ask("GET", "/v2/")).body)
                line = await failure(number)
                assert (line["token"], line["reason"]) == (known, why)
            await do(root, commands.UpdateToken(name="clerk", status="disabled"))
            await receive(root, node)
            bodies.add((await Client(node, "clerk", secrets["clerk"]).ask("GET", "/v2/")).body)
            assert (await failure(len(asked) + 1))["reason"] == "the token is disabled"
            assert len(bodies) == 1
            assert "wrong place" not in repr(node.logs)


@pytest.mark.parametrize("mode", ["ReadOnly", "ReadWrite"])
async def test_the_mode_is_the_parents_word(tmp_path: Path, mode: Mode) -> None:
    config = Configuration(mode="ReadOnly" if mode == "ReadWrite" else "ReadWrite")
    async with running(tmp_path, CLOSED) as root:
        await tree(root, mode)
        secret = await token(root, "writer", *actions("a", *ALL))
        order = update_registry(name="plant", add_client_tokens=("writer",))
        if mode == "ReadOnly":  # a client token there reads alone
            await do(root, commands.UpdateScopeMap(name="writer-scope-map", actions=actions("a", *READ)))
        await do(root, order)
        async with pushing(tmp_path / "child", config) as node:
            await node.ask("GET", "/v2/a/manifests/x")  # the node looked at what it is just now
            await receive(root, node)
            answer = await Client(node, "writer", secret).ask("POST", "/v2/a/blobs/uploads/", b"")
            assert answer.status == (405 if mode == "ReadOnly" else 202)
            if mode == "ReadOnly":
                assert code(answer) == "DENIED"
                assert b"This operation is not allowed on this registry." in answer.body


async def test_a_node_that_never_reached_its_parent_lets_nobody_in(tmp_path: Path) -> None:
    string = (
        "ConnectedRegistryName=plant;SyncTokenName=plant-token;SyncTokenPassword=secret;"
        "ParentGatewayEndpoint=127.0.0.1:9;ParentEndpointProtocol=http"
    )
    config = Configuration(
        gateway=GatewaySection(connection_string=string),
        parent=(ParentSection(url="http://127.0.0.1:9", default=True, insecure=True),),
    )
    async with running(tmp_path, config) as node:
        answer = await node.ask("GET", "/v2/")
        assert answer.status == 401
        assert challenge(answer)["service"] == "node.test"
        assert (await Client(node, "client", "secret").ask("GET", "/v2/")).status == 401
        assert claims(await Client(node).token("repository:a:pull"))["access"] == []


async def test_an_address_pulls_without_login(tmp_path: Path) -> None:
    login = LoginSection(client_addresses=("127.0.0.0/8",))
    async with running(tmp_path, msgspec.structs.replace(CLOSED, login=login)) as node:
        digest = await node.blob("a", b"a blob")
        await token(node, "client", *actions("b", *READ))
        assert (await node.ask("GET", "/v2/")).status == 200
        assert (await node.ask("GET", f"/v2/a/blobs/{digest}")).body == b"a blob"
        assert (await node.ask("GET", "/v2/none/tags/list")).status == 404
        assert (await node.ask("POST", "/v2/a/blobs/uploads/", b"")).status == 401
        assert (await node.ask("DELETE", f"/v2/a/blobs/{digest}")).status == 401


async def test_what_an_address_gives_does_not_travel_with_a_token(tmp_path: Path) -> None:
    """A token used from an address that may pull everything, then from one that may not."""
    login = LoginSection(client_addresses=("10.0.0.1",), trusted_proxies=("127.0.0.1",))
    async with running(tmp_path, msgspec.structs.replace(CLOSED, login=login)) as node:
        client = Client(node, "client", await token(node, "client", *actions("b", *READ)))
        said = bearer(await client.token("repository:b:pull"))
        for address, status in (("10.0.0.1", 404), ("10.0.0.2", 401), ("10.0.0.1", 404)):
            answer = await node.ask("GET", "/v2/a/manifests/x", Authorization=said, X_Forwarded_For=address)
            assert answer.status == status


def client_pair(folder: Path, authority: Path) -> ssl.SSLContext:
    """A context that shows a certificate signed by the authority's key."""
    signer = serialization.load_pem_private_key((authority / "key.pem").read_bytes(), None)
    issuer = x509.load_pem_x509_certificate((authority / "cert.pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime(2026, 1, 1)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dockerd")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=3650))
        .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    )
    folder.mkdir(parents=True)
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    context = trusting()
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def test_a_certificate_pulls_without_login(tmp_path: Path) -> None:
    """Classic dockerd sends mirrors no credentials. Without a certificate of ours a client is a stranger."""
    pair, ours, others = (
        make_pair(tmp_path / name, name, authority=name != "node") for name in ("node", "ours", "others")
    )
    config = msgspec.structs.replace(
        CLOSED,
        tls=TlsSection(cert=str(pair / "cert.pem"), key=str(pair / "key.pem")),
        login=LoginSection(client_ca=str(ours / "cert.pem")),
    )

    async def ask(address: tuple[str, int], context: ssl.SSLContext, target: str, method: str = "GET") -> int:
        stream = await asyncio.open_connection(*address, ssl=context, server_hostname="node.test")
        connection = Connection(*stream)
        try:
            return (await connection.ask(target, method)).status
        finally:
            connection.close()

    async with serving(tmp_path, config) as node:
        address = node.address
        mine = client_pair(tmp_path / "mine", ours)
        assert await ask(address, mine, "/v2/") == 200
        assert await ask(address, mine, "/v2/a/manifests/x") == 404
        assert await ask(address, mine, "/v2/a/blobs/uploads/", "POST") == 401
        assert await ask(address, trusting(), "/v2/a/manifests/x") == 401
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            await ask(address, client_pair(tmp_path / "foreign", others), "/v2/a/manifests/x")


WRONG = [
    ({"server": "https://a"}, "login.server"),
    ({"server": "a/b"}, "login.server"),
    ({"server": "user@a"}, "login.server"),
    ({"trusted_proxies": ["10.0.0.1/8"]}, "login.trusted_proxies"),
    ({"client_addresses": ["everywhere"]}, "login.client_addresses"),
    ({"client_ca": "/nowhere"}, "login.client_ca"),
    ({"token_ttl": 301}, "login.token_ttl"),
]


@pytest.mark.parametrize(("login", "key"), WRONG)
def test_wrong_configurations_are_refused_by_key(login: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"^{key}: found"):
        from_table({"login": login})
    assert from_table({"login": {"server": "[fd00::1]:5000", "trusted_proxies": ["10.0.0.0/8", "::1"]}})
