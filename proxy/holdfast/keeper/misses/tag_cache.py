"""What the answers of a parent are worth later: the time to live of a tag by its class, and 404s. Pure.

Only a 404 is remembered, and only for a short time (S45)."""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import lru_cache
from typing import Literal

from holdfast_core.record import Tag

from holdfast.config import TagsSection

TagClass = Literal["immutable", "version", "floating"]

#: Most keys of a `NegativeCache`: enough for a storm of signature probes; a key is some 150 bytes.
KEYS = 20_000


@lru_cache(64)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"(?!)")


@lru_cache(4096)
def tag_class(name: str, config: TagsSection) -> TagClass:
    """The first class with a pattern that matches the whole name."""
    if _matcher(config.immutable).fullmatch(name):
        return "immutable"
    if _matcher(config.version).fullmatch(name):
        return "version"
    return "floating"


def time_to_live(name: str, config: TagsSection) -> float:
    """Seconds for which a tag of this name is served without asking the parent."""
    lives = {
        "immutable": config.immutable_ttl,
        "version": config.version_ttl,
        "floating": config.floating_ttl,
    }
    return lives[tag_class(name, config)]


def fresh_until(tag: Tag, config: TagsSection) -> float:
    """Until when a held tag is served without asking the parent (wall seconds). A tag that was pushed here is always
    fresh: this node is its source."""
    return float("inf") if tag.origin == "local" else tag.checked_at + time_to_live(tag.name, config)


def is_fresh(tag: Tag, now: float, config: TagsSection) -> bool:
    """Whether a held tag is served now without asking the parent. A clock that went backwards makes a tag old, never
    fresh for ever."""
    return tag.origin == "local" or tag.checked_at <= now < fresh_until(tag, config)


class NegativeCache:
    """Keys for which the parent answered 404, each with an expiry; the oldest goes first. `ttl` in seconds; 0 remembers
    nothing."""

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self._expiry: OrderedDict[tuple[str, ...], float] = OrderedDict()

    def add(self, key: tuple[str, ...], now: float) -> None:
        """Remember a 404 from `now` (monotonic seconds) on."""
        self._expiry.pop(key, None)
        self._expiry[key] = now + self.ttl
        if len(self._expiry) > KEYS:
            self._expiry.popitem(last=False)

    def holds(self, key: tuple[str, ...], now: float) -> bool:
        """Whether a 404 for this key is still believed."""
        expiry = self._expiry.get(key)
        if expiry is None:
            return False
        if now < expiry:
            return True
        del self._expiry[key]
        return False
