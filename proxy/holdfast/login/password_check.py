"""Checks a password against those of a token. A generated password costs one hash; a chosen one costs 30 ms and 19 MiB,
so its check runs on a thread, one at a time, and a success is remembered.

A failure costs the same for every reason (security.md S32): for an unknown token the password is compared with dummy
verifiers; where there are chosen passwords, every failure takes as many slow hashes as any token here could need.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict

from holdfast_core.store import Store

from holdfast.errors import TooManyLogins
from holdfast.resources import password as passwords
from holdfast.resources.model import TOKEN, Password, Token
from holdfast.timestamps import is_past

#: successes with slow passwords that are remembered
REMEMBERED = 4096
#: logins that may wait for the slow hash; more are refused with a time to try again
QUEUE = 16
PAGE = 1000
_NO_PASSWORDS = tuple(
    Password(name=name, creation_time="", verifier="sha256:" + "0" * 64)
    for name in ("password1", "password2")
)
#: takes the place of an unknown token, so that the check takes as long
_NO_TOKEN = Token(name="nobody", scope_map_id="", passwords=_NO_PASSWORDS)


def mark_of(password: Password) -> str:
    """Returns a mark that changes with each new password of the same name, and does not reveal the password."""
    return f"{password.name}:{hashlib.sha256(password.verifier.encode()).hexdigest()[:24]}"


def still_good(token: Token, mark: str, now: float) -> Password | None:
    """Returns the password with a mark, if it still is one of the token's and not expired."""
    return next((one for one in _good(token, now) if mark_of(one) == mark), None)


class PasswordCheck:
    """Checks passwords; one for a process."""

    def __init__(self, store: Store) -> None:
        self._documents = store.documents
        self._key = secrets.token_bytes(32)
        self._seen: OrderedDict[bytes, str] = OrderedDict()
        self._rounds = (-1, 0)
        self._turn: asyncio.Lock | None = None
        self._waiting = 0
        self._dummy_verifier: str = ""

    def quick(self, token: Token | None, secret: str, now: float) -> Password | None:
        """Returns the password of the token that matches, if that takes no slow hash."""
        known, match = _good(token or _NO_TOKEN, now), None
        for one in (*known, *_NO_PASSWORDS)[: max(2, len(known))]:
            if not passwords.is_slow(one.verifier) and passwords.verify(one.verifier, secret):
                match = one
        if match is None and token is not None and self._seen:
            mark = self._seen.get(self.print(token.name, secret))
            match = next((one for one in known if mark_of(one) == mark), None)
        return match

    async def slow(self, token: Token | None, secret: str, now: float) -> Password | None:
        """Returns the chosen password of the token that matches, by slow hashes. Raises `TooManyLogins` when too many
        checks wait."""
        if self._waiting >= QUEUE:
            raise TooManyLogins("too many logins at once", retry_after=1)
        self._turn = self._turn or asyncio.Lock()
        self._waiting += 1
        try:
            async with self._turn:
                match = await self._slow(token, secret, now)
        finally:
            self._waiting -= 1
        if match is not None and token is not None:
            self._seen[self.print(token.name, secret)] = mark_of(match)
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return match

    async def _slow(self, token: Token | None, secret: str, now: float) -> Password | None:
        """Runs one check. The number of hashes for a failure is read once for each revision of the control plane."""
        if (revision := self._documents.revision()) != self._rounds[0]:
            self._rounds = (revision, await asyncio.to_thread(self._most_slow))
        if not self._rounds[1]:
            return None
        return await asyncio.to_thread(self._try, _good(token, now), secret)

    def _try(self, known: tuple[Password, ...], secret: str) -> Password | None:
        """Checks the chosen passwords; runs on a thread."""
        slow = [one for one in known if passwords.is_slow(one.verifier)]
        for one in slow:
            if passwords.verify(one.verifier, secret):
                return one
        for _ in range(self._rounds[1] - len(slow)):
            passwords.verify(self._dummy(), secret)
        return None

    def _dummy(self) -> str:
        self._dummy_verifier = self._dummy_verifier or passwords.verifier_of(secrets.token_urlsafe(32))
        return self._dummy_verifier

    def print(self, name: str, secret: str) -> bytes:
        """Returns the key of a remembered success: keyed with a secret of this process, so that it does not reveal the
        password."""
        raw = f"{len(name)} {name} {secret}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(raw, key=self._key, digest_size=32).digest()

    def _most_slow(self) -> int:
        """Returns the largest number of chosen passwords of one token. They are counted in the stored bytes: decoding
        200,000 tokens would be too slow for a failed login."""
        most, after = 0, ""
        while most < 2 and (page := self._documents.of_kind(TOKEN, after=after, limit=PAGE)):
            most = max(most, *(row.body.count(b'"$argon2') for row in page))
            after = page[-1].name
        return most


def _good(token: Token | None, now: float) -> tuple[Password, ...]:
    """Returns the passwords that are not expired."""
    if token is None:
        return ()
    return tuple(one for one in token.passwords if not is_past(one.expiry, now))
