"""The reports on disk space that the admin API and `holdfast usage` show. All figures but counts are bytes."""

from __future__ import annotations

from holdfast.resources.model import ResourceStruct


class OutsideBytes(ResourceStruct, frozen=True):
    """What lies on the disk beside the content, in allocated blocks: fills under way, upload sessions, quarantine, the
    journal, the index, indexes that a rebuild replaced, and the reserve for deletes."""

    fills: int
    uploads: int
    quarantine: int
    journal: int
    index: int
    replaced_indexes: int
    reserve: int


class ParentUsage(ResourceStruct, frozen=True):
    """What the repositories of a parent have; `name` is empty for the default parent, and on a root. `bytes` counts
    each digest once, `ownBytes` those that no repository of another parent has."""

    name: str
    repositories: int
    manifests: int
    blobs: int
    bytes: int
    own_bytes: int


class NodeUsage(ResourceStruct, frozen=True):
    """Where the disk went. `bytes` are of all content in files: `ownBytes` of them one repository has, `sharedBytes`
    several, `unlinkedBytes` none any more; the sweep frees those. `inlineBytes` are of small content, which is in the
    index and frees no disk."""

    free_bytes: int
    files: int
    bytes: int
    own_bytes: int
    shared_bytes: int
    unlinked_bytes: int
    inlines: int
    inline_bytes: int
    outside: OutsideBytes
    parents: tuple[ParentUsage, ...]


class RepositoryUsage(ResourceStruct, frozen=True):
    """What a repository has. `ownBytes` no other one has: so many bytes its delete frees. Of all of it `deletedBytes`
    would be free without what was deleted and can be restored."""

    name: str
    manifests: int
    blobs: int
    bytes: int
    own_bytes: int
    shared_bytes: int
    inline_bytes: int
    deleted_bytes: int = 0


class RepositoryUsageList(ResourceStruct, frozen=True):
    """A page of them, by name."""

    value: tuple[RepositoryUsage, ...]
    next_link: str | None


class TagUsage(ResourceStruct, frozen=True):
    """What an image has here: `bytes` of all that it names. A delete of its manifest, with what nothing else names
    collected, takes `freedDigests` out of the repository and frees `freedBytes` of the disk."""

    tag: str
    digest: str
    bytes: int
    freed_digests: int
    freed_bytes: int


class TagUsageList(ResourceStruct, frozen=True):
    """A page of the tags of a repository, by name."""

    repository: str
    value: tuple[TagUsage, ...]
    next_link: str | None
