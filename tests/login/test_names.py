"""A repository has one name in scope maps, however a client reaches it; and gateways are for their own tokens."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from holdfast.config import ParentSection
from holdfast.control import command as commands
from support.control import create_registry
from support.login import CLOSED, READ, Client, access, actions, bearer, challenge, do, token
from support.pushing import running

DEAD = "http://127.0.0.1:1"
SEVERAL = msgspec.structs.replace(
    CLOSED,
    on_miss="strict",
    parent=(
        ParentSection(url=DEAD, insecure=True, name="docker.io", prefixes=("hub",), hosts=("hub.test",)),
        ParentSection(url=DEAD, insecure=True, name="ghcr.io", repositories=("owner/**",)),
    ),
)
#: target, host, whether the map that gives docker.io/library/* lets it by
WAYS = [
    ("/v2/docker.io/library/x/manifests/1", "node.test", True),
    ("/v2/library/x/manifests/1?ns=docker.io", "node.test", True),
    ("/v2/library/x/manifests/1?ns=registry-1.docker.io", "node.test", True),
    ("/v2/hub/library/x/manifests/1", "node.test", True),
    ("/hub/v2/library/x/manifests/1", "node.test", True),
    ("/v2/library/x/manifests/1", "hub.test", True),
    ("/v2/library/x/manifests/1", "node.test", False),
    ("/v2/owner/x/manifests/1?ns=ghcr.io", "node.test", False),
    ("/v2/ghcr.io/owner/x/manifests/1", "node.test", False),
    ("/v2/docker.io/other/x/manifests/1", "node.test", False),
    ("/v2/library/x/manifests/1?ns=quay.io", "node.test", False),
]


@pytest.mark.parametrize(("target", "host", "allowed"), WAYS)
async def test_s20_every_way_to_a_repository_is_the_same_repository(
    tmp_path: Path, target: str, host: str, allowed: bool
) -> None:
    async with running(tmp_path, SEVERAL) as node:
        client = Client(node, "client", await token(node, "client", *actions("docker.io/library/*", *READ)))
        for credential in (
            client.credentials["Authorization"],
            bearer(await client.token("repository:hub/library/x:pull")),
        ):
            line = await node.connect()
            answer = await line.ask(target, Host=host, Authorization=credential)
            assert (answer.status not in (401, 403)) is allowed, answer
        line = await node.connect()
        stranger = await line.ask(target, Host=host)
        assert stranger.status == 401
        if allowed:
            assert challenge(stranger)["scope"] == "repository:docker.io/library/x:pull"


async def test_a_default_parent_has_plain_names(tmp_path: Path) -> None:
    row = ParentSection(url=DEAD, insecure=True, name="docker.io", default=True)
    async with running(tmp_path, msgspec.structs.replace(CLOSED, on_miss="strict", parent=(row,))) as node:
        client = Client(node, "client", await token(node, "client", *actions("library/*", *READ)))
        said = await client.token("repository:docker.io/library/x:pull", "repository:library/y:pull")
        assert access(said) == {"repository:library/x": {"pull"}, "repository:library/y": {"pull"}}
        for target in ("library/x", "docker.io/library/x"):
            answer = await node.ask("GET", f"/v2/{target}/manifests/1", Authorization=bearer(said))
            assert answer.status not in (401, 403)


async def test_a_gateway_is_for_its_own_sync_token(tmp_path: Path) -> None:
    target = "/acr/gateway/v1/Plant1/config"
    async with running(tmp_path, CLOSED) as node:
        order = create_registry(name="Plant1", mode="ReadOnly", repositories=("a",))
        await do(node, order)
        made = await do(node, commands.GenerateCredentials(token="Plant1", passwords=("password1",)))
        sync = Client(node, "Plant1", made.passwords[0].value)
        other = Client(node, "client", await token(node, "client", *actions("*", *READ)))
        stranger = await node.ask("GET", target)
        assert (stranger.status, challenge(stranger)["scope"]) == (401, "gateway:plant1:*")
        assert (await sync.ask("GET", target)).status == 200
        assert (await sync.with_token("GET", target, "gateway:Plant1:config_read")).status == 200
        assert (await sync.with_token("GET", target, "repository:a:pull")).status == 403
        assert (await other.ask("GET", target)).status == 403
        given = json.loads((await other.ask_token("gateway:plant1:*")).body)["token"]
        assert access(given) == {}
        assert (await node.ask("GET", target, Authorization=bearer(given))).status == 403
        await do(node, commands.UpdateToken(name="Plant1", status="disabled"))
        assert (await sync.ask("GET", target)).status == 401
