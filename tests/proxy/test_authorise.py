"""One table decides; what is not in it is denied. What holders of tokens may is in tests/login."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import msgspec
import pytest
from holdfast import authorise
from holdfast.authorise import CHANGES, PERSONAL, ROUTES, STRANGERS, TABLE, Right
from holdfast.config import Configuration
from holdfast.endpoint.dispatch import ENDPOINTS
from holdfast.wire.routes import METHODS, Noun
from hypothesis import given
from hypothesis import strategies as st
from support.pushing import OPEN, Registry, code, index, request, run

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
    assert authorise.levels(noun, method) == {level for level in LEVELS if right in STRANGERS[level]}
    assert authorise.plain_levels(noun, method) in (frozenset(), authorise.levels(noun, method))
    assert bool(authorise.needed(noun, method)) is (right is not None)
    if right is None:
        assert authorise.changes(noun, method)


def test_the_table_has_every_route_and_nothing_else() -> None:
    routes = {(noun, method) for noun, methods in METHODS.items() for method in methods}
    admin = {(noun, method) for noun, method in routes if noun is Noun.API}
    assert set(TABLE) == ROUTES == routes - admin == set(ENDPOINTS)


def test_each_level_allows_more_than_the_one_before() -> None:
    everything = frozenset(Right) - {Right.GATEWAY}
    assert STRANGERS["none"] < STRANGERS["pull"] < STRANGERS["push"] == everything
    assert not STRANGERS["pull"] & CHANGES
    assert all(authorise.changes(noun, "PATCH") for noun in Noun)


def test_a_hit_is_not_asked_whose_it_is_where_strangers_may_pull() -> None:
    hits = [(noun, method) for noun, method in TABLE if method in ("GET", "HEAD") and noun not in PERSONAL]
    assert all(authorise.plain_levels(*row) >= {"pull", "push"} for row in hits)
    assert all(
        authorise.plain_levels(noun, method) == frozenset() for noun, method in TABLE if noun in PERSONAL
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
def test_every_route_asks(tmp_path: Path, level: str) -> None:
    config = Configuration(anonymous=level)  # type: ignore[arg-type]

    async def test(node: Registry) -> None:
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

    run(tmp_path, test, config)


def test_a_refusal_is_a_sentence(tmp_path: Path) -> None:
    assert set(authorise.PHRASES) == set(Right)

    async def test(node: Registry) -> None:
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

    run(tmp_path, test, Configuration(anonymous="none"))


def test_case_49_70_strangers_see_the_same_whatever_is_there(tmp_path: Path) -> None:
    """Empty, unknown and forbidden look alike to somebody who may not look: status, headers, body."""

    async def test(node: Registry) -> None:
        await node.keeper.put_manifest("held", str(_digest()), ("x",), "", index())
        for method, path in product(("GET", "HEAD"), ("manifests/x", "tags/list", f"blobs/{_digest()}")):
            answers = [await node.ask(method, f"/v2/{name}/{path}") for name in ("held", "none")]
            alike = {(a.status, a.body, tuple(sorted(a.headers))) for a in answers}
            assert len(alike) == 1
            assert answers[0].status == 401

    run(tmp_path, test, Configuration(anonymous="none"))


def _digest() -> object:
    from holdfast_core.digest import Digest

    return Digest.of(index())


FROZEN = msgspec.structs.replace(OPEN, mode="ReadOnly")


def test_read_only_is_said_before_rights_and_before_a_byte_is_read(tmp_path: Path) -> None:
    async def test(node: Registry) -> None:
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

    run(tmp_path, test, FROZEN)


def test_read_only_says_so_to_strangers_too(tmp_path: Path) -> None:
    async def test(node: Registry) -> None:
        assert (await node.ask("PUT", TARGETS[Noun.MANIFEST], b"{}")).status == 405
        assert (await node.ask("GET", TARGETS[Noun.MANIFEST])).status == 401

    run(tmp_path, test, msgspec.structs.replace(FROZEN, anonymous="none"))


def test_case_68_a_mount_gives_nothing_away(tmp_path: Path) -> None:
    """From a repository that may not be read a mount is an upload, as from one that has no such blob."""

    async def test(node: Registry) -> None:
        digest = await node.blob("locked", b"a blob")
        lock = await node.ask("PATCH", "/acr/v1/locked", b'{"readEnabled":false}')
        assert lock.status == 200
        for source in ("&from=locked", "&from=none", ""):
            answer = await node.ask("POST", f"/v2/a/blobs/uploads/?mount={digest}{source}", b"")
            assert (answer.status, answer.body) == (202, b""), source
        assert (await node.ask("GET", f"/v2/a/blobs/{digest}")).status == 404

    run(tmp_path, test)


def test_case_69_no_credential_changes_an_answer(tmp_path: Path) -> None:
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

    async def test(node: Registry) -> None:
        for credential in given:
            for method, path, status in (("GET", "/v2/", 200), ("PUT", "/v2/a/manifests/x", 401)):
                answer = await node.ask(
                    method, path, b"" if method == "PUT" else None, Authorization=credential
                )
                assert answer.status == status, credential

    run(tmp_path, test, Configuration(anonymous="pull"))
