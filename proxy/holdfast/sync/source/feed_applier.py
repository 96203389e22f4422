"""Applies the changes of a Holdfast parent's log, in the order that `feed.py` decides. A tag whose image is complete
here costs the parent no request."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from holdfast_core.errors import StoreError
from holdfast_core.record import LockTarget

from holdfast.config import SyncRepositorySection
from holdfast.errors import DigestInvalid
from holdfast.log import log
from holdfast.oci.manifest import ManifestUnreadable
from holdfast.oci.names import digest, is_repository, is_tag, shown
from holdfast.sync.holdings import ManifestReader
from holdfast.sync.image_copy import ImageCopy, reason_of
from holdfast.sync.plan import Image, SyncTarget
from holdfast.sync.removal import remove_manifest, remove_repository, remove_tag
from holdfast.sync.run_state import parse_key
from holdfast.sync.source.feed import Feed, FeedChange
from holdfast.sync.source.held_tags import HeldTags
from holdfast.sync.source.scan import Scan, each
from holdfast.sync.source.selection import Rule, Selection, TagFact

if TYPE_CHECKING:
    from holdfast.sync.context import SyncContext


#: the rule of a repository without a row in the configuration: everything; referrers are messages of their own
EVERYTHING = Rule(SyncRepositorySection(name="**", referrers=()))
#: changes after which the event loop gets a turn, and images that `more` returns at once
YIELD_EVERY, BATCH = 32, 256
#: length of that turn: one pass of the event loop (seconds)
YIELD_SECONDS = 0.0


class LogReadFailure(NamedTuple):
    """Why the parent's log was not read to its end. `retry_after` is the parent's Retry-After (seconds), 0 without
    one."""

    reason: str
    retry_after: float = 0.0


class FeedLog(Protocol):
    """The client of the parent's log."""

    async def read(self, feed: Feed) -> LogReadFailure | None:
        """Reads the log to its end. Returns why that failed, None when it did not."""


class FeedApplier(Scan):
    """The scan of a parent with a log. `due` are the keys of troubles to try again. With `lists` everything is listed;
    without, only the changes are read. `held` are the tags for which nothing is requested, because a change of them is
    still to be sent up."""

    def __init__(
        self,
        context: SyncContext,
        reading: ManifestReader,
        copy: ImageCopy,
        selection: Selection,
        feed: Feed,
        log: FeedLog,
        due: Collection[str],
        held: HeldTags,
        *,
        lists: bool,
        keeps: bool,
    ) -> None:
        super().__init__(context, reading, copy, keeps=keeps)
        self._selection, self._feed, self._log = selection, feed, log
        self._retries, self._held, self.is_whole = due, held, lists
        self._recovered: set[str] = set()
        self._at_work: dict[str, FeedChange] = {}
        #: whether changes that arrive meanwhile are applied
        self.is_open = False
        self._chosen: dict[str, set[str]] = {}

    async def run(self, rows: Sequence[tuple[str, SyncRepositorySection]], at_once: int) -> None:
        """Reads the log and retries what failed before. Failures of the parent are recorded, not raised."""
        if self.is_whole:
            self._feed.start_listing()
        if (failure := await self._log.read(self._feed)) is not None:
            self.away.add("")
            self.words.append(failure.reason)
            self.retry_seconds = failure.retry_after or self.retry_seconds
            return
        self.answered += 1
        if self._feed.is_comparison_due:
            await self._compare(at_once)
            self._feed.end_comparison()
            self._held.again(self._held, self._context.clock.monotonic())
        await self.removals.remove_unselected(self._is_covered, whole=self.is_whole)
        self.words += self.removals.words
        if self._keeps:
            self.is_open = True
            await each(list(self._retries), at_once, self._retry)
        else:
            await self._dry_run()

    def troubled(self, before: Collection[str]) -> set[str]:
        """See `Scan`."""
        kept = set() if self.is_whole and not self.away else set(before) - self._recovered
        return {*self.images, *self.failures, *kept}

    async def _compare(self, at_once: int) -> None:
        """Adds the removals of what is here and not in the listing; reports rows of the configuration that match
        nothing."""
        self.words += self._selection.repositories(self._feed.listed_repositories).words
        if not self._feed.is_complete:
            self.words.append("the parent is not complete itself: what it does not list stays here")
        for repository in self._context.store.references.repositories():
            if ":" in repository or not self._selection.covers(repository):
                continue
            listed = [name for name in self._feed.listed(repository) if ":" not in name]
            if (rule := self._configured_rule(repository)) is not None:
                chosen = rule.choose([TagFact(name) for name in listed], self._context.clock.now())
                self._chosen[repository] = {tag.name for tag in chosen.tags}
                self.words += chosen.words
            if self._feed.is_complete:
                await self._lost(repository, listed, at_once)

    async def _retry(self, key: str) -> None:
        repository, tag, reference = parse_key(key)
        if not self._selection.covers(repository):
            self._recovered.add(key)
        elif tag:
            await self._tag(repository, self._configured_rule(repository) or EVERYTHING, tag)
            self._recovered |= {key} - {*self.images, *self.failures}
        else:
            rule = self._configured_rule(repository) or EVERYTHING
            image = self._incomplete(rule, SyncTarget(repository, "", reference))
            if image is None:
                self._recovered.add(key)
            else:
                self.images[key] = rule, image

    def _is_covered(self, repository: str) -> bool:
        """Whether a repository is selected; one of another parent always counts as selected."""
        return ":" in repository or self._selection.covers(repository)

    async def more(self) -> list[tuple[Rule, Image]]:
        """Applies the removals that are ready and returns the images that are."""
        self.more_ready.clear()
        images: list[tuple[Rule, Image]] = []
        looked = 0
        while len(images) < BATCH and (change := self._feed.take()) is not None:
            looked += 1
            if looked % YIELD_EVERY == 0:
                await asyncio.sleep(YIELD_SECONDS)
            self._at_work[change.key] = change
            try:
                image = await self._begin(change)
            except StoreError as error:  # the try reports what is wrong
                log.warning("record unreadable", image=change.key, reason=str(error))
                image = EVERYTHING, Image(SyncTarget(change.repository, change.tag, change.digest), (), 0)
            if image is None:
                self._settle(change.key)
            else:
                images.append(image)
        if len(images) == BATCH:
            self.more_ready.set()
        return images

    def settled(self, key: str) -> None:
        """See `Scan`."""
        self._held.forget(key)
        self._settle(key)

    def overtaken(self, target: SyncTarget) -> None:
        """See `Scan`. The outbox decides which tag stays, or has decided while the image was fetched."""
        clock = self._context.clock
        self._held.hold(target.key, target.digest, clock.monotonic(), clock.jitter(1.0))
        self._settle(target.key)

    def _settle(self, key: str) -> None:
        if (change := self._at_work.pop(key, None)) is not None:
            self._feed.settle(change)

    def stopped(self) -> None:
        """See `Scan`."""
        self.is_open = False
        for change in self._at_work.values():
            self._feed.give_back(change)
        self._at_work.clear()

    async def _begin(self, change: FeedChange) -> tuple[Rule, Image] | None:
        """Begins a change. Returns the image to fetch, None when there is nothing to fetch."""
        await self.withdraw(change.key)
        if not is_valid(change):
            self.words.append(
                f"the parent's log has {shown(change.key)}, which is not a valid name; it is skipped"
            )
            return None
        if change.removes and self._selection.covers(change.repository):
            await self._remove(change)
            return None
        rule = self._rule(change) if self._selection.covers(change.repository) else None
        if rule is None:
            self._held.forget(change.key)
            return None
        image = self._incomplete(rule, SyncTarget(change.repository, change.tag, change.digest))
        return None if image is None else (rule, image)

    def _incomplete(self, rule: Rule, target: SyncTarget) -> Image | None:
        """Returns the incomplete image of a target; None when it is complete, or when a change of clients here takes
        precedence. An image whose manifest cannot be read here is tried, which reports the trouble."""
        self.checked += 1
        try:
            if why := self._why_kept_local(target.repository, target.tag, target.digest):
                self.words.append(f"{target.key}: {why}")
                return None
            image = self._copy.plan_known(rule, target)
        except (StoreError, ManifestUnreadable):
            return Image(target, (), 0)
        if image is None:
            self._held.forget(target.key)
            self.up_to_date += 1
            self.removals.synchronised(target.repository)
        return image

    def _why_kept_local(self, repository: str, name: str, digest: str | None) -> str:
        """See `Scan`. The parent's digest of the tag is held until the change made here was sent or dropped."""
        why, clock = super()._why_kept_local(repository, name, digest), self._context.clock
        if why and name:
            self._held.hold(f"{repository}:{name}", digest, clock.monotonic(), clock.jitter(1.0))
        return why

    async def _remove(self, change: FeedChange) -> None:
        if not self._keeps:
            return
        try:
            if not self._may_remove(change):
                return
            if change.tag:
                why = await remove_tag(self._context, change.repository, change.tag)
            elif change.digest:
                why = await remove_manifest(self._context, change.repository, change.digest)
            else:
                why = await remove_repository(self._context, change.repository)
        except StoreError as error:
            why = f"{change.key} was deleted at the parent, and cannot be deleted here: {reason_of(error)}"
        self.words += [why] if why else []

    def _may_remove(self, change: FeedChange) -> bool:
        """Whether a removal may be applied: not that of a tag with a change made here that is still to be sent up."""
        is_here = change.tag and self._context.store.references.tag(change.repository, change.tag) is not None
        if is_here and (why := self._why_kept_local(change.repository, change.tag, "")):
            self.words.append(f"{change.key}: {why}")
            return False
        self._held.forget(change.key)
        return True

    def _configured_rule(self, repository: str) -> Rule | None:
        """Returns the rule that the node's own configuration has for a repository."""
        return next((rule for rule in self._selection.rules if rule.names.fullmatch(repository)), None)

    def _rule(self, change: FeedChange) -> Rule | None:
        """Returns the rule by which a change is fetched, None when it is not selected."""
        rule = self._configured_rule(change.repository)
        if rule is None:
            return EVERYTHING
        if change.tag:
            return rule if self._is_tag_selected(rule, change) else None
        selected = rule.selects_referrer(change.artifact_type) and self._is_expected(
            change.repository, change.subject
        )
        return rule if selected else None

    def _is_tag_selected(self, rule: Rule, change: FeedChange) -> bool:
        """Whether a rule selects a tag among those in the listing and those that are here."""
        if change.tag in self._chosen.get(change.repository, ()):
            return True
        tags = {
            *self._context.store.references.tags(change.repository),
            *self._chosen.get(change.repository, ()),
        } - {change.tag}
        facts = [*map(TagFact, sorted(tags)), TagFact(change.tag, change.at)]
        return any(tag.name == change.tag for tag in rule.choose(facts, self._context.clock.now()).tags)

    def _is_expected(self, repository: str, subject: str) -> bool:
        """Whether a manifest is here or being fetched."""
        if not subject:
            return False
        if self._context.store.references.is_there(repository, LockTarget("manifest", subject)):
            return True
        return any((d.repository, d.digest) == (repository, subject) for d in self._at_work.values())

    async def _dry_run(self) -> None:
        """Collects everything that a run would fetch."""
        while images := await self.more():
            for rule, image in images:
                self.images[image.target.key] = rule, image
                self.settled(image.target.key)
            await asyncio.sleep(YIELD_SECONDS)


def is_valid(change: FeedChange) -> bool:
    """Whether the names of a change are valid: a parent is trusted no more than a client, and an invalid name could lie
    in another parent's namespace."""
    if not is_repository(change.repository) or (change.tag and not is_tag(change.tag)):
        return False
    if not change.digest:
        return change.removes
    try:
        return all(digest(text) for text in (change.digest, change.subject) if text)
    except DigestInvalid:
        return False
