"""Who may read or write what: one test a threat (security.md)."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast.config import LoginSection
from holdfast.control import command as commands
from holdfast.endpoint.authorization import TABLE, Right
from holdfast.timestamps import stamp
from holdfast.wire.routes import METHODS, Noun, Route, build
from holdfast_core.digest import Digest
from support.login import ALL, CLOSED, READ, Client, access, actions, basic, bearer, challenge, do, token
from support.pushing import OCI_INDEX, code, index, request, running

DIGEST = f"sha256:{'a' * 64}"
TARGETS = {
    Noun.BASE: Route(Noun.BASE),
    Noun.MANIFEST: Route(Noun.MANIFEST, "a", DIGEST),
    Noun.BLOB: Route(Noun.BLOB, "a", DIGEST),
    Noun.UPLOADS: Route(Noun.UPLOADS, "a"),
    Noun.UPLOAD: Route(Noun.UPLOAD, "a", "session"),
    Noun.TAGS: Route(Noun.TAGS, "a"),
    Noun.REFERRERS: Route(Noun.REFERRERS, "a", DIGEST),
    Noun.CATALOG: Route(Noun.CATALOG),
    Noun.TAG_HISTORY: Route(Noun.TAG_HISTORY, "a", "x"),
    Noun.ATTRIBUTES: Route(Noun.ATTRIBUTES, "a"),
    Noun.TOKEN: Route(Noun.TOKEN),
    Noun.GATEWAY: Route(Noun.GATEWAY, "plant", "config"),
    Noun.API: Route(Noun.API, "tokens"),
    Noun.HEALTH: Route(Noun.HEALTH),
    Noun.READINESS: Route(Noun.READINESS),
}
FORWARDED = {
    "X_Forwarded_For": "10.1.1.1",
    "X_Forwarded_Host": "evil.example",
    "X_Forwarded_Proto": "https",
    "Forwarded": "for=10.1.1.1;host=evil.example",
    "X_Real_IP": "10.1.1.1",
    "X_Forwarded_User": "admin",
}


async def test_s08_the_realm_is_the_configured_address(tmp_path: Path) -> None:
    login = LoginSection(server="node.test", scheme="https")
    async with running(tmp_path, msgspec.structs.replace(CLOSED, login=login)) as node:
        told = challenge(await node.ask("GET", "/v2/a/manifests/x"))
        assert told["realm"] == "https://node.test/acr/oauth2/token"
        assert told["service"] == "node.test"


@pytest.mark.parametrize("trusted", [True, False])
async def test_s09_forwarded_headers_count_from_trusted_proxies_alone(tmp_path: Path, trusted: bool) -> None:
    """They change what the node is called, and where a client is counted to be; never who it is."""
    login = LoginSection(
        trusted_proxies=("127.0.0.0/8",) if trusted else ("10.0.0.0/8",), client_addresses=("10.1.1.0/24",)
    )
    async with running(tmp_path, msgspec.structs.replace(CLOSED, login=login)) as node:
        plain = await node.ask("GET", "/v2/a/manifests/x")
        assert plain.status == 401
        spoofed = await node.ask("GET", "/v2/a/manifests/x", None, **FORWARDED)
        if trusted:
            assert spoofed.status == 404  # the proxy says that it comes from an address that may pull
            told = challenge(
                await node.ask(
                    "GET",
                    "/v2/a/manifests/x",
                    X_Forwarded_Host="evil.example, node.example:5000",
                    X_Forwarded_Proto="https",
                )
            )
            assert told["realm"] == "https://node.example:5000/acr/oauth2/token"
            odd = await node.ask(
                "GET",
                "/v2/a/manifests/x",
                X_Forwarded_Host='a",realm="http://evil',
                X_Forwarded_Proto="gopher",
            )
            assert challenge(odd)["realm"] == "http://node.test/acr/oauth2/token"
        else:
            assert (spoofed.status, challenge(spoofed)) == (401, challenge(plain))
            assert challenge(spoofed)["realm"] == "http://node.test/acr/oauth2/token"
        pushed = await node.ask("POST", "/v2/a/blobs/uploads/", b"", **FORWARDED)
        assert pushed.status == 401


async def test_s10_every_request_is_authorised_before_anything_is_looked_up(tmp_path: Path) -> None:
    """Two clients, two repositories, held and not held: nobody sees the other's, or whether it is there."""
    async with running(tmp_path, CLOSED) as node:
        body = index()
        for name in ("one/held", "two/held"):
            await node.keeper.put_manifest(name, str(_digest(body)), ("x",), OCI_INDEX, body)
        clients = {
            name: Client(
                node, f"client-{name}", await token(node, f"client-{name}", *actions(f"{name}/*", *READ))
            )
            for name in ("one", "two")
        }
        for (own, client), other, ways in product(clients.items(), ("one", "two"), ("basic", "bearer")):
            seen = set()
            for what, there in product(
                ("manifests/x", f"manifests/{_digest(body)}", "tags/list", f"referrers/{DIGEST}"),
                ("held", "none"),
            ):
                target, scope = f"/v2/{other}/{there}/{what}", f"repository:{other}/{there}:pull"
                answer = await (
                    client.ask("GET", target) if ways == "basic" else client.with_token("GET", target, scope)
                )
                if own == other:
                    assert answer.status == (
                        200 if there == "held" or what.startswith("referrers") else 404
                    ), (target, answer)
                else:
                    assert answer.status == (403 if ways == "basic" else 401)
                    assert code(answer) == "DENIED"
                    seen.add(
                        (answer.body, answer.headers.get("www-authenticate", "").replace("held", "none"))
                    )
            assert len(seen) <= 2  # one for what pulls, one for what lists


async def test_s12_a_token_reads_nothing_that_was_deleted(tmp_path: Path) -> None:
    """The link is looked up for each request, whatever was granted to a token before."""
    async with running(tmp_path, CLOSED) as node:
        client = Client(node, "client", await token(node, "client", *actions("a", *ALL)))
        digest = await node.blob("a", b"a blob")
        await node.blob("b", b"a blob")  # the bytes stay
        said = bearer(await client.token("repository:a:pull,delete"))
        target = f"/v2/a/blobs/{digest}"
        assert (await node.ask("GET", target, Authorization=said)).body == b"a blob"
        assert (await node.ask("DELETE", target, Authorization=said)).status == 202
        assert (await node.ask("GET", target, Authorization=said)).status == 404


async def test_s13_mount_identical_202(tmp_path: Path) -> None:
    """Six reasons why a mount cannot be, and one answer but for the new session's id."""
    async with running(tmp_path, CLOSED) as node:
        digest = await node.blob("source/secret", b"a blob")
        await node.blob("source/mine", b"another blob")
        await node.blob("source/locked", b"a blob")
        acts = (*actions("target", *ALL), *actions("source/mine", *READ), *actions("source/locked", *ALL))
        client = Client(node, "client", await token(node, "client", *acts))
        assert (await client.ask("PATCH", "/acr/v1/source/locked", b'{"readEnabled":false}')).status == 200
        push = ("repository:target:pull,push", "repository:source/mine:pull", "repository:source/secret:pull")
        for send in (client.ask, _by_token(client, *push)):
            answers = [
                await send("POST", f"/v2/target/blobs/uploads/?mount={digest}{source}", b"")
                for source in (
                    "&from=source/secret",  # there, and forbidden
                    "&from=source/none",  # not there, and forbidden
                    "&from=source/mine",  # allowed, without the blob
                    "&from=source/locked",  # allowed, and locked
                    "&from=NOT..A-NAME",
                    "",  # anywhere
                )
            ]
            assert {answer.status for answer in answers} == {202}
            assert len({_without_session(answer) for answer in answers}) == 1
        assert (await client.ask("HEAD", f"/v2/target/blobs/{digest}")).status == 404
        # one who may read the source mounts; by a token only when the token was asked for it
        both = (*actions("target", *ALL), *actions("source/*", *READ))
        other = Client(node, "other", await token(node, "other", *both))
        query = f"/v2/target/blobs/uploads/?mount={digest}&from=source/secret"
        assert (await other.with_token("POST", query, "repository:target:pull,push", body=b"")).status == 202
        assert (await other.with_token("POST", query, *push, body=b"")).status == 201


async def test_s13_who_may_read_everything_finds_a_blob_anywhere(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        digest = await node.blob("source", b"a blob")
        client = Client(node, "client", await token(node, "client", *actions("*", *ALL)))
        assert (await client.ask("POST", f"/v2/target/blobs/uploads/?mount={digest}", b"")).status == 201


def _by_token(client: Client, *scopes: str) -> Any:
    async def send(method: str, target: str, body: bytes) -> Any:
        return await client.with_token(method, target, *scopes, body=body)

    return send


def _without_session(answer: Any) -> tuple[Any, ...]:
    uuid = answer.headers["docker-upload-uuid"]
    return answer.body, tuple((name, value.replace(uuid, "*")) for name, value in answer.lines)


async def test_s14_who_pulls_owns_nothing(tmp_path: Path) -> None:
    """A pull through brings a repository into being; that gives its client no right to change it."""

    config = msgspec.structs.replace(CLOSED, mode="ReadWrite")
    async with running(tmp_path, config, under_parent=True) as node:
        assert node.parent is not None
        node.parent.add_sample("library/new")
        client = Client(node, "client", await token(node, "client", *actions("*", *READ)))
        scope = "repository:library/new:pull,push,delete"
        held = await client.with_token("GET", "/v2/library/new/manifests/latest", scope)
        assert held.status == 200
        digest = held.headers["docker-content-digest"]
        for send in (client.ask, _by_token(client, scope)):
            for method, what in (
                ("PUT", "manifests/latest"),
                ("POST", "blobs/uploads/"),
                ("DELETE", "manifests/latest"),
                ("DELETE", f"manifests/{digest}"),
                ("DELETE", f"blobs/{digest}"),
            ):
                answer = await send(method, f"/v2/library/new/{what}", b"")
                assert (answer.status in (401, 403), code(answer)) == (True, "DENIED"), (method, what)


#: what each right opens, written out: a table that is wrong is not measured by itself
MANIFEST, TAG, UPLOAD = f"/v2/a/manifests/{DIGEST}", "/v2/a/manifests/tag", "/v2/a/blobs/uploads/session"
OPENS: dict[Right, set[tuple[str, str]]] = {
    Right.CONTENT_READ: {
        (method, path)
        for method in ("GET", "HEAD")
        for path in (MANIFEST, TAG, f"/v2/a/blobs/{DIGEST}", f"/v2/a/referrers/{DIGEST}")
    },
    Right.CONTENT_WRITE: {
        ("PUT", MANIFEST),
        ("PUT", TAG),
        ("POST", "/v2/a/blobs/uploads/"),
        *((method, UPLOAD) for method in ("GET", "PATCH", "PUT", "DELETE")),
    },
    Right.CONTENT_DELETE: {("DELETE", MANIFEST), ("DELETE", TAG), ("DELETE", f"/v2/a/blobs/{DIGEST}")},
    Right.METADATA_READ: {
        ("GET", "/acr/v1/a"),
        *((method, "/v2/a/tags/list") for method in ("GET", "HEAD")),
        *((method, "/v2/a/_holdfast/tag-history/x") for method in ("GET", "HEAD")),
    },
    Right.METADATA_WRITE: {("PATCH", "/acr/v1/a"), ("DELETE", TAG)},
}


@pytest.mark.parametrize("right", OPENS)
async def test_s15_each_right_opens_its_own_rows_and_no_other(tmp_path: Path, right: Right) -> None:
    """Every route with every method that any route takes, by a token that has one right: Basic and Bearer."""
    methods = sorted({method for some in METHODS.values() for method in some})
    async with running(tmp_path, CLOSED) as node:
        client = Client(node, "client", await token(node, "client", *actions("a", right.value)))
        said = (basic("client", client.secret), bearer(await client.token("repository:a:*")))
        tag = Route(Noun.MANIFEST, "a", "tag")
        for noun, method, credential in product(Noun, methods, said):
            for route in (TARGETS[noun], *([tag] if noun is Noun.MANIFEST else [])):
                if noun in (Noun.TOKEN, Noun.HEALTH, Noun.READINESS, Noun.API, Noun.GATEWAY, Noun.CATALOG):
                    continue
                answer = await node.ask(method, build(route), b"", Authorization=credential)
                if method not in METHODS[noun]:
                    assert answer.status == 405
                    continue
                denied = (method, build(route)) not in OPENS[right] and noun is not Noun.BASE
                assert (answer.status in (401, 403)) is denied, (noun, method, route, answer)


async def test_s18_an_upload_belongs_to_who_began_it(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        clients = [
            Client(node, name, await token(node, name, *actions("a", *ALL))) for name in ("first", "second")
        ]
        first, second = clients
        for send, half in ((first.ask, b"half"), (_by_token(first, "repository:a:pull,push"), b"other")):
            begun = await send("POST", "/v2/a/blobs/uploads/", b"")
            location = begun.headers["location"]
            assert (await send("PATCH", location, half)).status == 202
            before = node.dump()
            for method, body in (("GET", None), ("PATCH", b"more"), ("PUT", b""), ("DELETE", b"")):
                target = f"{location}?digest={_digest(half)}" if method == "PUT" else location
                for thief in (second.ask, _by_token(second, "repository:a:pull,push")):
                    answer = await thief(method, target, body)
                    assert answer.status == 404, (method, answer)
                    assert method == "HEAD" or code(answer) == "BLOB_UPLOAD_UNKNOWN"
            assert node.dump() == before
            # with a new token, or with the password, it is still the first one's
            done = await first.ask("PUT", f"{location}?digest={_digest(half)}", b"")
            assert done.status == 201


async def test_s18_an_upload_belongs_to_its_repository(tmp_path: Path) -> None:
    """Whoever began it may push to another repository as well; there it does not exist."""
    async with running(tmp_path, CLOSED) as node:
        acts = (*actions("a", *ALL), *actions("b", *ALL))
        client = Client(node, "client", await token(node, "client", *acts))
        begun = await client.ask("POST", "/v2/a/blobs/uploads/", b"")
        location = begun.headers["location"]
        assert (await client.ask("PATCH", location, b"half")).status == 202
        elsewhere = location.replace("/v2/a/", "/v2/b/")
        assert elsewhere != location
        for method, body in (("GET", None), ("PATCH", b"more"), ("PUT", b""), ("DELETE", b"")):
            target = f"{elsewhere}?digest={_digest(b'half')}" if method == "PUT" else elsewhere
            answer = await client.ask(method, target, body)
            assert (answer.status, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN"), method
        assert (await client.ask("PUT", f"{location}?digest={_digest(b'half')}", b"")).status == 201


async def test_s19_a_stranger_crawls_in_vain(tmp_path: Path) -> None:
    """Every route and method without credentials, and with a stranger's token asked for everything."""
    async with running(tmp_path, msgspec.structs.replace(CLOSED, catalog=True)) as node:
        await node.blob("a", b"a blob")
        await token(node, "client", *actions("*", *ALL))
        scopes = "&".join(
            f"scope={scope}"
            for scope in ("repository:a:*", "registry:catalog:*", "gateway:plant:*", "repository:*:*")
        )
        answer = await node.ask("GET", f"/oauth2/token?{scopes}")
        given = json.loads(answer.body)["token"]
        assert access(given) == {}
        before = node.dump()
        for (noun, method), right in TABLE.items():
            if noun in (Noun.TOKEN, Noun.HEALTH, Noun.READINESS):
                continue
            for said in ({}, {"Authorization": bearer(given)}, {"Authorization": "Basic Og=="}):
                answer = await node.ask(method, build(TARGETS[noun]), b"", **said)
                welcome = noun is Noun.BASE and "Bearer" in str(said)
                assert answer.status == (200 if welcome else 401), (noun, method, right, said)
        for method in METHODS[Noun.API]:
            assert (await node.ask(method, "/api/v1/tokens", b"")).status == 404
        assert node.dump() == before


async def test_s19_the_catalog_shows_what_its_asker_may_pull_and_list(tmp_path: Path) -> None:

    login = LoginSection(anonymous_repositories=("public/*",))
    async with running(tmp_path, msgspec.structs.replace(CLOSED, catalog=True, login=login)) as node:
        for name in ("a", "b", "c", "public/x"):
            await node.blob(name, b"a blob")
        acts = (*actions("a", *READ), *actions("b", "content/read"), *actions("c", "metadata/read"))
        client = Client(node, "client", await token(node, "client", *acts))
        seen = json.loads((await client.ask("GET", "/v2/_catalog")).body)["repositories"]
        assert seen == ["a", "public/x"]
        asked = await client.with_token("GET", "/v2/_catalog", "repository:a:pull")
        assert (asked.status, challenge(asked)["scope"]) == (401, "registry:catalog:*")
        asked = await client.with_token("GET", "/v2/_catalog", "registry:catalog:*")
        assert json.loads(asked.body)["repositories"] == ["a", "public/x"]


async def test_s19_tags_are_listed_to_who_may_list_them(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        body = index()
        await node.keeper.put_manifest("a", str(_digest(body)), ("v1",), OCI_INDEX, body)
        client = Client(node, "client", await token(node, "client", *actions("a", "content/read")))
        assert (await client.ask("GET", "/v2/a/manifests/v1")).status == 200
        assert (await client.ask("GET", "/v2/a/tags/list")).status == 403
        answer = await client.with_token("GET", "/v2/a/tags/list", "repository:a:pull")
        assert (answer.status, challenge(answer)["scope"]) == (401, "repository:a:metadata_read")
        await do(node, commands.UpdateScopeMap(name="client-scope-map", add=actions("a", "metadata/read")))
        assert (await client.ask("GET", "/v2/a/tags/list")).status == 200


async def test_s20_no_spelling_reaches_what_its_canonical_form_does_not(tmp_path: Path) -> None:
    """Whatever the path is written like: it is refused, or it is authorised as the one path it means."""
    spellings = [
        "/v2/secret/manifests/x",
        "/v2//secret/manifests/x",
        "/v2/mine/../secret/manifests/x",
        "/v2/mine/%2e%2e/secret/manifests/x",
        "/v2/mine%2f..%2fsecret/manifests/x",
        "/v2/mine%2fmanifests/x",  # allowed, and still no way to write it
        "/v2/%73ecret/manifests/x",
        "/v2/%2573ecret/manifests/x",
        "/v2/SECRET/manifests/x",
        "/v2/./secret/manifests/x",
        "/v2/secret/manifests/x/",
        "/v2/secret%00/manifests/x",
        "/v2/mine\\..\\secret/manifests/x",
        "/v2/mine/manifests/../../secret/manifests/x",
        "/mine/v2/secret/manifests/x",
        "/v2/secret/manifests/x?ns=mine",
        "/v2/mine/v2/secret/manifests/x",
    ]
    async with running(tmp_path, CLOSED) as node:
        body = index()
        for name in ("secret", "mine"):
            await node.keeper.put_manifest(name, str(_digest(body)), ("x",), OCI_INDEX, body)
        client = Client(node, "client", await token(node, "client", *actions("mine", *READ)))
        for spelling in spellings:
            connection = await node.connect()
            connection.send(request("GET", spelling, None, Authorization=basic("client", client.secret)))
            answer = await connection.answer()
            assert answer.status in (400, 403, 404), spelling
            assert body not in answer.body
        assert (await client.ask("GET", "/v2/%6dine/manifests/x")).status == 200


REVOCATIONS: dict[str, commands.Command] = {
    "disabled": commands.UpdateToken(name="client", status="disabled"),
    "deleted": commands.DeleteToken(name="client"),
    "regenerated": commands.GenerateCredentials(token="client", passwords=("password1",)),
    "password deleted": commands.DeleteCredentials(token="client", passwords=("password1",)),
    "narrowed": commands.UpdateScopeMap(name="client-scope-map", remove=actions("a", "content/read")),
    "another map": commands.UpdateToken(name="client", scope_map="_repositories_pull_metadata_read"),
}


@pytest.mark.parametrize("how", REVOCATIONS)
async def test_s22_revocation_reaches_tokens_already_issued(tmp_path: Path, how: str) -> None:
    """At once, in the middle of a pull: what the token was given before does not count."""
    async with running(tmp_path, CLOSED) as node:
        digest = await node.blob("a", b"a blob")
        await token(node, "another", *actions("a", *ALL))
        client = Client(node, "client", await token(node, "client", *actions("a", *ALL)))
        said = bearer(await client.token("repository:a:pull,push"))
        method, target = ("GET", f"/v2/a/blobs/{digest}")
        if how == "another map":
            method, target = "POST", "/v2/a/blobs/uploads/"
        assert (await node.ask(method, target, b"", Authorization=said)).status < 300
        await do(node, REVOCATIONS[how])
        refused = await node.ask(method, target, b"", Authorization=said)
        assert refused.status == 401
        error = "insufficient_scope" if how in ("narrowed", "another map") else "invalid_token"
        assert challenge(refused)["error"] == error
        assert (await client.ask(method, target, b"")).status in (401, 403)


async def test_s22_one_password_is_rotated_while_the_other_serves(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        made = await do(node, commands.CreateToken(name="client", actions=actions("a", *READ)))
        first, second = (Client(node, "client", one.value) for one in made.passwords)
        tokens = [bearer(await one.token()) for one in (first, second)]
        fresh = await do(node, commands.GenerateCredentials(token="client", passwords=("password1",)))
        statuses = [(await node.ask("GET", "/v2/", Authorization=said)).status for said in tokens]
        assert statuses == [401, 200]
        assert [(await one.ask("GET", "/v2/")).status for one in (first, second)] == [401, 200]
        assert (await Client(node, "client", fresh.passwords[0].value).ask("GET", "/v2/")).status == 200


async def test_s22_a_password_expires_in_tokens_too(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        await token(node, "client", *actions("a", *READ))
        soon = stamp(node.clock.now() + 100)
        order = commands.GenerateCredentials(token="client", passwords=("password1",), expiry=soon)
        client = Client(node, "client", (await do(node, order)).passwords[0].value)
        said = bearer(await client.token())
        assert (await node.ask("GET", "/v2/", Authorization=said)).status == 200
        node.clock.advance(101)
        assert (await node.ask("GET", "/v2/", Authorization=said)).status == 401
        assert (await client.ask("GET", "/v2/")).status == 401


async def test_s22_a_token_ends_after_its_time(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        client = Client(node, "client", await token(node, "client", *actions("a", *READ)))
        said = bearer(await client.token())
        node.clock.advance(299)
        assert (await node.ask("GET", "/v2/", Authorization=said)).status == 200
        node.clock.advance(2)
        answer = await node.ask("GET", "/v2/", Authorization=said)
        assert (answer.status, challenge(answer)["error"]) == (401, "invalid_token")


def _digest(body: bytes) -> Digest:
    return Digest.of(body)
