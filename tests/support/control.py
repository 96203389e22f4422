"""A control plane in memory, for tests of commands; and commands as tests write them."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import Any

import msgspec
from holdfast.config import ControlSection
from holdfast.control.command import Command, CommandResult, CreateRegistry, UpdateRegistry
from holdfast.control.draft import Draft
from holdfast.control.execute import Context, execute
from holdfast.control.hierarchy import descendants
from holdfast.resources.model import QUIET, ConnectedRegistry, ScopeMap, Status, Token
from holdfast.resources.registry_requests import NewRegistryProperties, RegistryChangeProperties
from holdfast_core.record import Resource, ResourceChange

#: 2026-11-26T22:00:00Z
NOW = 1_795_730_400.0


class Memory:
    """`ResourceView` over a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Resource] = {}
        self.names: defaultdict[str, list[str]] = defaultdict(list)
        self.number = 0

    def get(self, kind: str, name: str) -> Resource | None:
        return self.rows.get((kind, name.lower()))

    def list(
        self, kind: str, *, after: str = "", limit: int | None = None, prefix: str = ""
    ) -> list[Resource]:
        at, found = bisect_right(self.names[kind], max(after.lower(), prefix.lower())), list[Resource]()
        for name in self.names[kind][at:]:
            if not name.startswith(prefix.lower()) or len(found) == limit:
                break
            found.append(self.rows[kind, name])
        return found

    def count(self, kind: str) -> int:
        return len(self.names[kind])

    def revision(self) -> int:
        return self.number

    def apply(self, changes: Sequence[ResourceChange]) -> None:
        """What the store does with them."""
        places = [(row.kind, row.name.lower()) for row in changes]
        assert len(places) == len(set(places)), "a resource is changed twice"
        self.number += any(row.kind not in QUIET for row in changes)
        for row in changes:
            place, names = (row.kind, row.name.lower()), self.names[row.kind]
            if row.body is None:
                if self.rows.pop(place, None) is not None:
                    names.remove(place[1])
                continue
            if place not in self.rows:
                insort(names, place[1])
            self.rows[place] = Resource(row.kind, row.name, self.number, row.body)


class Plane:
    """A control plane that commands are done to, at a time the test sets. Secrets are `secret-1`, `secret-2`, …"""

    def __init__(self, **limits: int) -> None:
        self.view = Memory()
        self.now = NOW
        self.limits = ControlSection(**limits)
        self.secrets = count(1)

    def generate(self) -> tuple[str, str]:
        number = next(self.secrets)
        return f"secret-{number}", f"verifier-{number}"

    def do(self, command: Command, *, verifier: str = "") -> CommandResult:
        """Do it; what it raises is raised, and then nothing was changed."""
        context = Context(self.now, self.limits, verifier, self.generate)
        outcome = execute(self.view, command, context)
        self.view.apply(outcome.changes)
        return outcome.result

    def draft(self) -> Draft:
        return Draft(self.view)

    def registry(self, name: str) -> ConnectedRegistry:
        found = self.draft().registry(name)
        assert found is not None, name
        return found

    def token(self, name: str) -> Token:
        found = self.draft().token(name)
        assert found is not None, name
        return found

    def scope(self, name: str) -> ScopeMap:
        found = self.draft().scope_map(name)
        assert found is not None, name
        return found

    def status(self, name: str) -> Status:
        return self.draft().status(name)

    def below(self, name: str) -> list[str]:
        draft = self.draft()
        return [one.name for one in descendants(draft, self.registry(name))]

    def state(self) -> dict[tuple[str, str], bytes]:
        """All there is, to compare."""
        return {place: row.body for place, row in self.view.rows.items()}


def registry(
    name: str, *repositories: str, parent: str | None = None, mode: str = "ReadOnly"
) -> CreateRegistry:
    """The command that creates one, as an operator would."""
    assert mode in ("ReadOnly", "ReadWrite")
    return create_registry(name, mode, parent=parent, repositories=repositories or ("team/app",))


#: words of `create_registry` and `update_registry` -> where a request has them
SETTINGS = {
    "repositories": ("repositories",),
    "client_tokens": ("clientTokenIds",),
    "add_client_tokens": ("addClientTokens",),
    "remove_client_tokens": ("removeClientTokens",),
    "notifications": ("notificationsList",),
    "add_notifications": ("addNotifications",),
    "remove_notifications": ("removeNotifications",),
    "log_level": ("logging", "logLevel"),
    "audit_log_status": ("logging", "auditLogStatus"),
    "gc_enabled": ("garbageCollection", "enabled"),
    "gc_schedule": ("garbageCollection", "schedule"),
    "sync_token": ("syncProperties", "tokenId"),
    "schedule": ("syncProperties", "schedule"),
    "sync_window": ("syncProperties", "syncWindow"),
    "message_ttl": ("syncProperties", "messageTtl"),
}


def create_registry(
    name: str,
    mode: str,
    *,
    parent: str | None = None,
    only_new: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> CreateRegistry:
    """The command that creates a connected registry, its settings as plain words."""
    document = request(settings)
    document |= {"mode": mode, "parent": {"id": parent, "syncProperties": document.pop("syncProperties", {})}}
    properties = msgspec.convert(document, NewRegistryProperties)
    return CreateRegistry(name=name, properties=properties, only_new=only_new, dry_run=dry_run)


def update_registry(
    name: str, *, if_match: str | None = None, dry_run: bool = False, **settings: Any
) -> UpdateRegistry:
    """The command that changes a connected registry, its settings as plain words."""
    properties = msgspec.convert(request(settings), RegistryChangeProperties)
    return UpdateRegistry(name=name, properties=properties, if_match=if_match, dry_run=dry_run)


def request(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as the properties of a request."""
    document: dict[str, Any] = {}
    for word, value in settings.items():
        *above, key = SETTINGS[word]
        within = document.setdefault(above[0], {}) if above else document
        within[key] = value
    return document
