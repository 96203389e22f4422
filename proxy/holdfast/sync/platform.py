"""Platforms of an index's children: os/architecture[/variant], as containerd writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: names for the same thing (containerd's platforms package)
_SAME = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "armhf": "arm",
    "armel": "arm",
}
#: a variant that is the same as none
_IMPLIED = {("arm64", "v8"), ("amd64", "v1"), ("arm", "v7")}
_TEXT = re.compile(r"[a-z0-9]+/[a-z0-9_-]+(/[a-z0-9.]+)?")


def is_platform(text: str) -> bool:
    """Whether a text names a platform."""
    return _TEXT.fullmatch(text) is not None


def normal(text: str) -> str:
    """One spelling for each platform: lower case, Go's names, no variant that is implied."""
    os, _, rest = text.lower().partition("/")
    architecture, _, variant = rest.partition("/")
    architecture = _SAME.get(architecture, architecture)
    if not variant or (architecture, variant) in _IMPLIED:
        return f"{os}/{architecture}"
    return f"{os}/{architecture}/{variant}"


class Platforms:
    """Those wanted; none given means every one. A name without variant takes every variant."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = tuple(dict.fromkeys(normal(name) for name in names))

    def wants(self, platform: str) -> bool:
        """Whether a child for this platform is wanted; one that does not say its platform is."""
        if not self.names or not platform:
            return True
        found = normal(platform)
        return found in self.names or found.rpartition("/")[0] in self.names
