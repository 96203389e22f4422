"""A pair that cannot serve is refused in a sentence: which file, what is wrong with it, what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from holdfast.config import ConfigInvalid, TlsSection
from holdfast.server.tls import ServerCertificate
from support.certificates import make_pair


def another_key(pair: Path) -> None:
    other = make_pair(pair.parent / "other", "other")
    (pair / "key.pem").write_bytes((other / "key.pem").read_bytes())


def encrypted(pair: Path) -> None:
    key = serialization.load_pem_private_key((pair / "key.pem").read_bytes(), None)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (pair / "key.pem").write_bytes(private)


def binary(pair: Path) -> None:
    certificate = x509.load_pem_x509_certificate((pair / "cert.pem").read_bytes())
    (pair / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.DER))


def mixed_up(pair: Path) -> None:
    (pair / "key.pem").write_bytes((pair / "cert.pem").read_bytes())


def garbled(pair: Path) -> None:
    text = (pair / "cert.pem").read_text()
    (pair / "cert.pem").write_text(text[:100] + "!" + text[101:])


def without_key(pair: Path) -> None:
    (pair / "key.pem").unlink()


CASES: list[tuple[Callable[[Path], None], str, str]] = [
    (
        another_key,
        "tls.cert, tls.key: found",
        "which do not belong together; allowed: a certificate and the key",
    ),
    (
        encrypted,
        "tls.key: found",
        "which is encrypted; allowed: a key without pass phrase, which `openssl pkey",
    ),
    (
        binary,
        "tls.cert: found",
        "which holds no PEM certificate; allowed: this node's certificate, then those of",
    ),
    (mixed_up, "tls.key: found", "which holds no PEM private key; allowed: one between BEGIN PRIVATE KEY"),
    (garbled, "tls.cert, tls.key: found", "which cannot be used ("),
    (
        without_key,
        "tls.key: found",
        "which cannot be read: No such file or directory; allowed: a PEM file that",
    ),
]


@pytest.mark.parametrize(("spoilt", "key", "said"), CASES, ids=[case[0].__name__ for case in CASES])
def test_case_trust_27_what_is_wrong_with_a_pair_is_a_sentence(
    tmp_path: Path, spoilt: Callable[[Path], None], key: str, said: str
) -> None:
    pair = make_pair(tmp_path / "pair", "own")
    tls = TlsSection(cert=str(pair / "cert.pem"), key=str(pair / "key.pem"))
    ServerCertificate(tls)
    spoilt(pair)
    with pytest.raises(ConfigInvalid) as refusal:
        ServerCertificate(tls)
    sentence = str(refusal.value)
    assert sentence.startswith(key)
    assert said in sentence
    assert "_ssl" not in sentence
    assert "[" not in sentence
