"""A receiver that is slow, hostile or away: what came of one try."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest
from holdfast.clock import SystemClock
from holdfast.config import WebhookSection
from holdfast.notify import receiver as notify
from holdfast.notify.delivery_state import DeliveryOutcome
from support import receiver as scripted
from support.certificates import make_pair
from support.receiver import Receiver, answer

BODY = b'{"id": "1"}'


def post(url: str, **keys: Any) -> DeliveryOutcome:
    """One try."""
    lookup = keys.pop("lookup", None)

    async def tried() -> DeliveryOutcome:
        hook = WebhookSection(name="hook", url=url, **{"insecure": True, **keys})
        receiver = notify.Receiver(hook, SystemClock(), lookup)
        try:
            return await receiver.post(BODY)
        finally:
            await receiver.close()

    return asyncio.run(tried())


def test_the_body_goes_out_with_its_proof_and_the_headers_that_were_given() -> None:
    with Receiver() as receiver:
        given = ("Authorization: Bearer abc", "X-Site:  plant ")
        assert post(receiver.url + "?code=5%2F6", secret="s3cret", headers=given).is_taken
        (received,) = receiver.posts
        assert received.path == "/hook?code=5%2F6"
        assert received.body == BODY
        assert received.headers["content-type"] == "application/json; charset=utf-8"
        assert received.headers["authorization"] == "Bearer abc"
        assert received.headers["x-site"] == "plant"
        assert received.headers["user-agent"] == "holdfast"
        expected = hmac.new(b"s3cret", BODY, hashlib.sha256).hexdigest()
        assert received.headers["x-holdfast-signature"] == f"sha256={expected}"


def test_without_a_secret_there_is_no_proof() -> None:
    with Receiver() as receiver:
        assert post(receiver.url).is_taken
        assert "x-holdfast-signature" not in receiver.posts[0].headers


def test_a_secret_comes_from_a_file_and_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setenv("HOOK_SECRET", "from the environment")
    with Receiver() as receiver:
        post(receiver.url, secret_file=str(file))
        post(receiver.url, secret_env="HOOK_SECRET")
        proofs = [received.headers["x-holdfast-signature"] for received in receiver.posts]
        secrets = [b"from a file", b"from the environment"]
        assert proofs == ["sha256=" + hmac.new(w, BODY, hashlib.sha256).hexdigest() for w in secrets]


def test_a_secret_that_is_not_there_sends_nothing(tmp_path: Path) -> None:
    with Receiver() as receiver:
        outcome = post(receiver.url, secret_file=str(tmp_path / "none"))
        assert (outcome.status, outcome.is_taken) == (0, False)
        assert "cannot be read" in outcome.text
        assert not receiver.posts


@pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 500, 503])
def test_a_refusal_is_reported_with_its_status(status: int) -> None:
    with Receiver(answer(status, Retry_After="7")) as receiver:
        assert post(receiver.url) == DeliveryOutcome(status, f"answered {status}", 7.0)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_s50_a_redirect_is_not_followed(status: int) -> None:
    with Receiver() as elsewhere, Receiver(answer(status, Location=elsewhere.url)) as receiver:
        assert post(receiver.url) == DeliveryOutcome(status, f"answered {status}")
        assert not elsewhere.posts


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (scripted.hang, "no answer within 0.3 s"),
        (scripted.drip, "no answer within 0.3 s"),
        (scripted.leave, "the connection to the receiver failed"),
        (scripted.half, "the connection to the receiver failed"),
        (scripted.nonsense, "the receiver's answer is not usable HTTP"),
    ],
)
def test_a_receiver_that_gives_no_answer(deed: scripted.Deed, words: str) -> None:
    with Receiver(deed) as receiver:
        outcome = post(receiver.url, timeout=0.3)
        assert (outcome.status, outcome.is_taken) == (0, False)
        assert words in outcome.text


def test_an_answer_without_end_is_not_read() -> None:
    """The status is there, so the event is; nothing is kept of the rest."""
    with Receiver(scripted.endless) as receiver:
        assert post(receiver.url, timeout=5.0) == DeliveryOutcome(200, "answered 200")


def test_nobody_listens() -> None:
    with Receiver() as receiver:
        url = receiver.url
    outcome = post(url)
    assert outcome.status == 0
    assert "the connection to the receiver failed" in outcome.text


def test_https_is_verified(tmp_path: Path) -> None:
    own, other = make_pair(tmp_path / "own", "own", authority=True), make_pair(tmp_path / "other", "other")
    with Receiver(pair=own) as receiver:
        assert post(receiver.url, insecure=False, ca=str(own / "cert.pem")).is_taken
        for ca in ("", str(other / "cert.pem")):
            outcome = post(receiver.url, insecure=False, ca=ca)
            assert outcome.status == 0
            assert "TLS with the receiver failed" in outcome.text
        assert len(receiver.posts) == 1


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "168.63.129.16", "fe80::1"])
def test_s50_metadata_services_and_link_local_addresses_are_never_asked(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address

    async def lookup(host: str, port: int, family: int) -> list[str]:
        return [address]

    for url in (f"http://{literal}/latest", "http://hook.example/latest"):
        outcome = post(url, lookup=lookup)
        assert outcome.status == 0
        assert "receiver led to" in outcome.text
