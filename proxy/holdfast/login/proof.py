"""Whether a password is one of a token's. Generated ones cost a hash; what a person chose costs 30 ms and 19 MiB, so it
runs on a thread, one at a time, and a success is remembered.

A failure costs the same whatever was wrong (security.md S32): an unknown token is compared with a verifier of
nothing; where people chose passwords, every failure does as many slow hashes as any token here could have needed.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict

from holdfast_core.store import Store

from holdfast.control import password as passwords
from holdfast.control.moment import is_past
from holdfast.control.resource import TOKEN, Password, Token
from holdfast.errors import TooManyLogins

#: successes with slow passwords that are remembered
REMEMBERED = 4096
#: logins that may wait for their turn at the slow hash; more are told to come back
QUEUE = 16
PAGE = 1000
_NOBODYS = tuple(
    Password(name=name, creation_time="", verifier="sha256:" + "0" * 64)
    for name in ("password1", "password2")
)
#: stands for a token that is not there, so that its passwords take as long to be wrong
_NOBODY = Token(name="nobody", scope_map_id="", passwords=_NOBODYS)


def mark_of(password: Password) -> str:
    """Tells one password of a token from the next of the same name; says nothing about it."""
    return f"{password.name}:{hashlib.sha256(password.verifier.encode()).hexdigest()[:24]}"


def still_good(token: Token, mark: str, now: float) -> Password | None:
    """The password with that mark, if it still is one of the token's and not expired."""
    return next((one for one in _good(token, now) if mark_of(one) == mark), None)


class Proof:
    """Checks passwords; one for a process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = secrets.token_bytes(32)
        self._seen: OrderedDict[bytes, str] = OrderedDict()
        self._rounds = (-1, 0)
        self._turn: asyncio.Lock | None = None
        self._waiting = 0
        self._nobodys: str = ""

    def quick(self, token: Token | None, secret: str, now: float) -> Password | None:
        """The password that it is, if that can be told without a slow hash."""
        known, found = _good(token or _NOBODY, now), None
        for one in (*known, *_NOBODYS)[: max(2, len(known))]:
            if not passwords.is_slow(one.verifier) and passwords.verify(one.verifier, secret):
                found = one
        if found is None and token is not None and self._seen:
            mark = self._seen.get(self.print(token.name, secret))
            found = next((one for one in known if mark_of(one) == mark), None)
        return found

    async def slow(self, token: Token | None, secret: str, now: float) -> Password | None:
        """The password that it is, by slow hashes, if anybody here chose one. Raises `TooManyLogins` when too many
        wait for their turn."""
        if self._waiting >= QUEUE:
            raise TooManyLogins("too many logins at once", retry_after=1)
        self._turn = self._turn or asyncio.Lock()
        self._waiting += 1
        try:
            async with self._turn:
                found = await self._slow(token, secret, now)
        finally:
            self._waiting -= 1
        if found is not None and token is not None:
            self._seen[self.print(token.name, secret)] = mark_of(found)
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return found

    async def _slow(self, token: Token | None, secret: str, now: float) -> Password | None:
        """In turn. How many rounds a failure costs is looked up once for each revision of the control plane."""
        if (revision := self._store.control_revision()) != self._rounds[0]:
            self._rounds = (revision, await asyncio.to_thread(self._most_slow))
        if not self._rounds[1]:
            return None
        return await asyncio.to_thread(self._try, _good(token, now), secret)

    def _try(self, known: tuple[Password, ...], secret: str) -> Password | None:
        """On a thread."""
        slow = [one for one in known if passwords.is_slow(one.verifier)]
        for one in slow:
            if passwords.verify(one.verifier, secret):
                return one
        for _ in range(self._rounds[1] - len(slow)):
            passwords.verify(self._dummy(), secret)
        return None

    def _dummy(self) -> str:
        self._nobodys = self._nobodys or passwords.verifier_of(secrets.token_urlsafe(32))
        return self._nobodys

    def print(self, name: str, secret: str) -> bytes:
        """A key to remember by what was proved: of no use to who reads this process's memory later."""
        raw = f"{len(name)} {name} {secret}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(raw, key=self._key, digest_size=32).digest()

    def _most_slow(self) -> int:
        """The most slow passwords that one token here has. Counted in the records as they are: 200,000 tokens are
        nothing to decode for a login that failed."""
        most, after = 0, ""
        while most < 2 and (page := self._store.resources(TOKEN, after=after, limit=PAGE)):
            most = max(most, *(row.body.count(b'"$argon2') for row in page))
            after = page[-1].name
        return most


def _good(token: Token | None, now: float) -> tuple[Password, ...]:
    """The passwords that count."""
    if token is None:
        return ()
    return tuple(one for one in token.passwords if not is_past(one.expiry, now))
