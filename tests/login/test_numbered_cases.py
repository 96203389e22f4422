"""The numbered cases about tokens and scopes (references.md 4.2, cases 66 and 67), each in one place."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from holdfast.errors import QueryInvalid
from holdfast.login import token_scope
from holdfast.login.access_token import Forged, GrantedResource, TokenSigner
from holdfast.login.token_scope import TokenScope

NOW, LIFE = 1_800_000_000.0, 300


def issue(mint: TokenSigner) -> str:
    return mint.issue(
        "client", "node.test", NOW, LIFE, access=(GrantedResource("repository", "a", ("pull",)),)
    )


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def refused(mint: TokenSigner, text: str, now: float = NOW) -> None:
    with pytest.raises(Forged):
        mint.read(text, now)


@pytest.fixture
def mint(tmp_path: Path) -> TokenSigner:
    return TokenSigner("node-1", tmp_path)


def test_case_66_the_time_of_a_token_is_its_own_nodes_time(mint: TokenSigner) -> None:
    """No leeway at the end: who made the token reads it, by the same clock. 5 s at the start, for a clock set back."""
    own = issue(mint)
    mint.read(own, NOW + LIFE - 1)
    for late in (0, 1, 59, 61):
        refused(mint, own, NOW + LIFE + late)
    mint.read(own, NOW - 4)
    refused(mint, own, NOW - 61)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "elsewhere"},
        {"aud": ["elsewhere", "node.test"]},
        {"iss": "node-2"},
        {"iss": ""},
        {"nbf": int(NOW) + 60},
    ],
)
def test_case_66_another_audience_issuer_or_beginning(mint: TokenSigner, claims: dict[str, Any]) -> None:
    base = msgspec.to_builtins(mint.read(issue(mint), NOW))
    assert mint.read(mint._sign(base), NOW).sub == "client"
    refused(mint, mint._sign({**base, **claims}))


def test_case_66_no_algorithm_no_key_and_no_length_but_ours(mint: TokenSigner) -> None:
    head, payload, signature = issue(mint).split(".")
    public = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    heads: list[dict[str, Any]] = [
        {"typ": "JWT", "alg": "none"},
        {"typ": "JWT", "alg": "HS256"},
        {"typ": "JWT", "alg": "EdDSA", "kid": "unknown"},
        {"typ": "JWT", "alg": "EdDSA", "kid": "../../../dev/null"},
        {"typ": "JWT", "alg": "EdDSA", "kid": "https://evil.example/key"},
    ]
    forged = [f"{encoded(said)}.{payload}.{signature}" for said in heads]
    forged += [jwt.api_jws.PyJWS().encode(b"{}", pem.hex(), "HS256")]
    forged += [
        f"{head}.{payload}.{signature}.",
        f"{head}.{payload}",
        f"{head}..{payload}.{signature}",
        "." * 1000,
    ]
    forged += [f"{head}.{'a' * (1 << 20)}.{signature}"]
    for text in forged:
        refused(mint, text)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["repository:host:5000/a/b:pull"], [("repository", "host:5000/a/b", ("pull",))]),
        (["repository:a:*"], [("repository", "a", ("*",))]),
        (["repository:a:"], [("repository", "a", ())]),
        (["repository(plugin):a:pull"], [("repository", "a", ("pull",))]),
        (["repository:a:pull", "repository:a:push,pull"], [("repository", "a", ("pull", "push"))]),
        (["repository:a:pull repository:b:pull"], [("repository", "a", ("pull",)), ("repository", "b", ("pull",))]),
        (
            ["repository:a/b:pull", "repository:a/bc:push"],
            [("repository", "a/b", ("pull",)), ("repository", "a/bc", ("push",))],
        ),
        (["Repository:a:pull", "repository:a:PULL", "repository", "a:b", ""], []),
    ],
)  # fmt: skip
def test_case_67_scopes_are_read_by_their_grammar(texts: list[str], found: list[Any]) -> None:
    assert token_scope.parse(texts) == tuple(TokenScope(*row) for row in found)


def test_case_67_a_thousand_scopes_are_refused() -> None:
    for texts in (
        [f"repository:r{n}:pull" for n in range(1000)],
        [" ".join(f"repository:r{n}:pull" for n in range(21))],
    ):
        with pytest.raises(QueryInvalid):
            token_scope.parse(texts)
    assert len(token_scope.parse(["repository:a:pull"] * 100)) == 1
