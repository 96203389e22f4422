"""Which parent a client's miss may ask, and what the parents are known not to have."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING

from holdfast import errors
from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.keeper.misses.tag_cache import NegativeCache
from holdfast.routing import Repository
from holdfast.timestamps import stamp

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import Parent
    from holdfast.sync.synchroniser import Synchroniser


class ParentAccess:
    """The parents by namespace, none on a root. With `sync.misses = "window"` the schedule of the synchroniser decides
    when a miss may ask."""

    def __init__(
        self,
        parents: Mapping[str, Parent],
        config: Configuration,
        clock: Clock,
        synchroniser: Synchroniser | None,
    ) -> None:
        self._parents, self._clock = parents, clock
        self._synchroniser = None if config.sync.misses == "always" else synchroniser
        self._missing = NegativeCache(config.tags.negative_ttl)

    def parent_of(self, repository: str) -> Parent | None:
        """The parent of a repository; None when this node has none for it."""
        return self._parents.get(Repository.from_key(repository).namespace)

    def required(
        self, repository: str, refusal: type[errors.Refusal] = errors.ManifestUnknown
    ) -> tuple[Parent, str]:
        """The parent that a client's miss asks, and the repository's name there. Raises `refusal` when this node has no
        parent for it, and WindowClosed."""
        parent = self.parent_of(repository)
        if parent is None:
            raise refusal("not held here, and this node has no parent to ask")
        schedule = None if self._synchroniser is None else self._synchroniser.schedule
        if schedule is not None and (closed := schedule.closed_for(now := self._clock.now())) > 0:
            raise errors.WindowClosed(
                f"not here, and parents are not asked before the window opens at {stamp(now + closed)}"
                ' (sync.misses = "window")',
                retry_after=ceil(closed),
            )
        return parent, Repository.from_key(repository).name

    def remember_missing(self, *key: str) -> None:
        """A parent answered 404 for this."""
        self._missing.add(key, self._clock.monotonic())

    def refuse_missing(self, refusal: type[errors.Refusal], *key: str) -> None:
        """Raises `refusal` when a parent answered 404 for this a short time ago. The key begins with the kind of
        content and ends with its name."""
        if self._missing.holds(key, self._clock.monotonic()):
            raise refusal(f"no {key[0]} {key[-1]}", detail="the parent said so moments ago")
