"""A parent that is there and gives nothing: it refuses the login, or cannot prove who it is. That is neither online nor
offline, and a person has to hear of it."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from holdfast.config import Credentials
from holdfast.errors import LoginRefused, ParentFailed, ParentNotFound, ParentUntrusted
from holdfast.keeper.switches import Switches, trouble_of
from holdfast.testing.clock import FakeClock
from holdfast.testing.fault import Fault
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.store import Store
from support.certificates import make_pair
from support.parent_cases import client_of, run, stocked
from support.serving import record_logs

LOGIN = Credentials(username="plant", password="secret")
WRONG = Credentials(username="plant", password="of last year")


def guarded(scripted: ScriptedParent, scheme: str, password: str = "secret") -> None:
    stocked(scripted)
    scripted.door.scheme, scripted.door.username, scripted.door.password = scheme, "plant", password


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_case_trust_5_a_refused_login_is_shown_until_it_is_taken(scheme: str) -> None:
    async def case(scripted: ScriptedParent) -> None:
        guarded(scripted, scheme)
        logs = record_logs()
        clock = FakeClock()
        async with client_of(scripted, clock, credentials=WRONG) as parent:
            for _ in range(3):
                with pytest.raises(LoginRefused):
                    await parent.get_manifest("team/app", "v1")
            assert (parent.state, parent.verdict) == ("online", "denied")
            assert "refuses the login" in trouble_of(parent)
            scripted.door.password = WRONG.password
            clock.advance(1000)
            await parent.get_manifest("team/app", "v1")
            assert (parent.verdict, trouble_of(parent)) == ("online", "")
        said = [(line["level"], line["event"]) for line in logs if line["event"].startswith("parent gives")]
        assert said == [("warning", "parent gives nothing"), ("info", "parent gives again")]

    run(case)


def test_case_trust_5_a_password_that_was_changed_shows_while_old_answers_are_served() -> None:
    """The token that is in hand runs out, and no new one is to be had."""

    async def case(scripted: ScriptedParent) -> None:
        guarded(scripted, "bearer")
        async with client_of(scripted, credentials=LOGIN) as parent:
            await parent.get_manifest("team/app", "v1")
            assert trouble_of(parent) == ""
            scripted.door.password = "another"
            scripted.door.expire()
            with pytest.raises(LoginRefused):
                await parent.head_manifest("team/app", "v1")
            assert parent.verdict == "denied"

    run(case)


@pytest.mark.parametrize(
    "credentials",
    [
        Credentials(username="plant", password_file="/nowhere/password"),
        Credentials(username="plant", password_env="NO_SUCH_VARIABLE"),
        Credentials(exec=("/bin/false",)),
    ],
)
@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_case_trust_5_a_login_that_is_not_to_be_had(scheme: str, credentials: Credentials) -> None:
    async def case(scripted: ScriptedParent) -> None:
        guarded(scripted, scheme)
        async with client_of(scripted, credentials=credentials) as parent:
            with pytest.raises(LoginRefused):
                await parent.get_manifest("team/app", "v1")
            assert parent.verdict == "denied"

    run(case)


def test_case_trust_5_what_is_missing_or_forbidden_is_no_refused_login() -> None:
    """A repository that this login may not read, one that is not there, and a stranger's refusal."""

    async def case(scripted: ScriptedParent) -> None:
        guarded(scripted, "bearer")
        async with client_of(scripted, credentials=LOGIN) as parent:
            with pytest.raises(ParentNotFound):
                await parent.get_manifest("team/none", "v1")
            assert parent.verdict == "online"
        async with client_of(scripted) as stranger:
            with pytest.raises(ParentFailed):
                await stranger.get_manifest("team/app", "v1")
            assert stranger.verdict == "online"

    run(case)


def test_case_trust_5_who_cannot_prove_to_be_the_parent_is_untrusted(tmp_path: Path) -> None:
    async def case() -> None:
        pair, context = (
            make_pair(tmp_path / "pair", "own"),
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        )
        context.load_cert_chain(pair / "cert.pem", pair / "key.pem")
        async with ScriptedParent(tls=context) as scripted:
            stocked(scripted)
            async with client_of(scripted, insecure=False) as parent:
                with pytest.raises(ParentUntrusted):
                    await parent.get_manifest("team/app", "v1")
                assert parent.verdict == "untrusted"
                assert "certificate" in trouble_of(parent)

    asyncio.run(case())


@pytest.mark.parametrize(
    ("ahead", "said"), [(0, ""), (59, ""), (-59, ""), (3600, "3600 s behind"), (-90, "90 s ahead of")]
)
def test_clocks_that_differ_are_a_trouble(ahead: int, said: str) -> None:
    """By what the parent says of the time in each answer."""

    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        clock = FakeClock()
        date = format_datetime(datetime.fromtimestamp(clock.now() + ahead, UTC), usegmt=True)
        scripted.script(Fault(headers=[("Date", date)], times=-1))
        async with client_of(scripted, clock) as parent:
            await parent.get_manifest("team/app", "v1")
            assert said in trouble_of(parent)
            assert bool(said) == bool(trouble_of(parent))

    run(case)


def test_case_trust_5_an_operator_sees_it(tmp_path: Path) -> None:
    async def case(scripted: ScriptedParent) -> None:
        guarded(scripted, "basic")
        store = Store.create_or_open(tmp_path / "store", write=True)
        try:
            async with client_of(scripted, credentials=WRONG) as parent:
                with pytest.raises(LoginRefused):
                    await parent.get_manifest("team/app", "v1")
                (shown,) = Switches(store, {"": parent}, FakeClock()).reports()
                assert (shown.state, shown.losses) == ("denied", 0)
                assert "login" in shown.note
        finally:
            store.close()

    run(case)
