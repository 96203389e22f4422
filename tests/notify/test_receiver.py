"""A receiver that is slow, hostile or away: what came of one try."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest
from holdfast.clock import SystemClock
from holdfast.config import Webhook
from holdfast.notify import receiver as notify
from holdfast.notify.standing import Answer
from support import receiver as scripted
from support.certificates import make_pair
from support.receiver import Receiver, answer

BODY = b'{"id": "1"}'


def post(url: str, **keys: Any) -> Answer:
    """One try."""
    lookup = keys.pop("lookup", None)

    async def tried() -> Answer:
        hook = Webhook(name="hook", url=url, **{"insecure": True, **keys})
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
        (told,) = receiver.told
        assert told.path == "/hook?code=5%2F6"
        assert told.body == BODY
        assert told.headers["content-type"] == "application/json; charset=utf-8"
        assert told.headers["authorization"] == "Bearer abc"
        assert told.headers["x-site"] == "plant"
        assert told.headers["user-agent"] == "holdfast"
        expected = hmac.new(b"s3cret", BODY, hashlib.sha256).hexdigest()
        assert told.headers["x-holdfast-signature"] == f"sha256={expected}"


def test_without_a_secret_there_is_no_proof() -> None:
    with Receiver() as receiver:
        assert post(receiver.url).is_taken
        assert "x-holdfast-signature" not in receiver.told[0].headers


def test_a_secret_comes_from_a_file_and_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setenv("HOOK_SECRET", "from the environment")
    with Receiver() as receiver:
        post(receiver.url, secret_file=str(file))
        post(receiver.url, secret_env="HOOK_SECRET")
        proofs = [told.headers["x-holdfast-signature"] for told in receiver.told]
        wanted = [b"from a file", b"from the environment"]
        assert proofs == ["sha256=" + hmac.new(w, BODY, hashlib.sha256).hexdigest() for w in wanted]


def test_a_secret_that_is_not_there_sends_nothing(tmp_path: Path) -> None:
    with Receiver() as receiver:
        found = post(receiver.url, secret_file=str(tmp_path / "none"))
        assert (found.status, found.is_taken) == (0, False)
        assert "cannot be read" in found.words
        assert not receiver.told


@pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 500, 503])
def test_a_refusal_is_told_with_its_status(status: int) -> None:
    with Receiver(answer(status, Retry_After="7")) as receiver:
        assert post(receiver.url) == Answer(status, f"answered {status}", 7.0)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_s50_a_redirect_is_not_followed(status: int) -> None:
    with Receiver() as elsewhere, Receiver(answer(status, Location=elsewhere.url)) as receiver:
        assert post(receiver.url) == Answer(status, f"answered {status}")
        assert not elsewhere.told


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
        found = post(receiver.url, timeout=0.3)
        assert (found.status, found.is_taken) == (0, False)
        assert words in found.words


def test_an_answer_without_end_is_not_read() -> None:
    """The status is there, so the event is; nothing is kept of the rest."""
    with Receiver(scripted.endless) as receiver:
        assert post(receiver.url, timeout=5.0) == Answer(200, "answered 200")


def test_nobody_listens() -> None:
    with Receiver() as receiver:
        url = receiver.url
    found = post(url)
    assert found.status == 0
    assert "the connection to the receiver failed" in found.words


def test_https_is_verified(tmp_path: Path) -> None:
    own, other = make_pair(tmp_path / "own", "own", authority=True), make_pair(tmp_path / "other", "other")
    with Receiver(pair=own) as receiver:
        assert post(receiver.url, insecure=False, ca=str(own / "cert.pem")).is_taken
        for ca in ("", str(other / "cert.pem")):
            found = post(receiver.url, insecure=False, ca=ca)
            assert found.status == 0
            assert "TLS with the receiver failed" in found.words
        assert len(receiver.told) == 1


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "168.63.129.16", "fe80::1"])
def test_s50_metadata_services_and_link_local_addresses_are_never_asked(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address

    async def lookup(host: str, port: int, family: int) -> list[str]:
        return [address]

    for url in (f"http://{literal}/latest", "http://hook.example/latest"):
        found = post(url, lookup=lookup)
        assert found.status == 0
        assert "receiver led to" in found.words
