"""Who passes to the admin API, and who does not: credentials, guesses, browsers, and the other listener's routes."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path

import pytest
from holdfast.admin.auth import SECRET_BYTES, OperatorGate
from holdfast.admin.table import OPERATIONS
from holdfast.config import Configuration, LoginSection
from holdfast.errors import TooManyLogins, Unauthorized
from holdfast.testing.manual_clock import FakeClock
from holdfast.wire.message import Request
from holdfast.wire.routes import METHODS, Noun, Route, build
from support.admin import OPERATOR, admin_serving, basic
from support.serving import serving

ANY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY")
PATHS = sorted({"/api/v1/" + one.path.replace("{name}", "plant") for one in OPERATIONS})
STRANGE = [
    "/api",
    "/api/",
    "/api/v1",
    "/api/v1/",
    "/api/v1/none",
    "/api/v2/tokens",
    "/API/v1/tokens",
    "/api/v1/tokens/",
    "/api/v1/tokens/a/b/c",
    "/",
    "/admin",
    "/metrics",
    "/operator.json",
]


async def test_s21_every_operation_wants_credentials(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        for one in OPERATIONS:
            path = "/api/v1/" + one.path.replace("{name}", "plant")
            answer = await admin.ask(one.method, path, authorization=None)
            assert answer.status == 401, (one.method, path)
            assert answer.headers["www-authenticate"].startswith("Basic ")
            assert answer.json["errors"][0]["code"] == "UNAUTHORIZED"


async def test_s21_without_credentials_every_path_and_method_of_the_api_looks_the_same(
    tmp_path: Path,
) -> None:
    async with admin_serving(tmp_path, Configuration(login=LoginSection(failures=1))) as admin:
        seen = set()
        for path in [*PATHS, "/api/v1/none", "/api/v1/tokens/a/b/c/d", "/api/v1/tokens?colour=1"]:
            for method in ANY_METHOD[2:]:
                answer = await admin.ask(method, path, authorization=None)
                seen.add((answer.status, json.dumps(answer.json), answer.headers["www-authenticate"]))
        assert len(seen) == 1, seen


async def test_s21_nothing_of_the_api_is_on_the_clients_listener(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        for path in [*PATHS, *STRANGE]:
            for method in ANY_METHOD[:7]:
                for headers in ({}, {"Authorization": basic()}):
                    answer = await node.ask(path, method, **headers)
                    assert answer.status == 404, (method, path, answer)
                    assert "allow" not in answer.headers


async def test_s21_nothing_for_clients_is_on_the_admin_listener(tmp_path: Path) -> None:
    """And no password is asked for there, so that no client sends its own."""
    async with admin_serving(tmp_path) as admin:
        nouns = [noun for noun in Noun if noun not in (Noun.API, Noun.HEALTH, Noun.READINESS)]
        for noun in nouns:
            digest = "sha256:" + "0" * 64
            path = build(Route(noun, "team/app", digest if noun is not Noun.TAGS else ""))
            for method in METHODS[noun]:
                for authorization in (None, ""):
                    answer = await admin.ask(method, path, authorization=authorization)
                    assert answer.status == 404, (method, path)
                    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize("path", STRANGE)
async def test_s21_what_is_not_in_the_table_is_not_there(tmp_path: Path, path: str) -> None:
    async with admin_serving(tmp_path) as admin:
        for method in ANY_METHOD[2:7]:
            assert (await admin.ask(method, path)).status in (404, 405), (method, path)


async def test_health_is_everybodys(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        for path in ("/healthz", "/readyz"):
            assert (await admin.ask("GET", path, authorization=None)).status == 200
            assert (await admin.ask("POST", path, authorization=None)).status == 405


async def test_a_method_that_an_operation_does_not_take(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        answer = await admin.ask("POST", "tokens/plant")
        assert (answer.status, set(answer.headers["allow"].split(", "))) == (
            405,
            {"GET", "PUT", "PATCH", "DELETE"},
        )


async def test_guesses_are_counted_by_address_and_the_wait_is_said(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        wrong = basic(OPERATOR._replace(password="Xq7-a-long-one-for-tests-9Kd3"))
        statuses = [(await admin.ask("GET", "tokens", authorization=wrong)).status for _ in range(32)]
        assert statuses == [401] * 30 + [429] * 2
        answer = await admin.ask("GET", "tokens")
        assert answer.status == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 3
        admin.clock.advance(float(answer.headers["retry-after"]))
        assert (await admin.ask("GET", "tokens")).status == 200


@pytest.mark.parametrize(
    ("password", "passes"),
    [(secrets.token_urlsafe(SECRET_BYTES), True), ("c" * 20 + "hosen", False)],
    ids=("generated", "chosen"),
)
def test_case_trust_24_guesses_from_the_operators_machine_do_not_shut_it_out(
    password: str, passes: bool
) -> None:
    """A password that a person chose might be found by trying, so there the address waits."""
    operator = OPERATOR._replace(password=password)
    gate = OperatorGate(operator, FakeClock(), 30)

    def asked(said: str) -> Request:
        return Request("GET", "/api/v1/tokens", headers=(("authorization", said),), client="127.0.0.1")

    refused = list[type[Exception]]()
    for _ in range(40):
        with pytest.raises((Unauthorized, TooManyLogins)) as found:
            gate.admit(asked(basic(operator._replace(password="wrong"))))
        refused.append(found.type)
    assert refused == [Unauthorized] * 30 + [TooManyLogins] * 10
    if passes:
        gate.admit(asked(basic(operator)))
    else:
        with pytest.raises(TooManyLogins):
            gate.admit(asked(basic(operator)))


async def test_asking_without_credentials_is_no_guess(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        for _ in range(40):
            assert (await admin.ask("GET", "tokens", authorization=None)).status == 401
        assert (await admin.ask("GET", "tokens")).status == 200


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://admin.test:81"},
    {"Origin": "http://admin.test.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_s24_a_page_of_another_site_cannot_use_the_operators_browser(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with admin_serving(tmp_path) as admin:
        for method in ("GET", "POST", "DELETE"):
            answer = await admin.ask(method, "tokens", headers=headers)
            assert answer.status == 403, headers
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_s24_a_form_is_refused_and_there_is_no_preflight(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            answer = await admin.ask(
                "POST", "tokens/plant/credentials", raw=b"{}", headers={"Content-Type": kind}
            )
            assert answer.status == 415, kind
        asked = {"Origin": "http://admin.test", "Access-Control-Request-Method": "DELETE"}
        answer = await admin.ask("OPTIONS", "tokens/plant", headers=asked)
        assert answer.status == 405
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_s24_a_page_of_this_listener_may(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        headers = {"Origin": "http://admin.test", "Sec-Fetch-Site": "same-origin"}
        assert (await admin.ask("GET", "tokens", headers=headers)).status == 200


async def test_s25_what_was_sent_comes_back_as_json_only(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        body = {
            "properties": {"actions": ["repositories/app/content/read"], "description": "<img onerror=a>"}
        }
        for answer in [
            await admin.ask("PUT", "scopeMaps/markup", body),
            await admin.ask("GET", "scopeMaps/markup"),
            await admin.ask("GET", "scopeMaps/%3Cimg%20onerror=a%3E"),
            await admin.ask("GET", "tokens?%3Cimg%3E=1"),
        ]:
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


async def test_s26_no_answer_leads_elsewhere(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        for path in [*PATHS, *STRANGE, "/%5Cevil", "/api/v1/tokens?$skipToken=//evil.example"]:
            for method in ANY_METHOD[2:]:
                answer = await admin.ask(method, path)
                assert not 300 <= answer.status < 400
                assert "location" not in answer.headers


async def test_s35_no_password_is_logged(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        body = {"properties": {"actions": ["repositories/app/content/read"]}}
        made = await admin.good("PUT", "tokens/plant1", body)
        secrets = [one["value"] for one in made["properties"]["credentials"]["passwords"]]
        await admin.ask(
            "POST", "tokens/plant1/credentials", {"passwords": ["password1"], "value": "vermilion otter x"}
        )
        await admin.ask("GET", "tokens?colour=vermilion")
        await asyncio.sleep(0.2)
        said = json.dumps(admin.logs, default=str)
        for secret in [*secrets, OPERATOR.password, basic(), "vermilion"]:
            assert secret not in said
