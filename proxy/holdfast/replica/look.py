"""What the parents have of what is wanted: one list a repository, one HEAD a tag. Keeps nothing but tag lists."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError

from holdfast.config import SyncRepository
from holdfast.errors import ParentDenied, ParentNotFound, Refusal
from holdfast.manifest import ManifestInvalid
from holdfast.replica.age import Ages
from holdfast.replica.copy import Copy
from holdfast.replica.departure import Departures
from holdfast.replica.failure import kind_of, reason_of
from holdfast.replica.holdings import Reading
from holdfast.repository import Repository
from holdfast.sync.backoff import Kind
from holdfast.sync.plan import Image, Target
from holdfast.sync.wanted import Rule, TagFact, Wanted

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

T = TypeVar("T")

#: why a tag is left as it is here
DELETED = "it was deleted here, and stays so"
PUSHED = "it was pushed here and the parent does not know of it yet; it stays as it is"
#: names told in one sentence
NAMES = 5
#: what is told of tags that the parent lost, by their fate
FATES = {
    "keep": "what is here stays",
    "wait": "it goes here when the next run does not find it either",
    "remove": "the run before did not find it either, so it goes here, too, if the parent says 404",
}


class Look:
    """One look. With `keeps` false nothing is changed by it. `images` lack something, `here` counts those that do not;
    `failures` are what could not be asked, by `Target.key` or repository; `away` are parents that did not answer at
    all."""

    def __init__(self, keeper: Keeper, reading: Reading, copy: Copy, *, keeps: bool) -> None:
        self._keeper, self._reading, self._copy, self._keeps = keeper, reading, copy, keeps
        self.images: dict[str, tuple[Rule, Image]] = {}
        self.failures: dict[str, tuple[Kind, str, float]] = {}
        self.words: list[str] = []
        self.away: set[str] = set()
        self.here = self.asked = 0
        #: what tags name at their parent, as far as it was asked before they were chosen
        self._named: dict[tuple[str, str], str] = {}
        self.departures = Departures(keeper, acts=keeps)
        #: called before something else becomes of a `Target.key`: what is at work on it stops, its trouble is over
        self.withdraw: Callable[[str], Awaitable[None]] = _nothing
        #: set when `more` has something
        self.news = asyncio.Event()

    async def over(self, rows: Sequence[tuple[str, SyncRepository]], at_once: int) -> None:
        """Look at every (repository or pattern, row). Never raises for what a parent or the store says."""
        await self._over(wanted_of(rows), at_once)

    async def _over(self, wanted: Mapping[str, Wanted], at_once: int) -> None:
        """Look at what is wanted of each parent."""
        rules: dict[str, Rule] = {}
        for namespace, wish in wanted.items():
            for name in await self._names(namespace, wish):
                rules[Repository(namespace, name).key] = wish.rule_of(name)
        for repository in self.departures.in_turn(rules):
            if Repository.from_key(repository).namespace not in self.away:
                await self._repository(repository, rules[repository], at_once)
        await self.departures.left(lambda repository: _is_wanted(repository, wanted))
        self.words += self.departures.words

    #: whether a run looks at everything that is wanted
    is_whole = True
    #: a parent that was away is asked again after so long (seconds)
    patience = 30.0

    def troubled(self, before: Collection[str]) -> set[str]:
        """Keys that may have a trouble after the look, of those that had one and of those that have one now. Of images
        whose parent was not reached nothing new is known."""
        return {*self.images, *self.failures, *(before if self.away else ())}

    async def more(self) -> list[tuple[Rule, Image]]:
        """Images that are wanted now, beside those that the look found. None has a trouble that counts."""
        return []

    def settled(self, key: str) -> None:
        """An image of `more` is here, or its trouble is recorded."""

    def overtaken(self, target: Target) -> None:
        """An image of `more` is here, and its tag was moved here while it came."""

    def stopped(self) -> None:
        """The run is over; what was not settled is for the next."""

    async def _names(self, namespace: str, wanted: Wanted) -> tuple[str, ...]:
        """Repositories of a parent that are wanted; those that patterns find are read from its catalogue."""
        catalogue: list[str] = []
        if wanted.needs_catalogue:
            try:
                catalogue = await self._keeper.background[namespace].catalogue()
            except Refusal as error:
                self._no_catalogue(namespace, [name for name in wanted.names if "*" in name], error)
                return tuple(name for name in wanted.names if "*" not in name)
        found = wanted.repositories(catalogue)
        self.words += found.words
        return found.names

    def _no_catalogue(self, namespace: str, patterns: list[str], error: Refusal) -> None:
        told = f"the parent's catalogue, which tells what {', '.join(patterns)} means, cannot be read: {error.message}"
        if isinstance(error, ParentNotFound | ParentDenied):
            told += (
                ". Many registries have none, or show it to nobody, Docker Hub among them: name each repository in"
                " a row of its own, or give this parent a login that may read it (registry:catalog:*)"
            )
        for pattern in patterns:
            self._failed(Repository(namespace, pattern).key, namespace, error, told)

    async def _repository(self, repository: str, rule: Rule, at_once: int) -> None:
        where = Repository.from_key(repository)
        try:
            listed = await self._keeper.background[where.namespace].tags(where.name)
            if self._keeps:
                now = self._keeper.clock.now()
                await asyncio.wrap_future(self._keeper.store.put_tag_list(repository, listed, now=now))
        except (Refusal, StoreError) as error:
            self._failed(repository, where.namespace, error)
            return
        facts = [TagFact(name) for name in listed]
        if rule.given.newer_than:
            facts = await self._dated(repository, rule, facts, at_once)
        chosen = rule.choose(facts, self._keeper.clock.now())
        self.words += [words for words in chosen.words if "for want of a time" not in words]
        await self._lost(repository, listed, at_once)
        names = sorted((tag.name for tag in chosen.tags), key=lambda name: self._checked_at(repository, name))
        await each(names, at_once, lambda name: self._tag(repository, rule, name))
        if where.namespace not in self.away:
            self.departures.looked(repository)

    async def _dated(self, repository: str, rule: Rule, facts: list[TagFact], at_once: int) -> list[TagFact]:
        """The tags with the times of their images; what could not be asked is left out, and told."""
        ages = Ages(self._keeper, self._reading, repository, rule.platforms)
        namespace = Repository.from_key(repository).namespace
        times: dict[str, float | None] = {fact.name: None for fact in facts if not rule.passes(fact.name)}

        async def one(name: str) -> None:
            if namespace in self.away:
                return
            try:
                digest = self._named[repository, name] = await self._digest(repository, name)
                times[name] = await ages.of(digest)
            except (Refusal, StoreError, ManifestInvalid) as error:
                self._failed(f"{repository}:{name}", namespace, error)

        await each([fact.name for fact in facts if fact.name not in times], at_once, one)
        if self._keeps and namespace not in self.away:
            await ages.keep()
        return [TagFact(fact.name, times[fact.name]) for fact in facts if fact.name in times]

    async def _lost(self, repository: str, listed: list[str], at_once: int) -> None:
        """Tags that are here and that the parent has no more."""
        lost = self.departures.lost(repository, listed)
        for fate, told in FATES.items():
            names = [one.name for one in lost if one.fate == fate]
            more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
            if names:
                self.words.append(
                    f"{repository}: the parent does not list {', '.join(names[:NAMES])}{more}; {told}"
                )
        if lost and not listed:
            self.words.append(
                f"{repository}: the parent lists no tag at all, and nothing is removed on that; if nothing of it is"
                " wanted, take it out of [[sync.repositories]]"
            )
        await each(lost, at_once, lambda one: self.departures.settle(repository, one))

    def _checked_at(self, repository: str, name: str) -> float:
        """When the parent last confirmed a tag: the longest ago is asked about first."""
        try:
            found = self._keeper.store.tag(repository, name)
        except StoreError:
            return 0.0
        return 0.0 if found is None else found.checked_at

    async def _tag(self, repository: str, rule: Rule, name: str) -> None:
        where, key = Repository.from_key(repository), f"{repository}:{name}"
        if where.namespace in self.away:
            return
        try:
            if why := self._left_alone(repository, name, None):
                self.words.append(f"{key}: {why}")
                return
            digest = self._named.pop((repository, name), "") or await self._digest(repository, name)
            if why := self._left_alone(repository, name, digest):
                self.words.append(f"{key}: {why}")
                return
            target = Target(repository, name, digest, where.namespace)
            image = self._copy.lacks(rule, target)
        except (Refusal, StoreError, ManifestInvalid) as error:
            self._failed(key, where.namespace, error)
            return
        self.asked += 1
        if image is None:
            self.here += 1
            self.departures.brought(repository)
            if self._keeps:
                self._confirm(repository, name, digest)
        else:
            self.images[key] = (rule, image)

    def _confirm(self, repository: str, name: str, digest: str) -> None:
        """The parent said what the tag names: clients need not have it asked again. Not waited for, and no loss."""
        self._keeper.store.put_tag(repository, name, Digest.parse(digest), now=self._keeper.clock.now())

    async def _digest(self, repository: str, name: str) -> str:
        """What a tag names at the parent; by GET where its HEAD does not say."""
        where = Repository.from_key(repository)
        head = await self._keeper.background[where.namespace].head_manifest(where.name, name)
        return head.digest or (await self._reading.read(repository, name)).digest

    def _left_alone(self, repository: str, name: str, digest: str | None) -> str:
        """See `outweighed`."""
        return outweighed(self._keeper, repository, name, digest)

    def _failed(self, key: str, namespace: str, error: Exception, told: str = "") -> None:
        kind = kind_of(error, self._keeper.parents[namespace].state)
        if kind == "offline":
            self.away.add(namespace)
        else:
            self.failures[key] = (
                kind,
                told or reason_of(error),
                float(getattr(error, "retry_after", 0) or 0),
            )


def outweighed(keeper: Keeper, repository: str, name: str, digest: str | None) -> str:
    """Why a tag, or with `name` "" a manifest, is neither asked for nor brought: what clients did here counts more than
    what the parent has, until the outbox is through with it. "" when it may be. `digest` None: of the tag nothing is
    known. Raises StoreError."""
    store = keeper.store
    if digest and store.is_deleted(repository, "manifest", digest):
        return DELETED
    if name and store.is_deleted(repository, "tag", name):
        return DELETED
    held = store.tag(repository, name) if name else None
    if held is None or held.origin != "local" or str(held.digest) == digest:
        return ""
    waits = store.is_pending(repository, held.digest) or keeper.is_going_up(repository, name)
    return PUSHED if waits else ""


def wanted_of(rows: Iterable[tuple[str, SyncRepository]]) -> dict[str, Wanted]:
    """By parent, what (repository or pattern, row) wants of it."""
    parents: dict[str, list[Rule]] = {}
    for repository, row in rows:
        parents.setdefault(Repository.from_key(repository).namespace, []).append(Rule(row))
    return {namespace: Wanted(tuple(rules)) for namespace, rules in parents.items()}


def _is_wanted(repository: str, wanted: Mapping[str, Wanted]) -> bool:
    where = Repository.from_key(repository)
    return where.namespace in wanted and wanted[where.namespace].covers(where.name)


class ScopeLook(Look):
    """At the repositories of a connected registry's scope, of a parent that has no log."""

    def __init__(self, keeper: Keeper, reading: Reading, copy: Copy, wanted: Wanted, *, keeps: bool) -> None:
        super().__init__(keeper, reading, copy, keeps=keeps)
        self._wanted = wanted

    async def over(self, rows: Sequence[tuple[str, SyncRepository]], at_once: int) -> None:
        """See `Look`; there are no rows but those that narrow."""
        await self._over({"": self._wanted}, at_once)


async def _nothing(key: str) -> None:
    """Nobody is at work."""


async def each(items: Iterable[T], at_once: int, work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work for every item, so many at once."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
