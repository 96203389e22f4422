"""Referrers out of the tags that clients keep (references.md 2.9).

Clients of registries without a referrers list keep one themselves: an index under a tag made of the subject's
digest. When such an index is stored here, the manifests it lists that are held and name a subject become
referrers of it, if they are not yet. What the index claims about them is not believed; they are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from holdfast_core import format as layout
from holdfast_core.changes.change import IndexView, blob_of
from holdfast_core.digest import Digest
from holdfast_core.errors import MalformedDigest, StoreError
from holdfast_core.record import Blob, Descriptor

#: the algorithm, and the first 64 characters of the rest
_TAG = re.compile(r"(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{64})")
#: manifests are at most 4 MiB (distribution-spec, "Pushing manifests"); a longer index is not looked into
INDEX_BYTES = 4 << 20

#: manifests that one push of such an index brings in; the next push of it brings in more
MANIFESTS = 1000

Candidate = tuple[Blob, str]  # a manifest and its media type
ReadBody = Callable[[Blob], bytes]


def is_fallback(tag: str) -> bool:
    """Whether a tag is a subject's fallback tag."""
    return _TAG.fullmatch(tag) is not None


def listed(body: bytes) -> list[Digest]:
    """Digests of the manifests that an index lists, each once; none when it is no index."""
    entries = _object(body).get("manifests") if len(body) <= INDEX_BYTES else None
    digests = (_digest(entry) for entry in entries) if isinstance(entries, list) else ()
    return list(dict.fromkeys(digest for digest in digests if digest is not None))


def candidates(view: IndexView, repository: str, digests: Iterable[Digest]) -> list[Candidate]:
    """Those that are manifests of the repository and in no list of referrers, the first MANIFESTS of them."""
    rows: list[Candidate] = []
    for digest in digests:
        if len(rows) == MANIFESTS:
            break
        blob = blob_of(view, digest) if is_new(view, repository, digest) else None
        link = view.get(layout.link_key(repository, layout.AS_MANIFEST, digest.key))
        if blob is not None and link is not None:
            rows.append((blob, layout.decode_media_type(link)))
    return rows


def is_new(view: IndexView, repository: str, digest: Digest) -> bool:
    """Whether it is a manifest of the repository that is in no list of referrers."""
    held = view.get(layout.link_key(repository, layout.AS_MANIFEST, digest.key)) is not None
    return held and not view.keys(layout.subject_prefix(repository, digest), limit=1)


def referrers(candidates: Iterable[Candidate], read: ReadBody) -> list[tuple[Digest, Descriptor]]:
    """(subject, descriptor) of those that name a subject. `read` gives the bytes of one that does not live in the
    index, from its file: so this is nothing for the writer's transaction, which holds up every other write."""
    rows = (_referrer(blob, media_type, read) for blob, media_type in candidates)
    return [row for row in rows if row is not None]


def _referrer(blob: Blob, media_type: str, read: ReadBody) -> tuple[Digest, Descriptor] | None:
    try:
        manifest = _object(blob.inline if blob.inline is not None else read(blob))
    except (OSError, StoreError):
        return None
    subject = _digest(manifest.get("subject"))
    if subject is None:
        return None
    descriptor = Descriptor(
        media_type, str(blob.digest), blob.size, _artifact_type(manifest), _annotations(manifest)
    )
    return subject, descriptor


def _artifact_type(manifest: dict[str, Any]) -> str:
    """The manifest's own, or for an image its config's media type (references.md 2.8)."""
    config = manifest.get("config")
    own = manifest.get("artifactType")
    artifact_type = own if own or not isinstance(config, dict) else config.get("mediaType")
    return artifact_type if isinstance(artifact_type, str) else ""


def _annotations(manifest: dict[str, Any]) -> dict[str, str]:
    annotations = manifest.get("annotations")
    if not isinstance(annotations, dict):
        return {}
    return {key: value for key, value in annotations.items() if isinstance(value, str)}


def _digest(descriptor: object) -> Digest | None:
    text = descriptor.get("digest") if isinstance(descriptor, dict) else None
    try:
        return Digest.parse(text) if isinstance(text, str) else None
    except MalformedDigest:
        return None


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object; an empty one for anything else."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}
