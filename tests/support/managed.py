"""A connected registry's keeper over a real store and a scripted parent, whose log and configuration a test owns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
from holdfast.clock import Clock, SystemClock
from holdfast.config import SyncSection
from holdfast.config_file import from_table
from holdfast.control import command
from holdfast.fill.registry import FillRegistry
from holdfast.gateway.agent_state import Outcome
from holdfast.gateway.gateway_client import GatewayClient, Trimmed, Unlogged
from holdfast.gateway.own_registry import OwnRegistry
from holdfast.gateway.protocol import Contents, ContentsEntry, Message, Messages
from holdfast.keeper.keeper import Keeper
from holdfast.process.assembly import compose, make_parents
from holdfast.resources.actions import of_repository
from holdfast.resources.model import (
    ConnectedRegistry,
    Identity,
    Mode,
    ParentProperties,
    RegistryConfiguration,
    ScopeMap,
    SyncProperties,
    Token,
)
from holdfast.sync.source.managed_source import ManagedSource
from holdfast.testing.random_content import ScriptedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.store import Store
from msgspec.structs import replace
from support.replicas import image_of

READ = ("content/read", "metadata/read")


class ScriptedLog:
    """What a Holdfast parent tells beside its registry. `asked` counts questions; `answers` are given once each before
    the log is looked at."""

    def __init__(self, parent: ScriptedParent, page: int = 1000) -> None:
        self.parent, self.page = parent, page
        self.id, self.first, self.log = "x", 1, list[Message]()
        self.asked: Counter[str] = Counter()
        self.answers: list[Trimmed | Unlogged | Outcome | Exception] = []
        #: what it says of itself: whether it has everything from its own parent
        self.complete = True
        self._changed = asyncio.Event()

    def push(self, name: str, tag: str, *layers: ScriptedContent | bytes) -> str:
        """An image arrives at the parent, with `tag` "" by digest alone; its digest."""
        digest = image_of(self.parent, name, tag, *layers)
        self.parent.repository(name).tags.pop("", None)
        self.note("push", "tag" if tag else "manifest", name, tag, digest)
        return digest

    def untag(self, name: str, tag: str) -> None:
        """A tag is deleted there."""
        (digest,) = self.parent.repository(name).tags.pop(tag)
        self.note("delete", "tag", name, tag, digest)

    def note(
        self, verb: str, kind: str, repository: str, tag: str = "", digest: str = "", **more: Any
    ) -> None:
        """One more message."""
        number = self.first + len(self.log)
        said = {"number": number, "at": 0.0, "verb": verb, "kind": kind, "repository": repository, "tag": tag}
        self.log.append(msgspec.convert({**said, "digest": digest, **more}, Message))
        self._changed.set()

    def trim(self) -> None:
        """Nobody knows any more what was told."""
        self.first += len(self.log)
        self.log.clear()

    @property
    def head(self) -> str:
        """The cursor of now."""
        return f"{self.id}-{self.first + len(self.log) - 1}"

    async def messages(
        self, instance: str, generation: int, after: str, wait: float
    ) -> Messages | Trimmed | Unlogged | Outcome:
        """See `GatewayClient`."""
        self.asked["messages"] += 1
        if self.answers:
            return self._given()
        log, _, at = after.partition("-")
        if log != self.id or int(at) + 1 < self.first:
            return Trimmed()
        if after == self.head and wait:
            self._changed.clear()
            await asyncio.wait({asyncio.create_task(self._changed.wait())}, timeout=min(wait, 0.5))
        rest = [message for message in self.log if message.number > int(at)][: self.page]
        cursor = f"{self.id}-{rest[-1].number}" if rest else after
        return Messages(cursor, tuple(rest), cursor != self.head)

    async def contents(
        self, instance: str, generation: int, after: str
    ) -> Contents | Trimmed | Unlogged | Outcome:
        """See `GatewayClient`."""
        self.asked["contents"] += 1
        if self.answers:
            return self._given()
        rows = sorted(self._rows())
        cursor, _, at = after.partition(" ") if after else (self.head, "", "0")
        start = int(at)
        entries = tuple(
            ContentsEntry(repository, digest, tag)
            for repository, tag, digest in rows[start : start + self.page]
        )
        left = f"{cursor} {start + self.page}" if start + self.page < len(rows) else ""
        return Contents(cursor, entries, left, self.complete)

    def _given(self) -> Trimmed | Unlogged | Outcome:
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = []
        for name, found in self.parent.repositories.items():
            tagged = {digest for digests in found.tags.values() for digest in digests}
            rows += [(name, tag, digests[0]) for tag, digests in found.tags.items()]
            rows += [(name, "", digest) for digest in found.manifests if digest not in tagged]
        return rows

    async def close(self) -> None:
        """See `GatewayClient`."""


def configured(
    *repositories: str, mode: Mode = "ReadOnly", resync: str = "", **sync: str
) -> RegistryConfiguration:
    """What a parent says to its connected registry."""
    properties = SyncProperties(token_id="/tokens/plant", **sync)
    registry = ConnectedRegistry(
        name="plant", mode=mode, parent=ParentProperties(sync_properties=properties), resync_requested=resync
    )
    actions = [action for name in repositories for action in of_repository(name, READ)]
    return RegistryConfiguration(
        registry=registry,
        tokens=(Token(name="plant", scope_map_id="/scopeMaps/plant"),),
        scope_maps=(ScopeMap(name="plant", actions=tuple(actions)),),
    )


async def receive(keeper: Keeper, said: RegistryConfiguration) -> None:
    """The node takes it up."""
    identity = Identity(name="plant", instance="i", activated="2026-11-26T22:00:00Z", generation=1)
    await keeper.control(msgspec.json.encode(command.Receive(identity=identity, configuration=said)))
    keeper.store.set_mode(said.registry.mode)
    assert keeper.parts.synchroniser is not None
    keeper.parts.synchroniser.wake()


@asynccontextmanager
async def managed(
    place: Path,
    log: ScriptedLog,
    said: RegistryConfiguration | None = None,
    *rows: dict[str, Any],
    clock: Clock | None = None,
    sync: dict[str, Any] | None = None,
    link: dict[str, Any] | None = None,
    connections: int = 64,
) -> AsyncIterator[Keeper]:
    """A node that is active; its store stays in `place` for the next. `said` None: it has its configuration."""
    parent = {
        "url": log.parent.url,
        "insecure": True,
        "default": True,
        "stall_timeout": 600.0,
        "connections": connections,
    }
    config = from_table({"parent": [parent], "fills": {"reserve_bytes": 0}, "link": link or {}})
    config = replace(config, sync=msgspec.convert({"repositories": rows, **(sync or {})}, SyncSection))
    store = Store.create_or_open(place / "store", write=True, mode="ReadOnly")
    clock = clock or SystemClock()
    own, client = OwnRegistry("plant", config.gateway.poll, clock), cast(GatewayClient, log)
    own.state.active, own.state.generation = True, 1
    parents = make_parents(config, clock)
    fills = FillRegistry(store, parents.__getitem__, config.fills, clock)
    source = partial(ManagedSource, config=config, own=own, client=client)
    keeper = compose(config, store, clock, parents, fills, make_source=source)
    await keeper.start()
    try:
        if said is not None:
            await receive(keeper, said)
        yield keeper
    finally:
        await keeper.close()
        store.close()
