"""Repository names, tags and digests: parsed once, here, and nowhere else.

`re.fullmatch` only (`$` lets a trailing newline by), explicit character classes only (`\\d` and `\\w` take
other alphabets), and a length bound before any regex runs.
"""

from __future__ import annotations

import re

from holdfast_core.digest import Digest
from holdfast_core.errors import DigestInvalid as StoreDigestInvalid

from holdfast.errors import DigestInvalid, ManifestUnknown, NameInvalid

#: distribution caps the name alone at 255; the spec gives no number (oci-spec 1.0).
NAME_LENGTH = 255

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


def repository(text: str) -> str:
    """`text` itself when it is a repository name. Raises `NameInvalid`."""
    if not is_repository(text):
        raise NameInvalid("the repository name is outside the grammar", detail=shown(text))
    return text


def digest(text: str) -> Digest:
    """The digest that `text` spells: sha256 or sha512, lower-case hex. Raises `DigestInvalid`."""
    try:
        return Digest.parse(text)
    except StoreDigestInvalid as error:
        raise DigestInvalid("not a sha256 or sha512 digest in lower-case hex", detail=shown(text)) from error


def reference(text: str) -> Digest | str:
    """A digest or a tag; the colon tells which, for a tag never holds one.

    Raises `DigestInvalid` (400), and `ManifestUnknown` (404) for an invalid tag: clients probe with
    references such as `.INVALID_MANIFEST_NAME` and expect 404 (oci-spec 1.2, rule 14).
    """
    if ":" in text:
        return digest(text)
    if not is_tag(text):
        raise ManifestUnknown("no such tag", detail=shown(text))
    return text


def shown(text: str) -> str:
    """What of a client's text may stand in an error's detail: printable ASCII, at most 200 characters."""
    return text[:200].encode("ascii", "backslashreplace").decode()[:200]
