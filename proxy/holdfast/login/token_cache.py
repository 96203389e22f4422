"""A cache of the last access tokens. Many machines that pull the same image with the same login, and one that pulls
many of its layers, send the same request within a second; they get the same token, which costs no new signature.

The caller is identified anew each time, with password, expiry and rights; it is part of the key, so that a changed
password or a withdrawn right misses the cache. Refusals are not cached. Pure: takes `now`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from holdfast.login.access_token import GrantedResource
from holdfast.login.caller import Caller

#: a token is returned again for so long (s)
AGAIN = 10.0
#: Docker's clients take every token for one of 60 s at least, and would use one of less beyond its end (s).
LEAST_LEFT = 60.0
#: tokens that are cached, and the most bytes of one with its scopes: the cache takes 4 MiB at most
REMEMBERED, LONGEST = 1024, 4096


class TokenCacheKey(NamedTuple):
    """The key of a token. `service`, `host` and `sni` are those of the request, `scopes` as written there."""

    caller: Caller
    service: str
    host: str
    sni: str
    scopes: tuple[str, ...]


class CachedToken(NamedTuple):
    """A token, what it grants, and when it began and ends (whole wall seconds)."""

    text: str
    entries: tuple[GrantedResource, ...]
    at: int
    end: int


class TokenCache:
    """The tokens that were issued; one for a process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[TokenCacheKey, CachedToken] = OrderedDict()

    def find(self, key: TokenCacheKey, now: float) -> CachedToken | None:
        """Returns the token that was issued for a request, if it may be returned again."""
        cached = self._kept.get(key)
        if cached is None or not cached.at <= now < cached.at + AGAIN or cached.end - now < LEAST_LEFT:
            return None
        return cached

    def keep(self, key: TokenCacheKey, token: CachedToken) -> CachedToken:
        """Stores a token that is issued for a request, and returns it."""
        if len(token.text) + sum(map(len, key.scopes)) <= LONGEST:
            self._kept[key] = token
            self._kept.move_to_end(key)
            if len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)
        return token

    def forget(self) -> None:
        """Drops all tokens: the rights have changed."""
        self._kept.clear()

    def __len__(self) -> int:
        """Returns the number of tokens."""
        return len(self._kept)
