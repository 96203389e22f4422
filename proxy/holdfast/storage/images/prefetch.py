"""Prefetch: images that an operator orders are brought now, by the way of synchronisation, whatever is selected and
whenever its window opens. Kept in memory: after a restart it is ordered again, and what has arrived is here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast_core.errors import StoreError
from msgspec import Struct

from holdfast import errors
from holdfast.background import BackgroundTasks
from holdfast.log import log
from holdfast.oci.manifest import ManifestUnreadable
from holdfast.routing import Repository, default_parent
from holdfast.sync.holdings import ManifestReader
from holdfast.sync.image_copy import ImageCopy, TooDeep, reason_of
from holdfast.sync.plan import Image, SyncTarget
from holdfast.sync.report import ImageOrder, PrefetchReport, PrefetchState
from holdfast.sync.source.selection import Rule, Selection
from holdfast.timestamps import stamp

if TYPE_CHECKING:
    from holdfast.sync.context import SyncContext

#: prefetches that are reported, under way or over; the oldest that are over are forgotten first
KEPT = 1000


class Prefetch(Struct):
    """One image on its way in. `size` is what is to come as far as it is known, `landed` what has come (bytes)."""

    order: ImageOrder
    began: float
    state: PrefetchState = "Waiting"
    reason: str = ""
    size: int = 0
    landed: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ("Done", "Failed")

    def report(self) -> PrefetchReport:
        """For people."""
        return PrefetchReport(
            image=self.order.image,
            state=self.state,
            reason=self.reason,
            bytes=self.size,
            bytes_done=self.landed,
            began=stamp(self.began),
        )


class Prefetches:
    """The prefetches of one node, `sync.transfers` images at once."""

    def __init__(self, context: SyncContext, tasks: BackgroundTasks) -> None:
        self._context, self._tasks = context, tasks
        self._slots = asyncio.Semaphore(context.config.sync.transfers)
        self._known: dict[tuple[str, str], Prefetch] = {}

    def order(self, images: Sequence[ImageOrder], by: str) -> tuple[PrefetchReport, ...]:
        """Begin with images; `by` is who ordered it. One that is under way goes on. Raises ControlConflict for a
        repository that no parent has."""
        for image in images:
            if Repository.from_key(image.repository).namespace not in self._context.parents:
                raise errors.ControlConflict(
                    f"no parent has {image.image}: there is nothing to prefetch it from"
                )
        return tuple(self._ordered(image, by).report() for image in images)

    def _ordered(self, image: ImageOrder, by: str) -> Prefetch:
        key = (image.repository, image.reference)
        if (known := self._known.get(key)) is not None and not known.is_over:
            return known
        log.info("prefetch ordered", by=by, image=image.image)
        self._known.pop(key, None)
        one = self._known[key] = Prefetch(image, self._context.clock.now())
        over = [key for key, entry in self._known.items() if entry.is_over]
        for key in over[: max(0, len(self._known) - KEPT)]:
            del self._known[key]
        self._tasks.begin(self._carried_out(one))
        return one

    def reports(self) -> tuple[PrefetchReport, ...]:
        """Every prefetch of this process that is still known, in the order of its beginning."""
        return tuple(one.report() for one in self._known.values())

    def since(self) -> float:
        """When the oldest that is under way began (wall seconds), infinity without one."""
        return min((one.began for one in self._known.values() if not one.is_over), default=float("inf"))

    def _rule_of(self, where: Repository) -> Rule:
        """The platforms and referrers to bring: as synchronisation would, all where nothing says otherwise."""
        config = self._context.config
        default = default_parent(config.parent) or ""
        rows = [row for row in config.sync.repositories if (row.parent or default) == where.namespace]
        return Selection(tuple(map(Rule, rows))).rule_of(where.name)

    async def _carried_out(self, one: Prefetch) -> None:
        async with self._slots:
            one.state = "Running"
            try:
                await self._brought(one)
            except (errors.Refusal, StoreError, ManifestUnreadable, TooDeep) as error:
                one.state, one.reason = "Failed", reason_of(error)
                log.warning("image not prefetched", image=one.order.image, reason=one.reason)
            except Exception as error:
                one.state, one.reason = "Failed", reason_of(error)
                log.exception("prefetch failed", image=one.order.image)

    async def _brought(self, one: Prefetch) -> None:
        context, repository, reference = self._context, one.order.repository, one.order.reference
        where, reading = Repository.from_key(repository), ManifestReader(context.background)
        tag, digest = ("", reference) if ":" in reference else (reference, "")
        rule = self._rule_of(where)

        def grown(image: Image) -> None:
            one.size = image.size

        def landed(size: int) -> None:
            one.landed += size

        try:
            if tag:
                head = await context.background[where.namespace].head_manifest(where.name, tag)
                digest = head.digest or (await reading.read(repository, tag)).digest
            target = SyncTarget(repository, tag, digest, where.namespace)
            is_named = await ImageCopy(context, reading, anew=True).fetch(rule, target, grown, landed)
        finally:
            await reading.close()
        if not is_named:
            one.reason = f"the tag {tag} was moved here meanwhile, and stays as it is"
        one.state = "Done" if is_named else "Failed"
        log.info("image prefetched", image=one.order.image, digest=digest, complete=is_named)
