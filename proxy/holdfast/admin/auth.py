"""The operator's credentials, and the check of every request to the admin API against them.

There is one operator. The credentials lie in the data directory.
They are made at the first start, before any child process: 256 random bits, printed once and kept as `operator.json`
with mode 0600. There is no default, and a secret from documentation is refused (security.md S31).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from holdfast.clock import Clock
from holdfast.config import ConfigInvalid
from holdfast.errors import Denied, TooManyLogins, Unauthorized
from holdfast.login.limiter import Limiter
from holdfast.resources.password import is_example as is_known
from holdfast.wire.message import Request

FILE = "operator.json"
CHALLENGE = ("WWW-Authenticate", 'Basic realm="holdfast admin", charset="UTF-8"')
USERNAME = "operator"
SECRET_BYTES = 32
#: length of `SECRET_BYTES` as text; a password of this length cannot be guessed (characters)
UNGUESSABLE = 43
#: of a password that a person wrote into the file (characters)
SHORTEST, LONGEST = 12, 1024
#: `Authorization` is no longer (bytes, S34)
HEADER_BYTES = 8192
#: words of which example secrets are made; a password that holds nothing else is refused
EXAMPLES = frozenset(
    {
        *("admin", "administrator", "anonymous", "changeit", "changeme", "default", "demo", "docker"),
        *("example", "harbor", "holdfast", "letmein", "my", "none", "operator", "pass", "passphrase"),
        *(
            "password",
            "passwort",
            "qwerty",
            "registry",
            "replace",
            "root",
            "sample",
            "secret",
            "super",
            "test",
        ),
        *("token", "user", "welcome", "your", "this", "me", "please", "here", "insert", "the", "a", "in"),
        *("with", "production"),
    }
)
RUNS = ("0123456789" * 4, "abcdefghijklmnopqrstuvwxyz", "qwertyuiopasdfghjklzxcvbnm")
#: what people write for letters
DISGUISES = str.maketrans("013457@$", "oleastas")


class Operator(NamedTuple):
    """Name and password from the file."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Operator({self.username!r}, '***')"

    @property
    def is_unguessable(self) -> bool:
        """Whether the password is as long as one that was made at the first start."""
        return len(self.password) >= UNGUESSABLE

    def matches(self, header: str | None) -> bool:
        """Whether an `Authorization` header holds this name and password. Takes the same time for every wrong one."""
        given = _basic(header)
        expected = f"{self.username}:{self.password}".encode()
        return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(expected).digest())


class OperatorFile(msgspec.Struct, forbid_unknown_fields=True):
    """The content of `operator.json`."""

    username: str
    password: str


def _basic(header: str | None) -> bytes:
    """`name:password` of a Basic header; b"" for anything else."""
    if header is None or len(header) > HEADER_BYTES:
        return b""
    scheme, _, encoded = header.partition(" ")
    try:
        return base64.b64decode(encoded.strip(), validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        return b""


def ensure(data: Path) -> tuple[Operator, bool]:
    """The operator of a data directory, and whether it was made just now. Raises ConfigInvalid as `read` does, and when
    the file cannot be written."""
    try:
        return read(data), False
    except FileNotFoundError:
        made = Operator(USERNAME, secrets.token_urlsafe(SECRET_BYTES))
        try:
            write_private(data / FILE, msgspec.json.encode(made._asdict()))
        except OSError as error:
            raise ConfigInvalid(f"{data / FILE}: cannot be written: {error.strerror}") from None
        return made, True


def read(data: Path) -> Operator:
    """The operator of a data directory. Raises FileNotFoundError, and ConfigInvalid for a file that is not its
    owner's alone or holds what is no secret."""
    file = data / FILE
    try:
        with file.open("rb") as source:
            _require_private(file, os.fstat(source.fileno()))
            kept = msgspec.json.decode(source.read(), type=OperatorFile)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigInvalid(f"{file}: cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError:
        raise ConfigInvalid(
            f'{file}: is no JSON of the form {{"username": "…", "password": "…"}}; remove it, and the next start makes'
            " another"
        ) from None
    if problem := weakness(kept.username, kept.password):
        raise ConfigInvalid(f"{file}: {problem}; remove the file, and the next start makes another")
    return Operator(kept.username, kept.password)


def _require_private(file: Path, status: os.stat_result) -> None:
    if open_to := stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigInvalid(
            f"{file}: found mode {stat.S_IMODE(status.st_mode):04o}; allowed: 0600, only its owner reads a"
            f" password (others have {open_to:04o}); chmod 600 it, and change the password if others may have seen it"
        )


def weakness(username: str, password: str) -> str:
    """Why these credentials are refused, "" when they are accepted. Never holds the password."""
    if not username or ":" in username or len(username) > 256:
        return "username: allowed: 1 to 256 characters without a colon"
    if not SHORTEST <= len(password) <= LONGEST:
        return f"password: found {len(password)} characters; allowed: {SHORTEST} to {LONGEST}"
    if is_example(password) or password.lower() == username.lower():
        return "password: found an example from documentation; allowed: a secret of your own"
    return ""


def is_example(password: str) -> bool:
    """Whether a password consists of words from documentation, of one character, or of a run like 12345."""
    text = password.lower()
    if is_known(password) or any(text in run for run in RUNS):
        return True
    plain = text.rstrip("0123456789!?.")
    return _is_made_of_examples(plain) or _is_made_of_examples(plain.translate(DISGUISES))


def _is_made_of_examples(text: str) -> bool:
    letters = "".join(letter if letter.isalpha() else " " for letter in text).split()
    return bool(letters) and all(_is_concatenation(part) for part in letters)


def _is_concatenation(text: str) -> bool:
    """Whether a text is a concatenation of EXAMPLES."""
    starts = {0}
    for end in range(1, len(text) + 1):
        if any(text[start:end] in EXAMPLES for start in starts):
            starts.add(end)
    return len(text) in starts


def write_private(file: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all. Synced: a password that was printed once must
    survive a power cut."""
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as sink:
        sink.write(content + b"\n")
        sink.flush()
        os.fsync(sink.fileno())
    new.rename(file)
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class OperatorGate:
    """Admits requests of the operator, from a program or from a page of this listener, and refuses all others. After
    `failures` a minute an address gets 429; a right password that cannot be guessed is always admitted.

    The path of a request does not matter: without credentials every path of the API answers alike."""

    def __init__(self, operator: Operator, clock: Clock, failures: int) -> None:
        self._operator, self._clock = operator, clock
        self._limiter = Limiter(failures)

    def admit(self, request: Request) -> None:
        """Returns for the operator. Raises `TooManyLogins`, `Unauthorized`, and `Denied` for a request that a page of
        another site made a browser send."""
        # by address alone: there is one name, and failures of another address must not shut the operator out
        address, now = request.client, self._clock.monotonic()
        credentials = request.header_lines("authorization")
        is_right = len(credentials) == 1 and self._operator.matches(credentials[0])
        # others on the operator's machine have the same address; a password that cannot be guessed is not delayed
        waits = not (is_right and self._operator.is_unguessable)
        if waits and (wait := self._limiter.wait(address, address, now)):
            raise TooManyLogins("too many wrong passwords from this address", retry_after=int(wait) + 1)
        if not is_right:
            if credentials:
                self._limiter.failed(address, address, now)
            raise Unauthorized(
                "the admin API wants the operator's name and password (Basic); they are in operator.json in the data"
                " directory of the node",
                headers=(CHALLENGE,),
            )
        request.note.user = self._operator.username
        _refuse_foreign_pages(request)


def _refuse_foreign_pages(request: Request) -> None:
    """S24: a browser keeps Basic credentials and sends them along with a form of any site. There is no CORS either."""
    site, origin = request.header("sec-fetch-site"), request.header("origin")
    foreign = origin is not None and urlsplit(origin).netloc.lower() != (request.header("host") or "").lower()
    if foreign or site in ("cross-site", "same-site"):
        raise Denied("a page of another site may not use the admin API")
