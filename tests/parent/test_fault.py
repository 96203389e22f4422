"""A parent that is there and gives nothing: it refuses the login, or cannot prove who it is. That is neither online nor
offline, and a person has to hear of it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from holdfast.config import CredentialsSection
from holdfast.errors import (
    LevelAway,
    LoginRefused,
    ParentDenied,
    ParentFailed,
    ParentNotFound,
    ParentUntrusted,
)
from holdfast.parent.switch import Switches, trouble_of
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.store import Store
from support.certificates import make_pair
from support.logs import record_logs
from support.parent_cases import BLOB, client_of, stocked

pytestmark = pytest.mark.loop("asyncio")

LOGIN = CredentialsSection(username="plant", password="secret")
WRONG = CredentialsSection(username="plant", password="of last year")


def guarded(scripted: ScriptedParent, scheme: str, password: str = "secret") -> None:
    stocked(scripted)
    scripted.door.scheme, scripted.door.username, scripted.door.password = scheme, "plant", password


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_case_trust_5_a_refused_login_is_shown_until_it_is_taken(scheme: str) -> None:
    async with ScriptedParent() as scripted:
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


async def test_case_trust_5_a_password_that_was_changed_shows_while_old_answers_are_served() -> None:
    """The token that is in hand runs out, and no new one is to be had."""
    async with ScriptedParent() as scripted:
        guarded(scripted, "bearer")
        async with client_of(scripted, credentials=LOGIN) as parent:
            await parent.get_manifest("team/app", "v1")
            assert trouble_of(parent) == ""
            scripted.door.password = "another"
            scripted.door.expire()
            with pytest.raises(LoginRefused):
                await parent.head_manifest("team/app", "v1")
            assert parent.verdict == "denied"


@pytest.mark.parametrize(
    "credentials",
    [
        CredentialsSection(username="plant", password_file="/nowhere/password"),
        CredentialsSection(username="plant", password_env="NO_SUCH_VARIABLE"),
        CredentialsSection(exec=("/bin/false",)),
    ],
)
@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_case_trust_5_a_login_that_is_not_to_be_had(
    scheme: str, credentials: CredentialsSection
) -> None:
    async with ScriptedParent() as scripted:
        guarded(scripted, scheme)
        async with client_of(scripted, credentials=credentials) as parent:
            with pytest.raises(LoginRefused):
                await parent.get_manifest("team/app", "v1")
            assert parent.verdict == "denied"


async def test_case_trust_5_what_is_missing_or_forbidden_is_no_refused_login() -> None:
    """A repository that this login may not read, one that is not there, and a stranger's refusal."""
    async with ScriptedParent() as scripted:
        guarded(scripted, "bearer")
        async with client_of(scripted, credentials=LOGIN) as parent:
            with pytest.raises(ParentNotFound):
                await parent.get_manifest("team/none", "v1")
            assert parent.verdict == "online"
        async with client_of(scripted) as stranger:
            with pytest.raises(ParentFailed):
                await stranger.get_manifest("team/app", "v1")
            assert stranger.verdict == "online"


async def test_case_trust_5_who_cannot_prove_to_be_the_parent_is_untrusted(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("ahead", "said"), [(0, ""), (59, ""), (-59, ""), (3600, "60 min behind"), (-90, "2 min ahead of")]
)
async def test_clocks_that_differ_are_a_trouble(ahead: int, said: str) -> None:
    """By what the parent says of the time in each answer."""
    async with ScriptedParent() as scripted:
        stocked(scripted)
        clock = FakeClock()
        date = format_datetime(datetime.fromtimestamp(clock.now() + ahead, UTC), usegmt=True)
        scripted.script(ScriptedFault(headers=[("Date", date)], times=-1))
        async with client_of(scripted, clock) as parent:
            await parent.get_manifest("team/app", "v1")
            assert trouble_of(parent) == ""  # one answer may have been on its way for long
            await parent.get_manifest("team/app", "v1")
            assert said in trouble_of(parent)
            assert bool(said) == bool(trouble_of(parent))


async def test_case_trust_5_an_operator_sees_it(tmp_path: Path) -> None:
    async with ScriptedParent() as scripted:
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


async def test_case_trust_5_a_repository_that_is_forbidden_is_no_refused_login() -> None:
    """Basic, where a password is all there is: one that was just taken is right, and refused for what it asked for."""
    async with ScriptedParent() as scripted:
        guarded(scripted, "basic")
        clock = FakeClock()
        async with client_of(scripted, clock, credentials=LOGIN) as parent:
            await parent.get_manifest("team/app", "v1")
            scripted.script(ScriptedFault(path="team/secret", status=401, times=-1))
            with pytest.raises(ParentDenied):
                await parent.get_manifest("team/secret", "v1")
            assert trouble_of(parent) == ""
            scripted.door.password = "another"
            clock.advance(301)
            with pytest.raises(LoginRefused):
                await parent.get_manifest("team/app", "v1")


def stranger(folder: Path) -> ssl.SSLContext:
    """A server's certificate that nobody vouches for."""
    pair, context = make_pair(folder / "pair", "own"), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair / "cert.pem", pair / "key.pem")
    return context


async def test_a_storage_host_with_a_wrong_certificate_is_not_the_parent(tmp_path: Path) -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        async with ScriptedParent(tls=stranger(tmp_path)) as storage, client_of(scripted) as parent:
            port = storage.url.rpartition(":")[2]
            scripted.script(
                ScriptedFault(path="/blobs/", redirect=f"https://localhost:{port}/data", times=-1)
            )
            with pytest.raises(ParentFailed):
                async with parent.get_blob("team/app", BLOB.digest):
                    pass
            assert trouble_of(parent) == ""


async def test_a_mirror_with_a_wrong_certificate_is_named_and_the_parent_is_well(tmp_path: Path) -> None:

    def trusted() -> ssl.SSLContext:
        pair = make_pair(tmp_path / "good", "good", authority=True)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair / "cert.pem", pair / "key.pem")
        return context

    good = trusted()
    async with ScriptedParent(tls=stranger(tmp_path)) as mirror, ScriptedParent(tls=good) as scripted:
        stocked(scripted)
        ca = str(tmp_path / "good" / "cert.pem")
        async with client_of(scripted.url, insecure=False, mirrors=(mirror.url,), ca=ca) as parent:
            await parent.get_manifest("team/app", "v1")
            assert trouble_of(parent) == ""
            assert [words.split()[0] for words in parent.mirror_faults] == ["mirror"]


async def test_a_level_above_that_is_away_is_shown_for_a_while_only() -> None:
    """Nobody asks: then nobody knows any more."""
    async with ScriptedParent() as scripted:
        stocked(scripted)
        clock = FakeClock()
        scripted.script(ScriptedFault(status=503, headers=[("Holdfast-Away", "1")], times=1))
        async with client_of(scripted, clock) as parent:
            with pytest.raises(LevelAway):
                await parent.get_manifest("team/app", "v1")
            assert "level 2" in trouble_of(parent)
            clock.advance(121)
            assert trouble_of(parent) == ""
