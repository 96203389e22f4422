"""What goes again: tags that the parent lost, repositories that are wanted no longer. `holdfast.sync.prune` decides;
what it has to know of earlier runs outlasts the process in one quiet record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
import structlog
from holdfast_core.errors import Locked, StoreError
from holdfast_core.record import ResourceChange
from holdfast_core.resources import ResourceView
from holdfast_core.store import Store
from msgspec import Struct
from msgspec.structs import replace

from holdfast.errors import ParentNotFound, Refusal
from holdfast.keeper import outgoing
from holdfast.replica.removal import remove_repository, remove_tag
from holdfast.repository import Repository
from holdfast.sync.prune import Verdict, left_scope, lost_tags
from holdfast.sync.schedule import seconds

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

log = structlog.get_logger()

KIND, NAME = "custody", "self"


class Custody(Struct, frozen=True):
    """`brought`: repositories that synchronisation brought; `outside`: those of them that are wanted no longer; `lost`:
    tags that the last run did not find at the parent, by repository. Each since when it was first seen; `looked`: when
    a repository was last looked at whole (wall seconds)."""

    brought: tuple[str, ...] = ()
    outside: dict[str, float] = {}
    lost: dict[str, dict[str, float]] = {}
    looked: dict[str, float] = {}


class Departures:
    """Of one run, or, with `acts` false, of a dry one. `verdicts` name what goes now or later, as `repository` or
    `repository:tag`; `words` are for a person."""

    def __init__(self, keeper: Keeper, *, acts: bool) -> None:
        self._keeper, self._acts = keeper, acts
        self._before = recall(keeper.store)
        self._brought = dict.fromkeys(self._before.brought)
        self._outside, self._lost = self._before.outside, dict(self._before.lost)
        self._looked = dict(self._before.looked)
        self.verdicts: list[Verdict] = []
        self.words: list[str] = []

    def brought(self, repository: str) -> None:
        """Synchronisation has something of it here."""
        self._brought[repository] = None

    def in_turn(self, repositories: Iterable[str]) -> list[str]:
        """Those whose look is longest ago first: where a window or a budget ends a run early, none waits for ever."""
        return sorted(repositories, key=lambda name: self._before.looked.get(name, 0.0))

    def looked(self, repository: str) -> None:
        """A repository was looked at whole."""
        self._looked[repository] = self._keeper.clock.now()

    # ---- tags

    def lost(self, repository: str, listed: Collection[str]) -> list[Verdict]:
        """What becomes of the tags that are here and that the parent, whose whole list this is, has no more."""
        store, policy = self._keeper.store, self._keeper.config.sync.on_parent_delete
        gone = set(store.tags(repository)) - set(listed)
        local = [tag for tag in gone if self._is_local(repository, tag)]
        since, now = self._before.lost.get(repository, {}), self._keeper.clock.now()
        found = lost_tags(gone, listed, since, now, policy=policy, local=local)
        if listed:
            self._lost[repository] = {one.name: one.since for one in found if one.fate != "keep"}
        return found

    async def settle(self, repository: str, verdict: Verdict) -> None:
        """Remove the tag, if that is the verdict and the parent, asked for it once more, says 404."""
        verdict = await self._confirmed(repository, verdict)
        key = f"{repository}:{verdict.name}"
        why = await remove_tag(self._keeper, repository, verdict.name) if self._is_due(verdict) else ""
        self.words += [why] if why else []
        self.verdicts += [replace(verdict, name=key)] if verdict.fate != "keep" else []

    async def _confirmed(self, repository: str, verdict: Verdict) -> Verdict:
        """A list that lacks a tag may be a bad one, and so may a 404: both together are believed."""
        if verdict.fate != "remove":
            return verdict
        where = Repository.from_key(repository)
        what = f"{repository}:{verdict.name}"
        try:
            await self._keeper.background[where.namespace].head_manifest(where.name, verdict.name)
        except ParentNotFound:
            return verdict
        except Refusal as error:
            self.words.append(f"{what} stays for now: the parent was asked for it: {error.message}")
            return replace(verdict, fate="wait", at=None)
        self.words.append(f"{what} stays: the parent does not list it, and has it all the same")
        return replace(verdict, fate="keep")

    def _is_local(self, repository: str, tag: str) -> bool:
        try:
            found = self._keeper.store.tag(repository, tag)
        except Locked:  # the removal will say so
            return False
        return found is not None and found.origin == "local"

    # ---- repositories

    async def left(self, wanted: Callable[[str], bool], *, whole: bool = True) -> None:
        """Remove what synchronisation brought and is wanted no longer, when its time has come. Without `whole` nothing
        left the scope since the last run that was: only what is outside already is looked at."""
        store, sync, now = self._keeper.store, self._keeper.config.sync, self._keeper.clock.now()
        if whole:
            self._looked = {name: at for name, at in self._looked.items() if wanted(name)}
            self._lost = {name: tags for name, tags in self._lost.items() if wanted(name)}
        elif not self._outside:
            return
        some = list(self._brought if whole else self._outside)
        gone = {name for name in some if not store.has_repository(name)}
        self._brought = {name: None for name in self._brought if name not in gone}
        outside = [name for name in some if name in self._brought and not wanted(name)]
        found = left_scope(
            outside,
            (),
            self._outside,
            now,
            mode="ReadOnly" if store.mode == "ReadOnly" else "ReadWrite",
            policy=sync.prune,
            grace=seconds(sync.prune_grace, "prune_grace"),
            pushed=self._on_their_way() if outside else (),
        )
        self._outside = {one.name: one.since for one in found}
        self.verdicts += [one for one in found if one.fate != "keep"]
        for one in found:
            self.words.append(one.words)
            if self._is_due(one):
                await self._prune(one.name)

    async def _prune(self, repository: str) -> None:
        if why := await remove_repository(self._keeper, repository):
            self.words.append(why)
            return
        del self._brought[repository], self._outside[repository]

    def _on_their_way(self) -> set[str]:
        """Repositories that have something for a parent."""
        store = self._keeper.store
        rows = [outgoing.decode(number, body).repository for number, body in store.outbox()]
        return {*rows, *(repository for repository, _ in store.pending())}

    def _is_due(self, verdict: Verdict) -> bool:
        return self._acts and verdict.fate == "remove"

    # ---- memory

    async def keep(self) -> None:
        """Write down what the next run has to know."""
        lost = {repository: tags for repository, tags in self._lost.items() if tags}
        found = Custody(tuple(self._brought), self._outside, lost, self._looked)
        if not self._acts or found == self._before:
            return
        body = msgspec.json.encode(found)

        def plan(_: ResourceView) -> Sequence[ResourceChange]:
            return [ResourceChange(KIND, NAME, body)]

        try:
            await asyncio.wrap_future(self._keeper.store.change_resources(plan, quiet=frozenset({KIND})))
        except StoreError as error:
            log.error("what goes again cannot be recorded", reason=str(error))


def recall(store: Store) -> Custody:
    """What was kept; nothing when there is none, or none that can be read: then nothing goes."""
    try:
        held = store.resource(KIND, NAME)
        return Custody() if held is None else msgspec.json.decode(held.body, type=Custody)
    except (StoreError, msgspec.DecodeError) as error:
        log.error("what goes again cannot be read", reason=str(error))
        return Custody()
