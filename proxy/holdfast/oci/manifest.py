"""Strict parsing of manifests. Pure: bytes and a Content-Type in, facts out.

A manifest is refused when two clients could read different content in it: both an image and an index
(CVE-2021-41190), a body `mediaType` that differs from the Content-Type (references.md 2.2),
duplicate keys (image-spec: I-JSON), or a key that Go's decoder takes for a known one although its spelling differs: it
looks for the exact key first and then for one that is equal by Unicode's simple folding, in which U+017F is an s and
U+212A is a k (encoding/json, `foldName`). Unknown properties, unknown child types and empty lists are legal and kept
(image-spec, manifest.md: unknown properties must not be an error).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from string import ascii_lowercase, ascii_uppercase
from typing import Any, TypeVar

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

IMAGES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
#: Of 2014: signed, without a config, with a digest that is not that of its bytes. Current tools do not write it.
SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.docker.distribution.manifest.v1+json",
    }
)
#: the Accept lines of requests to a parent
MEDIA_TYPES = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
#: Content-Types that are of no specific type; the body's own `mediaType` counts then
UNSPECIFIC = frozenset({"", "application/json", "application/octet-stream", "text/plain"})

#: deepest nesting; no image needs as much, and Python's own scanner fails near 1,000
DEPTH_LIMIT = 64
SIZE_LIMIT = (1 << 63) - 1
#: most characters of a number: the time to parse one grows by the square of its length
DIGITS_LIMIT = 100
#: most objects, lists and members, counted by `{`, `[` and `,`, also within strings: 100,000 children of an index have
#: 400,000. Each takes up to 200 bytes of memory while it is parsed
NODE_LIMIT = 500_000
#: bodies longer than this are parsed on a thread (bytes): this one takes about 6 ms
ASIDE_BYTES = 64 * 1024

T = TypeVar("T")

#: one thread: more would take CPU time from the loop, and the memory of one document each
_READER = ThreadPoolExecutor(1, thread_name_prefix="documents")

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


class ManifestUnreadable(Exception):
    """The document is not a manifest that every client reads the same way. The text is for a person."""


@dataclass(frozen=True, slots=True)
class ChildDescriptor:
    """One descriptor of a manifest. `urls` are never fetched; they mark a foreign layer. `platform` is
    os/architecture[/variant] as in the index, "" where it has none."""

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] = field(default_factory=dict)
    urls: tuple[str, ...] = ()
    platform: str = ""

    @property
    def is_foreign(self) -> bool:
        """Whether its bytes are stored elsewhere, so that a registry need not hold them (references.md 2.10)."""
        return bool(self.urls) or ".foreign." in self.media_type or ".nondistributable." in self.media_type

    @property
    def is_manifest(self) -> bool:
        """Whether it is fetched as a manifest rather than as a blob."""
        return self.media_type in IMAGES or self.media_type in INDEXES


@dataclass(frozen=True, slots=True)
class Inspected:
    """A parsed manifest. `subject` is a sha256 or sha512 digest, or "". `children` have the document's order: config
    and then layers, or the entries of an index. `artifact_type` follows references.md 2.8: the manifest's own, else an
    image's config type."""

    media_type: str
    subject: str
    artifact_type: str
    annotations: dict[str, str]
    children: tuple[ChildDescriptor, ...]

    @property
    def is_index(self) -> bool:
        """Whether the children are manifests."""
        return self.media_type in INDEXES


def parse(body: bytes, content_type: str) -> Inspected:
    """The parsed manifest. `content_type` is the header as received, "" without one.

    Raises ManifestUnreadable. The caller bounds the size; parsing takes about 0.1 s a MiB.
    """
    document = decode(body)
    if not isinstance(document, dict):
        raise ManifestUnreadable("the document is not an object")
    _check_spelling(document, _TOP, "")
    version = document.get("schemaVersion")
    if type(version) is not int or version != 2:  # neither true nor 2.0, which equal it
        raise ManifestUnreadable(f"schemaVersion is {_short(version)}, not 2")
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
    """`parse`, on a thread when it would block the loop. Raises ManifestUnreadable."""
    return await aside(parse, body, content_type)


async def aside(read: Callable[[bytes, str], T], body: bytes, content_type: str) -> T:
    """The result of `read`, called on a thread when it would block the loop. Raises as `read`."""
    if len(body) <= ASIDE_BYTES:
        return read(body, content_type)
    return await asyncio.get_running_loop().run_in_executor(_READER, read, body, content_type)


def decode(body: bytes) -> Any:
    """The value of an I-JSON text (RFC 7493): UTF-8, no duplicate names, no NaN, no half of a surrogate pair; at most
    DEPTH_LIMIT deep and NODE_LIMIT large. Raises ManifestUnreadable."""
    if body.count(b"{") + body.count(b"[") + body.count(b",") > NODE_LIMIT:
        raise ManifestUnreadable(f"over {NODE_LIMIT} members")
    try:
        document = json.loads(
            body.decode(), object_pairs_hook=_unique, parse_int=_integer, parse_constant=_no_constant
        )
    except RecursionError:
        raise ManifestUnreadable("nested too deep") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise ManifestUnreadable(f"not JSON ({type(error).__name__})") from None
    _check_depth(document)
    if _SURROGATE.search(body):
        _check_pairs(document)
    return document


def is_schema_1(body: bytes, content_type: str) -> bool:
    """Whether a manifest is one of schema 1; some registries send it as plain JSON."""
    kind = essence(content_type)
    return kind in SCHEMA_1 or (kind in UNSPECIFIC and _VERSION_1.search(body) is not None)


def is_digest(text: object) -> bool:
    """Whether this is a digest by the image-spec's grammar, and exact for sha256 and sha512."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        return False
    algorithm, _, encoded = text.partition(":")
    exact = _EXACT.get(algorithm)
    return exact is None or exact.fullmatch(encoded) is not None


def essence(content_type: str) -> str:
    """A media type without parameters, lower case (references.md 2.2)."""
    return content_type.partition(";")[0].strip().lower()


def fallback_tag(digest: str) -> str:
    """The tag under which referrers are listed where the API is absent (references.md 2.9)."""
    algorithm, _, encoded = digest.partition(":")
    return re.sub(r"[^a-zA-Z0-9._-]", "-", f"{algorithm[:32]}-{encoded[:64]}")


def child_of(entry: object) -> ChildDescriptor:
    """The descriptor of an entry of a referrers list. Raises ManifestUnreadable."""
    return _child(entry, "descriptor")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ManifestUnreadable("an object has the same key twice")
    return members


def _integer(text: str) -> int:
    if len(text) > DIGITS_LIMIT:
        raise ManifestUnreadable(f"a number of over {DIGITS_LIMIT} digits")
    return int(text)


def _no_constant(name: str) -> None:
    raise ManifestUnreadable(f"{name} is not JSON")


def _check_depth(document: Any) -> None:
    level: list[Any] = [document]
    for _ in range(DEPTH_LIMIT):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ManifestUnreadable(f"nested over {DEPTH_LIMIT} deep")


def _check_pairs(document: Any) -> None:
    """RFC 7493 2.1. Such a string cannot be written as UTF-8 again."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ManifestUnreadable("a string holds half of a surrogate pair") from None


def _inside(value: Any) -> list[Any]:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [member for member in members if isinstance(member, (dict, list))]


def _check_spelling(members: Mapping[str, object], known: Mapping[str, str], where: str) -> None:
    for name in members:
        meant = known.get(folded(name), name)
        if meant != name:
            raise ManifestUnreadable(
                f"{where}{_short(name)} is read as {meant} by some clients; write {meant}"
            )


def _media_type(document: dict[str, Any], content_type: str) -> str:
    media_type, own = essence(content_type), _text(document, "mediaType", "")
    if media_type in UNSPECIFIC:
        media_type = own or (OCI_INDEX if "manifests" in document else OCI_MANIFEST)
    if own and own != media_type:
        raise ManifestUnreadable(f"Content-Type says {_short(media_type)}, the document says {_short(own)}")
    if media_type not in IMAGES and media_type not in INDEXES:
        raise ManifestUnreadable(f"{_short(media_type)} is no manifest type this node keeps")
    return media_type


def _index_children(document: dict[str, Any]) -> tuple[ChildDescriptor, ...]:
    if "layers" in document or "config" in document:
        raise ManifestUnreadable("an index that also has layers or a config")
    return _children(document, "manifests")


def _image_children(document: dict[str, Any]) -> tuple[ChildDescriptor, ...]:
    if "manifests" in document:
        raise ManifestUnreadable("an image that also has manifests")
    return (_child(document.get("config"), "config"), *_children(document, "layers"))


def _children(document: dict[str, Any], name: str) -> tuple[ChildDescriptor, ...]:
    if name not in document:
        raise ManifestUnreadable(f"{name} is missing")
    entries = [] if document[name] is None else document[name]  # Go writes an empty slice as null
    if not isinstance(entries, list):
        raise ManifestUnreadable(f"{name} is not a list")
    return tuple(_child(entry, f"{name}[{number}]") for number, entry in enumerate(entries))


def _child(entry: object, where: str) -> ChildDescriptor:
    if not isinstance(entry, dict):
        raise ManifestUnreadable(f"{where} is not a descriptor")
    _check_spelling(entry, _DESCRIPTOR, f"{where}: ")
    digest, size, urls = entry.get("digest"), entry.get("size"), entry.get("urls")
    urls = [] if urls is None else urls
    if not isinstance(digest, str) or not is_digest(digest):
        raise ManifestUnreadable(f"{where}: {_short(digest)} is no digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= SIZE_LIMIT:
        raise ManifestUnreadable(f"{where}: {_short(size)} is no size")
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise ManifestUnreadable(f"{where}: urls is no list of strings")
    media_type, artifact_type = _text(entry, "mediaType", where), _text(entry, "artifactType", where)
    notes, platform = _annotations(entry, where), _platform(entry.get("platform"), where)
    return ChildDescriptor(media_type, digest, size, artifact_type, notes, tuple(urls), platform)


def _platform(value: object, where: str) -> str:
    """The text of a platform, "" for an invalid one, which is no error (image-spec, image-index.md)."""
    if not isinstance(value, dict):
        return ""
    _check_spelling(value, _PLATFORM, f"{where}: platform: ")
    parts = [value.get(name) for name in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) and part for part in parts[:2]):
        return ""
    return "/".join(part for part in parts if isinstance(part, str) and part)[:128]


def _annotations(owner: dict[str, Any], where: str) -> dict[str, str]:
    notes = {} if owner.get("annotations") is None else owner["annotations"]
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise ManifestUnreadable(f"{where} annotations are not strings by name")
    return notes


def _text(owner: dict[str, Any], name: str, where: str) -> str:
    value = "" if owner.get(name) is None else owner[name]
    if not isinstance(value, str):
        raise ManifestUnreadable(f"{where} {name} is not a string")
    return value


def _short(value: object) -> str:
    """A value for a message: bounded, and without control characters."""
    return ascii(value)[:80]
