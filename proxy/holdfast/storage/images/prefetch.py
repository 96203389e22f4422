"""Prefetch: images that an operator orders are brought now, by the way of synchronisation, whatever is selected and
whenever its window opens. What is under way is a document of the store: the next process goes on with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from holdfast_core.record import ResourceChange
from msgspec import Struct, field

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
#: times that an image is brought of which a part was removed meanwhile
TRIES = 3
#: the document of the orders under way
KIND, NAME = "prefetch", "self"


class Prefetch(Struct):
    """One image on its way in. `size` is what is to come as far as it is known, `landed` what has come (bytes),
    `pieces` the digests of all that it needs."""

    order: ImageOrder
    began: float
    state: PrefetchState = "Waiting"
    reason: str = ""
    size: int = 0
    landed: int = 0
    pieces: set[str] = field(default_factory=set)

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

    def start(self) -> None:
        """Go on with what the last process had under way."""
        for image in self._noted():
            if Repository.from_key(image.repository).namespace in self._context.parents:
                self._ordered(image, "an order before the restart")

    def _noted(self) -> list[ImageOrder]:
        try:
            held = self._context.store.documents.get(KIND, NAME)
            return [] if held is None else msgspec.json.decode(held.body, type=list[ImageOrder])
        except (StoreError, msgspec.DecodeError) as error:
            log.error("record of prefetches cannot be read; order them again", reason=str(error))
            return []

    async def _note(self) -> None:
        body = msgspec.json.encode([one.order for one in self._known.values() if not one.is_over])

        def plan(_: ResourceView) -> list[ResourceChange]:
            return [ResourceChange(KIND, NAME, body)]

        try:
            documents = self._context.store.documents
            await asyncio.wrap_future(documents.change(plan, quiet=frozenset({KIND})))
        except StoreError as error:
            log.error("record of prefetches cannot be written", reason=str(error))

    async def order(self, images: Sequence[ImageOrder], by: str) -> tuple[PrefetchReport, ...]:
        """Begin with images; `by` is who ordered it. One that is under way goes on. Raises ControlConflict for a
        repository that no parent has."""
        for image in images:
            if Repository.from_key(image.repository).namespace not in self._context.parents:
                raise errors.ControlConflict(
                    f"no parent has {image.image}: there is nothing to prefetch it from"
                )
        reports = tuple(self._ordered(image, by).report() for image in images)
        await self._note()
        return reports

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

    def held(self) -> Set[tuple[str, Digest]]:
        """(namespace of the parent, digest) of all that the images under way need: nothing of it is evicted before the
        last of it is here."""
        running = (one for one in self._known.values() if not one.is_over)
        return {
            (Repository.from_key(one.order.repository).namespace, Digest.parse(piece))
            for one in running
            for piece in one.pieces
        }

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
        one.pieces = set()
        await self._note()

    async def _brought(self, one: Prefetch) -> None:
        context, repository, reference = self._context, one.order.repository, one.order.reference
        where, reading = Repository.from_key(repository), ManifestReader(context.background)
        tag, digest = ("", reference) if ":" in reference else (reference, "")
        rule = self._rule_of(where)

        def grown(image: Image, pieces: set[str]) -> None:
            one.size, one.pieces = one.landed + image.size, pieces

        def landed(size: int) -> None:
            one.landed += size

        try:
            if tag:
                head = await context.background[where.namespace].head_manifest(where.name, tag)
                digest = head.digest or (await reading.read(repository, tag)).digest
            target = SyncTarget(repository, tag, digest, where.namespace)
            for _ in range(TRIES):
                is_named = await ImageCopy(context, reading, anew=True).fetch(rule, target, grown, landed)
                left = ImageCopy(context, reading).plan_known(rule, target)
                if left is None or not is_named:
                    break
        finally:
            await reading.close()
        if not is_named:
            one.reason = f"the tag {tag} was moved here meanwhile, and stays as it is"
        elif left is not None:
            one.reason = (
                f"{len(left.actions)} of its parts were removed as they came; holdfast usage shows the room"
            )
        one.state = "Failed" if one.reason else "Done"
        log.info("image prefetched", image=one.order.image, digest=digest, complete=not one.reason)
