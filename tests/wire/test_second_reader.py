"""h11 beside the head gate: only a head that both read alike brings a body."""

from __future__ import annotations

import pytest
from holdfast.config import LimitsSection
from holdfast.errors import HeadInvalid
from holdfast.wire import head as gate
from holdfast.wire.exchange import Exchange
from holdfast.wire.second_reader import require_agreement

COUNTED = b"PUT /v2/a/manifests/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
CHUNKED = COUNTED.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")


def parsed(data: bytes) -> gate.Head:
    return gate.parse(data, gate.find_end(data, 0, 32768), 8192, 100)


NO_BODY = b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("data", [COUNTED, CHUNKED, NO_BODY, NO_BODY[:-2] + b"Content-Length: 0\r\n\r\n"])
def test_both_read_the_same(data: bytes) -> None:
    require_agreement(parsed(data), data, 32768)


@pytest.mark.parametrize(
    "other",
    [
        COUNTED.replace(b": 5", b": 50"),
        COUNTED.replace(b"PUT", b"POST"),
        COUNTED.replace(b"/x ", b"/y "),
        CHUNKED,
        COUNTED.replace(b"Host: a", b"Host a"),
        COUNTED[:-2],
    ],
)
def test_another_reading_is_refused(other: bytes) -> None:
    with pytest.raises(HeadInvalid):
        require_agreement(parsed(COUNTED), other, 32768)


def test_case_trust_2_a_head_in_which_only_h11_finds_a_body_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the gate finds none: that is what both are there for."""
    found = parsed(NO_BODY)
    monkeypatch.setattr("holdfast.wire.exchange.gate.parse", lambda *_: found)
    exchange = Exchange(LimitsSection())
    exchange.receive(NO_BODY[:-2] + b"Content-Length: 5\r\n\r\n12345")
    with pytest.raises(HeadInvalid):
        exchange.next_request()


def test_a_disagreement_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    real = gate.parse
    doubled = COUNTED.replace(b": 5", b": 6")
    monkeypatch.setattr("holdfast.wire.exchange.gate.parse", lambda data, *rest: real(doubled, *rest))
    exchange = Exchange(LimitsSection())
    exchange.receive(COUNTED + b"12345")
    with pytest.raises(HeadInvalid):
        exchange.next_request()
    exchange.receive(COUNTED)
    assert exchange.next_request() is None
