"""Images of a store, written into an OCI image layout, every digest checked on the way.

What is not here is named and nothing of that image is written into index.json, but for two things that an image may do
without: children of an index that this node was not asked for (other platforms), and foreign layers.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from holdfast_core.digest import Digest
from holdfast_core.errors import MalformedDigest, StoreError
from holdfast_core.filesystem.directory import Directory
from holdfast_core.record import Blob, Manifest
from holdfast_core.store import Store
from holdfast_core.upkeep.fsck import HEAL

from holdfast.layout.layout_files import IMAGE_NAME, REF_NAME, LayoutTarget
from holdfast.oci.manifest import ChildDescriptor, Inspected, ManifestUnreadable, parse

#: the tag of a name without one
LATEST = "latest"


class ImageAbsent(Exception):
    """An image that is not here. The text is for a person."""


class HeldImage(NamedTuple):
    """An image of a store: its name as it was asked for, the store's key of the repository, its tag or "", its
    digest."""

    name: str
    key: str
    tag: str
    digest: Digest


def find(store: Store, text: str) -> HeldImage:
    """The image REPOSITORY[:TAG|@DIGEST], named as clients of the node do. Raises ImageAbsent, StoreError."""
    name, at, digest_text = text.partition("@")
    before, colon, tag = name.rpartition(":")
    repository, tag = (before, tag) if colon and "/" not in tag else (name, "")
    try:
        digest = Digest.parse(digest_text) if at else None
    except MalformedDigest as error:
        raise ImageAbsent(f"{text}: found {digest_text!r}; allowed: a sha256 or sha512 digest") from error
    tag = "" if digest else tag or LATEST
    for key in (
        repository,
        repository.replace("/", ":", 1),
    ):  # the name of a parent comes first in the latter
        found = digest or _tagged(store, key, tag)
        if found is not None and store.references.manifest(key, found) is not None:
            return HeldImage(repository, key, tag, found)
    raise ImageAbsent(f"{text} is not here; pull it through this node first, or look at its tags")


def _tagged(store: Store, key: str, tag: str) -> Digest | None:
    found = store.references.tag(key, tag)
    return None if found is None else found.digest


class ImageExport:
    """Writes images of a store into a layout. `problems` are sentences: what is damaged, locked, or lacks a part. While
    there are any, the layout's index.json is not written."""

    def __init__(self, store: Store, target: LayoutTarget, *, with_referrers: bool) -> None:
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self._store, self._target, self._with_referrers = store, target, with_referrers
        self._files = Directory(store.path)
        self._written: dict[tuple[str, Digest], dict[str, Any]] = {}
        self._referring: dict[tuple[str, Digest], None] = {}

    def close(self) -> None:
        """Give the descriptors back."""
        self._files.close()

    def run(self, images: Sequence[HeldImage]) -> None:
        """All of them, then index.json. Raises LayoutInvalid, OSError."""
        several = len({image.name for image in images}) > 1
        self._target.require_free([_name(image, several=several) for image in images if image.tag])
        entries = []
        for image in images:
            self._write_tree(image.key, image.digest)
            entry = self._written.get((image.key, image.digest), {})
            entries.append({**entry, **_name(image, several=several)} if image.tag else entry)
        entries += (self._written[place] for place in self._referring if place in self._written)
        if not self.problems:
            self._target.finish(entries)

    def _write_tree(self, key: str, root: Digest) -> None:
        """A manifest, what it names, and with referrers what names it; each once."""
        waiting = [root]
        while waiting:
            digest = waiting.pop()
            if (key, digest) in self._written:
                continue
            try:
                manifest = self._store.references.manifest(key, digest)
                if manifest is None:
                    self.counts["manifests left out"] += 1
                    continue
                waiting += self._write_manifest(key, manifest)
                waiting += self._referrers(key, digest) if self._with_referrers else ()
            except StoreError as error:
                self.problems.append(f"{digest}: {error}")

    def _write_manifest(self, key: str, manifest: Manifest) -> list[Digest]:
        """A manifest and its blobs; the manifests that it names. Raises StoreError."""
        try:
            inspected = parse(manifest.body, manifest.media_type)
        except ManifestUnreadable as error:
            raise StoreError(f"it cannot be exported: {error}") from error
        self._written[key, manifest.digest] = _entry(manifest, inspected)
        self._target.add_bytes(manifest.digest, manifest.body)
        self.counts["manifests"] += 1
        if inspected.is_index:
            return [Digest.parse(child.digest) for child in inspected.children]
        for child in inspected.children:
            self._write_blob(key, child)
        return []

    def _write_blob(self, key: str, child: ChildDescriptor) -> None:
        try:
            blob = self._store.blobs.get(key, Digest.parse(child.digest))
            if blob is not None:
                self._write(blob)
            elif not child.is_foreign:
                self.problems.append(f"{child.digest} is not here; pull the image through this node first")
        except StoreError as error:
            self.problems.append(f"{error}; {HEAL}")

    def _write(self, blob: Blob) -> None:
        self.counts["blobs"] += 1
        if blob.inline is not None:
            self._target.add_bytes(blob.digest, blob.inline)
            return
        fd, _ = self._files.open_blob(blob.digest, blob.size)
        try:
            self._target.add_file(blob.digest, fd, blob.size)
        finally:
            os.close(fd)

    def _referrers(self, key: str, subject: Digest) -> list[Digest]:
        """What refers to a manifest. Without a name in index.json, as oras has it."""
        listed = self._store.references.lists.referrers(key, subject)
        found = [Digest.parse(one.digest) for one in (() if listed is None else listed.descriptors)]
        self._referring.update(dict.fromkeys((key, digest) for digest in found))
        return found


def _name(image: HeldImage, *, several: bool) -> dict[str, Any]:
    """What an entry of an image is called: its tag alone as other tools have it, or with its repository beside
    `several`; containerd's annotation has the repository in any case."""
    whole = f"{image.name}:{image.tag}"
    names = {REF_NAME: whole if several else image.tag, IMAGE_NAME: whole}
    return {"digest": str(image.digest), "annotations": names}


def _entry(manifest: Manifest, inspected: Inspected) -> dict[str, Any]:
    """A descriptor for index.json; with the type of an artifact (image-spec, descriptor.md)."""
    size = len(manifest.body)
    entry: dict[str, Any] = {"mediaType": manifest.media_type, "digest": str(manifest.digest), "size": size}
    return {**entry, "artifactType": inspected.artifact_type} if inspected.subject else entry
