"""A login that asks again a moment later costs less, and gives nothing that it would not give anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast.config import LoginSection
from holdfast.control import command as commands
from holdfast.login.caller import OF_LEVEL, Stranger, TokenHolder
from holdfast.login.token_cache import (
    AGAIN,
    LEAST_LEFT,
    LONGEST,
    REMEMBERED,
    CachedToken,
    TokenCache,
    TokenCacheKey,
)
from holdfast.resources.actions import Grants
from holdfast.routing import compile_patterns
from holdfast.timestamps import seconds, stamp
from support.login import CLOSED, READ, Client, access, actions, bearer, claims, do, post, token
from support.pushing import Registry, running

PULL = "repository:a:pull"
STRANGER = Stranger(OF_LEVEL["none"], compile_patterns(()))
HOLDER = TokenHolder("client", Grants.of(actions("a", *READ)), STRANGER, "password1:x")
QUESTION = TokenCacheKey(HOLDER, "node", "node", "", (PULL,))


def given(at: int = 1000, life: int = 300, text: str = "token") -> CachedToken:
    return CachedToken(text, (), at, at + life)


def test_the_same_question_has_the_same_answer_for_a_moment() -> None:
    recent = TokenCache()
    assert recent.find(QUESTION, 1000.0) is None
    assert recent.keep(QUESTION, given()) == given()
    for now in (1000.0, 1000.5, 1000 + AGAIN - 0.01):
        assert recent.find(QUESTION, now) == given()
    for now in (999.9, 1000 + AGAIN, 1e9):  # a clock that was set back makes no token older than it is
        assert recent.find(QUESTION, now) is None
    recent.forget()
    assert recent.find(QUESTION, 1000.0) is None


OTHERS: list[dict[str, Any]] = [
    {"caller": STRANGER},
    {"caller": replace(HOLDER, grants=Grants.of(actions("a", *READ)))},  # of another revision
    {"caller": replace(HOLDER, proof="password2:x")},
    {"caller": replace(HOLDER, until=2000.0)},
    {"caller": replace(HOLDER, beside=replace(STRANGER, is_near=True))},
    {"service": "other"},
    {"host": "other"},
    {"sni": "other"},
    {"scopes": (PULL, PULL)},
    {"scopes": ()},
]


@pytest.mark.parametrize("change", OTHERS)
def test_another_question_has_another_answer(change: dict[str, Any]) -> None:
    recent = TokenCache()
    recent.keep(QUESTION, given())
    assert recent.find(QUESTION._replace(**change), 1001.0) is None
    assert recent.find(QUESTION._replace(caller=replace(HOLDER)), 1001.0) == given()


def test_no_token_is_given_again_that_clients_would_use_too_long() -> None:
    recent = TokenCache()
    recent.keep(QUESTION, given(life=int(LEAST_LEFT) + 5))
    assert recent.find(QUESTION, 1005.0) == given(life=int(LEAST_LEFT) + 5)
    assert recent.find(QUESTION, 1005.1) is None
    recent.keep(QUESTION, given(life=int(LEAST_LEFT)))
    assert recent.find(QUESTION, 1000.1) is None


def test_what_is_remembered_is_bounded() -> None:
    recent = TokenCache()
    for number in range(2 * REMEMBERED):
        recent.keep(QUESTION._replace(service=str(number)), given())
    assert len(recent) == REMEMBERED
    assert recent.find(QUESTION._replace(service=str(REMEMBERED - 1)), 1001.0) is None
    assert recent.find(QUESTION._replace(service=str(REMEMBERED)), 1001.0) == given()
    for question, long in (
        (QUESTION, given(text="x" * LONGEST)),
        (QUESTION._replace(scopes=("x" * LONGEST,)), given()),
    ):
        assert recent.keep(question, long) is long
        assert recent.find(question, 1001.0) is None


async def asked(client: Client, *scopes: str) -> dict[str, Any]:
    """What the token endpoint says."""
    answer = await client.ask_token(*scopes)
    assert answer.status == 200, answer
    return dict(json.loads(answer.body))


async def test_a_token_that_is_given_again_tells_its_own_age(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        client = Client(node, "client", await token(node, "client", *actions("a", *READ)))
        first = await asked(client, PULL)
        assert (first["expires_in"], access(first["token"])) == (300, {"repository:a": {"pull"}})
        node.clock.advance(7)
        again = await asked(client, PULL)
        assert (again["token"], again["issued_at"]) == (first["token"], first["issued_at"])
        told = claims(again["token"])
        assert seconds(again["issued_at"]) == told["iat"]
        assert again["expires_in"] == told["exp"] - int(node.clock.now()) == 293
        # another scope, another path to the same question
        assert (await asked(client, PULL, "repository:b:pull"))["token"] != first["token"]
        form = {"grant_type": "password", "username": "client", "password": client.secret, "scope": PULL}
        by_form = json.loads((await post(node, **form)).body)
        assert (by_form["token"], by_form["scope"]) == (first["token"], PULL)
        node.clock.advance(AGAIN - 7)
        assert (await asked(client, PULL))["token"] != first["token"]


async def disabled(node: Registry) -> None:
    await do(node, commands.UpdateToken(name="client", status="disabled"))


async def deleted(node: Registry) -> None:
    await do(node, commands.DeleteToken(name="client"))


async def regenerated(node: Registry) -> None:
    await do(node, commands.GenerateCredentials(token="client", passwords=("password1",)))


async def expired(node: Registry) -> None:
    node.clock.advance(5)


@pytest.mark.parametrize("end", [disabled, deleted, regenerated, expired], ids=lambda end: end.__name__)
async def test_s22_what_ends_a_login_ends_it_at_once_though_it_was_right_just_now(
    tmp_path: Path, end: Any
) -> None:
    """A password that was right and a token that was given are remembered; neither counts any longer than it does."""
    async with running(tmp_path, CLOSED) as node:
        await token(node, "client", *actions("a", *READ))
        soon = stamp(node.clock.now() + 5)
        order = commands.GenerateCredentials(token="client", passwords=("password1",), expiry=soon)
        client = Client(node, "client", (await do(node, order)).passwords[0].value)
        before = [await client.token(PULL) for _ in range(3)]
        assert len(set(before)) == 1
        assert (await client.ask("GET", "/v2/")).status == 200
        await end(node)
        assert (await client.ask_token(PULL)).status == 401
        assert (await client.ask("GET", "/v2/")).status == 401
        assert (await node.ask("GET", "/v2/", Authorization=bearer(before[0]))).status == 401


async def test_s22_rights_that_change_are_in_the_next_answer(tmp_path: Path) -> None:
    async with running(tmp_path, CLOSED) as node:
        client = Client(node, "client", await token(node, "client", *actions("a", *READ)))
        both = (PULL, "repository:b:pull")
        assert access(await client.token(*both)) == {"repository:a": {"pull"}}
        await do(node, commands.UpdateToken(name="client", scope_map="_repositories_pull"))
        assert access(await client.token(*both)) == {"repository:a": {"pull"}, "repository:b": {"pull"}}
        await do(node, commands.CreateScopeMap(name="other", actions=actions("b", *READ)))
        await do(node, commands.UpdateToken(name="client", scope_map="other"))
        assert access(await client.token(*both)) == {"repository:b": {"pull"}}


async def test_s32_a_wrong_password_is_refused_beside_a_right_one_and_is_not_remembered(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, CLOSED) as node:
        client = Client(node, "client", await token(node, "client", *actions("a", *READ)))
        await client.token(PULL)
        given = node.node.access.cached_tokens
        held = len(given)
        for name, secret in (
            ("client", client.secret + "x"),
            ("client", client.secret[:-1]),
            ("client", ""),
            ("cl", f"ient {client.secret}"),
            ("other", client.secret),
            ("client ", client.secret),
        ):
            assert (await Client(node, name, secret).ask_token(PULL)).status == 401, (name, secret)
        assert len(given) == held
        assert (await Client(node, "CLIENT", client.secret).ask_token(PULL)).status == 200


async def test_an_address_that_may_more_shares_no_token_with_one_that_may_not(tmp_path: Path) -> None:
    config = msgspec.structs.replace(
        CLOSED, login=LoginSection(client_addresses=("10.9.0.0/16",), trusted_proxies=("127.0.0.1",))
    )
    async with running(tmp_path, config) as node:
        client = Client(node, "client", await token(node, "client", *actions("a", *READ)))
        target = f"/oauth2/token?scope={PULL}%20repository:b:pull"
        for address, wanted in (("10.9.1.1", {"a", "b"}), ("10.8.1.1", {"a"}), ("10.9.1.2", {"a", "b"})):
            for _ in range(2):
                answer = await node.ask("GET", target, None, **client.credentials, X_Forwarded_For=address)
                names = {name.partition(":")[2] for name in access(json.loads(answer.body)["token"])}
                assert names == wanted, address
