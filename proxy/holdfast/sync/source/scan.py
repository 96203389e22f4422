"""A scan of the parents for the selected content: one list of tags for each repository, one HEAD for each tag. Writes
only tag lists."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError

from holdfast.backoff import Kind
from holdfast.config import SyncRepositorySection
from holdfast.errors import ParentDenied, ParentNotFound, Refusal
from holdfast.oci.manifest import ManifestUnreadable
from holdfast.routing import Repository
from holdfast.sync.holdings import ManifestReader
from holdfast.sync.image_age import ImageAges
from holdfast.sync.image_copy import ImageCopy, kind_of, reason_of
from holdfast.sync.plan import Image, SyncTarget
from holdfast.sync.removal import Removals
from holdfast.sync.source.selection import Rule, Selection, TagFact

if TYPE_CHECKING:
    from holdfast.sync.context import SyncContext

T = TypeVar("T")

#: why a tag stays as it is here
DELETED = "it was deleted here, and stays so"
PUSHED = "it was pushed here and is not at the parent yet; it stays as it is"
#: failures that are an answer for a row: the parent has no such repository, or does not grant it
ANSWERED: frozenset[Kind] = frozenset({"gone", "denied"})
#: names in one sentence
NAMES = 5
#: the report on tags that the parent lost, by their fate
FATES = {
    "keep": "what is here stays",
    "wait": "it is removed here when the next run does not find it either",
    "remove": "the run before did not find it either, so it is removed here as well if the parent answers 404",
}


class Scan:
    """One scan. With `keeps` false it writes nothing. `images` are the incomplete ones, `up_to_date` counts the
    complete ones; `failures` are requests that failed, by `SyncTarget.key` or repository; `away` are the parents that
    did not answer at all."""

    def __init__(
        self, context: SyncContext, reading: ManifestReader, copy: ImageCopy, *, keeps: bool
    ) -> None:
        self._context, self._reading, self._copy, self._keeps = context, reading, copy, keeps
        self.images: dict[str, tuple[Rule, Image]] = {}
        self.failures: dict[str, tuple[Kind, str, float]] = {}
        self.words: list[str] = []
        self.away: set[str] = set()
        self.up_to_date = self.checked = 0
        #: repositories, or logs, that a parent listed to the end
        self.answered = 0
        #: digests of tags at their parent, as far as they were requested before the choice of tags
        self._digests: dict[tuple[str, str], str] = {}
        self.removals = Removals(context, acts=keeps)
        #: called before a `SyncTarget.key` changes: the work on it is stopped and its trouble dropped
        self.withdraw: Callable[[str], Awaitable[None]] = _nothing
        #: set when `more` may return something
        self.more_ready = asyncio.Event()

    async def run(self, rows: Sequence[tuple[str, SyncRepositorySection]], at_once: int) -> None:
        """Scans every (repository or pattern, row). Failures of a parent or of the store are recorded, not raised."""
        await self._scan(selections_of(rows), at_once)

    async def _scan(self, selections: Mapping[str, Selection], at_once: int) -> None:
        """Scans the selected content of each parent."""
        rules: dict[str, Rule] = {}
        for namespace, selection in selections.items():
            for name in await self._names(namespace, selection):
                rules[Repository(namespace, name).key] = selection.rule_of(name)
        for repository in self.removals.oldest_scan_first(rules):
            if Repository.from_key(repository).namespace not in self.away:
                await self._repository(repository, rules[repository], at_once)
        await self.removals.remove_unselected(lambda repository: _is_selected(repository, selections))
        self.words += self.removals.words

    #: whether a run scans everything that is selected
    is_whole = True
    #: pause before the next try when a parent did not answer (seconds)
    retry_seconds = 30.0

    @property
    def is_answered(self) -> bool:
        """Whether the parents answered everything. A row for something that they do not have, or do not grant, counts
        as answered, unless nothing else was answered: then the login may be wrong."""
        unanswered = any(kind not in ANSWERED for kind, _, _ in self.failures.values())
        return not unanswered and bool(self.answered or not self.failures)

    def troubled(self, before: Collection[str]) -> set[str]:
        """Returns the keys that may have a trouble after the scan. Those of `before` stay when a parent did not
        answer."""
        return {*self.images, *self.failures, *(before if self.away else ())}

    async def more(self) -> list[tuple[Rule, Image]]:
        """Returns images that became due after the scan, without troubles that count."""
        return []

    def settled(self, key: str) -> None:
        """Records that an image of `more` is complete, or that its trouble is recorded."""

    def overtaken(self, target: SyncTarget) -> None:
        """Records that an image of `more` is complete, and that its tag was moved here meanwhile."""

    def stopped(self) -> None:
        """Ends the run; what is not settled is left for the next one."""

    async def _names(self, namespace: str, selection: Selection) -> tuple[str, ...]:
        """Returns the selected repositories of a parent; patterns are matched against its catalogue."""
        catalogue: list[str] = []
        if selection.needs_catalogue:
            try:
                catalogue = await self._context.background[namespace].catalogue()
            except Refusal as error:
                self._no_catalogue(namespace, [name for name in selection.names if "*" in name], error)
                return tuple(name for name in selection.names if "*" not in name)
        choice = selection.repositories(catalogue)
        self.words += choice.words
        return choice.names

    def _no_catalogue(self, namespace: str, patterns: list[str], error: Refusal) -> None:
        names = ", ".join(patterns)
        reason = f"the parent's catalogue, which {names} is matched against, cannot be read: {error.message}"
        if isinstance(error, ParentNotFound | ParentDenied):
            reason += (
                ". Many registries have none, or do not show it, Docker Hub among them: name each repository in"
                " a row of its own, or give this parent a login that may read it (registry:catalog:*)"
            )
        for pattern in patterns:
            self._failed(Repository(namespace, pattern).key, namespace, error, reason)

    async def _repository(self, repository: str, rule: Rule, at_once: int) -> None:
        where = Repository.from_key(repository)
        try:
            listed = await self._context.background[where.namespace].tags(where.name)
            if self._keeps:
                now = self._context.clock.now()
                await asyncio.wrap_future(
                    self._context.store.references.lists.put_tag_list(repository, listed, now=now)
                )
        except (Refusal, StoreError) as error:
            self._failed(repository, where.namespace, error)
            return
        self.answered += 1
        facts = [TagFact(name) for name in listed]
        if rule.given.newer_than:
            facts = await self._dated(repository, rule, facts, at_once)
        chosen = rule.choose(facts, self._context.clock.now())
        self.words += [remark for remark in chosen.words if "for want of a time" not in remark]
        await self._lost(repository, listed, at_once)
        names = sorted((tag.name for tag in chosen.tags), key=lambda name: self._checked_at(repository, name))
        await each(names, at_once, lambda name: self._tag(repository, rule, name))
        if where.namespace not in self.away:
            self.removals.scanned(repository)

    async def _dated(self, repository: str, rule: Rule, facts: list[TagFact], at_once: int) -> list[TagFact]:
        """Returns the tags with the times of their images, without those whose request failed, which are recorded."""
        ages = ImageAges(self._context, self._reading, repository, rule.platforms)
        namespace = Repository.from_key(repository).namespace
        times: dict[str, float | None] = {fact.name: None for fact in facts if not rule.passes(fact.name)}

        async def one(name: str) -> None:
            if namespace in self.away:
                return
            try:
                digest = self._digests[repository, name] = await self._digest(repository, name)
                times[name] = await ages.of(digest)
            except (Refusal, StoreError, ManifestUnreadable) as error:
                self._failed(f"{repository}:{name}", namespace, error)

        await each([fact.name for fact in facts if fact.name not in times], at_once, one)
        if self._keeps and namespace not in self.away:
            await ages.keep()
        return [TagFact(fact.name, times[fact.name]) for fact in facts if fact.name in times]

    async def _lost(self, repository: str, listed: list[str], at_once: int) -> None:
        """Reports, and removes if that is due, the tags here that the parent no longer has."""
        lost = self.removals.lost_in(repository, listed)
        for fate, reason in FATES.items():
            names = [one.name for one in lost if one.fate == fate]
            more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
            if names:
                self.words.append(
                    f"{repository}: the parent does not list {', '.join(names[:NAMES])}{more}; {reason}"
                )
        if lost and not listed:
            self.words.append(
                f"{repository}: the parent lists no tag at all, and nothing is removed because of that; if nothing of"
                " it is needed, take it out of [[sync.repositories]]"
            )
        await each(lost, at_once, lambda one: self.removals.remove_lost(repository, one))

    def _checked_at(self, repository: str, name: str) -> float:
        """Returns when the parent last confirmed a tag (wall seconds), 0 for an unknown one: the oldest is checked
        first."""
        try:
            tag = self._context.store.references.tag(repository, name)
        except StoreError:
            return 0.0
        return 0.0 if tag is None else tag.checked_at

    async def _tag(self, repository: str, rule: Rule, name: str) -> None:
        where, key = Repository.from_key(repository), f"{repository}:{name}"
        if where.namespace in self.away:
            return
        try:
            if why := self._why_kept_local(repository, name, None):
                self.words.append(f"{key}: {why}")
                return
            digest = self._digests.pop((repository, name), "") or await self._digest(repository, name)
            if why := self._why_kept_local(repository, name, digest):
                self.words.append(f"{key}: {why}")
                return
            target = SyncTarget(repository, name, digest, where.namespace)
            image = self._copy.plan_known(rule, target)
        except (Refusal, StoreError, ManifestUnreadable) as error:
            self._failed(key, where.namespace, error)
            return
        self.checked += 1
        if image is None:
            self.up_to_date += 1
            self.removals.synchronised(repository)
            if self._keeps:
                self._confirm(repository, name, digest)
        else:
            self.images[key] = (rule, image)

    def _confirm(self, repository: str, name: str, digest: str) -> None:
        """Records that the parent confirmed a tag, which saves a request for the next client. The commit is not
        awaited: its loss does no harm."""
        self._context.store.references.put_tag(
            repository, name, Digest.parse(digest), now=self._context.clock.now()
        )

    async def _digest(self, repository: str, name: str) -> str:
        """Returns the digest of a tag at the parent; by GET where the HEAD has none."""
        where = Repository.from_key(repository)
        head = await self._context.background[where.namespace].head_manifest(where.name, name)
        return head.digest or (await self._reading.read(repository, name)).digest

    def _why_kept_local(self, repository: str, name: str, digest: str | None) -> str:
        """See the function."""
        return why_kept_local(self._context, repository, name, digest)

    def _failed(self, key: str, namespace: str, error: Exception, reason: str = "") -> None:
        kind = kind_of(error, self._context.parents[namespace].state)
        if kind == "offline":
            self.away.add(namespace)
        else:
            self.failures[key] = (
                kind,
                reason or reason_of(error),
                float(getattr(error, "retry_after", 0) or 0),
            )


def why_kept_local(context: SyncContext, repository: str, name: str, digest: str | None) -> str:
    """Returns why a tag, or with `name` "" a manifest, is neither requested nor fetched; "" when it may be. A change
    that clients made here takes precedence over the parent until the outbox has sent it. `digest` is the parent's, None
    while it is unknown. Raises StoreError."""
    store = context.store
    if digest and store.references.is_deleted(repository, "manifest", digest):
        return DELETED
    if name and store.references.is_deleted(repository, "tag", name):
        return DELETED
    held = store.references.tag(repository, name) if name else None
    if held is None or held.origin != "local" or str(held.digest) == digest:
        return ""
    waits = store.references.outbox.is_pending(repository, held.digest) or context.is_going_up(
        repository, name
    )
    return PUSHED if waits else ""


def selections_of(rows: Iterable[tuple[str, SyncRepositorySection]]) -> dict[str, Selection]:
    """Returns the selection of each parent, from (repository or pattern, row)."""
    parents: dict[str, list[Rule]] = {}
    for repository, row in rows:
        parents.setdefault(Repository.from_key(repository).namespace, []).append(Rule(row))
    return {namespace: Selection(tuple(rules)) for namespace, rules in parents.items()}


def _is_selected(repository: str, selections: Mapping[str, Selection]) -> bool:
    where = Repository.from_key(repository)
    return where.namespace in selections and selections[where.namespace].covers(where.name)


class ScopeScan(Scan):
    """A scan of the repositories in a connected registry's scope, at a parent without a log."""

    def __init__(
        self,
        context: SyncContext,
        reading: ManifestReader,
        copy: ImageCopy,
        selection: Selection,
        *,
        keeps: bool,
    ) -> None:
        super().__init__(context, reading, copy, keeps=keeps)
        self._selection = selection

    async def run(self, rows: Sequence[tuple[str, SyncRepositorySection]], at_once: int) -> None:
        """See `Scan`; the selection replaces the rows."""
        await self._scan({"": self._selection}, at_once)


async def _nothing(key: str) -> None:
    """Does nothing."""


async def each(items: Iterable[T], at_once: int, work: Callable[[T], Awaitable[None]]) -> None:
    """Does the work for every item, `at_once` items at a time."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
