"""One table decides; what is not in it is denied. What holders of tokens may is in tests/login."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from holdfast.config import Configuration
from holdfast.endpoint import authorization
from holdfast.endpoint.authorization import CHANGES, PERSONAL, ROUTES, STRANGERS, TABLE, Right
from holdfast.endpoint.dispatch import ENDPOINTS
from holdfast.wire.routes import METHODS, Noun
from hypothesis import given
from hypothesis import strategies as st
from support.login import Client, actions, challenge, token
from support.pushing import OPEN, code, index, request, running

METHOD = st.one_of(
    st.sampled_from(
        sorted({method for methods in METHODS.values() for method in methods} | {"OPTIONS", "get"})
    ),
    st.text(st.characters(codec="ascii"), max_size=8),
)
LEVELS = ("none", "pull", "push")


@given(st.sampled_from(Noun), METHOD)
def test_case_68_what_is_not_in_the_table_is_denied(noun: Noun, method: str) -> None:
    right = TABLE.get((noun, method))
    assert authorization.levels(noun, method) == {level for level in LEVELS if right in STRANGERS[level]}
    assert authorization.plain_levels(noun, method) in (frozenset(), authorization.levels(noun, method))
    assert bool(authorization.needed(noun, method)) is (right is not None)
    if right is None:
        assert authorization.changes(noun, method)


def test_the_table_has_every_route_and_nothing_else() -> None:
    routes = {(noun, method) for noun, methods in METHODS.items() for method in methods}
    admin = {(noun, method) for noun, method in routes if noun is Noun.API}
    assert set(TABLE) == ROUTES == routes - admin == set(ENDPOINTS)


#: route and method to what it needs, written down once more: a test that reads the table cannot miss a change of it
NEEDED = """
base GET HEAD: login
catalog GET HEAD: catalog
manifest GET HEAD: content/read
manifest PUT: content/write
manifest DELETE: content/delete
blob GET HEAD: content/read
blob DELETE: content/delete
uploads POST: content/write
upload GET PATCH PUT DELETE: content/write
tags GET HEAD: metadata/read
referrers GET HEAD: content/read
tag_history GET HEAD: metadata/read
attributes GET: metadata/read
attributes PATCH: metadata/write
token GET POST: open
gateway GET POST PUT: gateway
health GET HEAD: open
readiness GET HEAD: open
"""


def test_each_row_needs_what_is_written_here() -> None:
    rows = (line.partition(": ") for line in NEEDED.strip().splitlines())
    expected = {
        (noun, method): right
        for left, _, right in rows
        for noun, *methods in [left.split()]
        for method in methods
    }
    assert {(noun.name.lower(), method): str(right) for (noun, method), right in TABLE.items()} == expected
    assert {str(right) for right in CHANGES} == {"content/write", "content/delete", "metadata/write"}
    # a tag may be taken away by who may change metadata; what it names may not
    assert authorization.needed(Noun.MANIFEST, "DELETE", "v1") == ("content/delete", "metadata/write")
    assert authorization.needed(Noun.MANIFEST, "DELETE", f"sha256:{'a' * 64}") == ("content/delete",)


def test_these_ask_who_it_is_whatever_strangers_may() -> None:
    assert {noun.name.lower() for noun in PERSONAL} == {"base", "catalog", "uploads", "upload", "gateway"}


def test_no_right_is_enough_for_what_is_not_in_the_table() -> None:
    assert authorization.needed(Noun.BLOB, "PATCH") == ()


def test_each_level_allows_more_than_the_one_before() -> None:
    everything = frozenset(Right) - {Right.GATEWAY}
    assert STRANGERS["none"] < STRANGERS["pull"] < STRANGERS["push"] == everything
    assert not STRANGERS["pull"] & CHANGES
    assert all(authorization.changes(noun, "PATCH") for noun in Noun)


def test_a_hit_is_not_asked_whose_it_is_where_strangers_may_pull() -> None:
    hits = [(noun, method) for noun, method in TABLE if method in ("GET", "HEAD") and noun not in PERSONAL]
    assert all(authorization.plain_levels(*row) >= {"pull", "push"} for row in hits)
    assert all(
        authorization.plain_levels(noun, method) == frozenset() for noun, method in TABLE if noun in PERSONAL
    )


TARGETS = {
    Noun.BASE: "/v2/",
    Noun.MANIFEST: "/v2/a/manifests/x",
    Noun.BLOB: f"/v2/a/blobs/sha256:{'a' * 64}",
    Noun.UPLOADS: "/v2/a/blobs/uploads/",
    Noun.UPLOAD: "/v2/a/blobs/uploads/x",
    Noun.TAGS: "/v2/a/tags/list",
    Noun.REFERRERS: f"/v2/a/referrers/sha256:{'a' * 64}",
    Noun.CATALOG: "/v2/_catalog",
    Noun.TAG_HISTORY: "/v2/a/_holdfast/tag-history/x",
    Noun.ATTRIBUTES: "/acr/v1/a",
    Noun.TOKEN: "/oauth2/token",
    Noun.GATEWAY: "/acr/gateway/v1/plant/config",
    Noun.HEALTH: "/healthz",
    Noun.READINESS: "/readyz",
}


@pytest.mark.parametrize("level", LEVELS)
async def test_every_route_asks(tmp_path: Path, level: str) -> None:
    config = Configuration(anonymous=level)  # type: ignore[arg-type]
    async with running(tmp_path, config) as node:
        before = node.dump()
        for (noun, method), right in TABLE.items():
            answer = await node.ask(method, TARGETS[noun])
            denied = right not in STRANGERS[level]
            assert (answer.status == 401) is denied, (noun, method, answer)
            assert answer.headers.get("www-authenticate", "").startswith("Bearer ") is denied
            if denied and method != "HEAD":
                assert code(answer) == "UNAUTHORIZED"
        if level != "push":
            assert node.dump() == before


async def test_a_refusal_is_a_sentence(tmp_path: Path) -> None:
    assert set(authorization.PHRASES) == set(Right)
    async with running(tmp_path, Configuration(anonymous="none")) as node:
        for right, verb in (
            (Right.METADATA_WRITE, "change attributes"),
            (Right.CATALOG, "list the repositories"),
            (Right.CONTENT_DELETE, "delete"),
            (Right.CONTENT_READ, "pull"),
        ):
            noun, method = next(row for row, needed in TABLE.items() if needed is right)
            answer = await node.ask(method, TARGETS[noun])
            message = json.loads(answer.body)["errors"][0]["message"]
            assert re.search(rf"may not {verb} here \(anonymous = none\).* --anonymous (pull|push)$", message)


@pytest.mark.parametrize("under_parent", [False, True])
async def test_a_stranger_at_a_gateway_is_asked_for_a_token_of_its_own(
    tmp_path: Path, under_parent: bool
) -> None:
    """Its name is that of a connected registry: no parent and no prefix of one makes it another."""
    config = Configuration(anonymous="push")
    async with running(tmp_path, config, under_parent=under_parent) as node:
        answer = await node.ask("GET", "/acr/gateway/v1/Plant/config")
        assert answer.status == 401
        assert challenge(answer) | {"realm": "", "service": ""} == {
            "realm": "",
            "service": "",
            "scope": "gateway:plant:*",
        }
        assert json.loads(answer.body)["errors"][0]["message"] == (
            "authentication required: the gateway of a connected registry takes its sync token"
        )


@pytest.mark.parametrize(
    ("noun", "name", "expected"),
    [(Noun.BLOB, "line", "hub/line"), (Noun.GATEWAY, "plant", "plant"), (Noun.CATALOG, "", "")],
)
def test_scope_maps_name_a_repository_by_its_route_and_a_gateway_as_it_is(
    noun: Noun, name: str, expected: str
) -> None:
    node = SimpleNamespace(router=SimpleNamespace(name=lambda request: f"hub/{request.route.name}"))
    request = SimpleNamespace(route=SimpleNamespace(noun=noun, name=name))
    assert authorization.repository(node, request) == expected  # type: ignore[arg-type]


READING = "repository:b:pull"


@pytest.mark.parametrize(
    ("target", "scope"),
    [
        ("/v2/a/blobs/uploads/?mount=x&from=b", f"repository:a:pull,push {READING}"),
        ("/v2/a/blobs/uploads/?from=b", f"repository:a:pull,push {READING}"),
        ("/v2/a/blobs/uploads/", "repository:a:pull,push"),
        # what a quoted string cannot hold is not asked for
        ("/v2/a/blobs/uploads/?from=b%22", None),
        ("/v2/a/blobs/uploads/?from=b%5C", None),
        ("/v2/a/blobs/uploads/?from=b%C3%A9", None),
        ("/v2/a/blobs/uploads/?from=b%7F", None),
    ],
)
async def test_a_mount_is_asked_for_both_its_repositories(
    tmp_path: Path, target: str, scope: str | None
) -> None:
    async with running(tmp_path, Configuration(anonymous="none")) as node:
        answer = await node.ask("POST", target, b"")
        assert answer.status == 401
        assert challenge(answer).get("scope") == scope
        assert "error" not in challenge(answer), "no token was shown that could be too narrow"
        other = await node.ask("GET", "/v2/a/tags/list?from=b")
        assert challenge(other)["scope"] == "repository:a:metadata_read"


async def test_a_password_that_is_not_enough_is_told_the_right_that_it_lacks(tmp_path: Path) -> None:
    async with running(tmp_path, Configuration(anonymous="none")) as node:
        reader = Client(node, "reader", await token(node, "reader", *actions("a", "content/read")))
        answer = await reader.ask("PUT", "/v2/a/manifests/x", b"{}")
        assert (answer.status, code(answer)) == (403, "DENIED")
        assert json.loads(answer.body)["errors"][0]["detail"] == "needed: content/write"


async def test_a_refusal_says_what_is_allowed_where_it_would_be(tmp_path: Path) -> None:
    async with running(tmp_path, Configuration(anonymous="none")) as node:
        for method, target, rest in (
            (
                "GET",
                "/v2/a/manifests/x",
                "pull here (anonymous = none); log in, or the operator can allow it with --anonymous pull",
            ),
            (
                "DELETE",
                "/v2/a/manifests/x",
                "delete here (anonymous = none); log in, or the operator can allow it with --anonymous push",
            ),
        ):
            message = json.loads((await node.ask(method, target)).body)["errors"][0]["message"]
            assert message == f"authentication required: a caller without login may not {rest}"


async def test_case_49_70_strangers_see_the_same_whatever_is_there(tmp_path: Path) -> None:
    """Empty, unknown and forbidden look alike to somebody who may not look: status, headers, body."""
    async with running(tmp_path, Configuration(anonymous="none")) as node:
        await node.keeper.put_manifest("held", str(_digest()), ("x",), "", index())
        for method, path in product(("GET", "HEAD"), ("manifests/x", "tags/list", f"blobs/{_digest()}")):
            answers = [await node.ask(method, f"/v2/{name}/{path}") for name in ("held", "none")]
            alike = {(a.status, a.body, tuple(sorted(a.headers))) for a in answers}
            assert len(alike) == 1
            assert answers[0].status == 401


def _digest() -> object:
    from holdfast_core.digest import Digest

    return Digest.of(index())


FROZEN = msgspec.structs.replace(OPEN, mode="ReadOnly")


async def test_read_only_is_said_before_rights_and_before_a_byte_is_read(tmp_path: Path) -> None:
    async with running(tmp_path, FROZEN) as node:
        before = node.dump()
        for (noun, method), right in TABLE.items():
            if right not in CHANGES:
                continue
            client = await node.connect()
            body = {} if method == "GET" else {"Content_Length": "1000", "Expect": "100-continue"}
            client.send(request(method, TARGETS[noun], None, **body))
            answer = await client.answer()  # a final answer, where reading would begin with 100
            assert (answer.status, code(answer)) == (405, "DENIED"), (noun, method)
            message = json.loads(answer.body)["errors"][0]["message"]
            assert message == "This operation is not allowed on this registry."
            reads = [m for m in METHODS[noun] if TABLE[noun, m] not in CHANGES]
            assert answer.headers["allow"] == ", ".join(reads)
        assert node.dump() == before
        assert (await node.ask("GET", "/v2/")).status == 200


async def test_read_only_says_so_to_strangers_too(tmp_path: Path) -> None:
    async with running(tmp_path, msgspec.structs.replace(FROZEN, anonymous="none")) as node:
        assert (await node.ask("PUT", TARGETS[Noun.MANIFEST], b"{}")).status == 405
        assert (await node.ask("GET", TARGETS[Noun.MANIFEST])).status == 401


async def test_case_68_a_mount_gives_nothing_away(tmp_path: Path) -> None:
    """From a repository that may not be read a mount is an upload, as from one that has no such blob."""
    async with running(tmp_path) as node:
        digest = await node.blob("locked", b"a blob")
        lock = await node.ask("PATCH", "/acr/v1/locked", b'{"readEnabled":false}')
        assert lock.status == 200
        for source in ("&from=locked", "&from=none", ""):
            answer = await node.ask("POST", f"/v2/a/blobs/uploads/?mount={digest}{source}", b"")
            assert (answer.status, answer.body) == (202, b""), source
        assert (await node.ask("GET", f"/v2/a/blobs/{digest}")).status == 404


async def test_case_69_no_credential_changes_an_answer(tmp_path: Path) -> None:
    """No login exists yet: what a client claims to be gives it nothing, and breaks nothing."""
    given = [
        "bearer x",
        "Bearer a.b.c.d",
        "Basic Og==",
        "Basic YTpiOmM=",
        "Basic \xff",
        "",
        "Basic " + "A" * 8000,
    ]
    async with running(tmp_path, Configuration(anonymous="pull")) as node:
        for credential in given:
            for method, path, status in (("GET", "/v2/", 200), ("PUT", "/v2/a/manifests/x", 401)):
                answer = await node.ask(
                    method, path, b"" if method == "PUT" else None, Authorization=credential
                )
                assert answer.status == status, credential
