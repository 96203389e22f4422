"""Logins for a parent: from the configuration, a file, the environment, or a credential helper program."""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
from dataclasses import dataclass
from typing import NoReturn, Protocol

import msgspec

from holdfast import config
from holdfast.clock import Clock
from holdfast.errors import LoginRefused

#: user name by which a docker credential helper says that the secret is an identity (refresh) token
IDENTITY = "<token>"
HELPER_SECONDS = 20.0
#: how long a helper's answer is kept; after a refused login the helper is run again at once
HELPER_KEPT_SECONDS = 300.0
SECRET_BYTES = 64 * 1024


class Secret:
    """Text that never shows itself: repr, str and format give ***. `reveal` is the only way in."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text. For the wire only: never for a log, a message or a file."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True)
class ParentLogin:
    """A user and a secret. `identity`: the secret is a refresh token for the token server alone."""

    username: str
    secret: Secret

    @property
    def identity(self) -> bool:
        """Whether the secret is exchanged by POST instead of sent as a password."""
        return self.username == IDENTITY

    def basic(self) -> Secret:
        """The value of an Authorization header (RFC 7617, UTF-8)."""
        pair = f"{self.username}:{self.secret.reveal()}".encode()
        return Secret(f"Basic {base64.b64encode(pair).decode()}")


class LoginSource(Protocol):
    """Where a login comes from. `login(fresh=True)` after the last one was refused."""

    async def login(self, *, fresh: bool = False) -> ParentLogin | None: ...


class Anonymous:
    """No login."""

    async def login(self, *, fresh: bool = False) -> ParentLogin | None:
        """None."""
        return None


class StaticLogin:
    """Both in the configuration."""

    def __init__(self, username: str, password: str) -> None:
        self._login = ParentLogin(username, Secret(password))

    async def login(self, *, fresh: bool = False) -> ParentLogin | None:
        """The same always."""
        return self._login


class FileLogin:
    """The password in a file, read again when the file changed. A line end at its end is not part of it."""

    def __init__(self, username: str, path: str) -> None:
        self._username, self._path = username, path
        self._seen: tuple[int, int, int] | None = None
        self._login: ParentLogin | None = None

    async def login(self, *, fresh: bool = False) -> ParentLogin | None:
        """The file's login. Raises LoginRefused when it cannot be read."""
        try:
            status = os.stat(self._path)
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen or fresh:
                self._login, self._seen = ParentLogin(self._username, _first_line(self._path)), seen
        except (OSError, UnicodeDecodeError) as error:
            raise LoginRefused(f"the password file cannot be read ({type(error).__name__})") from None
        return self._login


class EnvironmentLogin:
    """The password in an environment variable."""

    def __init__(self, username: str, variable: str) -> None:
        self._username, self._variable = username, variable

    async def login(self, *, fresh: bool = False) -> ParentLogin | None:
        """The variable's value now. Raises LoginRefused when it is not set."""
        text = os.environ.get(self._variable)
        if not text:
            raise LoginRefused(f"the environment variable {self._variable} is not set")
        return ParentLogin(self._username, Secret(text))


class HelperLogin:
    """A docker credential helper: `program get`, the server's URL on its input, JSON on its output.

    One run at a time; an answer is kept for five minutes, or until it is refused. What the program
    writes to its standard error is dropped: it may hold secrets.
    """

    def __init__(self, command: tuple[str, ...], server: str, clock: Clock) -> None:
        self._command, self._server, self._clock = command, server, clock
        self._login: ParentLogin | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def login(self, *, fresh: bool = False) -> ParentLogin | None:
        """The helper's login. Raises LoginRefused when it fails, hangs, or returns nothing usable."""
        before = self._login
        async with self._lock:
            renewed_meanwhile = self._login is not before
            if (
                self._login is None
                or self._clock.monotonic() >= self._until
                or (fresh and not renewed_meanwhile)
            ):
                self._login = _helper_answer(await self._run())
                self._until = self._clock.monotonic() + HELPER_KEPT_SECONDS
            return self._login

    async def _run(self) -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                "get",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise LoginRefused(f"the credential helper does not start ({error.strerror})") from None
        try:
            async with asyncio.timeout(HELPER_SECONDS):
                output, _ = await process.communicate(f"{self._server}\n".encode())
        except TimeoutError:
            raise LoginRefused("the credential helper did not answer in time") from None
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise LoginRefused(f"the credential helper failed with status {process.returncode}")
        return output


class _Answer(msgspec.Struct):
    """A credential helper's output."""

    Secret: str
    Username: str = ""


def _first_line(path: str) -> Secret:
    with open(path, encoding="utf-8") as file:
        return Secret(file.read(SECRET_BYTES).rstrip("\r\n"))


def _helper_answer(output: bytes) -> ParentLogin:
    try:
        answer = msgspec.json.decode(output[:SECRET_BYTES], type=_Answer)
    except msgspec.MsgspecError:
        raise LoginRefused("the credential helper's answer cannot be read") from None
    return ParentLogin(answer.Username, Secret(answer.Secret))


def login_source(settings: config.CredentialsSection, server: str, clock: Clock) -> LoginSource:
    """The source that the configuration names. Raises ValueError when it names more than one."""
    named = [
        bool(x) for x in (settings.password, settings.password_file, settings.password_env, settings.exec)
    ]
    if sum(named) > 1:
        raise ValueError("credentials: one of password, password_file, password_env and exec, not several")
    if settings.exec:
        return HelperLogin(settings.exec, server, clock)
    if settings.password_file:
        return FileLogin(settings.username, settings.password_file)
    if settings.password_env:
        return EnvironmentLogin(settings.username, settings.password_env)
    if settings.password:
        return StaticLogin(settings.username, settings.password)
    return Anonymous()
