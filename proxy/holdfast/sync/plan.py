"""What to do so that what is wanted is here. Pure: (wanted, held, graph) in, ordered actions out.

Each action makes sure of one thing and may be done again: a LINK whose bytes are not here after all is a fetch, a FETCH
of bytes that came by another way is a link. The order within an image is blobs, children, manifest, tag, so that what a
client can name is complete; then its referrers, each in the same order. Every blob is fetched once over all images, and
linked where the node has it through any repository. An index is kept byte for byte; children for other platforms stay
absent, and are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import zip_longest

from msgspec import Struct

from holdfast.sync.image import Branch, Facts, Graph, Held, Piece
from holdfast.sync.wanted import Rule

#: indexes within indexes that are followed; no tool makes more than two
DEPTH = 8
#: referrers of referrers (a signature of an attestation) that are followed
REFERRER_DEPTH = 3


class Step(IntEnum):
    """Kinds of actions."""

    LINK_BLOB = 0
    FETCH_BLOB = 1
    LINK_MANIFEST = 2
    FETCH_MANIFEST = 3
    TAG = 4
    READ_MANIFEST = 5


_LINK = {Step.FETCH_BLOB: Step.LINK_BLOB, Step.FETCH_MANIFEST: Step.LINK_MANIFEST}


class Action(Struct, frozen=True, gc=False):
    """Make sure that `repository` has `digest`; READ_MANIFEST brings its bytes and does not name them there yet, so
    that the image can be planned again with what they say. `size` is the bytes still to come over the link, 0 for a
    link; a manifest's size counts as link bytes too. `tag` is set for TAG alone."""

    step: Step
    repository: str
    digest: str
    size: int = 0
    tag: str = ""


class Target(Struct, frozen=True, gc=False):
    """An image that is wanted: what `tag` names at the parent, or with "" a digest that something else names."""

    repository: str
    tag: str
    digest: str
    parent: str = ""

    @property
    def key(self) -> str:
        """Its name in reports and in the state of a job."""
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.digest}"


class Image(Struct, frozen=True, gc=False):
    """One target with its actions. `absent` counts children that its rule leaves out; `unread` manifests whose content
    is not known yet: after reading them the image is planned again. `words` are for a person."""

    target: Target
    actions: tuple[Action, ...]
    size: int
    absent: int = 0
    unread: int = 0
    words: tuple[str, ...] = ()


class Fit(Struct, frozen=True):
    """What the bounds allow. `whole` is None where no rate was measured; `images` and `size` are what comes before the
    first image that does not fit."""

    whole: bool | None
    images: int
    size: int
    seconds: float | None

    def words(self) -> str:
        """For `sync plan`."""
        if self.whole is None:
            return "no rate was measured yet, so whether it fits cannot be said"
        time = "" if self.seconds is None else f" ({self.seconds / 60:.0f} min)"
        return f"it fits{time}" if self.whole else f"it does not fit{time}: {self.images} images will be here"


@dataclass(frozen=True)
class Plan:
    """Everything to do, in order. `here` counts images that lack nothing."""

    images: list[Image]
    here: int = 0
    size: int = 0
    absent: int = 0
    unread: int = 0
    words: list[str] = field(default_factory=list)

    def actions(self) -> Iterator[Action]:
        """Of all images, in order."""
        return (action for image in self.images for action in image.actions)

    def fit(
        self, *, size: float | None = None, seconds: float | None = None, rate: float | None = None
    ) -> Fit:
        """Whether it fits into `size` bytes and into `seconds` at `rate` bytes a second; None is without bound, but
        for the rate, which without measurement says nothing."""
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


def plan(targets: Iterable[tuple[Rule, Iterable[Target]]], held: Held, graph: Graph) -> Plan:
    """The plan for repositories, each with its rule and its targets in order of importance. Repositories take turns, so
    that a large one keeps no other waiting."""
    planner = Planner(held, graph)
    turns = [_paired(rule, wanted) for rule, wanted in targets]
    images = [planner.image(*pair) for turn in zip_longest(*turns) for pair in turn if pair is not None]
    found = [image for image in images if image.actions or image.words]
    return Plan(
        [image for image in found if image.actions],
        here=sum(1 for image in images if not image.actions),
        size=sum(image.size for image in found),
        absent=sum(image.absent for image in images),
        unread=sum(image.unread for image in found),
        words=[word for image in found for word in image.words],
    )


def _paired(rule: Rule, wanted: Iterable[Target]) -> Iterator[tuple[Rule, Target]]:
    return ((rule, target) for target in wanted)


class Planner:
    """Plans one image after another and remembers what the ones before bring. What its repository has not got yet every
    image names itself, so that none depends on another that may fail."""

    def __init__(self, held: Held, graph: Graph) -> None:
        self._held, self._graph = held, graph
        self._coming: set[str] = set()
        self._has, self._links = held.has, held.linked

    def image(self, rule: Rule, target: Target) -> Image:
        """The actions that one image still needs."""
        work = _Work(rule, target.repository)
        self._manifest(work, target.digest, 0)
        whole = not work.unread
        if whole and target.tag and self._held.tag(target.repository, target.tag) != target.digest:
            work.actions.append(Action(Step.TAG, target.repository, target.digest, 0, target.tag))
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
            work.actions.append(Action(Step.READ_MANIFEST, work.repository, digest))
            return
        self._need(work, Step.FETCH_BLOB, facts.pieces)
        if facts.branches:
            self._branches(work, facts, depth)
        else:
            work.present += 1
        if work.unread == unread:  # an index waits until all its children were read
            self._need(work, Step.FETCH_MANIFEST, (Piece(digest, facts.size),))

    def _branches(self, work: _Work, facts: Facts, depth: int) -> None:
        if depth >= DEPTH:
            work.words.append(f"{work.repository}: an index nested over {DEPTH} deep is not followed further")
            return
        for branch in facts.branches:
            if self._wanted(work.rule, branch, facts):
                self._manifest(work, branch.digest, depth + 1)
            else:
                work.absent += 1

    @staticmethod
    def _wanted(rule: Rule, branch: Branch, facts: Facts) -> bool:
        """By platform; an attestation goes with the child it describes."""
        if not rule.platforms.names:
            return True
        described = next((b for b in facts.branches if b.digest == branch.describes), branch)
        return rule.platforms.wants(described.platform)

    def _need(self, work: _Work, fetch: Step, pieces: tuple[Piece, ...]) -> None:
        """Fetch each, link it, or nothing. The plan's inner loop: 100,000 tags come through here 700,000 times."""
        seen, repository, link, coming = work.seen, work.repository, _LINK[fetch], self._coming
        for piece in pieces:
            digest = piece.digest
            if digest in seen:
                continue
            seen.add(digest)
            if self._links(repository, digest):
                continue
            if digest in coming or self._has(digest):
                work.actions.append(Action(link, repository, digest))
                continue
            coming.add(digest)
            left = max(0, piece.size - self._held.part(digest))
            work.size += left
            work.actions.append(Action(fetch, repository, digest, left))

    def _referrers(self, work: _Work, digest: str, depth: int) -> None:
        for referrer in self._graph.referrers(work.repository, digest):
            if work.rule.wants_referrer(referrer.artifact_type) and referrer.digest not in work.seen:
                self._manifest(work, referrer.digest, 0)
                if depth > 1:
                    self._referrers(work, referrer.digest, depth - 1)


@dataclass(slots=True)
class _Work:
    """An image while it is planned."""

    rule: Rule
    repository: str
    seen: set[str] = field(default_factory=set)
    actions: list[Action] = field(default_factory=list)
    size: int = 0
    absent: int = 0
    present: int = 0
    unread: int = 0
    words: list[str] = field(default_factory=list)
