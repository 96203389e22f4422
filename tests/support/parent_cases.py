"""A parent client in front of a scripted parent, for tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from holdfast import config
from holdfast.clock import Clock
from holdfast.http.body import BodyPace
from holdfast.oci.manifest import OCI_MANIFEST
from holdfast.parent.client import Parent
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent, digest_of
from holdfast.testing.scripted_parent import ScriptedParent

#: a case that takes longer hangs
LIMIT_SECONDS = 180.0

IMAGE = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/x", "digest": digest_of(b"{}"), "size": 2},
        "layers": [],
    }
).encode()
BLOB = GeneratedContent(300_000, "blob")


def stocked(scripted: ScriptedParent) -> str:
    """A repository `team/app` with tag v1; returns the manifest's digest."""
    scripted.add_blob("team/app", BLOB)
    return scripted.add_manifest("team/app", IMAGE, OCI_MANIFEST, "v1")


def settings_for(url: str, **changes: Any) -> config.ParentSection:
    """A parent's configuration; what a test does not say never runs out while it runs."""
    defaults = {"insecure": True, "connect_timeout": 60.0, "answer_timeout": 300.0, "stall_timeout": 600.0}
    return config.ParentSection(url=url, **{**defaults, **changes})


def silent_when(monkeypatch: pytest.MonkeyPatch, quiet: Callable[[], bool]) -> None:
    """The parent's silence counts only while `quiet` holds, and not where a slow machine makes it."""
    left = BodyPace.left
    monkeypatch.setattr(BodyPace, "left", lambda pace: left(pace) if quiet() else 3600.0)


@asynccontextmanager
async def client_of(
    scripted: ScriptedParent | str, clock: Clock | None = None, *, lookup: Any = None, **changes: Any
) -> AsyncIterator[Parent]:
    """A `Parent` with a fake clock that jumps, closed afterwards."""
    url = scripted if isinstance(scripted, str) else scripted.url
    parent = Parent(settings_for(url, **changes), clock or FakeClock(), lookup=lookup)
    try:
        yield parent
    finally:
        await parent.close()


async def read_all(parent: Parent, name: str, digest: str, **options: Any) -> bytes:
    """A whole stream as bytes."""
    async with parent.get_blob(name, digest, **options) as stream:
        return b"".join([piece async for piece in stream])
