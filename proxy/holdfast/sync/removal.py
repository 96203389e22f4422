"""Removals: repositories that are no longer selected, and tags that the parent lost.

- A repository that left the scope is removed in ReadOnly and kept in ReadWrite (references.md 1.14), after a grace
period that starts when it was first seen outside.
- A tag that the parent no longer has is kept and reported, unless the configuration says otherwise. It is removed only
  when two runs in a row did not find it in the parent's list and the parent answers 404 for it.

`left_scope` and `lost_tags` decide and are pure; `Removals` reads and writes what outlasts a run; `remove_tag`,
`remove_manifest` and `remove_repository` act. A removal is not a client's delete: it leaves no tombstone, is not sent
to a parent and is done in every mode. What a lock protects, and what was pushed here and is still to be sent up, stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.digest import Digest
from holdfast_core.errors import ContentLocked, NotHeld, StoreError, Unsent
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store
from msgspec import Struct
from msgspec.structs import replace

from holdfast.errors import ParentNotFound, Refusal
from holdfast.log import log
from holdfast.outbox import records
from holdfast.resources.model import Mode
from holdfast.routing import Repository
from holdfast.sync.schedule import seconds
from holdfast.timestamps import spoken

if TYPE_CHECKING:
    from holdfast.sync.context import SyncContext

KIND, NAME = "custody", "self"

Policy = Literal["", "never", "always"]


class RemovalVerdict(Struct, frozen=True):
    """The decision on one repository or tag. `since` is when the cause was first seen, `at` the earliest time of the
    removal, None where it is not known (wall seconds)."""

    name: str
    fate: Literal["keep", "wait", "remove"]
    since: float
    words: str
    at: float | None = None


class RemovalRecord(Struct, frozen=True):
    """`brought`: repositories that synchronisation fetched; `outside`: those of them that are no longer selected;
    `lost`: tags that the last run did not find at the parent, by repository; both with the time when it was first seen.
    `looked`: when a repository was last scanned to its end. Times are wall seconds."""

    brought: tuple[str, ...] = ()
    outside: dict[str, float] = {}
    lost: dict[str, dict[str, float]] = {}
    looked: dict[str, float] = {}


class Removals:
    """The removals of one run, or, with `acts` false, of a dry run. `verdicts` are the removals now and later, by
    `repository` or `repository:tag`; `words` are remarks for the operator."""

    def __init__(self, context: SyncContext, *, acts: bool) -> None:
        self._context, self._acts = context, acts
        self._before = read_removals(context.store)
        self._brought = dict.fromkeys(self._before.brought)
        self._outside, self._lost = self._before.outside, dict(self._before.lost)
        self._looked = dict(self._before.looked)
        self.verdicts: list[RemovalVerdict] = []
        self.words: list[str] = []

    def synchronised(self, repository: str) -> None:
        """Records that synchronisation fetched something of a repository."""
        self._brought[repository] = None

    def oldest_scan_first(self, repositories: Iterable[str]) -> list[str]:
        """Returns the repositories in the order of their last scans: where a window or a budget ends runs early, each
        one has its turn."""
        return sorted(repositories, key=lambda name: self._before.looked.get(name, 0.0))

    def scanned(self, repository: str) -> None:
        """Records that a repository was scanned to its end."""
        self._looked[repository] = self._context.clock.now()

    def lost_in(self, repository: str, listed: Collection[str]) -> list[RemovalVerdict]:
        """Returns a verdict for each tag that is here and not in `listed`, the parent's whole list."""
        store, policy = self._context.store, self._context.config.sync.on_parent_delete
        gone = set(store.references.tags(repository)) - set(listed)
        local = [tag for tag in gone if self._is_local(repository, tag)]
        since, now = self._before.lost.get(repository, {}), self._context.clock.now()
        verdicts = lost_tags(gone, listed, since, now, policy=policy, local=local)
        if listed:
            self._lost[repository] = {one.name: one.since for one in verdicts if one.fate != "keep"}
        return verdicts

    async def remove_lost(self, repository: str, verdict: RemovalVerdict) -> None:
        """Removes a lost tag if that is the verdict and the parent answers 404 to one more HEAD."""
        verdict = await self._confirmed(repository, verdict)
        key = f"{repository}:{verdict.name}"
        why = await remove_tag(self._context, repository, verdict.name) if self._is_due(verdict) else ""
        self.words += [why] if why else []
        self.verdicts += [replace(verdict, name=key)] if verdict.fate != "keep" else []

    async def _confirmed(self, repository: str, verdict: RemovalVerdict) -> RemovalVerdict:
        """Returns the verdict after a HEAD. A list without the tag may be wrong, and so may a 404; both together
        count."""
        if verdict.fate != "remove":
            return verdict
        where = Repository.from_key(repository)
        what = f"{repository}:{verdict.name}"
        try:
            await self._context.background[where.namespace].head_manifest(where.name, verdict.name)
        except ParentNotFound:
            return verdict
        except Refusal as error:
            self.words.append(f"{what} stays for now: the HEAD for it failed: {error.message}")
            return replace(verdict, fate="wait", at=None)
        self.words.append(f"{what} stays: the parent does not list it, but answers a HEAD for it")
        return replace(verdict, fate="keep")

    def _is_local(self, repository: str, tag: str) -> bool:
        try:
            held = self._context.store.references.tag(repository, tag)
        except ContentLocked:  # the removal reports it
            return False
        return held is not None and held.origin == "local"

    async def remove_unselected(self, selects: Callable[[str], bool], *, whole: bool = True) -> None:
        """Removes the repositories that synchronisation fetched and that are no longer selected, once the grace period
        is over. Without `whole` the scope has not changed since the last run with it: only repositories that were
        outside already are considered."""
        store, sync, now = self._context.store, self._context.config.sync, self._context.clock.now()
        if whole:
            self._looked = {name: at for name, at in self._looked.items() if selects(name)}
            self._lost = {name: tags for name, tags in self._lost.items() if selects(name)}
        elif not self._outside:
            return
        candidates = list(self._brought if whole else self._outside)
        gone = {name for name in candidates if not store.references.has_repository(name)}
        self._brought = {name: None for name in self._brought if name not in gone}
        outside = [name for name in candidates if name in self._brought and not selects(name)]
        verdicts = left_scope(
            outside,
            (),
            self._outside,
            now,
            mode="ReadOnly" if store.mode == "ReadOnly" else "ReadWrite",
            policy=sync.prune,
            grace=seconds(sync.prune_grace, "prune_grace"),
            pushed=self._with_pending_pushes() if outside else (),
        )
        self._outside = {one.name: one.since for one in verdicts}
        self.verdicts += [one for one in verdicts if one.fate != "keep"]
        for one in verdicts:
            self.words.append(one.words)
            if self._is_due(one):
                await self._prune(one.name)

    async def _prune(self, repository: str) -> None:
        if why := await remove_repository(self._context, repository):
            self.words.append(why)
            return
        del self._brought[repository], self._outside[repository]

    def _with_pending_pushes(self) -> set[str]:
        """Returns the repositories with content that is still to be sent to a parent."""
        store = self._context.store
        rows = [records.decode(number, body).repository for number, body in store.references.outbox.rows()]
        return {*rows, *(repository for repository, _ in store.references.outbox.pending())}

    def _is_due(self, verdict: RemovalVerdict) -> bool:
        return self._acts and verdict.fate == "remove"

    async def write(self) -> None:
        """Writes the record for the next run."""
        lost = {repository: tags for repository, tags in self._lost.items() if tags}
        record = RemovalRecord(tuple(self._brought), self._outside, lost, self._looked)
        if not self._acts or record == self._before:
            return
        body = msgspec.json.encode(record)

        def plan(_: ResourceView) -> Sequence[ResourceChange]:
            return [ResourceChange(KIND, NAME, body)]

        try:
            await asyncio.wrap_future(self._context.store.documents.change(plan, quiet=frozenset({KIND})))
        except StoreError as error:
            log.error("record of removals cannot be written", reason=str(error))


def read_removals(store: Store) -> RemovalRecord:
    """Returns the stored record; an empty one, with which nothing is removed, when there is none that can be read."""
    try:
        held = store.documents.get(KIND, NAME)
        return RemovalRecord() if held is None else msgspec.json.decode(held.body, type=RemovalRecord)
    except (StoreError, msgspec.DecodeError) as error:
        log.error("record of removals cannot be read", reason=str(error))
        return RemovalRecord()


def left_scope(
    held: Iterable[str],
    selected: Iterable[str],
    since: Mapping[str, float],
    now: float,
    *,
    mode: Mode,
    policy: Policy = "",
    grace: float = 86400.0,
    pushed: Iterable[str] = (),
) -> list[RemovalVerdict]:
    """Returns a verdict for each held repository outside `selected`. `since` has those that were outside before, with
    times; repositories without a verdict are to be dropped from it. `pushed`: repositories with entries that are still
    to be sent up, which are never removed."""
    inside, busy = frozenset(selected), frozenset(pushed)
    removes = policy == "always" or (policy == "" and mode == "ReadOnly")
    return [
        _verdict(name, min(since.get(name, now), now), now, removes, grace, name in busy)
        for name in sorted(set(held) - inside)
    ]


def _verdict(name: str, since: float, now: float, removes: bool, grace: float, busy: bool) -> RemovalVerdict:
    if not removes:
        return RemovalVerdict(name, "keep", since, f"{name} is no longer selected, and is kept")
    if busy:
        return RemovalVerdict(
            name,
            "wait",
            since,
            f"{name} is no longer selected; it is removed when its pushes are at the parent",
        )
    left = since + grace - now
    if left > 0:
        words = f"{name} is no longer selected; it is removed by the first run after {spoken(left)}"
        return RemovalVerdict(name, "wait", since, words, since + grace)
    words = f"{name} is not selected since {spoken(now - since)}; it is removed"
    return RemovalVerdict(name, "remove", since, words, now)


def lost_tags(
    held: Iterable[str],
    listed: Collection[str],
    since: Mapping[str, float],
    now: float,
    *,
    policy: Literal["keep", "remove"] = "keep",
    local: Iterable[str] = (),
) -> list[RemovalVerdict]:
    """Returns a verdict for each held tag that is not in the parent's list. `since` has the tags that were lost in the
    run before: a tag is removed only when two runs in a row did not find it, and never because of a list without any
    tag, which is what a registry in trouble answers. `local`: tags that were made here, which the parent never had."""
    gone = sorted(set(held) - set(listed) - set(local))
    return [_lost(tag, since.get(tag), now, policy == "remove", bool(listed)) for tag in gone]


def _lost(tag: str, since: float | None, now: float, removes: bool, has_tags: bool) -> RemovalVerdict:
    first = now if since is None else min(since, now)
    what = f"{tag}: the parent no longer lists it"
    if not removes:
        return RemovalVerdict(tag, "keep", first, f"{what}; what is here is kept")
    if not has_tags:
        return RemovalVerdict(
            tag, "keep", first, f"{what}, nor any other tag; nothing is removed on such a list"
        )
    if since is None:
        return RemovalVerdict(
            tag, "wait", first, f"{what}; it is removed when the next run does not find it either"
        )
    return RemovalVerdict(tag, "remove", first, f"{what}, nor did it {spoken(now - first)} ago", now)


async def remove_tag(context: SyncContext, repository: str, tag: str) -> str:
    """Removes a tag; its manifest stays. Returns why it stays, "" when it is gone or was not here. The commit is on
    disk when it returns. Raises StoreError."""
    gone = context.store.references.remove_tag(repository, tag, now=context.clock.now())
    return await _removed(gone, f"{repository}:{tag}")


async def remove_manifest(context: SyncContext, repository: str, digest: str) -> str:
    """Removes a manifest with every tag that names it; its children and its referrers stay. Returns as `remove_tag`."""
    gone = context.store.references.remove_manifest(repository, Digest.parse(digest), now=context.clock.now())
    return await _removed(gone, f"{repository}@{digest}")


async def remove_repository(context: SyncContext, repository: str) -> str:
    """Removes all of a repository, or nothing when any part of it has to stay. Returns as `remove_tag`."""
    gone = context.store.references.remove_repository(repository, now=context.clock.now())
    return await _removed(gone, repository)


async def _removed(future: Future[None], what: str) -> str:
    try:
        await asyncio.wrap_future(future)
    except NotHeld:
        return ""
    except (ContentLocked, Unsent) as error:
        log.info("not removed", what=what, reason=str(error))
        return f"{what} stays: {error}"
    log.info("removed", what=what)
    return ""
