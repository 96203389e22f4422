"""The operations over a real socket and store: what they answer, what they refuse, that nothing changes then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from holdfast.admin import documents
from holdfast.config import Configuration, ControlSection, LoginSection
from holdfast.control import command
from holdfast.gateway.connection_string import parse
from holdfast.resources.model import Identity, LoginServer
from support.admin import AdminServing, admin_serving

READ = "repositories/team/app/content/read"


def registry(**properties: Any) -> dict[str, Any]:
    """The body of a PUT."""
    return {"properties": {"mode": "ReadOnly", "repositories": ["team/app"], **properties}}


def below(parent: str, **properties: Any) -> dict[str, Any]:
    """The same, below another one."""
    return registry(parent={"id": parent}, **properties)


def scope_map(*actions: str) -> dict[str, Any]:
    return {"properties": {"actions": list(actions or [READ])}}


def conforms(found: Any, kind: Any) -> None:
    """The answer is what the document promises, field by field."""
    assert json.loads(msgspec.json.encode(msgspec.convert(found, kind))) == found


async def test_a_connected_registry_from_creation_to_deletion(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        made = await admin.ask("PUT", "connectedRegistries/Plant1", registry())
        assert made.status == 201
        conforms(made.json, documents.RegistryDocument)
        assert made.headers["etag"] == made.json["etag"]
        properties = made.json["properties"]
        assert (made.json["id"], made.json["name"]) == ("/connectedRegistries/Plant1", "Plant1")
        assert (properties["connectionState"], properties["activation"]) == (
            "Offline",
            {"status": "Inactive"},
        )
        assert properties["parent"]["syncProperties"]["tokenId"] == "/tokens/Plant1"
        assert (await admin.good("GET", "connectedRegistries/plant1")) == made.json
        token = await admin.good("GET", "tokens/plant1")
        conforms(token, documents.TokenDocument)
        assert token["properties"]["credentials"]["passwords"] == []
        permissions = await admin.good("GET", "connectedRegistries/plant1/permissions")
        conforms(permissions, documents.ScopeMapDocument)
        assert "repositories/team/app/content/read" in permissions["properties"]["actions"]
        gone = await admin.good("DELETE", "connectedRegistries/plant1?cleanup=true")
        conforms(gone, documents.ChangeDocument)
        assert {(row["kind"], row["change"]) for row in gone["difference"]} == {
            ("connected-registry", "deleted"),
            ("scope-map", "deleted"),
            ("token", "deleted"),
        }
        for path in ("connectedRegistries/plant1", "tokens/plant1", "scopeMaps/plant1"):
            assert (await admin.refused("GET", path))[0] == 404


async def test_a_put_again_is_no_change_and_a_put_of_immutables_is_refused_by_name(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        await admin.good("PUT", "connectedRegistries/plant1", registry())
        again = await admin.ask("PUT", "connectedRegistries/plant1", registry())
        assert again.status == 200
        etag = again.headers["etag"]
        more = registry(garbageCollection={"enabled": False})
        replaced = await admin.good("PUT", "connectedRegistries/plant1", more)
        assert replaced["properties"]["garbageCollection"]["enabled"] is False
        assert replaced["etag"] != etag
        status, said = await admin.refused("PUT", "connectedRegistries/plant1", registry(mode="ReadWrite"))
        assert (status, "mode" in said) == (409, True)
        status, said = await admin.refused(
            "PATCH", "connectedRegistries/plant1", {"properties": {"mode": "ReadWrite"}}
        )
        assert (status, "cannot change after creation" in said) == (400, True)
        assert (await admin.good("GET", "connectedRegistries/plant1")) == replaced


async def test_conditions(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        only_new = {"If-None-Match": "*"}
        assert (
            await admin.ask("PUT", "connectedRegistries/plant1", registry(), headers=only_new)
        ).status == 201
        found = await admin.ask("PUT", "connectedRegistries/plant1", registry(), headers=only_new)
        assert found.status == 412
        old = (await admin.ask("GET", "connectedRegistries/plant1")).headers["etag"]
        change = {"properties": {"logging": {"logLevel": "Debug"}}}
        new = await admin.ask("PATCH", "connectedRegistries/plant1", change, headers={"If-Match": old})
        assert (new.status, new.headers["etag"] != old) == (200, True)
        for method, path, body in [
            ("PATCH", "connectedRegistries/plant1", change),
            ("PUT", "connectedRegistries/plant1", registry()),
            ("DELETE", "connectedRegistries/plant1", None),
        ]:
            refused = await admin.ask(method, path, body, headers={"If-Match": old})
            assert refused.status == 412, method
        assert (await admin.good("GET", "connectedRegistries/plant1")) == new.json
        for path, body in (("tokens/client1", scope_map()), ("scopeMaps/scope1", scope_map())):
            assert (await admin.ask("PUT", path, body, headers=only_new)).status == 201
            assert (await admin.ask("PUT", path, body, headers=only_new)).status == 412
            assert (await admin.ask("DELETE", path, headers={"If-Match": '"0"'})).status == 412
            etag = (await admin.ask("GET", path)).headers["etag"]
            assert (await admin.ask("DELETE", path, headers={"If-Match": etag})).status in (200, 409)
        wrong = await admin.ask("PUT", "scopeMaps/scope2", scope_map(), headers={"If-None-Match": old})
        assert wrong.status == 400
        for malformed in ("", "x", 'W/"1"', '"1", "2"', '"1', "**"):
            found = await admin.ask("DELETE", "connectedRegistries/plant1", headers={"If-Match": malformed})
            assert (found.status, found.json["errors"][0]["detail"]) == (400, "If-Match"), malformed
        ignored = await admin.ask("POST", "connectedRegistries/plant1/resync", headers={"If-Match": old})
        assert ignored.status == 400


async def test_a_tree_pages_filters_and_the_two_queries(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        await admin.good("PUT", "connectedRegistries/Alpha", registry(mode="ReadWrite"))
        for name in ("Beta1", "Beta2"):
            await admin.good("PUT", f"connectedRegistries/{name}", below("Alpha"))
        await admin.good(
            "PUT", "connectedRegistries/Gamma", below("/connectedRegistries/beta1", mode="Mirror")
        )
        await admin.good("PUT", "connectedRegistries/XAlpha", registry())

        async def names(query: str = "") -> list[str]:
            answer = await admin.good("GET", f"connectedRegistries{query}")
            conforms(answer, documents.RegistryList)
            return [row["name"] for row in answer["value"]]

        assert await names() == ["Alpha", "Beta1", "Beta2", "Gamma", "XAlpha"]
        assert await names("?parent=alpha") == ["Beta1", "Beta2", "Gamma"]
        assert await names("?parent=Alpha&noChildren=true") == ["Beta1", "Beta2"]
        assert await names("?noChildren=true") == ["Alpha", "XAlpha"]
        assert await names("?$filter=mode%20eq%20'ReadWrite'") == ["Alpha"]
        assert await names("?$filter=parent.id%20eq%20'Alpha'%20and%20mode%20eq%20'ReadOnly'") == [
            "Beta1",
            "Beta2",
        ]
        assert await names("?$filter=connectionState%20eq%20'Online'") == []
        assert await names("?$filter=connectionState%20eq%20'Offline'&$top=5") == await names()
        assert await names("?parent=alpha&$filter=parent/id%20eq%20'beta1'") == ["Gamma"]
        assert (await admin.refused("GET", "connectedRegistries?parent=none1"))[0] == 404
        assert (await admin.refused("GET", "connectedRegistries?$filter=name%20eq%20'x'"))[0] == 400


@pytest.mark.parametrize("query", ["", "$filter=mode%20eq%20'ReadOnly'", "noChildren=true"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_pages_lead_on_and_lose_nothing(tmp_path: Path, size: int, query: str) -> None:
    async with admin_serving(tmp_path) as admin:
        wanted = [f"plant{number}" for number in range(7)]
        for name in wanted:
            await admin.good("PUT", f"connectedRegistries/{name}", registry())
        found, path = [], f"connectedRegistries?$top={size}&{query}".rstrip("&")
        for _ in range(10):
            page = await admin.good("GET", path)
            assert len(page["value"]) <= size
            found += [row["name"] for row in page["value"]]
            if (path := page["nextLink"]) is None:
                break
        assert found == wanted


@pytest.mark.parametrize("noun", ["tokens", "scopeMaps"])
async def test_pages_of_the_other_lists(tmp_path: Path, noun: str) -> None:
    async with admin_serving(tmp_path) as admin:
        for number in range(5):
            await admin.good("PUT", f"{noun}/Name{number}", scope_map())
        whole = await admin.good("GET", noun)
        conforms(whole, documents.TokenList if noun == "tokens" else documents.ScopeMapList)
        found, path = [], f"{noun}?$top=2"
        while path:
            page = await admin.good("GET", path)
            found += page["value"]
            path = page["nextLink"]
        assert found == whole["value"]
        assert [row["name"] for row in found if row["name"].startswith("Name")] == [
            f"Name{n}" for n in range(5)
        ]


async def test_a_change_of_a_registry(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        for name in ("client1", "client2"):
            await admin.good("PUT", f"tokens/{name}", scope_map())
        await admin.good("PUT", "connectedRegistries/plant1", registry(clientTokenIds=["client1"]))
        path = "connectedRegistries/plant1"
        change: dict[str, Any] = {
            "syncProperties": {"schedule": "0 9 * * *", "syncWindow": "PT3H", "messageTtl": "P5D"},
            "logging": {"logLevel": "Debug"},
            "garbageCollection": {"schedule": "0 1 * * *"},
            "addClientTokens": ["/tokens/client2"],
            "removeClientTokens": ["client1"],
            "addNotifications": ["team/app:*:push"],
        }
        found = (await admin.good("PATCH", path, {"properties": change}))["properties"]
        sync = found["parent"]["syncProperties"]
        assert (sync["schedule"], sync["syncWindow"], sync["messageTtl"]) == ("0 9 * * *", "PT3H", "P5D")
        assert found["logging"] == {"logLevel": "Debug", "auditLogStatus": "Disabled"}
        assert found["garbageCollection"] == {"enabled": True, "schedule": "0 1 * * *"}
        assert found["clientTokenIds"] == ["/tokens/client2"]
        assert found["notificationsList"] == ["team/app:*:push"]
        tokens = await admin.good("GET", f"{path}/clientTokens")
        conforms(tokens, documents.TokenList)
        assert [row["name"] for row in tokens["value"]] == ["client2"]
        window = {"properties": {"syncProperties": {"schedule": "* * * * *", "syncWindow": None}}}
        found = (await admin.good("PATCH", path, window))["properties"]
        assert found["parent"]["syncProperties"]["syncWindow"] is None
        before = await admin.good("GET", path)
        both = {"properties": {"addClientTokens": ["client1"], "removeClientTokens": ["client1"]}}
        status, said = await admin.refused("PATCH", path, both)
        assert status in (400, 409)
        assert "ambiguity" in said
        nothing = await admin.good("PATCH", path, {"properties": {}})
        assert nothing == before == await admin.good("GET", path)


async def test_a_dry_run_says_what_would_change_and_changes_nothing(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        would = await admin.good("PUT", "connectedRegistries/plant1?dryRun=true", registry())
        conforms(would, documents.ChangeDocument)
        assert would["changed"]
        assert {row["change"] for row in would["difference"]} == {"created"}
        assert (await admin.refused("GET", "connectedRegistries/plant1"))[0] == 404
        await admin.good("PUT", "connectedRegistries/plant1", registry())
        await admin.good("PUT", "connectedRegistries/child1", below("plant1"))
        before = await admin.good("GET", "scopeMaps/plant1")
        would = await admin.good(
            "POST", "connectedRegistries/child1/permissions?dryRun=true", {"add": ["team/more"], "remove": []}
        )
        assert {row["name"] for row in would["difference"]} == {"plant1", "child1"}
        assert before == await admin.good("GET", "scopeMaps/plant1")
        done = await admin.good("POST", "connectedRegistries/child1/permissions", {"add": ["team/more"]})
        conforms(done, documents.ScopeMapDocument)
        above = await admin.good("GET", "scopeMaps/plant1")
        assert "repositories/team/more/content/read" in above["properties"]["actions"]
        await admin.good("POST", "connectedRegistries/plant1/permissions", {"remove": ["team/more"]})
        under = await admin.good("GET", "connectedRegistries/child1/permissions")
        assert not [one for one in under["properties"]["actions"] if "team/more" in one]


async def test_a_token_and_its_passwords(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        made = await admin.ask("PUT", "tokens/client1", scope_map())
        assert made.status == 201
        conforms(made.json, documents.TokenDocument)
        values = [one["value"] for one in made.json["properties"]["credentials"]["passwords"]]
        assert (len(values), len(set(values))) == (2, 2)
        again = await admin.ask("PUT", "tokens/client1", scope_map())
        assert again.status == 200
        assert not [one for one in again.json["properties"]["credentials"]["passwords"] if "value" in one]
        assert "verifier" not in str(again.json)
        days = {"passwords": ["password2"], "expirationInDays": 2}
        new = await admin.good("POST", "tokens/client1/credentials", days)
        conforms(new, documents.NewCredentials)
        assert (new["username"], [one["name"] for one in new["passwords"]]) == ("client1", ["password2"])
        assert new["passwords"][0]["expiry"] == "2027-01-17T08:00:00Z"
        chosen = {"passwords": ["password1"], "value": "vermilion otter sails"}
        assert (await admin.good("POST", "tokens/client1/credentials", chosen))["passwords"][0][
            "name"
        ] == "password1"
        for value in ("short", "changemechangeme", "x" * 1025):
            status, said = await admin.refused(
                "POST", "tokens/client1/credentials", {**chosen, "value": value}
            )
            assert (status, value in said) == (400, False)
        left = await admin.good("DELETE", "tokens/client1/credentials", {"passwords": ["password1"]})
        assert [one["name"] for one in left["properties"]["credentials"]["passwords"]] == ["password2"]
        assert (await admin.good("PATCH", "tokens/client1", {"properties": {"status": "disabled"}}))[
            "properties"
        ]["status"] == "disabled"
        both = {"properties": {"actions": [READ], "expiry": "2030-01-31T00:00:00Z", "expirationInDays": 3}}
        assert (await admin.refused("PUT", "tokens/client2", both))[0] == 400
        conforms(await admin.good("DELETE", "tokens/client1"), documents.ChangeDocument)


async def test_scope_maps(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        assert (await admin.ask("PUT", "scopeMaps/scope1", scope_map())).status == 201
        assert (await admin.ask("PUT", "scopeMaps/scope1", scope_map())).status == 200
        other = "repositories/other/content/read"
        change = {"properties": {"addActions": [other], "description": "for people"}}
        found = await admin.good("PATCH", "scopeMaps/scope1", change)
        conforms(found, documents.ScopeMapDocument)
        assert found["properties"]["actions"] == [READ, other]
        assert found["properties"]["description"] == "for people"
        found = await admin.good("PATCH", "scopeMaps/scope1", {"properties": {"actions": [other]}})
        assert found["properties"]["actions"] == [other]
        system = await admin.good("GET", "scopeMaps/_repositories_pull")
        conforms(system, documents.ScopeMapDocument)
        assert (await admin.refused("DELETE", "scopeMaps/_repositories_pull"))[0] in (400, 409)
        await admin.good("PUT", "tokens/client1", {"properties": {"scopeMapId": "scope1"}})
        status, said = await admin.refused("DELETE", "scopeMaps/scope1")
        assert (status, "client1" in said) == (409, True)
        await admin.good("DELETE", "tokens/client1")
        await admin.good("DELETE", "scopeMaps/scope1")


def settings(**more: Any) -> dict[str, Any]:
    return {"parentProtocol": "http", **more}


async def test_settings_rotate_nothing_unless_told(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        await admin.good("PUT", "connectedRegistries/plant1", registry())
        before = await admin.good("GET", "tokens/plant1")
        path = "connectedRegistries/plant1/settings"
        shown = await admin.good("POST", path, settings())
        conforms(shown, documents.SettingsDocument)
        assert "SYNC_TOKEN_PASSWORD" not in shown
        assert before == await admin.good("GET", "tokens/plant1")
        made = await admin.good("POST", path, settings(generatePassword=2))
        conforms(made, documents.SettingsDocument)
        said = parse(made["ACR_REGISTRY_CONNECTION_STRING"])
        assert (said.registry, said.token, said.endpoint, said.protocol) == (
            "plant1",
            "plant1",
            "127.0.0.1:5000",
            "http",
        )
        assert said.password == made["SYNC_TOKEN_PASSWORD"]
        after = await admin.good("GET", "tokens/plant1")
        assert [one["name"] for one in after["properties"]["credentials"]["passwords"]] == ["password2"]
        for endpoint in ("a b", "host;x=y", "http://host", "host/path", ""):
            wrong = settings(parentEndpoint=endpoint, generatePassword=1)
            if endpoint:
                assert (await admin.refused("POST", path, wrong))[0] == 400
        assert after == await admin.good("GET", "tokens/plant1")


@pytest.mark.parametrize(
    ("config", "clients", "endpoint"),
    [
        (Configuration(), ("192.0.2.1", 5000), "192.0.2.1:5000"),
        (Configuration(), ("2001:db8::1", 5000), "[2001:db8::1]:5000"),
        (Configuration(), ("0.0.0.0", 5000), None),
        (Configuration(), ("::", 5000), None),
        (
            Configuration(login=LoginSection(server="root.example:8443")),
            ("0.0.0.0", 5000),
            "root.example:8443",
        ),
    ],
)
async def test_where_the_parent_is(
    tmp_path: Path, config: Configuration, clients: tuple[str, int], endpoint: str | None
) -> None:
    async with admin_serving(tmp_path, config, clients) as admin:
        made = await admin.good("PUT", "connectedRegistries/plant1", registry())
        told = made["properties"]["parent"]["syncProperties"]["gatewayEndpoint"]
        assert told == f"http://{endpoint or ''}"
        path = "connectedRegistries/plant1/settings"
        if endpoint is None:
            status, said = await admin.refused("POST", path, settings())
            assert (status, "parentEndpoint: missing" in said) == (400, True)
            endpoint_given = await admin.good("POST", path, settings(parentEndpoint="root.example"))
            assert parse(endpoint_given["ACR_REGISTRY_CONNECTION_STRING"]).endpoint == "root.example"
        else:
            shown = await admin.good("POST", path, settings())
            assert parse(shown["ACR_REGISTRY_CONNECTION_STRING"]).endpoint == endpoint


async def control(admin: AdminServing, order: command.ControlCommand) -> command.CommandResult:
    return command.result_of(await admin.port.control(msgspec.json.encode(order)))


async def test_a_node_that_reported_is_seen_deactivated_and_asked_to_resync(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        await admin.good("PUT", "connectedRegistries/plant1", registry(mode="ReadWrite"))
        await admin.good("PUT", "connectedRegistries/child1", below("plant1"))
        assert (await admin.refused("POST", "connectedRegistries/child1/settings", settings()))[0] == 400
        status, said = await admin.refused("POST", "connectedRegistries/plant1/resync")
        assert (status, "ConnectedRegistryHasOfflineChildren" in said) == (409, True)
        lease = await control(admin, command.Activate(name="plant1", instance="i" * 32, lease_seconds=300))
        report = command.RecordReport(
            name="plant1",
            instance="i" * 32,
            generation=lease.generation,
            lease_seconds=300,
            version="1.0",
            login_server=LoginServer(host="plant.example:5000"),
        )
        await control(admin, report)
        found = await admin.good("GET", "connectedRegistries/plant1")
        conforms(found, documents.RegistryDocument)
        properties = found["properties"]
        assert (properties["connectionState"], properties["version"]) == ("Online", "1.0")
        assert properties["activation"]["status"] == "Active"
        online = await admin.good("GET", "connectedRegistries?$filter=connectionState%20eq%20'Online'")
        assert [row["name"] for row in online["value"]] == ["plant1"]
        shown = await admin.good("POST", "connectedRegistries/child1/settings", settings())
        assert parse(shown["ACR_REGISTRY_CONNECTION_STRING"]).endpoint == "plant.example:5000"
        child = await admin.good("GET", "connectedRegistries/child1")
        told = child["properties"]["parent"]["syncProperties"]["gatewayEndpoint"]
        assert told == "http://plant.example:5000"
        again = await admin.good("POST", "connectedRegistries/plant1/settings", settings())
        assert again["ACR_REGISTRY_LOGIN_SERVER"] == "plant.example:5000"
        for host in (
            "10.0.0.7:5000",
            "[2001:db8::7]:5000",
            "localhost:5000",
            "",
        ):  # where it listens, no name
            listening = msgspec.structs.replace(report, login_server=LoginServer(host=host))
            await control(admin, listening)
            again = await admin.good("POST", "connectedRegistries/plant1/settings", settings())
            assert "ACR_REGISTRY_LOGIN_SERVER" not in again
        await admin.good("POST", "connectedRegistries/plant1/resync")
        after = await admin.good("POST", "connectedRegistries/plant1/deactivate")
        assert after["properties"]["activation"]["status"] == "Inactive"


async def test_a_managed_node_is_changed_at_its_parent(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        await control(admin, command.Receive(identity=Identity(name="plant1", instance="i" * 32)))
        for method, path, body in [
            ("PUT", "connectedRegistries/child1", registry()),
            ("PUT", "tokens/client1", scope_map()),
            ("PUT", "scopeMaps/scope1", scope_map()),
        ]:
            status, said = await admin.refused(method, path, body)
            assert (status, "managed by its parent" in said) == (409, True)
        assert (await admin.good("GET", "tokens"))["value"] == []


async def test_a_limit_is_a_conflict(tmp_path: Path) -> None:
    async with admin_serving(
        tmp_path, Configuration(control=ControlSection(connected_registries=1))
    ) as admin:
        await admin.good("PUT", "connectedRegistries/plant1", registry())
        status, said = await admin.refused("PUT", "connectedRegistries/plant2", registry())
        assert (status, "control.connected_registries" in said) == (409, True)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"x", b"null"])
async def test_an_operation_that_takes_no_body(tmp_path: Path, body: bytes) -> None:
    async with admin_serving(tmp_path) as admin:
        await admin.good("PUT", "connectedRegistries/plant1", registry())
        status, said = await admin.refused("POST", "connectedRegistries/plant1/deactivate", raw=body)
        assert (status, said) == (400, "the body: found one; allowed: none")


async def test_a_body_that_is_too_long(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        status, _ = await admin.refused("PUT", "scopeMaps/scope1", raw=b" " * ((16 << 20) + 1))
        assert status == 413


STRANGE_NAMES = [
    "",
    "/",
    "a b",
    "a\x00b",
    "x" * 256,
    "x" * 512,
    "\u00fc" * 400,
    "client1\n",
]


@pytest.mark.parametrize("name", STRANGE_NAMES)
async def test_a_name_that_none_can_have_is_nowhere(tmp_path: Path, name: str) -> None:
    """In a field of a body, in a query and, escaped, in the path."""
    async with admin_serving(tmp_path) as admin:
        await admin.good("PUT", "tokens/client1", scope_map())
        before = await admin.good("GET", "tokens/client1")
        above, token = {"id": name}, {"syncProperties": {"tokenId": name}}
        bodies = [
            ("PATCH", "tokens/client1", {"properties": {"scopeMapId": name}}),
            ("PUT", "tokens/client2", {"properties": {"scopeMapId": name}}),
            ("PUT", "connectedRegistries/plant1", registry(parent=above)),
            ("PUT", "connectedRegistries/plant1", {"properties": {"mode": "ReadOnly", "parent": token}}),
            ("PUT", "connectedRegistries/plant1", registry(clientTokenIds=[name])),
        ]
        for method, path, body in bodies:
            assert (await admin.refused(method, path, body))[0] in (400, 404, 409), (path, body)
        for noun in ("tokens", "scopeMaps", "connectedRegistries"):
            for method in ("GET", "DELETE", "PUT", "PATCH"):
                sent = {"PUT": scope_map(), "PATCH": {"properties": {}}}.get(method)
                path = f"{noun}/{quote(name, safe='')}"
                if name:
                    assert (await admin.refused(method, path, sent))[0] in (400, 404), (method, path)
            answer = await admin.ask("GET", f"{noun}?$skipToken={quote(name, safe='')}")
            assert answer.status == (200 if 0 < len(name) <= 512 else 400)
        assert before == await admin.good("GET", "tokens/client1")
        assert (await admin.good("GET", "connectedRegistries"))["value"] == []
