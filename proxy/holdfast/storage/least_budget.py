"""The least that eviction can bring a store down to. A smaller budget than that is refused by a node that serves, which
goes on with the one it has; at a start it is only said, because a node that does not start serves nothing.

`python -m holdfast.storage.least_budget DIRECTORY NAME=MARK…` reads the store for the supervisor, which opens none; the
marks are those of the parents that may confirm what was pushed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from holdfast_core.space_format import parent_mark

from holdfast.clock import SystemClock
from holdfast.config import ConfigInvalid, Configuration
from holdfast.log import log
from holdfast.routing import Repository
from holdfast.storage.budget import DiskBudget

if TYPE_CHECKING:  # the supervisor is smaller without the store
    from holdfast_core.store import Store

#: a store that takes longer to be read is judged by the keeper alone, which says what it finds (seconds)
READ_SECONDS = 30.0


class StayingBytes(msgspec.Struct, frozen=True):
    """Bytes that no eviction removes: of content by reason, and of `index`, journal and what is always there;
    `capacity` is what the store takes and what is free together."""

    content: dict[str, int]
    index: int
    capacity: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.content.values()) + self.index

    def words(self) -> str:
        """The figures, the largest first."""
        parts = sorted(self.content.items(), key=lambda part: -part[1])
        return ", ".join(
            f"{size} {reason}" for reason, size in [*parts, ("of index and journal", self.index)]
        )


def refuse_below_what_stays(config: Configuration, before: Configuration) -> None:
    """Refuse a budget that is smaller than the one of `before` and than what stays. Raises ConfigInvalid."""
    if config.store == before.store:
        return
    try:
        staying = _read_apart(config)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        log.warning("budget not compared with what is held", reason=str(error))
        return
    status = os.statvfs(config.data)
    limit, former = (
        DiskBudget.of(one.store, status.f_frsize * status.f_blocks).limit(staying.capacity)
        for one in (config, before)
    )
    if limit < former and limit < staying.total:
        raise ConfigInvalid(
            f"store: the budget would be {limit} bytes; found: {staying.total} bytes that no eviction removes"
            f" ({staying.words()}); allowed: more than that, or what was before. Raise max_bytes, lower min_free, or"
            " end pins and delete images first"
        )


def _read_apart(config: Configuration) -> StayingBytes:
    parents = config.parent if config.store.evict_confirmed else ()
    marks = (f"{parent.name}={parent_mark(parent.url).hex()}" for parent in parents)
    command = (sys.executable, "-m", __name__, config.data, *marks)
    done = subprocess.run(command, capture_output=True, check=True, timeout=READ_SECONDS)
    return msgspec.json.decode(done.stdout, type=StayingBytes)


async def staying_bytes(store: Store, marks: Mapping[str, bytes]) -> StayingBytes:
    """What stays, of a store that is open, beside parents with these marks by name. What is synchronised or under way
    is not known here, and counts as what may go: no budget is refused that could be met."""
    from holdfast.storage.eviction_policy import Turn
    from holdfast.storage.eviction_survey import EvictionSurvey

    def parent_of(repository: str) -> bytes:
        return marks.get(Repository.from_key(repository).namespace, b"")

    survey = EvictionSurvey(
        store, SystemClock(), lambda _: False, frozenset(), lambda _: Turn.CACHED, parent_of
    )
    await survey.most(sys.maxsize)
    use = store.space.disk_use()
    index = use.journal + use.index + use.fixed
    beside = index + use.uploads + use.set_aside + use.strays + sum(use.parts.values())
    taken = store.space.account().file_bytes + beside
    return StayingBytes(dict(survey.stayed), index, taken + store.free_bytes())


def main(data: str, *marks: str) -> None:
    """Print what stays, as JSON. Raises StoreError."""
    from holdfast_core.store import Store

    store = Store.create_or_open(data, write=False)
    known = {name: bytes.fromhex(mark) for name, _, mark in (text.rpartition("=") for text in marks)}
    try:
        sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(staying_bytes(store, known))))
    finally:
        store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
