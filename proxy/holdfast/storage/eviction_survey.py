"""What a round of eviction may remove: images are found by the order of use, some at a time, so that a round costs what
it removes and not what the store holds; and how much can go at most is known before anything goes.

An image frees the bytes that no other one has. Two that have everything in common free nothing alone, and everything
together: `EvictionSurvey.most` counts what all images that may go have alone among themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Set

from holdfast_core.digest import Digest
from holdfast_core.record import ImageHolding
from holdfast_core.store import Store

from holdfast.clock import Clock, give_way
from holdfast.routing import Repository
from holdfast.storage.eviction_policy import Turn

#: images that are compared before one goes
SAMPLE = 128
#: records of use that are read together, and in one round
PAGE, ROWS = 128, 100_000

#: reasons of the store for an image, as those for bytes
WORDS = {
    "is pinned": "pinned",
    "is locked": "locked",
    "was pushed here": "pushed here",
    "was pushed here and the parent does not have it yet": "pushed here",
    "is named by a manifest that is here": "named by a manifest that stays",
}
Image = tuple[str, Digest]
#: what goes only after what: by the turn, and what frees nothing alone after what does
Level = tuple[Turn, bool]


class EvictionSurvey:
    """The images that one round may remove. Repositories that are synchronised are not touched, no image of which a
    blob is `coming`, and none for which `turn` has None. `parent_of` has the mark of the parent whose word counts for a
    repository. `stayed` counts the bytes of those that may not go, by reason, each digest once: also what a manifest
    that stays names."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        is_synchronised: Callable[[str], bool],
        coming: Set[tuple[str, Digest]],
        turn: Callable[[str], Turn | None],
        parent_of: Callable[[str], bytes],
    ) -> None:
        self._store, self._clock, self._parent_of = store, clock, parent_of
        self._is_synchronised, self._coming, self._turn = is_synchronised, coming, turn
        self.stayed: Counter[str] = Counter()
        self._known: set[Image] = set()
        self._reasons: dict[Image, str] = {}
        self._counted: set[Digest] = set()
        self._may_go: set[Image] = set()
        #: those of them that are not in the sample, in the order of use
        self._waiting: dict[Level, dict[Image, None]] = {}
        self._sample: dict[Image, tuple[Level, ImageHolding]] = {}
        self._place, self._ended, self._rows = b"", False, 0
        #: bytes that what was found frees, each image alone
        self._alone = 0

    async def most(self, wanted: int) -> int:
        """Bytes that can go: at least `wanted`, or all that can."""
        while self._alone < wanted and not self._ended:
            self._read_on()
            await give_way()
        return self._alone if self._alone >= wanted else await self._together()

    async def images(self) -> list[ImageHolding]:
        """The images that are compared now: of those whose turn it is SAMPLE, or all that are left."""
        while len(self._sample) < SAMPLE:
            if not self._ended and not self._is_waiting_for_first_turn():
                self._read_on()
                await give_way()
            elif (image := self._next()) is not None:
                self._look(*image)
            else:
                break
        first = min((level for level, _ in self._sample.values()), default=None)
        return [holding for level, holding in self._sample.values() if level == first]

    def done(self, image: ImageHolding) -> None:
        """The image has gone, or stays for good. Look again at those that may have shared bytes with it."""
        self._sample.pop((image.repository, image.digest), None)
        self._may_go.discard((image.repository, image.digest))
        near = [key for key in self._sample if key[0] == image.repository or image.shared_bytes]
        partners = () if image.freed_bytes else self._partners(image)
        for repository, digest in dict.fromkeys((*near, *partners)):
            self._sample.pop((repository, digest), None)
            for waiting in self._waiting.values():
                waiting.pop((repository, digest), None)
            self._look(repository, digest)

    def _is_waiting_for_first_turn(self) -> bool:
        return any(level <= (Turn.CACHED, False) and images for level, images in self._waiting.items())

    def _next(self) -> Image | None:
        """The one that is looked at next: of the first level that has any, and that is not after the sample's."""
        first = min((level for level, _ in self._sample.values()), default=None)
        for level in sorted(level for level, images in self._waiting.items() if images):
            if first is not None and level > first and level > (Turn.CACHED, False):
                return None
            image = next(iter(self._waiting[level]))
            del self._waiting[level][image]
            return image
        return None

    def _read_on(self) -> None:
        uses, self._place = self._store.space.uses_after(self._place, PAGE)
        self._rows += len(uses)
        self._ended = not self._place or self._rows >= ROWS
        for use in uses:
            self._count(use.digest, self._reason(use.repository, use.digest))

    def _reason(self, repository: str, digest: Digest) -> str:
        """Why a digest stays; "" when it may go. Finds the images that have it."""
        if self._is_synchronised(repository):
            return "synchronised"
        reason = ""
        for root in self._store.space.roots(repository, digest):
            if (repository, root) not in self._known:
                self._known.add((repository, root))
                self._find(repository, root)
            reason = reason or self._reasons.get((repository, root), "")
        return reason

    def _count(self, digest: Digest, reason: str) -> None:
        blob = self._store.blobs.anywhere(digest)
        if blob is None or blob.inline is not None or digest in self._counted:
            return
        if reason := "pushed here" if blob.owned and not self._is_confirmed(digest) else reason:
            self._counted.add(digest)
            self.stayed[reason] += blob.size

    def _find(self, repository: str, digest: Digest) -> None:
        holding = self._holding(repository, digest)
        if holding is None:
            return
        reason, turn = self._kept(holding), self._turn(repository)
        if reason or turn is None:
            self._reasons[repository, digest] = WORDS.get(reason, reason) or "of a parent that is offline"
            return
        self._alone += holding.freed_bytes
        self._may_go.add((repository, digest))
        self._waiting.setdefault((turn, not holding.freed_bytes), {})[repository, digest] = None

    def _holding(self, repository: str, digest: Digest) -> ImageHolding | None:
        parent = self._parent_of(repository)
        return self._store.space.holding(repository, digest, now=self._clock.now(), parent=parent)

    def _kept(self, holding: ImageHolding) -> str:
        """Why an image stays; "" when it may go."""
        namespace = Repository.from_key(holding.repository).namespace
        if any((namespace, one) in self._coming for one in (*holding.digests, *holding.named)):
            return "being fetched"
        return holding.kept

    def _look(self, repository: str, digest: Digest) -> None:
        """Put an image into the sample, as it is now; one that frees nothing only when it helps others to."""
        holding = self._holding(repository, digest)
        turn = self._turn(repository)
        if holding is None or turn is None or self._kept(holding):
            self._may_go.discard((repository, digest))
        elif holding.freed_bytes or any(self._frees(one) for one in self._parts(digest)):
            self._sample[repository, digest] = (turn, not holding.freed_bytes), holding

    async def _together(self) -> int:
        """Bytes that go when all go that may."""
        total, seen = 0, set[Digest]()
        for number, (_, digest) in enumerate(list(self._may_go)):
            fresh = [one for one in self._parts(digest) if one not in seen]
            seen.update(fresh)
            total += sum(map(self._frees, fresh))
            if number % PAGE == PAGE - 1:
                await give_way()
        return total

    def _parts(self, root: Digest) -> list[Digest]:
        """An image and all that it names."""
        parts = {root: None}
        waiting = [root]
        while waiting:
            for child in self._store.space.children(waiting.pop()):
                if child.digest not in parts:
                    parts[child.digest] = None
                    waiting.append(child.digest)
        return list(parts)

    def _frees(self, digest: Digest) -> int:
        """Bytes that are free once all images that have a digest are gone; 0 when one of them stays."""
        blob = self._store.blobs.anywhere(digest)
        if blob is None or blob.inline is not None or (blob.owned and not self._is_confirmed(digest)):
            return 0
        return blob.size if all(one in self._may_go for one in self._holders(digest)) else 0

    def _is_confirmed(self, digest: Digest) -> bool:
        """Whether the parents of all that have it confirmed a digest that was pushed here."""
        outbox, holders = self._store.references.outbox, self._store.blobs.holders(digest)
        marks = [(one, self._parent_of(one)) for one in holders]
        return all(mark and outbox.confirmed_by(one, digest) == mark for one, mark in marks)

    def _holders(self, digest: Digest) -> Iterator[Image]:
        for repository in self._store.blobs.holders(digest):
            for root in self._store.space.roots(repository, digest):
                yield repository, root

    def _partners(self, image: ImageHolding) -> list[Image]:
        """The images that have bytes in common with one that freed none, and may go."""
        parts = (*image.digests, *image.named)
        return [one for part in parts for one in self._holders(part) if one in self._may_go]
