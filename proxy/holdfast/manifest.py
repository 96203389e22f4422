"""What a manifest says, read once and strictly. Pure: bytes and a Content-Type in, facts out.

A manifest is refused when two clients could read it as two different things: both an image and an index
(CVE-2021-41190), a body `mediaType` that differs from the Content-Type (distribution-spec 1.2, rule 10),
duplicate keys (image-spec: I-JSON), or a key that Go's decoder takes for a known one although it is not spelled so:
it looks for the exact key first and then for one that is the same by Unicode's simple folding, in which U+017F is
an s and U+212A is a k (encoding/json, `foldName`). Unknown properties, unknown child types and empty lists are legal
and kept (image-spec, "MUST NOT error on unknown").
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase, ascii_uppercase
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

IMAGES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
#: Of 2014: signed, without a config, named by a digest that is not that of its bytes. Nothing writes it any more.
SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.docker.distribution.manifest.v1+json",
    }
)
#: what a client asks a parent for, one Accept line each
MEDIA_TYPES = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
#: Content-Types that say nothing; the body's own `mediaType` counts then
UNSAID = frozenset({"", "application/json", "application/octet-stream", "text/plain"})

#: nesting that no image needs; Python's own scanner gives up near 1,000
DEPTH_LIMIT = 64
SIZE_LIMIT = (1 << 63) - 1
#: digits of a number, sign and all: to read long ones takes time by the square of their length
DIGITS_LIMIT = 100
#: objects, lists and members, counted as the marks that begin them, also within strings: 100,000 children of an
#: index have 400,000. Each costs up to 200 bytes of memory while it is read, whatever the body's size
NODE_LIMIT = 500_000
#: bodies longer than this are read on a thread (bytes): about 6 ms of the loop's time
ASIDE_BYTES = 64 * 1024

_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_VERSION_1 = re.compile(rb'"schemaVersion"\s*:\s*1\s*[,}]')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_EXACT = {"sha256": re.compile(r"[0-9a-f]{64}"), "sha512": re.compile(r"[0-9a-f]{128}")}

# All that Unicode's simple folding takes for a lower-case ASCII letter: its capital, and these two.
_FOLDING = str.maketrans(ascii_uppercase + "\u017f\u212a", ascii_lowercase + "sk")


def folded(name: str) -> str:
    """A key as Go's decoder compares it with ASCII keys: two are one key to it when this is the same and ASCII."""
    return name.translate(_FOLDING)


def _by_folding(*names: str) -> dict[str, str]:
    return {folded(name): name for name in names}


# the keys that clients read in each object of a manifest, by their folding
_TOP = _by_folding(
    *(
        "schemaVersion",
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "manifests",
        "subject",
        "annotations",
    ),
    # of other kinds of documents, by which clients tell that one is none of these
    *("fsLayers", "blobs", "signatures"),
)
_DESCRIPTOR = _by_folding(
    *("mediaType", "artifactType", "digest", "size", "urls", "annotations", "data", "platform")
)
_PLATFORM = _by_folding("os", "os.version", "os.features", "architecture", "variant", "features")


class ManifestInvalid(Exception):
    """The document is not a manifest that every client reads the same way. The text is for a person."""


@dataclass(frozen=True, slots=True)
class Child:
    """One descriptor that a manifest holds. `urls` are never fetched; they mark a foreign layer. `platform` is
    os/architecture[/variant] as an index says it, "" where it does not."""

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] = field(default_factory=dict)
    urls: tuple[str, ...] = ()
    platform: str = ""

    @property
    def is_foreign(self) -> bool:
        """Whether its bytes are kept elsewhere, so that no registry has to have them (oci-spec 2.4)."""
        return bool(self.urls) or ".foreign." in self.media_type or ".nondistributable." in self.media_type

    @property
    def is_manifest(self) -> bool:
        """Whether it is fetched as a manifest rather than as a blob."""
        return self.media_type in IMAGES or self.media_type in INDEXES


@dataclass(frozen=True, slots=True)
class Inspected:
    """The facts of one manifest. `subject` is a sha256 or sha512 digest, or "". `children` keep the document's order:
    config first and then layers, or the entries of an index. `artifact_type` follows distribution-spec
    1.13, rule 83: the manifest's own, else an image's config type."""

    media_type: str
    subject: str
    artifact_type: str
    annotations: dict[str, str]
    children: tuple[Child, ...]

    @property
    def is_index(self) -> bool:
        """Whether the children are manifests."""
        return self.media_type in INDEXES


def parse(body: bytes, content_type: str) -> Inspected:
    """Read a manifest. `content_type` is the header as it came, "" when there was none.

    Raises ManifestInvalid. The size is the caller's to bound; time grows with it, about 0.1 s a MiB.
    """
    document = decode(body)
    if not isinstance(document, dict):
        raise ManifestInvalid("the document is not an object")
    _check_spelling(document, _TOP, "")
    version = document.get("schemaVersion")
    if type(version) is not int or version != 2:  # neither true nor 2.0, which equal it
        raise ManifestInvalid(f"schemaVersion is {_short(version)}, not 2")
    media_type = _media_type(document, content_type)
    children = _index_children(document) if media_type in INDEXES else _image_children(document)
    subject = _child(document["subject"], "subject").digest if document.get("subject") is not None else ""
    own_type = _text(document, "artifactType", "")
    return Inspected(
        media_type,
        subject if subject.partition(":")[0] in _EXACT else "",
        own_type or (children[0].media_type if media_type in IMAGES else ""),
        _annotations(document, ""),
        children,
    )


async def parse_aside(body: bytes, content_type: str) -> Inspected:
    """`parse`, on a thread when it would hold up the loop. Raises ManifestInvalid."""
    if len(body) <= ASIDE_BYTES:
        return parse(body, content_type)
    return await asyncio.get_running_loop().run_in_executor(None, parse, body, content_type)


def decode(body: bytes) -> Any:
    """JSON as I-JSON (RFC 7493): UTF-8, no duplicate names, no NaN, no half of a surrogate pair; at most
    DEPTH_LIMIT deep and NODE_LIMIT large. Raises ManifestInvalid."""
    if body.count(b"{") + body.count(b"[") + body.count(b",") > NODE_LIMIT:
        raise ManifestInvalid(f"over {NODE_LIMIT} members")
    try:
        document = json.loads(
            body.decode(), object_pairs_hook=_unique, parse_int=_integer, parse_constant=_no_constant
        )
    except RecursionError:
        raise ManifestInvalid("nested too deep") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise ManifestInvalid(f"not JSON ({type(error).__name__})") from None
    _check_depth(document)
    if _SURROGATE.search(body):
        _check_pairs(document)
    return document


def is_schema_1(body: bytes, content_type: str) -> bool:
    """Whether a manifest is one of schema 1; some registries send it as plain JSON."""
    kind = essence(content_type)
    return kind in SCHEMA_1 or (kind in UNSAID and _VERSION_1.search(body) is not None)


def is_digest(text: object) -> bool:
    """Whether this is a digest by the image-spec's grammar, and exact for sha256 and sha512."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        return False
    algorithm, _, encoded = text.partition(":")
    exact = _EXACT.get(algorithm)
    return exact is None or exact.fullmatch(encoded) is not None


def essence(content_type: str) -> str:
    """A media type without parameters, lower case (distribution-spec 1.2, rule 10)."""
    return content_type.partition(";")[0].strip().lower()


def fallback_tag(digest: str) -> str:
    """The tag under which referrers are listed where the API is absent (distribution-spec 1.13, rule 88)."""
    algorithm, _, encoded = digest.partition(":")
    return re.sub(r"[^a-zA-Z0-9._-]", "-", f"{algorithm[:32]}-{encoded[:64]}")


def child_of(entry: object) -> Child:
    """One descriptor, for lists of them that are no manifest's own (referrers). Raises ManifestInvalid."""
    return _child(entry, "descriptor")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ManifestInvalid("an object has the same key twice")
    return found


def _integer(text: str) -> int:
    if len(text) > DIGITS_LIMIT:
        raise ManifestInvalid(f"a number of over {DIGITS_LIMIT} digits")
    return int(text)


def _no_constant(name: str) -> None:
    raise ManifestInvalid(f"{name} is not JSON")


def _check_depth(document: Any) -> None:
    level: list[Any] = [document]
    for _ in range(DEPTH_LIMIT):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ManifestInvalid(f"nested over {DEPTH_LIMIT} deep")


def _check_pairs(document: Any) -> None:
    """RFC 7493 2.1. Such a string cannot be written as UTF-8 again."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ManifestInvalid("a string holds half of a surrogate pair") from None


def _inside(value: Any) -> list[Any]:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [member for member in members if isinstance(member, (dict, list))]


def _check_spelling(found: Mapping[str, object], known: Mapping[str, str], where: str) -> None:
    for name in found:
        meant = known.get(folded(name), name)
        if meant != name:
            raise ManifestInvalid(f"{where}{_short(name)} is read as {meant} by some clients; write {meant}")


def _media_type(document: dict[str, Any], content_type: str) -> str:
    said, own = essence(content_type), _text(document, "mediaType", "")
    if said in UNSAID:
        said = own or (OCI_INDEX if "manifests" in document else OCI_MANIFEST)
    if own and own != said:
        raise ManifestInvalid(f"Content-Type says {_short(said)}, the document says {_short(own)}")
    if said not in IMAGES and said not in INDEXES:
        raise ManifestInvalid(f"{_short(said)} is no manifest type this node keeps")
    return said


def _index_children(document: dict[str, Any]) -> tuple[Child, ...]:
    if "layers" in document or "config" in document:
        raise ManifestInvalid("an index that also has layers or a config")
    return _children(document, "manifests")


def _image_children(document: dict[str, Any]) -> tuple[Child, ...]:
    if "manifests" in document:
        raise ManifestInvalid("an image that also has manifests")
    return (_child(document.get("config"), "config"), *_children(document, "layers"))


def _children(document: dict[str, Any], name: str) -> tuple[Child, ...]:
    if name not in document:
        raise ManifestInvalid(f"{name} is missing")
    entries = [] if document[name] is None else document[name]  # Go writes an empty slice as null
    if not isinstance(entries, list):
        raise ManifestInvalid(f"{name} is not a list")
    return tuple(_child(entry, f"{name}[{number}]") for number, entry in enumerate(entries))


def _child(entry: object, where: str) -> Child:
    if not isinstance(entry, dict):
        raise ManifestInvalid(f"{where} is not a descriptor")
    _check_spelling(entry, _DESCRIPTOR, f"{where}: ")
    digest, size, urls = entry.get("digest"), entry.get("size"), entry.get("urls")
    urls = [] if urls is None else urls
    if not isinstance(digest, str) or not is_digest(digest):
        raise ManifestInvalid(f"{where}: {_short(digest)} is no digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= SIZE_LIMIT:
        raise ManifestInvalid(f"{where}: {_short(size)} is no size")
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise ManifestInvalid(f"{where}: urls is no list of strings")
    media_type, artifact_type = _text(entry, "mediaType", where), _text(entry, "artifactType", where)
    notes, platform = _annotations(entry, where), _platform(entry.get("platform"), where)
    return Child(media_type, digest, size, artifact_type, notes, tuple(urls), platform)


def _platform(found: object, where: str) -> str:
    """A platform's text, "" of what is none: no value is refused (image-spec, image-index.md)."""
    if not isinstance(found, dict):
        return ""
    _check_spelling(found, _PLATFORM, f"{where}: platform: ")
    parts = [found.get(name) for name in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) and part for part in parts[:2]):
        return ""
    return "/".join(part for part in parts if isinstance(part, str) and part)[:128]


def _annotations(found: dict[str, Any], where: str) -> dict[str, str]:
    notes = {} if found.get("annotations") is None else found["annotations"]
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise ManifestInvalid(f"{where} annotations are not strings by name")
    return notes


def _text(found: dict[str, Any], name: str, where: str) -> str:
    value = "" if found.get(name) is None else found[name]
    if not isinstance(value, str):
        raise ManifestInvalid(f"{where} {name} is not a string")
    return value


def _short(value: object) -> str:
    """A parent's value as it may stand in a message: bounded, and no control characters."""
    return ascii(value)[:80]
