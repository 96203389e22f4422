"""What a Holdfast parent's log asks of this node: carries out what `holdfast.sync.feed` decides. A tag whose image is
complete here costs the parent no request."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog
from holdfast_core.errors import StoreError
from holdfast_core.record import Target as Place

from holdfast.config import SyncRepository
from holdfast.errors import DigestInvalid
from holdfast.manifest import ManifestInvalid
from holdfast.replica.copy import Copy
from holdfast.replica.failure import reason_of
from holdfast.replica.holdings import Reading
from holdfast.replica.look import Look, each
from holdfast.replica.removal import remove_manifest, remove_repository, remove_tag
from holdfast.sync.feed import Deed, Feed
from holdfast.sync.held import Held
from holdfast.sync.plan import Image, Target
from holdfast.sync.wanted import Rule, TagFact, Wanted
from holdfast.sync.work import named
from holdfast.wire.names import digest, is_repository, is_tag, shown

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

log = structlog.get_logger()

#: where the file says nothing of a repository, all of it comes; its referrers are messages of their own
EVERYTHING = Rule(SyncRepository(name="**", referrers=()))
#: deeds that are looked at before others have a turn, and images handed out at once
BREATH, HANDFUL = 32, 256
#: gives way to the rest of the node, and no longer (seconds)
TURN = 0.0


class Unread(NamedTuple):
    """Why the parent's log was not read to its end; `retry_after` as the parent asks (seconds), 0 where it does not."""

    why: str
    retry_after: float = 0.0


class Log(Protocol):
    """The parent's."""

    async def read(self, feed: Feed) -> Unread | None:
        """Until nothing waits there."""


class Told(Look):
    """`due` are keys of troubles to try again. With `lists` everything is listed anew; without, only what changed is
    looked at. `held` are tags of which nothing is asked, because a change of them is still to go up."""

    def __init__(
        self,
        keeper: Keeper,
        reading: Reading,
        copy: Copy,
        wanted: Wanted,
        feed: Feed,
        log: Log,
        due: Collection[str],
        held: Held,
        *,
        lists: bool,
        keeps: bool,
    ) -> None:
        super().__init__(keeper, reading, copy, keeps=keeps)
        self._wanted, self._feed, self._log = wanted, feed, log
        self._due, self._held, self.is_whole = due, held, lists
        self._fine: set[str] = set()
        self._at_work: dict[str, Deed] = {}
        #: whether what comes meanwhile is taken up
        self.is_open = False
        self._chosen: dict[str, set[str]] = {}

    async def over(self, rows: Sequence[tuple[str, SyncRepository]], at_once: int) -> None:
        """Read what there is to know, and look at what failed before. Never raises for what the parent says."""
        if self.is_whole:
            self._feed.list_anew()
        if (unread := await self._log.read(self._feed)) is not None:
            self.away.add("")
            self.words.append(unread.why)
            self.patience = unread.retry_after or self.patience
            return
        if self._feed.compares:
            await self._compare(at_once)
            self._feed.compared()
            self._held.again(self._held, self._keeper.clock.monotonic())
        await self.departures.left(self._is_covered, whole=self.is_whole)
        self.words += self.departures.words
        if self._keeps:
            self.is_open = True
            await each(list(self._due), at_once, self._retry)
        else:
            await self._plan()

    def troubled(self, before: Collection[str]) -> set[str]:
        """See `Look`."""
        kept = set() if self.is_whole and not self.away else set(before) - self._fine
        return {*self.images, *self.failures, *kept}

    async def _compare(self, at_once: int) -> None:
        """What is here and was not listed; rows of the file that are for nothing."""
        self.words += self._wanted.repositories(self._feed.repositories).words
        if not self._feed.is_complete:
            self.words.append(
                "the parent has not brought everything itself: what it does not list stays here"
            )
        for repository in self._keeper.store.repositories():
            if ":" in repository or not self._wanted.covers(repository):
                continue
            listed = [name for name in self._feed.listed(repository) if ":" not in name]
            if (rule := self._narrowing(repository)) is not None:
                chosen = rule.choose([TagFact(name) for name in listed], self._keeper.clock.now())
                self._chosen[repository] = {tag.name for tag in chosen.tags}
                self.words += chosen.words
            if self._feed.is_complete:
                await self._lost(repository, listed, at_once)

    async def _retry(self, key: str) -> None:
        repository, tag, reference = named(key)
        if not self._wanted.covers(repository):
            self._fine.add(key)
        elif tag:
            await self._tag(repository, self._narrowing(repository) or EVERYTHING, tag)
            self._fine |= {key} - {*self.images, *self.failures}
        else:
            rule = self._narrowing(repository) or EVERYTHING
            image = self._lacking(rule, Target(repository, "", reference))
            if image is None:
                self._fine.add(key)
            else:
                self.images[key] = rule, image

    def _is_covered(self, repository: str) -> bool:
        """Whether it is wanted; of a repository of another parent the scope says nothing."""
        return ":" in repository or self._wanted.covers(repository)

    # ---- deeds

    async def more(self) -> list[tuple[Rule, Image]]:
        """What may be begun now; what goes is gone afterwards."""
        self.news.clear()
        found: list[tuple[Rule, Image]] = []
        looked = 0
        while len(found) < HANDFUL and (deed := self._feed.take()) is not None:
            looked += 1
            if looked % BREATH == 0:
                await asyncio.sleep(TURN)
            self._at_work[deed.key] = deed
            try:
                image = await self._begun(deed)
            except StoreError as error:  # it is tried, so that what is wrong is told
                log.warning("record unreadable", image=deed.key, reason=str(error))
                image = EVERYTHING, Image(Target(deed.repository, deed.tag, deed.digest), (), 0)
            if image is None:
                self._rest(deed.key)
            else:
                found.append(image)
        if len(found) == HANDFUL:
            self.news.set()
        return found

    def settled(self, key: str) -> None:
        """See `Look`."""
        self._held.forget(key)
        self._rest(key)

    def overtaken(self, target: Target) -> None:
        """See `Look`. The outbox decides which of both stays, or did so while the image came."""
        clock = self._keeper.clock
        self._held.hold(target.key, target.digest, clock.monotonic(), clock.jitter(1.0))
        self._rest(target.key)

    def _rest(self, key: str) -> None:
        if (deed := self._at_work.pop(key, None)) is not None:
            self._feed.settled(deed)

    def stopped(self) -> None:
        """See `Look`."""
        self.is_open = False
        for deed in self._at_work.values():
            self._feed.give_back(deed)
        self._at_work.clear()

    async def _begun(self, deed: Deed) -> tuple[Rule, Image] | None:
        """What it brings; None when there is nothing to bring (any more)."""
        await self.withdraw(deed.key)
        if not is_sound(deed):
            self.words.append(
                f"the parent told of {shown(deed.key)}, which can be nothing here; it is passed over"
            )
            return None
        if deed.removes and self._wanted.covers(deed.repository):
            await self._remove(deed)
            return None
        rule = self._rule(deed) if self._wanted.covers(deed.repository) else None
        if rule is None:
            self._held.forget(deed.key)
            return None
        image = self._lacking(rule, Target(deed.repository, deed.tag, deed.digest))
        return None if image is None else (rule, image)

    def _lacking(self, rule: Rule, target: Target) -> Image | None:
        """The image, None when it is whole here or what clients did here counts more. One that cannot be read here is
        tried, so that its trouble is told."""
        self.asked += 1
        try:
            if why := self._left_alone(target.repository, target.tag, target.digest):
                self.words.append(f"{target.key}: {why}")
                return None
            image = self._copy.lacks(rule, target)
        except (StoreError, ManifestInvalid):
            return Image(target, (), 0)
        if image is None:
            self._held.forget(target.key)
            self.here += 1
            self.departures.brought(target.repository)
        return image

    def _left_alone(self, repository: str, name: str, digest: str | None) -> str:
        """See `Look`; what the parent said of the tag counts once its change from here went up, or gave way."""
        why, clock = super()._left_alone(repository, name, digest), self._keeper.clock
        if why and name:
            self._held.hold(f"{repository}:{name}", digest, clock.monotonic(), clock.jitter(1.0))
        return why

    async def _remove(self, deed: Deed) -> None:
        if not self._keeps:
            return
        try:
            if not self._may_go(deed):
                return
            if deed.tag:
                why = await remove_tag(self._keeper, deed.repository, deed.tag)
            elif deed.digest:
                why = await remove_manifest(self._keeper, deed.repository, deed.digest)
            else:
                why = await remove_repository(self._keeper, deed.repository)
        except StoreError as error:
            why = f"{deed.key} was deleted at the parent, and cannot be here: {reason_of(error)}"
        self.words += [why] if why else []

    def _may_go(self, deed: Deed) -> bool:
        """Whether a tag is here, and nothing that was done to it here is still to go up; so is all that is no tag."""
        is_here = deed.tag and self._keeper.store.tag(deed.repository, deed.tag) is not None
        if is_here and (why := self._left_alone(deed.repository, deed.tag, "")):
            self.words.append(f"{deed.key}: {why}")
            return False
        self._held.forget(deed.key)
        return True

    # ---- what is wanted of a repository

    def _narrowing(self, repository: str) -> Rule | None:
        """The row of the node's own file for it."""
        return next((rule for rule in self._wanted.rules if rule.names.fullmatch(repository)), None)

    def _rule(self, deed: Deed) -> Rule | None:
        """By which it comes, None when it does not."""
        rule = self._narrowing(deed.repository)
        if rule is None:
            return EVERYTHING
        if deed.tag:
            return rule if self._is_chosen(rule, deed) else None
        wanted = rule.wants_referrer(deed.artifact_type) and self._is_coming(deed.repository, deed.subject)
        return rule if wanted else None

    def _is_chosen(self, rule: Rule, deed: Deed) -> bool:
        """Whether a tag is wanted, among those listed, or those that are here."""
        if deed.tag in self._chosen.get(deed.repository, ()):
            return True
        tags = {*self._keeper.store.tags(deed.repository), *self._chosen.get(deed.repository, ())} - {
            deed.tag
        }
        facts = [*map(TagFact, sorted(tags)), TagFact(deed.tag, deed.at)]
        return any(tag.name == deed.tag for tag in rule.choose(facts, self._keeper.clock.now()).tags)

    def _is_coming(self, repository: str, subject: str) -> bool:
        """Whether a manifest is here or on its way."""
        if not subject:
            return False
        if self._keeper.store.is_there(repository, Place("manifest", subject)):
            return True
        return any((d.repository, d.digest) == (repository, subject) for d in self._at_work.values())

    async def _plan(self) -> None:
        """Everything that would come, for a plan; nothing is settled by it."""
        while found := await self.more():
            for rule, image in found:
                self.images[image.target.key] = rule, image
                self.settled(image.target.key)
            await asyncio.sleep(TURN)


def is_sound(deed: Deed) -> bool:
    """Whether a deed names what can be here: a parent's word is no more to be trusted than a client's, and a name that
    is none could lie in another parent's namespace."""
    if not is_repository(deed.repository) or (deed.tag and not is_tag(deed.tag)):
        return False
    if not deed.digest:
        return deed.removes
    try:
        return all(digest(text) for text in (deed.digest, deed.subject) if text)
    except DigestInvalid:
        return False
