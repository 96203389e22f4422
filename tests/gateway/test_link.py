"""What a parent's answers mean to a child, and that nothing a parent does makes the child raise, follow or wait."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from holdfast.clock import SystemClock
from holdfast.config import CredentialsSection, ParentSection
from holdfast.gateway.agent_state import (
    AccessRefused,
    Activated,
    Deactivated,
    NoAnswer,
    OtherInstanceActive,
    Reported,
    Unchanged,
)
from holdfast.gateway.gateway_client import (
    GatewayAnswer,
    GatewayClient,
    NoticesRefused,
    meaning,
    meaning_for_notices,
    reason_in,
)
from holdfast.gateway.protocol import Contents, LeaseAnswer, StatusReport
from holdfast.resources.model import (
    ConnectedRegistry,
    ParentProperties,
    RegistryConfiguration,
    Revision,
    Status,
    SyncProperties,
    Token,
)
from support.patience import patience

PLANT = ConnectedRegistry(
    name="plantA",
    mode="ReadOnly",
    parent=ParentProperties(sync_properties=SyncProperties(token_id="/tokens/plantA")),
)
REPORT = StatusReport(instance="i", generation=1)


def refusal(message: str, detail: str = "") -> bytes:
    """An error body."""
    return msgspec.json.encode({"errors": [{"code": "DENIED", "message": message, "detail": detail}]})


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (409, refusal("already activated", "ALREADY_ACTIVATED"), OtherInstanceActive, ""),
        (409, refusal("ALREADY_ACTIVATED: by another"), OtherInstanceActive, ""),
        (409, refusal("not active", "NOT_ACTIVATED"), Deactivated, ""),
        (409, refusal("something else"), NoAnswer, "409: something else"),
        (401, refusal("wrong"), AccessRefused, "the sync token (401)"),
        (403, refusal("no gateway right"), AccessRefused, "no gateway right"),
        (404, b"<html>", AccessRefused, "(404): it gives no reason"),
        (413, b"<html>too large</html>", NoAnswer, "413: it gives no reason"),
        (500, b"", NoAnswer, "500"),
        (307, b"", NoAnswer, "307"),
    ],
)
def test_a_refusal_has_one_meaning(status: int, body: bytes, kind: type[Any], words: str) -> None:
    outcome = meaning(GatewayAnswer(status, "", 7.0, body))
    assert type(outcome) is kind
    if words:
        assert words in outcome.why  # type: ignore[union-attr]
    if isinstance(outcome, NoAnswer):
        assert outcome.retry_after == 7.0


UNSUPPORTED = msgspec.json.encode({"errors": [{"code": "UNSUPPORTED", "message": "notices[0].event.verb"}]})


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, UNSUPPORTED, NoticesRefused),
        (413, UNSUPPORTED, NoAnswer),
        (500, UNSUPPORTED, NoAnswer),
        (429, UNSUPPORTED, NoAnswer),
        (405, UNSUPPORTED, NoAnswer),
        (401, UNSUPPORTED, AccessRefused),
        (403, UNSUPPORTED, AccessRefused),
        (404, UNSUPPORTED, AccessRefused),
        (400, b"<html>a proxy</html>", NoAnswer),
        (400, b'{"errors":[{"code":"SIZE_INVALID","message":"the body broke off"}]}', NoAnswer),
    ],
)
def test_case_fault_8_only_the_parents_own_word_on_a_notice_says_that_it_never_takes_it(
    status: int, body: bytes, kind: type[Any]
) -> None:
    assert type(meaning_for_notices(GatewayAnswer(status, "", 0.0, body))) is kind


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"errors": 5}', b"\xff", b"[" * 4000, b'{"errors":[{"code":5}]}']
)
def test_no_body_is_too_strange(body: bytes) -> None:
    assert reason_in(body) == ""


def test_message_and_detail_are_two_sentences() -> None:
    body = b'{"errors":[{"code":"DENIED","message":"the disk is full","detail":"free space"}]}'
    assert reason_in(body) == "the disk is full. free space"


def test_what_a_parent_says_is_one_short_line() -> None:
    assert reason_in(refusal("a\nb" + "c" * 1000)) == ("a b" + "c" * 1000)[:300]


Handle = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


def asked(handle: Handle, question: Callable[[GatewayClient], Awaitable[Any]]) -> tuple[Any, list[bytes]]:
    """One question to a server that answers as the test writes it, and the heads that came."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        await handle(heads[-1], writer)
        writer.close()

    async def main() -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        credentials = CredentialsSection(username="plantA", password="s3cret-of-the-sync-token")
        parent = ParentSection(url=f"http://127.0.0.1:{port}", insecure=True, credentials=credentials)
        link = GatewayClient(parent, "plantA", SystemClock())
        try:
            async with server:
                return await question(link)
        finally:
            await link.close()

    return asyncio.run(main()), heads


def answering(status: str, body: bytes = b"", *headers: str) -> Handle:
    """Always the same answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]

    async def handle(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return handle


def test_activation_carries_the_sync_token_and_the_lower_cased_name() -> None:
    lease = msgspec.json.encode(LeaseAnswer(generation=3, lease_seconds=300.0))
    outcome, heads = asked(answering("200 OK", lease), lambda link: link.activate("me", "1.0"))
    assert outcome == Activated(3, 300.0)
    assert heads[0].startswith(b"POST /acr/gateway/v1/planta/activate HTTP/1.1\r\n")
    login = base64.b64encode(b"plantA:s3cret-of-the-sync-token")
    assert b"Authorization: Basic " + login in heads[0]


def test_a_newer_parent_may_say_more() -> None:
    body = b'{"generation":3,"leaseSeconds":9,"expires":"","mood":"good"}'
    outcome, _ = asked(answering("200 OK", body), lambda link: link.report(REPORT))
    assert outcome == Reported(9.0)


def test_configuration_of_a_newer_parent_is_taken_as_far_as_it_is_known() -> None:
    """Else the node of a parent that was replaced first would hear of no token that ended. What was left out is asked
    for again by a version that knows it: no etag is kept for it."""
    whole = RegistryConfiguration(
        registry=PLANT,
        etag='"v2"',
        tokens=(Token(name="phil", scope_map_id="/scopeMaps/phil", creation_date="2026-11-26T22:00:00Z"),),
        revisions={"planta": Revision(number=3)},
    )
    document = msgspec.json.decode(msgspec.json.encode(whole))
    sync = document["registry"]["parent"]["syncProperties"]
    places = [document, document["registry"], sync, document["tokens"][0], document["revisions"]["planta"]]
    for place in places:
        place["mood"] = {"is": ["good"]}
        answers = answering("200 OK", msgspec.json.encode(document), 'ETag: "v2"')
        (found, etag), _ = asked(answers, lambda link: link.configuration("me", 3, "v1", 0.0))
        assert (found, etag) == (msgspec.structs.replace(whole, etag=""), "v2")
    sync["schedule"] = 5
    outcome, _ = asked(
        answering("200 OK", msgspec.json.encode(document)), lambda link: link.configuration("me", 3, "", 0.0)
    )
    assert isinstance(outcome, NoAnswer)


def test_a_report_says_nothing_that_an_older_parent_does_not_know() -> None:
    assert msgspec.json.decode(msgspec.json.encode(REPORT)) == {"instance": "i", "generation": 1}
    below = msgspec.structs.replace(REPORT, below={"hall1": Status(version="1.0")})
    assert "revision" not in msgspec.json.decode(msgspec.json.encode(below))["below"]["hall1"]


def test_configuration_comes_with_its_etag() -> None:
    body = msgspec.json.encode(RegistryConfiguration(registry=PLANT))
    (found, etag), heads = asked(
        answering("200 OK", body, 'ETag: "v2"'), lambda link: link.configuration("me", 3, "v1", 0.0)
    )
    assert (found.registry, etag) == (PLANT, "v2")
    assert b'If-None-Match: "v1"' in heads[0]
    assert b"/config?wait=0.000&instance=me&generation=3 " in heads[0]
    outcome, _ = asked(answering("304 Not Modified"), lambda link: link.configuration("me", 3, "v1", 0.0))
    assert outcome == Unchanged()


STRANGE: list[tuple[str, Handle, str]] = [
    ("not JSON", answering("200 OK", b"<html>"), "cannot be read"),
    ("another type", answering("200 OK", b'{"registry": 5}'), "cannot be read"),
    ("deep", answering("200 OK", b'{"registry":' + b"[" * 100_000), "cannot be read"),
    (
        "another's",
        answering(
            "200 OK",
            msgspec.json.encode(
                RegistryConfiguration(registry=msgspec.structs.replace(PLANT, name="plantB"))
            ),
        ),
        "another connected registry, 'plantB'",
    ),
    ("redirect", answering("307 Temporary Redirect", b"", "Location: http://127.0.0.1:1/"), "307"),
    ("too long", answering("200 OK", b"", "X: y", "Content-Length: 99999999999"), "parent"),
    ("no HTTP", answering("nonsense"), "parent"),
]


@pytest.mark.parametrize(("handle", "words"), [row[1:] for row in STRANGE], ids=[row[0] for row in STRANGE])
def test_a_strange_answer_is_a_failure_with_words(handle: Handle, words: str) -> None:
    outcome, heads = asked(handle, lambda link: link.configuration("me", 3, "", 0.0))
    assert isinstance(outcome, NoAnswer)
    assert words in outcome.why
    assert "s3cret" not in outcome.why
    assert len(heads) == 1


def test_a_parent_that_is_away_is_a_failure() -> None:
    parent = ParentSection(url="http://127.0.0.1:1", insecure=True)

    async def main() -> Any:
        link = GatewayClient(parent, "plantA", SystemClock())
        try:
            return await link.activate("me", "1")
        finally:
            await link.close()

    outcome = asyncio.run(main())
    assert isinstance(outcome, NoAnswer)
    assert "Connect call failed" in outcome.why or "connection" in outcome.why


def test_a_list_is_had_while_another_question_is_held_open() -> None:
    """The parent holds a question for messages; a full synchronisation asks for the contents meanwhile."""
    held, over = asyncio.Event(), asyncio.Event()
    listing = answering("200 OK", msgspec.json.encode(Contents("log-1")))

    async def handle(head: bytes, writer: asyncio.StreamWriter) -> None:
        if b"/messages?" in head:
            held.set()
            await over.wait()
        else:
            await listing(head, writer)

    async def question(link: GatewayClient) -> Any:
        listening = asyncio.create_task(link.messages("i", 1, "log-1", 50.0))
        await held.wait()
        try:
            async with patience():
                return await link.contents("i", 1, "")
        finally:
            listening.cancel()
            over.set()

    found, _ = asked(handle, question)
    assert found == Contents("log-1")
