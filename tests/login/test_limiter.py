"""Failed logins are held up, by name and by address; nobody else is, and a right generated password never is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from holdfast.config import Configuration, LoginSection
from holdfast.control import command as commands
from holdfast.login import limiter, password_check
from holdfast.login.caller import Network, neighbourhood
from holdfast.login.limiter import Limiter
from hypothesis import given
from hypothesis import strategies as st
from support.login import CLOSED, READ, Client, actions, bearer, do, token
from support.pushing import code, running

FEW = msgspec.structs.replace(CLOSED, login=LoginSection(failures=3, trusted_proxies=("127.0.0.1",)))
CHOSEN = "what somebody chose himself"


def test_a_bucket_empties_and_fills_again() -> None:
    held = Limiter(3)
    for _ in range(3):
        assert held.wait("a", "x", 0.0) == 0
        held.failed("a", "x", 0.0)
    assert held.wait("a", "x", 0.0) == pytest.approx(20)
    assert held.wait("a", "y", 0.0) == pytest.approx(20)  # by name
    assert held.wait("b", "x", 0.0) == pytest.approx(20)  # by address
    assert held.wait("b", "y", 0.0) == 0
    assert held.wait("a", "x", 15.0) == pytest.approx(5)
    assert held.wait("a", "x", 20.0) == 0
    held.succeeded("a", "z")
    assert held.wait("a", "z", 0.0) == 0  # who logged in from there is not held up by others
    assert held.wait("a", "x", 600.0) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(0, 30)), max_size=60))
def test_no_more_failures_pass_than_are_allowed(tries: list[tuple[str, str, float]]) -> None:
    held, now = Limiter(5), 0.0
    passed: list[tuple[str, str, float]] = []
    for name, address, later in tries:
        now += later
        if held.wait(name, address, now) == 0:
            held.failed(name, address, now)
            passed.append((name, address, now))
    for place, key in ((0, "abc"), (1, "xyz")):
        for one in key:
            times = [row[2] for row in passed if row[place] == one]
            for start, first in enumerate(times):
                within = [t for t in times[start:] if t < first + 60]
                assert len(within) <= 11  # what was in the bucket, and what came in a minute


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "REMEMBERED", 50)
    held = Limiter(3)
    for number in range(1000):
        held.failed(f"name{number}", f"address{number}", 0.0)
        held.succeeded(f"name{number}", f"address{number}")
    assert len(held) == 100


def test_addresses_of_one_place_count_as_one() -> None:
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff:1") == "2001:db8::/64"
    assert neighbourhood("2001:db8:0:1::1") != neighbourhood("2001:db8::1")
    assert neighbourhood("::ffff:10.0.0.1") == neighbourhood("10.0.0.1") == "10.0.0.1"
    assert (neighbourhood(""), neighbourhood("a:b")) == ("", "a:b")
    inside = Network(("10.0.0.0/8", "fd00::/8"))
    assert "10.1.2.3" in inside
    assert "::ffff:10.1.2.3" in inside
    assert "fd00::1%eth0" in inside
    assert not any(address in inside for address in ("11.0.0.1", "fe80::1", "", "x", "010.1.2.3"))
    assert not Network(())
    assert "10.1.2.3" not in Network(())


async def test_s32_too_many_failures_are_429_and_hold_nobody_else_up(tmp_path: Path) -> None:
    async with running(tmp_path, FEW) as node:
        digest = await node.blob("a", b"a blob")
        victim = Client(node, "victim", await token(node, "victim", *actions("a", *READ)))
        said = bearer(await victim.token("repository:a:pull"))
        target = f"/v2/a/blobs/{digest}"
        for name in ("victim", "nobody"):
            for number in range(5):
                wrong = await node.ask(
                    "GET", "/v2/", None, **Client(node, name, "wrong").credentials, X_Forwarded_For="10.0.0.1"
                )
                if wrong.status == 429:
                    assert code(wrong) == "TOOMANYREQUESTS"
                    assert 1 <= int(wrong.headers["retry-after"]) <= 21
                else:
                    assert wrong.status == 401
                    assert number < 3
            assert wrong.status == 429
        # the victim pulls and logs in, from where it is and from the very address of the other one
        for address in ("10.0.0.2", "10.0.0.1"):
            for credential in (said, victim.credentials["Authorization"]):
                answer = await node.ask("GET", target, Authorization=credential, X_Forwarded_For=address)
                assert answer.status == 200
        # a wrong password from elsewhere is held up by name, and is free again after its time
        wrong_one = Client(node, "victim", "wrong").credentials
        assert (await node.ask("GET", "/v2/", None, **wrong_one, X_Forwarded_For="10.0.0.3")).status == 429
        node.clock.advance(21)
        assert (await node.ask("GET", "/v2/", None, **wrong_one, X_Forwarded_For="10.0.0.3")).status == 401


async def test_a_chosen_password_is_held_up_but_not_from_where_it_was_right(tmp_path: Path) -> None:
    async with running(tmp_path, FEW) as node:
        await token(node, "person", *actions("a", *READ))
        await do(node, commands.GenerateCredentials(token="person", passwords=("password1",), secret=CHOSEN))
        right, wrong = (Client(node, "person", secret).credentials for secret in (CHOSEN, "wrong"))
        assert (await node.ask("GET", "/v2/", None, **right, X_Forwarded_For="10.0.0.2")).status == 200
        for _ in range(4):
            last = await node.ask("GET", "/v2/", None, **wrong, X_Forwarded_For="10.0.0.1")
        assert last.status == 429
        node.node.access._proof._seen.clear()  # as another worker, which has not seen it
        assert (await node.ask("GET", "/v2/", None, **right, X_Forwarded_For="10.0.0.3")).status == 429
        assert (await node.ask("GET", "/v2/", None, **right, X_Forwarded_For="10.0.0.2")).status == 200


async def test_slow_hashes_run_one_at_a_time_and_not_in_the_way_of_others(tmp_path: Path) -> None:
    """While a crowd tries wrong passwords, a pull by token takes what it takes; who does not fit is told to wait."""
    many = msgspec.structs.replace(CLOSED, login=LoginSection(failures=10_000))
    async with running(tmp_path, many) as node:
        digest = await node.blob("a", b"a blob")
        await token(node, "person", *actions("a", *READ))
        await do(node, commands.GenerateCredentials(token="person", passwords=("password1",), secret=CHOSEN))
        client = Client(node, "client", await token(node, "client", *actions("a", *READ)))
        said = bearer(await client.token("repository:a:pull"))
        crowd = [
            asyncio.create_task(Client(node, "person", f"wrong {n}").ask("GET", "/v2/")) for n in range(40)
        ]
        await asyncio.sleep(0.05)
        for _ in range(20):
            assert (await node.ask("GET", f"/v2/a/blobs/{digest}", Authorization=said)).status == 200
        waiting = sum(not task.done() for task in crowd)
        answers = await asyncio.gather(*crowd)
        assert {answer.status for answer in answers} == {401, 429}
        assert sum(answer.status == 401 for answer in answers) >= password_check.QUEUE
        assert waiting > 0  # the pulls stood behind nobody's hashes


async def test_nobody_to_log_in_means_that_credentials_mean_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, Configuration(anonymous="pull")) as node:
        for said in ("Basic YTpi", "Bearer x", "nonsense"):
            assert (await node.ask("GET", "/v2/", Authorization=said)).status == 200
        assert "login failed" not in json.dumps(node.logs, default=str)
