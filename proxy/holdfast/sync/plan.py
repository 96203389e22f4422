"""The plan of a synchronisation: what to fetch and link so that every selected image is here. Pure: (targets, held,
graph) in, ordered actions out.

Each action is idempotent: a LINK whose bytes are not here after all becomes a fetch, a FETCH of bytes that came another
way becomes a link. The order within an image is blobs, children, manifest, tag, so that every name that a client can
use is complete; then its referrers, each in the same order. Every blob is fetched once over all images, and linked
where the node has it through any repository. An index is kept byte for byte; children for other platforms stay absent
and are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import zip_longest

from msgspec import Struct

from holdfast.oci.image import Branch, Facts, Graph, HeldImages, ImageBlob
from holdfast.sync.source.selection import Rule

#: levels of nested indexes that are followed; no tool makes more than two
DEPTH = 8
#: referrers of referrers (a signature of an attestation) that are followed
REFERRER_DEPTH = 3


class PlanStep(IntEnum):
    """Kinds of actions."""

    LINK_BLOB = 0
    FETCH_BLOB = 1
    LINK_MANIFEST = 2
    FETCH_MANIFEST = 3
    TAG = 4
    READ_MANIFEST = 5


_LINK = {PlanStep.FETCH_BLOB: PlanStep.LINK_BLOB, PlanStep.FETCH_MANIFEST: PlanStep.LINK_MANIFEST}


class PlannedAction(Struct, frozen=True, gc=False):
    """Makes sure that `repository` has `digest`. READ_MANIFEST reads a manifest into memory, so that the image can be
    planned again with its content. `size` is the bytes still to come over the link, 0 for a link; the size of a
    manifest counts as well. `tag` is set for TAG alone."""

    step: PlanStep
    repository: str
    digest: str
    size: int = 0
    tag: str = ""


class SyncTarget(Struct, frozen=True, gc=False):
    """A selected image: the manifest that `tag` names at the parent, or with `tag` "" a digest that something else
    names."""

    repository: str
    tag: str
    digest: str
    parent: str = ""

    @property
    def key(self) -> str:
        """Returns the name of the image in reports and in the job."""
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.digest}"


class Image(Struct, frozen=True, gc=False):
    """One target with its actions. `absent` counts children that its rule leaves out, `unread` manifests whose content
    is not known yet: once they are read, the image is planned again. `words` are remarks for the operator."""

    target: SyncTarget
    actions: tuple[PlannedAction, ...]
    size: int
    absent: int = 0
    unread: int = 0
    words: tuple[str, ...] = ()


class Fit(Struct, frozen=True):
    """How much of a plan fits into its bounds. `whole` is None where no rate was measured; `images` and `size` count
    what comes before the first image that does not fit."""

    whole: bool | None
    images: int
    size: int
    seconds: float | None

    def words(self) -> str:
        """Returns the verdict for `sync plan`."""
        if self.whole is None:
            return "whether it fits is not known: no rate was measured yet"
        time = "" if self.seconds is None else f" ({self.seconds / 60:.0f} min)"
        return f"it fits{time}" if self.whole else f"it does not fit{time}: {self.images} images will be here"


@dataclass(frozen=True)
class Plan:
    """Everything to do, in order. `here` counts the images that are complete."""

    images: list[Image]
    here: int = 0
    size: int = 0
    absent: int = 0
    unread: int = 0
    words: list[str] = field(default_factory=list)

    def actions(self) -> Iterator[PlannedAction]:
        """Yields the actions of all images, in order."""
        return (action for image in self.images for action in image.actions)

    def fit(
        self, *, size: float | None = None, seconds: float | None = None, rate: float | None = None
    ) -> Fit:
        """Returns how much fits into `size` bytes and into `seconds` at `rate` bytes a second; None means without
        bound, and for the rate that it was not measured."""
        needs = self.size / rate if rate else None
        bound = float("inf") if size is None else size
        if seconds is not None and seconds != float("inf") and self.size:
            if not rate:
                return Fit(None, 0, 0, None)
            bound = min(bound, seconds * rate)
        images = done = 0
        for image in self.images:
            if done + image.size > bound:
                break
            images, done = images + 1, done + image.size
        return Fit(self.size <= bound, images, done, needs)


def plan(targets: Iterable[tuple[Rule, Iterable[SyncTarget]]], held: HeldImages, graph: Graph) -> Plan:
    """Returns the plan for repositories, each with its rule and its targets in order of importance. Repositories take
    turns, so that a large one does not delay the others."""
    planner = Planner(held, graph)
    turns = [_paired(rule, of_repository) for rule, of_repository in targets]
    images = [planner.image(*pair) for turn in zip_longest(*turns) for pair in turn if pair is not None]
    listed = [image for image in images if image.actions or image.words]
    return Plan(
        [image for image in listed if image.actions],
        here=sum(1 for image in images if not image.actions),
        size=sum(image.size for image in listed),
        absent=sum(image.absent for image in images),
        unread=sum(image.unread for image in listed),
        words=[sentence for image in listed for sentence in image.words],
    )


def _paired(rule: Rule, targets: Iterable[SyncTarget]) -> Iterator[tuple[Rule, SyncTarget]]:
    return ((rule, target) for target in targets)


class Planner:
    """Plans one image after another and remembers which blobs the earlier ones fetch. Each image links everything that
    its repository lacks, so that none depends on another one, which may fail."""

    def __init__(self, held: HeldImages, graph: Graph) -> None:
        self._held, self._graph = held, graph
        self._coming: set[str] = set()
        self._has, self._links = held.has, held.linked

    def image(self, rule: Rule, target: SyncTarget) -> Image:
        """Returns one image with the actions that it still needs."""
        work = _Work(rule, target.repository)
        self._manifest(work, target.digest, 0)
        whole = not work.unread
        if whole and target.tag and self._held.tag(target.repository, target.tag) != target.digest:
            work.actions.append(PlannedAction(PlanStep.TAG, target.repository, target.digest, 0, target.tag))
        if whole and rule.given.referrers:
            self._referrers(work, target.digest, REFERRER_DEPTH)
        if work.absent and not work.present:
            work.words.append(f"{target.key}: its index has no child for {', '.join(rule.platforms.names)}")
        return Image(target, tuple(work.actions), work.size, work.absent, work.unread, tuple(work.words))

    def _manifest(self, work: _Work, digest: str, depth: int) -> None:
        if digest in work.seen:
            work.present += 1
            return
        unread = work.unread
        facts = self._graph.facts(work.repository, digest)
        if facts is None:
            work.unread += 1
            work.seen.add(digest)
            work.actions.append(PlannedAction(PlanStep.READ_MANIFEST, work.repository, digest))
            return
        self._need(work, PlanStep.FETCH_BLOB, facts.pieces)
        if facts.branches:
            self._branches(work, facts, depth)
        else:
            work.present += 1
        if work.unread == unread:  # an index comes after all its children were read
            self._need(work, PlanStep.FETCH_MANIFEST, (ImageBlob(digest, facts.size),))

    def _branches(self, work: _Work, facts: Facts, depth: int) -> None:
        if depth >= DEPTH:
            work.words.append(f"{work.repository}: an index nested over {DEPTH} deep is not followed further")
            return
        for branch in facts.branches:
            if self._is_selected(work.rule, branch, facts):
                self._manifest(work, branch.digest, depth + 1)
            else:
                work.absent += 1

    @staticmethod
    def _is_selected(rule: Rule, branch: Branch, facts: Facts) -> bool:
        """Whether a child is selected by its platform; an attestation goes with the child that it describes."""
        if not rule.platforms.names:
            return True
        described = next((b for b in facts.branches if b.digest == branch.describes), branch)
        return rule.platforms.wants(described.platform)

    def _need(self, work: _Work, fetch: PlanStep, pieces: tuple[ImageBlob, ...]) -> None:
        """Adds a fetch or a link for each piece that the repository lacks. The inner loop of the plan: 100,000 tags
        come through here 700,000 times."""
        seen, repository, link, coming = work.seen, work.repository, _LINK[fetch], self._coming
        for piece in pieces:
            digest = piece.digest
            if digest in seen:
                continue
            seen.add(digest)
            if self._links(repository, digest):
                continue
            if digest in coming or self._has(digest):
                work.actions.append(PlannedAction(link, repository, digest))
                continue
            coming.add(digest)
            left = max(0, piece.size - self._held.part(digest))
            work.size += left
            work.actions.append(PlannedAction(fetch, repository, digest, left))

    def _referrers(self, work: _Work, digest: str, depth: int) -> None:
        for referrer in self._graph.referrers(work.repository, digest):
            if work.rule.selects_referrer(referrer.artifact_type) and referrer.digest not in work.seen:
                self._manifest(work, referrer.digest, 0)
                if depth > 1:
                    self._referrers(work, referrer.digest, depth - 1)


@dataclass(slots=True)
class _Work:
    """The state of an image that is being planned."""

    rule: Rule
    repository: str
    seen: set[str] = field(default_factory=set)
    actions: list[PlannedAction] = field(default_factory=list)
    size: int = 0
    absent: int = 0
    present: int = 0
    unread: int = 0
    words: list[str] = field(default_factory=list)
