"""Secrets: made, kept as verifiers, and proved (design.md, "Control plane").

A generated secret has 256 bits, so one SHA-256 keeps it: it cannot be guessed, and thousands of logins a second cost
nothing. A chosen password is kept as argon2id with 19 MiB and 2 passes (OWASP's first choice for machines that serve
others as well; the 64 MiB of RFC 9106 are half of what a small node has), which is slow on purpose: run it on a
thread, one at a time. Nothing here logs.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from functools import lru_cache
from typing import TYPE_CHECKING

from holdfast.errors import ControlInvalid

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SECRET_BYTES = 32
#: A longer text is no secret of ours, and is not hashed.
LONGEST_BYTES = 1024
#: Of a secret that a person chose (NIST SP 800-63B-4 asks for 8 with a second factor, 15 without).
SHORTEST_CHARACTERS = 12
_SHA256 = "sha256:"
#: Secrets that stand in documents, and what people type first; compared without casing and punctuation.
EXAMPLES = frozenset(
    {
        *("password", "passwordpassword", "password1234", "password12345", "password123456", "changeme"),
        *("changemechangeme", "changemenow", "pleasechangeme", "correcthorsebatterystaple", "administrator"),
        *(
            "adminadminadmin",
            "123456789012",
            "1234567890123",
            "0123456789ab",
            "0123456789abcdef",
            "qwertyuiop",
        ),
        *("qwertyuiopas", "qwertyuiop12", "letmeinletmein", "mysecretpassword", "supersecretpassword"),
        *("holdfastholdfast", "holdfastpassword", "examplepassword", "yourpasswordhere", "secretsecret"),
        *("yourpassword", "notasecretatall", "abcdefghijkl", "dockerdocker", "registryregistry"),
    }
)


def generate() -> tuple[str, str]:
    """(secret, verifier) of a new secret of 256 bits, in the letters that survive a shell and a connection string."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return secret, _fast(secret.encode())


def verifier_of(secret: str) -> str:
    """The verifier of what a person chose; some 30 ms of one core. Raises `ControlInvalid`, and the text does not
    repeat the secret."""
    _require_good(secret)
    return _hasher().hash(secret)


def verify(verifier: str, secret: str) -> bool:
    """Whether a secret is the one that the verifier was made of, in a time that does not depend on how much of it is
    right. Slow when `is_slow(verifier)`."""
    raw = secret.encode("utf-8", "surrogatepass")
    if not 0 < len(raw) <= LONGEST_BYTES:
        return False
    if not is_slow(verifier):
        return hmac.compare_digest(_fast(raw).encode(), verifier.encode("utf-8", "surrogatepass"))
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return _hasher().verify(verifier, raw)
    except (VerificationError, InvalidHashError):
        return False


def is_slow(verifier: str) -> bool:
    """Whether `verify` takes some 30 ms and belongs on a thread."""
    return verifier.startswith("$argon2")


def _fast(raw: bytes) -> str:
    return _SHA256 + hashlib.sha256(raw).hexdigest()


@lru_cache(maxsize=1)
def _hasher() -> PasswordHasher:
    """Made when it is first needed: argon2 is 1 MB that most processes never use."""
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=2, memory_cost=19 << 10, parallelism=1)


def _require_good(secret: str) -> None:
    if len(secret.encode("utf-8", "surrogatepass")) > LONGEST_BYTES:
        raise ControlInvalid(f"the secret is longer than {LONGEST_BYTES} bytes", field="value")
    if len(secret) < SHORTEST_CHARACTERS:
        raise ControlInvalid(
            f"the secret has {len(secret)} characters; allowed: {SHORTEST_CHARACTERS} or more, or let one be"
            " generated",
            field="value",
        )
    if is_example(secret):
        raise ControlInvalid(
            "the secret is one that stands in documents and lists; choose another, or let one be generated",
            field="value",
        )


def is_example(secret: str) -> bool:
    """Whether a secret is one that everybody knows, or one character over and over."""
    plain = "".join(c for c in secret.lower() if c.isalnum())
    return plain in EXAMPLES or len(set(secret.lower())) < 3
