"""Basic and Bearer: challenges, token servers, single flight, renewal, refusal."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from holdfast.config import CredentialsSection
from holdfast.errors import (
    ConnectTimedOut,
    KnownOffline,
    ParentBroken,
    ParentDenied,
    ParentErred,
    ParentFailed,
    TimedOut,
)
from holdfast.http import authority, quirks
from holdfast.http.authority import read_grant
from holdfast.http.challenge import Challenge, NoChallenge, RealmRule, choose, parse_challenges
from holdfast.http.credentials import HelperLogin, Secret, login_source
from holdfast.oci.manifest import OCI_MANIFEST
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent, digest_of
from holdfast.testing.scripted_parent import ScriptedParent
from hypothesis import given
from hypothesis import strategies as st
from support.parent_cases import client_of, read_all
from support.patience import patience

pytestmark = pytest.mark.loop("asyncio")

IMAGE = json.dumps(
    {
        "schemaVersion": 2,
        "config": {"mediaType": "application/x", "digest": digest_of(b"{}"), "size": 2},
        "layers": [],
    }
).encode()
BLOB = GeneratedContent(200_000, "token")
LOGIN = CredentialsSection(username="user", password="canary-password")


def bearer(scripted: ScriptedParent, *, login: bool = False) -> None:
    """Lock a stocked parent with Bearer."""
    scripted.add_manifest("team/app", IMAGE, OCI_MANIFEST, "v1")
    scripted.add_blob("team/app", BLOB)
    scripted.door.scheme = "bearer"
    if login:
        scripted.door.username, scripted.door.password = "user", "canary-password"


# ---- challenges


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['Bearer realm="https://a/t",service="s",scope="repository:x:pull"'], ["bearer"]),
        (['Basic realm="x", Bearer realm="https://a/t", service=s'], ["basic", "bearer"]),
        (["Negotiate", 'Basic realm="x"', "BEARER realm=https://a/t"], ["negotiate", "basic", "bearer"]),
        (["Negotiate YII+/=, Basic realm=x"], ["negotiate", "basic"]),
        (['Digest qop="auth, Bearer", Bearer realm = "https://a/t"'], ["digest", "bearer"]),
        ([], []),
        (["=,,;\"'"], ["'"]),
        (['Bearer realm="unterminated'], ["bearer", "unterminated"]),
    ],
)
def test_all_challenges_of_all_lines_are_read(lines: list[str], expected: list[str]) -> None:
    assert [challenge.scheme for challenge in parse_challenges(lines)] == expected


def test_parameters_are_unquoted_and_the_first_counts() -> None:
    (challenge,) = parse_challenges([r'Bearer realm="https://a/\"t\"", REALM="https://b", service=x'])
    assert challenge.parameters == {"realm": 'https://a/"t"', "service": "x"}


@given(st.lists(st.text(max_size=200), max_size=20))
def test_no_header_breaks_the_parser(lines: list[str]) -> None:
    for challenge in parse_challenges(lines):
        assert challenge.scheme == challenge.scheme.lower()


def test_bearer_is_chosen_wherever_it_stands_and_basic_only_with_a_login() -> None:
    rule = RealmRule("https://a:443", frozenset())
    good = Challenge("bearer", {"realm": "https://a/t"})
    bad = Challenge("bearer", {"realm": "https://b/t"})
    basic = Challenge("basic")
    realm = choose([basic, bad, good], rule, has_login=True)
    assert realm is not None
    assert str(realm.url) == "https://a/t"
    assert choose([bad, basic], rule, has_login=True) is None
    with pytest.raises(ParentBroken):
        choose([bad, basic], rule, has_login=False)
    with pytest.raises(NoChallenge):
        choose([basic, Challenge("negotiate")], rule, has_login=False)


# ---- grants


@pytest.mark.parametrize(
    ("grant", "life"),
    [
        ({"token": "t"}, 60),
        ({"access_token": "t", "expires_in": 5}, 60),
        ({"token": "t", "expires_in": 300}, 300),
        ({"token": "t", "expires_in": "300"}, 300),
        ({"token": "t", "expires_in": 10**12}, 86_400),
        ({"token": "t", "expires_in": None}, 60),
        ({"token": "t", "issued_at": "1999-01-01T00:00:00Z", "expires_in": 90}, 90),
    ],
)
def test_a_token_lives_at_least_60_s(grant: dict[str, Any], life: float) -> None:
    token, refresh = read_grant(json.dumps(grant).encode(), 1000.0)
    assert token.expires == 1000.0 + life
    assert token.renew_at < token.expires
    assert refresh is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"token":""}',
        b'{"token":7}',
        b'{"token":"a b"}',
        b'{"token":"a\\r\\nX: y"}',
        b"[" * 60_000,
    ],
)
def test_no_token_in_the_answer_is_broken(body: bytes) -> None:
    with pytest.raises(ParentBroken):
        read_grant(body, 0.0)


# ---- against a server


async def test_50_at_once_make_one_token_request() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted)
        gate = RequestGate()
        scripted.script(ScriptedFault(path="/token", gate=gate, times=-1))
        async with client_of(scripted, connections=64) as parent:
            asks = [asyncio.create_task(parent.get_manifest("team/app", "v1")) for _ in range(50)]
            await gate.wait_arrived()
            gate.release()
            await asyncio.gather(*asks)
            assert parent.counters["token_requests"] == 1
        assert scripted.count(path="/token") == 1


async def test_anonymous_token_is_kept_per_repository_and_asked_with_service_and_scope() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted)
        scripted.add_manifest("other", IMAGE, OCI_MANIFEST, "v1")
        async with client_of(scripted) as parent:
            for _ in range(3):
                await parent.get_manifest("team/app", "v1")
            await parent.get_manifest("other", "v1")
        asked = [request.parameters() for request in scripted.log if request.path == "/token"]
        assert [each["scope"] for each in asked] == ["repository:team/app:pull", "repository:other:pull"]
        assert asked[0]["service"] == "scripted"
        # the realm was learnt once: the second repository was never refused first
        assert scripted.count("GET", "/other/") == 1


async def test_login_by_get_goes_as_basic_to_the_token_server_only() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted, login=True)
        async with client_of(scripted, credentials=LOGIN) as parent:
            await parent.get_manifest("team/app", "v1")
        schemes = {
            (request.path.startswith("/token"), (request.header("authorization") or "").split(" ")[0])
            for request in scripted.log
        }
        assert schemes == {(False, ""), (True, "Basic"), (False, "Bearer")}


@pytest.mark.parametrize("status", ["404", "405", "400"])
async def test_post_where_get_is_not_offered(status: str) -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted, login=True)
        scripted.door.get = status
        async with client_of(scripted, credentials=LOGIN) as parent:
            await parent.get_manifest("team/app", "v1")
        form = next(request.form() for request in scripted.log if request.method == "POST")
        assert form["grant_type"] == "password"
        assert form["client_id"]


async def test_refresh_token_is_used_next_and_given_up_when_refused() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted, login=True)
        scripted.door.give_refresh = scripted.door.accept_refresh = "refresh-1"
        async with client_of(scripted, credentials=LOGIN) as parent:
            await parent.get_manifest("team/app", "v1")
            scripted.door.expire()
            await parent.get_manifest("team/app", "v1")
            assert [r.form().get("grant_type") for r in scripted.log if r.method == "POST"] == [
                "refresh_token"
            ]
            scripted.door.expire()
            scripted.door.accept_refresh = "another"
            scripted.reset_counts()
            await parent.get_manifest("team/app", "v1")
            assert (scripted.count("POST", "/token"), scripted.count("GET", "/token")) == (1, 1)


async def test_identity_token_of_a_helper_is_posted_never_sent_as_a_password() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted, login=True)
        scripted.door.accept_refresh = "identity"
        login = CredentialsSection(username="<token>", password="identity")
        async with client_of(scripted, credentials=login) as parent:
            await parent.get_manifest("team/app", "v1")
        assert scripted.count("GET", "/token") == 0
        assert not any((r.header("authorization") or "").startswith("Basic") for r in scripted.log)


async def test_token_that_expires_between_range_requests_is_renewed_once() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted)
        async with client_of(scripted) as parent:
            first = await read_all(parent, "team/app", BLOB.digest, start=0, end=1000)
            scripted.door.expire()
            rest = await read_all(parent, "team/app", BLOB.digest, start=1000)
            assert first + rest == BLOB.read(0, BLOB.size)
        assert scripted.count(path="/token") == 2


async def test_renewed_ahead_without_anyone_waiting() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted)
        clock = FakeClock()
        async with client_of(scripted, clock) as parent:
            await parent.get_manifest("team/app", "v1")
            clock.advance(250)  # of 300
            gate = RequestGate()
            scripted.script(ScriptedFault(path="/token", gate=gate))
            await parent.get_manifest("team/app", "v1")
            await gate.wait_arrived()
            await parent.get_manifest("team/app", "v1")
            gate.release()
        assert scripted.count(path="/token") == 2


async def test_401_for_ever_is_one_renewal_then_denied() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted)
        challenge = f'Bearer realm="{scripted.url}/token",service="s"'
        scripted.script(
            ScriptedFault(path="/v2/", status=401, times=-1, repeat=[("WWW-Authenticate", challenge)])
        )
        async with client_of(scripted) as parent:
            with pytest.raises(ParentDenied):
                await parent.get_manifest("team/app", "v1")
        assert (scripted.count(path="/manifests/"), scripted.count(path="/token")) == (2, 1)


async def test_401_without_a_challenge_is_denied() -> None:
    async with ScriptedParent() as scripted:
        scripted.script(ScriptedFault(status=401, times=-1))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentDenied):
                await parent.get_manifest("team/app", "v1")
        assert scripted.count() == 1


async def test_wrong_password_is_asked_once_in_30_s_and_at_once_when_it_changed(tmp_path: Path) -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted, login=True)
        file = tmp_path / "password"
        file.write_text("wrong\n")
        login = CredentialsSection(username="user", password_file=str(file))
        async with client_of(scripted, credentials=login) as parent:
            for _ in range(5):
                with pytest.raises(ParentDenied):
                    await parent.get_manifest("team/app", "v1")
            assert scripted.count(path="/token") == 1
            file.write_text("canary-password\n")
            await parent.get_manifest("team/app", "v1")


async def test_what_is_remembered_of_refusals_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "REPOSITORIES", 3)
    async with ScriptedParent() as scripted:
        bearer(scripted, login=True)
        wrong = CredentialsSection(username="user", password="no")
        async with client_of(scripted, credentials=wrong) as parent:

            async def refused(name: str) -> int:
                before = scripted.count(path="/token")
                with pytest.raises(ParentDenied):
                    await parent.get_manifest(name, "v1")
                return scripted.count(path="/token") - before

            names = ["team/a", "team/b", "team/c", "team/d"]
            assert [await refused(name) for name in names] == [1, 1, 1, 1]
            assert [await refused(name) for name in names[::-1]] == [0, 0, 0, 1]


async def test_basic_is_sent_from_the_second_request_on() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted, login=True)
        scripted.door.scheme = "basic"
        async with client_of(scripted, credentials=LOGIN) as parent:
            for _ in range(3):
                await parent.get_manifest("team/app", "v1")
        assert scripted.count() == 4


async def test_wrong_basic_is_denied_without_a_second_try() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted, login=True)
        scripted.door.scheme = "basic"
        async with client_of(
            scripted, credentials=CredentialsSection(username="user", password="no")
        ) as parent:
            for _ in range(2):
                with pytest.raises(ParentDenied):
                    await parent.get_manifest("team/app", "v1")
        assert scripted.count() == 3


async def test_token_server_down_is_tried_again_like_the_parent() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted)
        scripted.script(ScriptedFault(path="/token", status=503, times=2))
        async with client_of(scripted) as parent:
            await parent.get_manifest("team/app", "v1")
            scripted.door.expire()
            scripted.script(ScriptedFault(path="/token", status=500, times=-1))
            with pytest.raises(ParentErred):
                await parent.get_manifest("team/app", "v1")


async def test_token_of_10_mb_is_cut_off() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted)
        scripted.script(
            ScriptedFault(path="/token", endless="body"),
            ScriptedFault(path="/token", status=200, body="x" * 70_000),
        )
        async with client_of(scripted) as parent:
            for _ in range(2):
                with pytest.raises(ParentBroken, match="65536"):
                    await parent.get_manifest("team/app", "v1")


async def test_a_token_server_that_redirects_gets_nothing_more() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted, login=True)
        async with ScriptedParent() as thief:
            scripted.script(ScriptedFault(path="/token", redirect=f"{thief.url}/token", times=-1))
            async with client_of(scripted, credentials=LOGIN) as parent:
                with pytest.raises(ParentDenied):
                    await parent.get_manifest("team/app", "v1")
            assert thief.connections_made == 0


# ---- quirks: a test for each row


@pytest.mark.parametrize(
    ("host", "registry"),
    [
        ("docker.io", "Docker Hub"),
        ("registry-1.docker.io", "Docker Hub"),
        ("index.docker.io", "Docker Hub"),
        ("public.ecr.aws", "Amazon ECR Public"),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "Amazon ECR"),
        ("123456789012.dkr.ecr-fips.us-gov-east-1.amazonaws.com", "Amazon ECR"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "Amazon ECR"),
        ("registry.gitlab.com", "GitLab.com"),
        ("docker.elastic.co", "Elastic"),
        ("ghcr.io", "any other"),
        ("quay.io", "any other"),
        ("mcr.microsoft.com", "any other"),
        ("example.azurecr.io", "any other"),
        ("evildocker.io", "any other"),
        ("docker.io.evil.example", "any other"),
        ("xdocker.elastic.co.example", "any other"),
        ("registryXgitlab.com", "any other"),
        ("x.123456789012.dkr.ecr.eu-west-1.amazonaws.com", "any other"),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", "any other"),
        ("123456789012.dkr.ecr.eu-west-1.evil.amazonaws.com", "any other"),
        ("bucket.s3.amazonaws.com", "any other"),
    ],
)
def test_hosts_match_whole_or_not_at_all(host: str, registry: str) -> None:
    assert quirks.quirk_of(host).registry == registry


def test_every_row_is_reachable_and_says_its_source() -> None:
    for row in quirks.TABLE:
        assert row.hosts or row.pattern or row.services
        assert row.source
        assert all(realm.startswith("https://") for realm in row.realms)


async def use(scripted: ScriptedParent, row: quirks.Quirk) -> None:
    """Everything that departs in a row, asked of a registry that departs like that. Raises ParentFailed."""
    async with client_of(scripted) as parent:
        await parent.get_manifest("alpine", "v1")
        for status in sorted(row.stale - {401}):
            scripted.door.refused = status
            scripted.door.expire()
            await parent.get_manifest("alpine", "v1")
        if row.confirm_head:
            scripted.script(ScriptedFault(method="HEAD", path="/blobs/", status=404, times=-1))
            assert await parent.head_blob("alpine", BLOB.digest) == BLOB.size


@pytest.mark.parametrize("row", quirks.TABLE, ids=[row.registry for row in quirks.TABLE])
async def test_a_row_is_what_makes_its_registry_work(
    row: quirks.Quirk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row as it stands in the table, only that its host is this one: with it all is well, without it is not."""
    async with ScriptedParent() as scripted, ScriptedParent() as auth:
        name = f"{row.project}/alpine" if row.project else "alpine"
        scripted.add_manifest(name, IMAGE, OCI_MANIFEST, "v1")
        scripted.add_blob(name, BLOB)
        scripted.door.scheme = "bearer"
        if row.services:
            scripted.door.service = row.services[0]
        if row.realms:
            scripted.door.realm = f"{auth.url}/token"
            scripted.door.tokens = auth.door.tokens
        host = () if row.services else ("127.0.0.1",)
        realms = (auth.url,) if row.realms else ()
        here = replace(row, hosts=host, pattern="", endpoint="", realms=realms)
        monkeypatch.setattr(quirks, "TABLE", ())
        with pytest.raises(ParentFailed):
            await use(scripted, row)
        scripted.faults.clear()
        scripted.door.refused = 401
        monkeypatch.setattr(quirks, "TABLE", (here,))
        await use(scripted, row)


async def test_docker_hub_short_names_and_token_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedParent() as scripted, ScriptedParent() as auth:
        hub = quirks.Quirk("hub", "test", ("127.0.0.1",), project="library", realms=(auth.url,))
        monkeypatch.setattr(quirks, "TABLE", (hub,))
        scripted.add_manifest("library/alpine", IMAGE, OCI_MANIFEST, "v1")
        scripted.door.scheme, scripted.door.realm = "bearer", f"{auth.url}/token"
        scripted.door.tokens = auth.door.tokens
        async with client_of(scripted) as parent:
            await parent.get_manifest("alpine", "v1")
        assert auth.log[0].parameters()["scope"] == "repository:library/alpine:pull"


def test_docker_hubs_written_host_is_not_its_endpoint() -> None:
    from holdfast.http.endpoint import base_of

    assert str(base_of("https://docker.io", insecure=False)[0]) == "https://registry-1.docker.io"


@pytest.mark.parametrize("status", [400, 403])
async def test_ecr_says_400_or_403_for_an_expired_token(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted)
        scripted.door.refused = status
        async with client_of(scripted) as plain:
            await plain.get_manifest("team/app", "v1")
            scripted.door.expire()
            with pytest.raises(ParentBroken if status == 400 else ParentDenied):
                await plain.get_manifest("team/app", "v1")
        row = next(row for row in quirks.TABLE if row.registry == "Amazon ECR Public")
        ecr = quirks.Quirk(row.registry, row.source, ("127.0.0.1",), stale=row.stale)
        monkeypatch.setattr(quirks, "TABLE", (ecr,))
        async with client_of(scripted) as parent:
            await parent.get_manifest("team/app", "v1")
            scripted.door.expire()
            await parent.get_manifest("team/app", "v1")
            assert parent.counters["renewals"] == 2
            scripted.door.expire()
            scripted.script(ScriptedFault(path="/v2/", status=status, times=-1))
            scripted.reset_counts()
            with pytest.raises(ParentDenied):
                await parent.get_manifest("team/app", "v1")
            assert scripted.count(path="/manifests/") == 2


async def test_harbor_answers_404_to_head_of_a_blob_it_can_get() -> None:
    async with ScriptedParent() as scripted:
        bearer(scripted)
        scripted.door.service = "harbor-registry"
        scripted.script(ScriptedFault(method="HEAD", path="/blobs/", status=404, times=-1))
        async with client_of(scripted) as parent:
            await parent.get_manifest("team/app", "v1")
            assert await parent.head_blob("team/app", BLOB.digest) == BLOB.size
        assert scripted.bytes_sent[BLOB.digest] == 1


# ---- where logins come from


def test_secret_never_shows_itself() -> None:
    secret = Secret("canary")
    assert (
        "canary" not in f"{secret} {secret!r} {secret!s} {secret:>10} {[secret]} {vars(CredentialsSection)}"
    )
    assert secret == Secret("canary") != Secret("other")
    assert secret.reveal() == "canary"


def helper(tmp_path: Path, script: str) -> tuple[str, ...]:
    """A credential helper program."""
    file = tmp_path / "helper.py"
    file.write_text(f"import sys\nserver = sys.stdin.read().strip()\nassert sys.argv[1] == 'get'\n{script}\n")
    return sys.executable, str(file)


async def test_helper_is_run_once_and_again_when_refused(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    script = f"open({str(runs)!r}, 'a').write('x')\nprint('{{\"Username\":\"user\",\"Secret\":\"' + server + '\"}}')"
    source = HelperLogin(helper(tmp_path, script), "https://registry.example", FakeClock())
    logins = await asyncio.gather(*(source.login() for _ in range(5)))
    assert {login.secret.reveal() for login in logins if login} == {"https://registry.example"}
    assert runs.read_text() == "x"
    await asyncio.gather(*(source.login(fresh=True) for _ in range(5)))
    assert runs.read_text() == "xx"


@pytest.mark.parametrize("script", ["sys.exit(3)", "print('{}')", "print('canary')"])
async def test_helper_that_fails_is_denied_without_its_output(tmp_path: Path, script: str) -> None:
    source = HelperLogin(helper(tmp_path, script), "https://x", FakeClock())
    with pytest.raises(ParentDenied) as refused:
        await source.login()
    assert "canary" not in str(refused.value)


async def test_environment_and_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = FakeClock()
    source = login_source(CredentialsSection(username="u", password_env="HOLDFAST_T"), "", clock)
    with pytest.raises(ParentDenied, match="HOLDFAST_T"):
        await source.login()
    monkeypatch.setenv("HOLDFAST_T", "one")
    login = await source.login()
    assert login is not None
    assert login.secret.reveal() == "one"
    missing = login_source(CredentialsSection(username="u", password_file=str(tmp_path / "no")), "", clock)
    with pytest.raises(ParentDenied):
        await missing.login()
    with pytest.raises(ValueError, match="not several"):
        login_source(CredentialsSection(password="a", password_env="b"), "", FakeClock())


# ---- a login before anything goes up


class Base:
    """Answers `/v2/`; a status of 0 is no connection, one of -1 an answer that never ends."""

    def __init__(self, *statuses: int) -> None:
        self.statuses, self.asked, self.status = list(statuses), 0, 0

    async def send(self, *_: object) -> Base:
        """In the place of `Transport.send`."""
        self.asked += 1
        await asyncio.sleep(0)
        self.status = self.statuses.pop(0)
        if not self.status:
            raise ConnectTimedOut("nobody is there")
        return self

    def header_lines(self, _: str) -> list[str]:
        """No challenge."""
        return []

    def header(self, _: str) -> None:
        """None."""

    async def discard(self) -> None:
        """The body."""
        if self.status < 0:
            await asyncio.Event().wait()


@pytest.mark.parametrize("status", [403, 404, 408, 429, 503])
async def test_case_fault_15_only_200_and_401_tell_whether_a_login_is_wanted(status: int) -> None:
    async with client_of("http://parent.example") as parent:
        endpoint, base = parent.up._endpoint, Base(status, 200)
        endpoint._transport.send = base.send  # type: ignore[method-assign, assignment]
        with pytest.raises(ParentFailed):
            await parent.up.authorize("team/app")
        assert endpoint.health.state == ("degraded" if status in (408, 503) else "online")
        await parent.up.authorize("team/app")
        await parent.up.authorize("team/app")
        assert base.asked == 2


async def test_case_fault_15_who_waits_for_a_login_does_not_ask_a_parent_that_is_away() -> None:
    async with client_of("http://parent.example") as parent:
        base = Base(*[0] * 8)
        parent.up._endpoint._transport.send = base.send  # type: ignore[method-assign, assignment]
        asked = (parent.up.authorize(f"r{number}") for number in range(8))
        failures = await asyncio.gather(*asked, return_exceptions=True)
        assert list(map(type, failures)) == [ConnectTimedOut] + [KnownOffline] * 7
        assert (base.asked, parent.state) == (1, "offline")


async def test_case_fault_15_a_login_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.parent.push_client.ASK_SECONDS", 0.05)
    async with client_of("http://parent.example") as parent, patience():
        parent.up._endpoint._transport.send = Base(-1).send  # type: ignore[method-assign, assignment]
        with pytest.raises(TimedOut):
            await parent.up.authorize("team/app")
