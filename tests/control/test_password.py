"""Secrets: made with 256 bits, kept as verifiers, refused when everybody knows them."""

from __future__ import annotations

import base64

import pytest
from holdfast.errors import ControlInvalid
from holdfast.resources import password

CHOSEN = "a horse of another colour"


def test_a_generated_secret_has_256_bits_and_proves_itself() -> None:
    made = [password.generate() for _ in range(100)]
    assert len({secret for secret, _ in made}) == 100
    for secret, verifier in made:
        assert len(base64.urlsafe_b64decode(secret + "=")) == 32
        assert verifier.startswith("sha256:")
        assert secret not in verifier
        assert not password.is_slow(verifier)
        assert password.verify(verifier, secret)
    assert not password.verify(made[0][1], made[1][0])


def test_a_chosen_secret_is_kept_as_argon2id_with_a_salt() -> None:
    first, second = password.verifier_of(CHOSEN), password.verifier_of(CHOSEN)
    assert first != second
    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert password.is_slow(first)
    assert password.verify(first, CHOSEN)
    assert password.verify(second, CHOSEN)
    assert not password.verify(first, CHOSEN + " ")


@pytest.mark.parametrize(
    "verifier", ["", "sha256:", "$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$x$y", "plain", "sha256:ä"]
)
def test_what_is_no_verifier_proves_nothing(verifier: str) -> None:
    for secret in ("", "plain", "x", verifier):
        assert not password.verify(verifier, secret)


def test_secrets_that_are_none_prove_nothing() -> None:
    verifier = password._fast(b"x" * 1025)
    assert not password.verify(verifier, "x" * 1025)
    assert not password.verify(password._fast(b""), "")
    assert password.verify(password._fast(b"x" * 1024), "x" * 1024)
    assert not password.verify(verifier, "\ud800")


@pytest.mark.parametrize("secret", ["", "short", "elevenchars", "x" * 1025, "ä" * 513])
def test_a_secret_that_is_too_short_or_long_is_refused(secret: str) -> None:
    with pytest.raises(ControlInvalid) as refusal:
        password.verifier_of(secret)
    assert refusal.value.detail == "value"
    assert not secret or secret not in refusal.value.message


@pytest.mark.parametrize(
    "secret",
    [
        "PasswordPassword",
        "change-me-change-me",
        "correct horse battery staple",
        "aaaaaaaaaaaaaaa",
        "abababababab",
    ],
)
def test_a_secret_that_everybody_knows_is_refused(secret: str) -> None:
    with pytest.raises(ControlInvalid, match="choose another"):
        password.verifier_of(secret)
