"""Platforms of an index's children: os/architecture[/variant], as containerd writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: synonyms of architectures (containerd's platforms package)
_SAME = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "armhf": "arm",
    "armel": "arm",
}
#: the default variant of an architecture, which is left out
_IMPLIED = {("arm64", "v8"), ("amd64", "v1"), ("arm", "v7")}
_TEXT = re.compile(r"[a-z0-9]+/[a-z0-9_-]+(/[a-z0-9.]+)?")


def is_platform(text: str) -> bool:
    """Whether a text names a platform."""
    return _TEXT.fullmatch(text) is not None


def normal(text: str) -> str:
    """The canonical spelling of a platform: lower case, Go's names, without a default variant."""
    os, _, rest = text.lower().partition("/")
    architecture, _, variant = rest.partition("/")
    architecture = _SAME.get(architecture, architecture)
    if not variant or (architecture, variant) in _IMPLIED:
        return f"{os}/{architecture}"
    return f"{os}/{architecture}/{variant}"


class Platforms:
    """The selected platforms; without names, all. A name without variant selects every variant."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = tuple(dict.fromkeys(normal(name) for name in names))

    def wants(self, platform: str) -> bool:
        """Whether a child for this platform is selected; one without a platform is."""
        if not self.names or not platform:
            return True
        name = normal(platform)
        return name in self.names or name.rpartition("/")[0] in self.names
