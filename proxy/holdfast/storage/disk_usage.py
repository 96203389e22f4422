"""Where the disk went: by parent, repository and image, and what lies beside the content. Reads alone, in any process
of the node; what takes longer gives way between its parts."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from holdfast_core.digest import Digest
from holdfast_core.record import StoreAccount
from holdfast_core.store import Store

from holdfast.clock import give_way
from holdfast.routing import Repository
from holdfast.storage.usage_report import NodeUsage, OutsideBytes, ParentUsage, RepositoryUsage, TagUsage

#: rows that are read in one go
SLICE = 1000
#: of st_blocks, whatever the file system's own (stat(2))
BLOCK_BYTES = 512


def allocated(path: Path) -> int:
    """Bytes that a file, or all files below a directory, have on the disk. What goes meanwhile counts as nothing."""
    try:
        if path.is_dir():
            return sum(allocated(Path(entry.path)) for entry in os.scandir(path))
        return path.lstat().st_blocks * BLOCK_BYTES
    except OSError:
        return 0


def outside_bytes(path: Path) -> OutsideBytes:
    """What lies in the store at `path` beside its content. Waits for the disk: not for an event loop."""
    return OutsideBytes(
        fills=allocated(path / "fills"),
        uploads=allocated(path / "uploads"),
        quarantine=allocated(path / "quarantine"),
        journal=allocated(path / "journal"),
        index=allocated(path / "index"),
        replaced_indexes=sum(map(allocated, path.glob("index.old-*"))),
        reserve=allocated(path / "ballast"),
    )


async def node_usage(store: Store, outside: OutsideBytes, free_bytes: int) -> NodeUsage:
    """The whole node. Raises StoreError."""
    account = store.space.account()
    return NodeUsage(
        free_bytes=free_bytes,
        files=account.files,
        bytes=account.file_bytes,
        own_bytes=account.own_bytes,
        shared_bytes=account.shared_bytes,
        unlinked_bytes=account.file_bytes - account.own_bytes - account.shared_bytes,
        inlines=account.inlines,
        inline_bytes=account.inline_bytes,
        outside=outside,
        parents=await _parents(store, account),
    )


async def _parents(store: Store, account: StoreAccount) -> tuple[ParentUsage, ...]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    last = ""
    while names := store.references.every_name(last=last, limit=SLICE):
        for name in names:
            one = store.space.account_of(name)
            counts[Repository.from_key(name).namespace] += Counter(
                repositories=1, manifests=one.manifests, blobs=one.blobs
            )
        last = names[-1]
        await give_way()
    linked = account.own_bytes + account.shared_bytes
    sizes = dict.fromkeys(counts, (linked, linked)) if len(counts) < 2 else await _bytes_by_namespace(store)
    return tuple(
        ParentUsage(
            name=name,
            repositories=counted["repositories"],
            manifests=counted["manifests"],
            blobs=counted["blobs"],
            bytes=sizes.get(name, (0, 0))[0],
            own_bytes=sizes.get(name, (0, 0))[1],
        )
        for name, counted in sorted(counts.items())
    )


async def _bytes_by_namespace(store: Store) -> dict[str, tuple[int, int]]:
    """(bytes that its repositories have, and those that no other namespace has) by namespace: one look at each link."""
    every: Counter[str] = Counter()
    own: Counter[str] = Counter()
    open_digest: Digest | None = None
    namespaces: set[str] = set()
    after = b""
    while True:
        links, after = store.space.links(after, limit=SLICE)
        for digest, rows in groupby(links, key=lambda link: link[0]):
            if digest != open_digest:
                _add(store, open_digest, namespaces, every, own)
                open_digest, namespaces = digest, set()
            namespaces.update(Repository.from_key(repository).namespace for _, repository in rows)
        if not after:
            break
        await give_way()
    _add(store, open_digest, namespaces, every, own)
    return {name: (size, own[name]) for name, size in every.items()}


def _add(
    store: Store, digest: Digest | None, namespaces: set[str], every: Counter[str], own: Counter[str]
) -> None:
    blob = store.blobs.anywhere(digest) if digest is not None else None
    if blob is None or blob.inline is not None:
        return
    every.update(dict.fromkeys(namespaces, blob.size))
    if len(namespaces) == 1:
        own.update(dict.fromkeys(namespaces, blob.size))


def repository_usage(store: Store, repository: str, shown: str, now: float) -> RepositoryUsage:
    """One repository, by its key; `shown` is its name for people. Raises RecordDamaged."""
    deleted = [one.digest for one in store.references.deleted(repository)]
    one = store.space.account_of(repository)
    return RepositoryUsage(
        name=shown,
        manifests=one.manifests,
        blobs=one.blobs,
        bytes=one.file_bytes,
        own_bytes=one.own_bytes,
        shared_bytes=one.file_bytes - one.own_bytes,
        inline_bytes=one.inline_bytes,
        deleted_bytes=store.space.freed_together(repository, deleted, now=now).freed_bytes,
    )


def tag_usage(store: Store, repository: str, tag: str, digest: Digest, now: float) -> TagUsage:
    """One image, by its tag. Raises RecordDamaged."""
    departure = store.space.freed_by(repository, digest, now=now)
    return TagUsage(
        tag=tag,
        digest=str(digest),
        bytes=sum(_sizes(store, repository, digest)),
        freed_digests=departure.digests,
        freed_bytes=departure.freed_bytes,
    )


def _sizes(store: Store, repository: str, root: Digest) -> Iterator[int]:
    """The sizes in files of what an image consists of and the repository has, each digest once."""
    seen, waiting = {root}, [root]
    while waiting:
        digest = waiting.pop()
        blob = store.blobs.anywhere(digest)
        yield 0 if blob is None or blob.inline is not None else blob.size
        for child in store.space.children(digest):
            if child.digest not in seen and store.space.last_use(repository, child.digest) is not None:
                seen.add(child.digest)
                waiting.append(child.digest)
