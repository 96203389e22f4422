"""How long a tag is believed: its class by name, and whether it was confirmed recently enough. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from holdfast_core.record import Tag

from holdfast.config import Tags

TagClass = Literal["immutable", "version", "floating"]


@lru_cache(64)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"(?!)")


@lru_cache(4096)
def tag_class(name: str, config: Tags) -> TagClass:
    """The first class with a pattern that matches the whole name."""
    if _matcher(config.immutable).fullmatch(name):
        return "immutable"
    if _matcher(config.version).fullmatch(name):
        return "version"
    return "floating"


def time_to_live(name: str, config: Tags) -> float:
    """Seconds for which a tag of this name is served without asking the parent."""
    lives = {
        "immutable": config.immutable_ttl,
        "version": config.version_ttl,
        "floating": config.floating_ttl,
    }
    return lives[tag_class(name, config)]


def is_fresh(tag: Tag, now: float, config: Tags) -> bool:
    """Whether a held tag is served without asking. A tag pushed here is always fresh: nobody else knows
    it better. A clock that went backwards makes a tag old, never eternally fresh."""
    if tag.origin == "local":
        return True
    return 0 <= now - tag.checked_at < time_to_live(tag.name, config)
