"""`holdfast sync`: what a node fetches before anybody asks, seen from the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import amount
from holdfast.cli.verb import Session, asks, examples
from holdfast.clock import Clock, SystemClock

if TYPE_CHECKING:
    from rich.progress import Progress

#: between two looks of --watch (seconds)
WATCH_SECONDS = 1.0
#: a plan that is still being made is asked for again after so long (seconds)
PLAN_SECONDS = 0.5
#: images in the table of a plan; -o json has all that the node tells
SHOWN = 50


def _state(found: Mapping[str, Any]) -> str:
    if found["running"]:
        return f"running ({found['running']})"
    if found["asked"]:
        return f"waits ({found['asked']})"
    return "idle"


def _images(found: Mapping[str, Any]) -> str:
    progress = found["progress"]
    return "" if progress is None else f"{progress['imagesDone']} of {progress['images']}"


def _bytes(found: Mapping[str, Any]) -> str:
    return "" if found["progress"] is None else out.transfer(found["progress"])


def _troubles(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['image']}: {one['reason']} ({one['kind']}, {one['attempts']} tries, again {one['nextTry']})"
        for one in found["troubles"]
    ]


STATUS_COLUMNS: list[out.Column] = [
    ("STATE", _state),
    ("SCHEDULE", lambda found: " ".join((found["schedule"], found["window"])).strip()),
    ("WINDOW", lambda found: "open" if found["windowOpen"] else "closed"),
    ("CLOSES", lambda found: found["closes"]),
    ("LAST SYNC", lambda found: found["lastSyncTime"] or "never"),
    ("LAST FULL LOOK", lambda found: f"{found['upToDate']} images up to date"),
    ("IMAGES", _images),
    ("BYTES", _bytes),
    ("TROUBLES", _troubles),
    ("NOTES", lambda found: found["words"]),
]


def _plan_images(found: Mapping[str, Any]) -> list[str]:
    rows = [f"{one['image']}  {amount(one['bytes'])}" for one in found["images"]]
    more = len(rows) - SHOWN
    return [*rows[:SHOWN], f"and {more} more"] if more > 0 else rows


def _plan_removals(found: Mapping[str, Any]) -> list[str]:
    rows = [f"{one['name']}  {one['at'] or 'not yet'}" for one in found["removals"]]
    more = len(rows) - SHOWN
    return [*rows[:SHOWN], f"and {more} more"] if more > 0 else rows


PLAN_COLUMNS: list[out.Column] = [
    ("LOOKED AT", lambda found: f"{found['lookedAt']} tags"),
    ("UP TO DATE", lambda found: f"{found['upToDate']} images"),
    ("TO FETCH", lambda found: f"{len(found['images'])} images, {amount(found['bytes'])}"),
    ("LEFT OUT", lambda found: f"{found['absent']} children of other platforms" if found["absent"] else ""),
    ("NEXT WINDOW", lambda found: found["verdict"]),
    ("IMAGES", _plan_images),
    ("REMOVALS", _plan_removals),
    ("NOTES", lambda found: found["words"]),
]


@click.group()
def sync() -> None:
    """What a node fetches from its parents before anybody asks."""


@sync.command("run")
@asks
def begin(session: Session) -> None:
    """Synchronise everything now, whatever the window."""
    out.show_one(session.client.ask("POST", "sync/run"), STATUS_COLUMNS, session.output)


@sync.command(epilog=examples("holdfast sync status --watch"))
@click.option("--watch", is_flag=True, help="Show a run as it goes; ends when nothing runs any more.")
@asks
def status(session: Session, watch: bool) -> None:
    """Show where synchronisation stands."""
    if watch and session.output != "table":
        raise click.UsageError("--watch: found with -o; allowed: one of the two.")
    found = session.client.get("sync")
    if watch:
        found = _watched(session, found, SystemClock())
    out.show_one(found, STATUS_COLUMNS, session.output)


@sync.command()
@asks
def plan(session: Session) -> None:
    """Show what the next run would fetch, and what it would remove.

    Says whether it fits its window at the measured rate. Nothing is kept of what
    is read for it.
    """
    import asyncio

    found, clock = session.client.get("sync", "plan"), SystemClock()
    while not found["ready"]:
        asyncio.run(clock.sleep(PLAN_SECONDS))
        found = session.client.get("sync", "plan")
    out.show_one(found, PLAN_COLUMNS, session.output)


def _watched(session: Session, found: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """Bars on stderr until nothing runs; the last report."""
    import asyncio

    with _bars() as bars:
        images, received = (
            bars.add_task("images", total=None, told=""),
            bars.add_task("bytes", total=None, told=""),
        )
        while found["running"]:
            if (progress := found["progress"]) is not None:
                bars.update(images, completed=progress["imagesDone"], total=progress["images"])
                bars.update(
                    received, completed=progress["bytesDone"], total=progress["bytes"], told=_bytes(found)
                )
            else:
                bars.update(images, told=f"{found['lookedAt']} tags looked at")
            asyncio.run(clock.sleep(WATCH_SECONDS))
            found = session.client.get("sync")
    return found


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}"),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
