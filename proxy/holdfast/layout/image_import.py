"""Images of an OCI image layout, pushed to a node as any client pushes: with its locks, its mode, its events and its
outbox.

Everything is read and hashed before the first byte is sent, so nothing of a damaged layout is pushed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from os import SEEK_END
from pathlib import Path
from typing import NamedTuple

from holdfast_core.digest import Digest
from holdfast_core.errors import MalformedDigest

from holdfast.layout.layout_files import (
    BLOCK_BYTES,
    INDEX,
    Entry,
    LayoutInvalid,
    LayoutSource,
    blob_path,
    entries_of,
    image_of,
    name_of,
    opened_layout,
)
from holdfast.layout.node_push import NodePush
from holdfast.oci.manifest import (
    ChildDescriptor,
    Inspected,
    ManifestUnreadable,
    child_of,
    fallback_tag,
    parse,
)
from holdfast.oci.names import is_repository, is_tag

#: no registry takes a manifest that is longer
MANIFEST_BYTES = 64 << 20
#: names of images that an error lists
NAMED = 20
MISSING = " is missing"


class LayoutManifest(NamedTuple):
    """A manifest of a layout, read and verified."""

    digest: Digest
    media_type: str
    body: bytes
    inspected: Inspected


class ImportPlan(NamedTuple):
    """What is to be pushed: blobs, then manifests in this order, then tags by the manifest that they point to."""

    blobs: list[Digest]
    manifests: list[LayoutManifest]
    tags: list[tuple[str, Digest]]
    left_out: int


class LayoutDamaged(Exception):
    """Blobs of a layout are missing or are not what their names say. `problems` are sentences."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class LayoutImages:
    """The images of a layout at `path`."""

    def __init__(self, layout: LayoutSource, path: Path) -> None:
        """Raises LayoutInvalid."""
        self._layout, self._path = layout, path
        self._entries = entries_of(layout, path)
        self._problems: dict[str, None] = {}  # in the order that they were met in, each once
        self._read: dict[Digest, LayoutManifest | None] = {}
        self._left_out = 0

    def plan(self, tag: str, reference: str) -> ImportPlan:
        """What is to be pushed under `tag`, or under the names that the images have. Every byte of it was hashed.
        `reference`: only the image of that name. Raises LayoutInvalid, LayoutDamaged."""
        roots = self._chosen(tag, reference)
        tags = [(tag or self._tag(entry), self._digest(entry)) for entry in roots if tag or name_of(entry)]
        self._require_different(tags)
        order: dict[Digest, None] = {}
        for entry in roots:
            self._walk(self._descriptor(entry), order)
        while fresh := self._referrers(order):
            for descriptor in fresh:
                self._walk(descriptor, order)
        manifests = [found for digest in reversed(order) if (found := self._read[digest])]
        blobs = list(self._blobs(manifests))
        if self._problems:
            raise LayoutDamaged(list(self._problems))
        return ImportPlan(blobs, manifests, tags, self._left_out)

    def _chosen(self, tag: str, reference: str) -> list[Entry]:
        """The entries that are images to push. Raises LayoutInvalid."""
        named = [entry for entry in self._entries if name_of(entry)]
        if reference:
            chosen = [entry for entry in named if reference in _references(entry)]
            if not chosen:
                raise LayoutInvalid(f"{self._path} has no image {reference!r}; found: {_names(named)}")
        elif not tag:
            return self._entries
        else:
            lists = {fallback_tag(str(self._digest(entry))) for entry in self._entries}
            images = [entry for entry in named if name_of(entry) not in lists]
            chosen = images or [entry for entry in self._entries if not self._subject(entry)]
        if len(chosen) != 1:
            raise LayoutInvalid(
                f"{self._path} has {len(chosen)} images: {_names(chosen)}; choose one with --ref, or give no tag and"
                " each gets its own"
            )
        return chosen

    def _require_different(self, tags: Sequence[tuple[str, Digest]]) -> None:
        """Raise LayoutInvalid when two images would get one tag: the second would take it from the first."""
        for number, (tag, digest) in enumerate(tags):
            other = next((found for name, found in tags[:number] if name == tag and found != digest), None)
            if other is not None:
                named = [entry for entry in self._entries if name_of(entry) and self._tag(entry) == tag]
                raise LayoutInvalid(
                    f"{self._path} has several images for the tag {tag!r}: {_names(named)}; import one at a time, each"
                    " into its repository, with --ref"
                )

    def _tag(self, entry: Entry) -> str:
        """The tag that an entry's name says. Raises LayoutInvalid."""
        if not is_tag(tag := _tag_of(name_of(entry))):
            raise LayoutInvalid(f"{self._path} has an image {name_of(entry)!r}, which is no tag; give it one")
        return tag

    def _referrers(self, order: dict[Digest, None]) -> list[ChildDescriptor]:
        """What refers to what is pushed, and is not among it yet: oras has entries without a name for it, regctl a list
        under the tag that stands for the subject."""
        subjects = {str(digest) for digest in order}
        lists = {fallback_tag(subject) for subject in subjects}
        found: list[ChildDescriptor] = []
        for entry in self._entries:
            if name_of(entry) in lists and (listed := self._manifest(self._descriptor(entry))):
                found += listed.inspected.children
            elif not name_of(entry) and self._subject(entry) in subjects:
                found.append(self._descriptor(entry))
        return [one for one in found if self._manifest(one) and _parsed(one.digest, self._path) not in order]

    def _subject(self, entry: Entry) -> str:
        found = self._manifest(self._descriptor(entry))
        return "" if found is None else found.inspected.subject

    def _walk(self, root: ChildDescriptor, order: dict[Digest, None]) -> None:
        """Put a manifest and those that it names into `order`, each once. A child of an index that is not here is left
        out: it may be of another platform."""
        waiting = [root]
        while waiting:
            descriptor = waiting.pop()
            if _parsed(descriptor.digest, self._path) in order:
                continue
            found = self._manifest(descriptor)
            if found is not None:
                order[found.digest] = None
                waiting += found.inspected.children if found.inspected.is_index else ()
            elif descriptor is root:
                self._problems.setdefault(f"{descriptor.digest} is missing, which {INDEX} lists")
            else:
                self._left_out += 1

    def _manifest(self, descriptor: ChildDescriptor) -> LayoutManifest | None:
        """A manifest, verified; None for one that is not here, and for one that is damaged, which is a problem."""
        digest = _parsed(descriptor.digest, self._path)
        if digest not in self._read:
            self._read[digest] = self._verified(digest, descriptor.media_type)
        return self._read[digest]

    def _verified(self, digest: Digest, media_type: str) -> LayoutManifest | None:
        try:
            with self._layout.open(blob_path(digest)) as file:
                body = file.read(MANIFEST_BYTES + 1)
            if (found := Digest.of(body, digest.algorithm)) != digest:
                self._problems.setdefault(f"{digest}: its file hashes to {found}")
                return None
            return LayoutManifest(digest, media_type, body, parse(body, media_type))
        except FileNotFoundError:
            return None
        except ManifestUnreadable as error:
            self._problems.setdefault(f"{digest}: {error}")
            return None

    def _blobs(self, manifests: Sequence[LayoutManifest]) -> Iterator[Digest]:
        """What they name and is here, each once, hashed; what is missing or wrong is a problem."""
        images = (manifest for manifest in manifests if not manifest.inspected.is_index)
        named = {child.digest: (child, image) for image in images for child in image.inspected.children}
        for child, image in named.values():
            digest = _parsed(child.digest, self._path)
            problem = self._blob_problem(digest)
            if problem is None:
                yield digest
            elif not (child.is_foreign and problem == MISSING):
                self._problems.setdefault(f"{digest}{problem}, which {image.digest} names")

    def _blob_problem(self, digest: Digest) -> str | None:
        hasher = hashlib.new(digest.algorithm)
        try:
            with self._layout.open(blob_path(digest)) as file:
                while data := file.read(BLOCK_BYTES):
                    hasher.update(data)
        except FileNotFoundError:
            return MISSING
        found = hasher.hexdigest()
        return None if found == digest.hex else f": its file hashes to {digest.algorithm}:{found}"

    def _descriptor(self, entry: Entry) -> ChildDescriptor:
        try:
            return child_of(entry)
        except ManifestUnreadable as error:
            raise LayoutInvalid(f"{self._path}: {INDEX}: {error}") from error

    def _digest(self, entry: Entry) -> Digest:
        return _parsed(self._descriptor(entry).digest, self._path)


def _parsed(text: str, path: Path) -> Digest:
    try:
        return Digest.parse(text)
    except MalformedDigest as error:
        raise LayoutInvalid(f"{path}: found {text!r}; allowed: sha256 and sha512 digests") from error


def _tag_of(name: str) -> str:
    """The tag of `name`, which is one, or ends in one: skopeo writes a tag, crane a whole reference."""
    return name.rpartition(":")[2]


def _references(entry: Entry) -> tuple[str, ...]:
    """What --ref may call an entry."""
    return (name_of(entry), _tag_of(name_of(entry)), image_of(entry), str(entry.get("digest")))


def _names(entries: Sequence[Entry]) -> str:
    names = [name_of(entry) for entry in entries]
    shown = [
        name if name and names.count(name) == 1 else image_of(entry) or str(entry.get("digest"))
        for name, entry in zip(names, entries, strict=True)
    ]
    return ", ".join(shown[:NAMED]) or "none"


class ImageImport:
    """Pushes images of the layout at `path`."""

    def __init__(self, path: Path, push: NodePush) -> None:
        self._path, self._push = path, push

    def run(self, tag: str, reference: str) -> Counter[str]:
        """What was pushed. Raises LayoutInvalid, LayoutDamaged, PushRefused, NodeUnreachable, OSError."""
        counts: Counter[str] = Counter()
        with opened_layout(self._path) as layout:
            plan = LayoutImages(layout, self._path).plan(tag, reference)
            counts += Counter({"manifests": len(plan.manifests), "manifests left out": plan.left_out})
            for digest in plan.blobs:
                counts["blobs" if self._sent(layout, digest) else "blobs that were there"] += 1
        tagged = {digest for _, digest in plan.tags}
        for manifest in plan.manifests:
            if manifest.digest not in tagged:
                self._push.put_manifest(str(manifest.digest), manifest.media_type, manifest.body)
        bodies = {manifest.digest: manifest for manifest in plan.manifests}
        for name, digest in plan.tags:  # last: what a tag points to is all there then
            self._push.put_manifest(name, bodies[digest].media_type, bodies[digest].body)
        return counts

    def _sent(self, layout: LayoutSource, digest: Digest) -> bool:
        """Send a blob unless the repository has it; whether it was sent."""
        if self._push.has_blob(str(digest)):
            return False
        with layout.open(blob_path(digest)) as file:
            size = file.seek(0, SEEK_END)
            file.seek(0)
            self._push.put_blob(str(digest), file, size)
        return True


def split_name(name: str) -> tuple[str, str]:
    """REPOSITORY[:TAG] as (repository, tag or ""). Raises LayoutInvalid."""
    repository, colon, tag = name.partition(":")
    if not is_repository(repository) or (colon and not is_tag(tag)):
        raise LayoutInvalid(f"found {name!r}; allowed: REPOSITORY[:TAG]")
    return repository, tag
