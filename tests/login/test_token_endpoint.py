"""Logging in: the challenge, the token endpoint in all its forms, and what a token is then good for."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from holdfast.config import Configuration, LoginSection
from holdfast.control import command as commands
from support.control import create_registry
from support.login import (
    ALL,
    CLOSED,
    FORM,
    HOST,
    READ,
    Client,
    access,
    actions,
    basic,
    bearer,
    challenge,
    claims,
    do,
    post,
    token,
)
from support.pushing import code, running

PULL = "repository:plant/line:pull"


async def test_a_client_is_asked_to_log_in_and_then_may(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        secret = await token(node, "client", *actions("plant/*", *READ))
        stranger, client = Client(node), Client(node, "client", secret)
        ping = await stranger.ask("GET", "/v2/")
        assert (ping.status, code(ping)) == (401, "UNAUTHORIZED")
        assert challenge(ping) == {"realm": f"http://{HOST}/acr/oauth2/token", "service": HOST}
        refused = await stranger.ask("GET", "/v2/plant/line/manifests/v1")
        assert challenge(refused)["scope"] == PULL
        for answer in (ping, refused):  # the words of the original; what helps comes after them
            message = json.loads(answer.body)["errors"][0]["message"]
            assert message.partition(":")[0] == "authentication required"
        assert (await client.with_token("GET", "/v2/")).status == 200
        missing = await client.with_token("GET", "/v2/plant/line/manifests/v1", PULL)
        assert (missing.status, code(missing)) == (404, "MANIFEST_UNKNOWN")


async def test_what_is_pushed_is_pulled_with_tokens_and_with_basic(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        writer = Client(node, "writer", await token(node, "writer", *actions("plant/*", *ALL)))
        reader = Client(node, "reader", await token(node, "reader", *actions("plant/*", *READ)))
        body = await node.image_body("plant/line")
        kind = json.loads(body)["mediaType"]
        target = "/v2/plant/line/manifests/v1"
        push = "repository:plant/line:pull,push"
        assert (await writer.with_token("PUT", target, push, body=body, Content_Type=kind)).status == 201
        assert (await writer.ask("PUT", target, body, Content_Type=kind)).status == 201
        for answer in (
            await reader.with_token("GET", target, PULL),
            await reader.ask("GET", target),
            await writer.ask("GET", target),
        ):
            assert (answer.status, answer.body) == (200, body)
        denied = await reader.with_token("PUT", target, push, body=body, Content_Type=kind)
        assert (denied.status, code(denied)) == (401, "DENIED")
        assert (
            json.loads(denied.body)["errors"][0]["message"] == "Insufficient scopes to perform the operation"
        )
        assert challenge(denied) | {"realm": ""} == {
            "realm": "",
            "service": HOST,
            "scope": push,
            "error": "insufficient_scope",
        }
        denied = await reader.ask("PUT", target, body, Content_Type=kind)
        assert (denied.status, code(denied)) == (403, "DENIED")
        listed = await reader.with_token("GET", "/v2/plant/line/tags/list", PULL)
        assert json.loads(listed.body)["tags"] == ["v1"]


async def test_many_scopes_repeated_and_joined_are_merged(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        acts = (*actions("a", *ALL), *actions("b/*", *READ))
        client = Client(node, "client", await token(node, "client", *acts))
        for path in ("/acr/oauth2/token", "/oauth2/token"):
            answer = await client.ask_token(
                "repository:a:pull repository:a:push",
                "repository:a:pull,delete",
                "repository:b/c:pull,push",
                "repository:other:pull",
                "repository(plugin):a:metadata_read",
                "nonsense",
                path=path,
            )
            told = json.loads(answer.body)
            assert told["token"] == told["access_token"]
            assert told["expires_in"] == 300
            assert "refresh_token" not in told
            assert answer.headers["cache-control"] == "no-store"
            assert access(told["token"]) == {
                "repository:a": {"pull", "push", "delete", "metadata_read"},
                "repository:b/c": {"pull"},
            }
        assert access(await client.token("repository:a:*")) == {
            "repository:a": {"pull", "push", "delete", "metadata_read", "metadata_write"}
        }
        assert access(await client.token()) == {}


async def test_the_form_gives_what_the_query_gives(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        secret = await token(node, "client", *actions("a", *READ))
        fields = {"grant_type": "password", "service": HOST, "client_id": "docker", "username": "client"}
        answer = await post(
            node, **fields, password=secret, scope="repository:a:pull,push", access_type="offline"
        )
        told = json.loads(answer.body)
        assert (answer.status, told["scope"]) == (200, "repository:a:pull")
        assert access(told["access_token"]) == {"repository:a": {"pull"}}


async def test_case_trust_3_no_login_is_handed_what_ends_before_its_password(tmp_path: Path) -> None:
    """docker asks for a refresh token at a login and, where it gets one, forgets the password. One that is brought
    from elsewhere, or was given by an earlier version, is told to log in again."""
    async with running(tmp_path, CLOSED) as node:
        secret = await token(node, "client", *actions("a", *READ))
        client = Client(node, "client", secret)
        by_query = await client.ask_token(query="offline_token=true&client_id=docker")
        fields = {"grant_type": "password", "username": "client", "password": secret, "client_id": "docker"}
        by_form = await post(node, **fields, access_type="offline")
        for answer in (by_query, by_form):
            assert (answer.status, "refresh_token" in json.loads(answer.body)) == (200, False)
        stale = await post(
            node, grant_type="refresh_token", refresh_token=json.loads(by_form.body)["access_token"]
        )
        assert stale.status == 401
        assert b"log in with name and password" in stale.body


BAD_FORMS = [
    ({"grant_type": "authorization_code"}, 400),
    ({}, 400),
    ({"grant_type": ["password", "refresh_token"]}, 400),
    ({"grant_type": "password", "username": "client", "password": "wrong"}, 401),
    ({"grant_type": "password", "username": "nobody", "password": "x"}, 401),
    ({"grant_type": "refresh_token", "refresh_token": "x"}, 401),
    ({"grant_type": "refresh_token"}, 401),
    ({"grant_type": "password", "filler": "x" * 66_000}, 400),
    ({"grant_type": "password", "service": "another.node"}, 400),
]


@pytest.mark.parametrize(("fields", "status"), BAD_FORMS)
async def test_bad_forms_are_refused(tmp_path: Path, fields: dict[str, str], status: int) -> None:
    async with running(tmp_path, CLOSED) as node:
        await token(node, "client", *actions("a", *READ))
        assert (await post(node, **fields)).status == status


async def test_what_is_no_form_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        for body, kind in ((b"{}", "application/json"), (b"", FORM), (b"a=\xff", FORM), (b"a=%zz", FORM)):
            answer = await node.ask("POST", "/oauth2/token", body, Content_Type=kind)
            assert answer.status == 400, (body, kind)
        for said in ("Bearer x", "Negotiate x", "Basic !", "Basic " + "A" * 9000):
            assert (await node.ask("GET", "/oauth2/token", Authorization=said)).status == 401


async def test_strangers_get_what_strangers_may(tmp_path: Path) -> None:
    config = Configuration(anonymous="none", login=LoginSection(anonymous_repositories=("public/**",)))
    async with running(tmp_path, config) as node:
        await token(node, "client", *actions("a", *READ))
        stranger = Client(node)
        scopes = ("repository:public/tool:pull,push", "repository:a:pull", "registry:catalog:*")
        answer = await node.ask(
            "GET", "/oauth2/token?scope=" + "%20".join(scopes), Authorization="Basic Og=="
        )
        given = json.loads(answer.body)["token"]
        assert access(given) == {"repository:public/tool": {"pull"}}
        assert claims(given)["sub"] == ""
        for said in ({}, {"Authorization": bearer(given)}):
            found = await node.ask("GET", "/v2/public/tool/manifests/x", None, **said)
            assert found.status == 404
            refused = await node.ask("GET", "/v2/a/manifests/x", None, **said)
            assert (refused.status, code(refused)) == (401, "UNAUTHORIZED")
            assert ("error" in challenge(refused)) is bool(said)
        assert (await node.ask("GET", "/v2/", Authorization=bearer(given))).status == 200
        assert (await stranger.ask("GET", "/v2/")).status == 401


async def test_tokens_can_be_used_where_strangers_may_pull(tmp_path: Path) -> None:
    """A mirror that also has tokens asks at `/v2/`, so that clients log in; who does not log in pulls all the same."""
    async with running(tmp_path, Configuration(anonymous="pull")) as node:
        assert (await node.ask("GET", "/v2/")).status == 200
        secret = await token(node, "writer", *actions("a", *ALL))
        assert (await node.ask("GET", "/v2/")).status == 401
        assert (await node.ask("GET", "/v2/a/manifests/x")).status == 404
        assert (await node.ask("POST", "/v2/a/blobs/uploads/", b"")).status == 401
        writer = Client(node, "writer", secret)
        assert (await writer.ask("POST", "/v2/a/blobs/uploads/", b"")).status == 202
        # a login takes nothing away that anybody may
        assert (await writer.with_token("GET", "/v2/other/tags/list")).status == 404


async def test_level_none_is_what_a_node_with_connected_registries_has(tmp_path: Path) -> None:
    async with running(tmp_path, Configuration()) as node:
        assert (await node.ask("GET", "/v2/a/manifests/x")).status == 404
        await do(node, create_registry(name="plant", mode="ReadOnly", repositories=("a",)))
        node.clock.advance(0.6)
        assert (await node.ask("GET", "/v2/a/manifests/x")).status == 401
        (told,) = (line for line in node.logs if line["event"] == "rights without login changed")
        assert (told["was"], told["now"]) == ("pull", "none")
        await do(node, commands.DeleteRegistry(name="plant", cleanup=True))
        node.clock.advance(0.6)
        assert (await node.ask("GET", "/v2/a/manifests/x")).status == 404


async def test_a_node_answers_for_its_own_address_alone(tmp_path: Path) -> None:
    config = msgspec.structs.replace(
        CLOSED, login=LoginSection(server="registry.example:443", scheme="https")
    )
    async with running(tmp_path, config) as node:
        assert (await node.ask("GET", "/v2/")).status == 421
        assert (await node.ask("GET", "/oauth2/token")).status == 421
        assert (await node.ask("GET", "/healthz")).status == 200
        client = await node.connect()
        for host in ("registry.example", "Registry.Example:443"):
            client.send(f"GET /v2/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = await client.answer()
            told = challenge(answer)
            assert told["realm"] == "https://registry.example:443/acr/oauth2/token"
            assert told["service"] == "registry.example:443"
        client.send(b"GET /v2/ HTTP/1.1\r\nHost: registry.example:8443\r\n\r\n")
        assert (await client.answer()).status == 421


async def test_case_69_authorization_is_read_strictly(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        secret = await token(node, "client", *actions("a", *READ))
        good = basic("CLIENT", secret)  # names compare without casing
        assert (await node.ask("GET", "/v2/", Authorization=good)).status == 200
        assert (await node.ask("GET", "/v2/", Authorization=good.replace("Basic", "bAsIc"))).status == 200
        for said in (
            basic("client", secret + "x"),
            basic("client", ""),
            basic("", secret),
            basic("/tokens/client", secret),
            basic("client", secret * 100),
            good[:-3] + "!!!",
            "Basic",
            "Digest x",
        ):
            answer = await node.ask("GET", "/v2/", Authorization=said)
            assert (answer.status, code(answer)) == (401, "UNAUTHORIZED"), said
        client = await node.connect()
        client.send(
            f"GET /v2/ HTTP/1.1\r\nHost: a\r\nAuthorization: {good}\r\nAuthorization: {good}\r\n\r\n".encode()
        )
        assert (await client.answer()).status == 401
