"""The grammar of repository names, tags and digests; no other module parses them.

Only `re.fullmatch` is used (`$` accepts a trailing newline), only explicit character classes (`\\d` and `\\w` match
other alphabets), and the length is checked before any regex runs.
"""

from __future__ import annotations

import re

from holdfast_core.digest import Digest
from holdfast_core.errors import MalformedDigest

from holdfast.errors import DigestInvalid, ManifestUnknown, NameInvalid

#: distribution caps the name alone at 255; the spec gives no number (references.md 2.1).
NAME_LENGTH = 255

#: Docker Hub: docker.io in image names, registry-1.docker.io in URLs
DOCKER_HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")

# distribution-spec, "Pulling manifests": <name> MUST match
#   [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")

# distribution-spec, "Pulling manifests": <reference> as a tag MUST be at most 128 characters and match
#   [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


def is_repository(text: str) -> bool:
    """Whether `text` is a repository name of at most 255 characters."""
    return len(text) <= NAME_LENGTH and _NAME.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether `text` is a tag."""
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether `text` is a digest."""
    try:
        Digest.parse(text)
    except MalformedDigest:
        return False
    return True


def repository(text: str) -> str:
    """`text` itself when it is a repository name. Raises `NameInvalid`."""
    if not is_repository(text):
        raise NameInvalid("the repository name is outside the grammar", detail=shown(text))
    return text


def digest(text: str) -> Digest:
    """The digest that `text` spells: sha256 or sha512, lower-case hex. Raises `DigestInvalid`."""
    try:
        return Digest.parse(text)
    except MalformedDigest as error:
        raise DigestInvalid("not a sha256 or sha512 digest in lower-case hex", detail=shown(text)) from error


def reference(text: str) -> Digest | str:
    """A digest if there is a colon in it, which no tag has, else a tag.

    Raises `DigestInvalid` (400), and `ManifestUnknown` (404) for an invalid tag: clients probe with
    references such as `.INVALID_MANIFEST_NAME` and expect 404 (references.md 2.1).
    """
    if ":" in text:
        return digest(text)
    if not is_tag(text):
        raise ManifestUnknown("no such tag", detail=shown(text))
    return text


def shown(text: str) -> str:
    """A client's text for an error's detail: printable ASCII, at most 200 characters."""
    return text[:200].encode("ascii", "backslashreplace").decode()[:200]
