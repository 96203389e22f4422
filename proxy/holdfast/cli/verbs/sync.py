"""`holdfast sync`: synchronisation of a node with its parents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import amount
from holdfast.cli.verb import VerbSession, asks, examples
from holdfast.clock import Clock, SystemClock

#: between two looks of --watch (seconds)
WATCH_SECONDS = 1.0
#: a plan that is not ready is requested again after so long (seconds)
PLAN_SECONDS = 0.5
#: images in the table of a plan; -o json has all of them
SHOWN = 50


def _state(report: Mapping[str, Any]) -> str:
    if report["running"]:
        return f"running ({report['running']})"
    if report["asked"]:
        return f"waits ({report['asked']})"
    return "idle"


def _images(report: Mapping[str, Any]) -> str:
    progress = report["progress"]
    return "" if progress is None else f"{progress['imagesDone']} of {progress['images']}"


def _bytes(report: Mapping[str, Any]) -> str:
    return "" if report["progress"] is None else out.transfer(report["progress"])


def _troubles(report: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['image']}: {one['reason']} ({one['kind']}, {one['attempts']} tries, again {one['nextTry']})"
        for one in report["troubles"]
    ]


STATUS_COLUMNS: list[out.Column] = [
    ("STATE", _state),
    ("SCHEDULE", lambda report: " ".join((report["schedule"], report["window"])).strip()),
    ("WINDOW", lambda report: "open" if report["windowOpen"] else "closed"),
    ("CLOSES", lambda report: report["closes"]),
    ("OPENS", lambda report: report["opens"]),
    ("LAST SYNC", lambda report: report["lastSyncTime"] or "never"),
    ("LAST FULL LOOK", lambda report: f"{report['upToDate']} images up to date"),
    ("IMAGES", _images),
    ("BYTES", _bytes),
    ("TROUBLES", _troubles),
    ("NOTES", lambda report: report["words"]),
]


def _plan_images(report: Mapping[str, Any]) -> list[str]:
    rows = [f"{one['image']}  {amount(one['bytes'])}" for one in report["images"]]
    more = len(rows) - SHOWN
    return [*rows[:SHOWN], f"and {more} more"] if more > 0 else rows


def _plan_removals(report: Mapping[str, Any]) -> list[str]:
    rows = [f"{one['name']}  {one['at'] or 'not yet'}" for one in report["removals"]]
    more = len(rows) - SHOWN
    return [*rows[:SHOWN], f"and {more} more"] if more > 0 else rows


PLAN_COLUMNS: list[out.Column] = [
    ("LOOKED AT", lambda report: f"{report['lookedAt']} tags"),
    ("UP TO DATE", lambda report: f"{report['upToDate']} images"),
    ("TO FETCH", lambda report: f"{len(report['images'])} images, {amount(report['bytes'])}"),
    (
        "LEFT OUT",
        lambda report: f"{report['absent']} children of other platforms" if report["absent"] else "",
    ),
    ("NEXT WINDOW", lambda report: report["verdict"]),
    ("IMAGES", _plan_images),
    ("REMOVALS", _plan_removals),
    ("NOTES", lambda report: report["words"]),
]


@click.group()
def sync() -> None:
    """What a node fetches from its parents before clients ask for it."""


@sync.command("run")
@asks
def begin(session: VerbSession) -> None:
    """Synchronise everything now, also outside the window."""
    out.show_one(session.client.ask("POST", ("sync", "run")), STATUS_COLUMNS, session.output)


@sync.command(epilog=examples("holdfast sync status --watch"))
@click.option("--watch", is_flag=True, help="Show a run as it goes; ends when nothing runs any more.")
@asks
def status(session: VerbSession, watch: bool) -> None:
    """Show the state of synchronisation."""
    if watch and session.output != "table":
        raise click.UsageError("--watch: found with -o; allowed: one of the two.")
    report = session.client.get("sync")
    if watch:
        report = _watched(session, report, SystemClock())
    out.show_one(report, STATUS_COLUMNS, session.output)


@sync.command()
@asks
def plan(session: VerbSession) -> None:
    """Show what the next run would fetch, and what it would remove.

    Says whether it fits its window at the measured rate. Nothing is kept of what
    is read for it.
    """
    import asyncio

    report, clock = session.client.get("sync", "plan"), SystemClock()
    while not report["ready"]:
        asyncio.run(clock.sleep(PLAN_SECONDS))
        report = session.client.get("sync", "plan")
    out.show_one(report, PLAN_COLUMNS, session.output)


def _watched(session: VerbSession, report: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """Bars on stderr until nothing runs; the last report."""
    import asyncio

    with out.progress_bars() as bars:
        images, received = (
            bars.add_task("images", total=None, detail=""),
            bars.add_task("bytes", total=None, detail=""),
        )
        while report["running"]:
            if (progress := report["progress"]) is not None:
                bars.update(images, completed=progress["imagesDone"], total=progress["images"])
                bars.update(
                    received, completed=progress["bytesDone"], total=progress["bytes"], detail=_bytes(report)
                )
            else:
                bars.update(images, detail=f"{report['lookedAt']} tags looked at")
            asyncio.run(clock.sleep(WATCH_SECONDS))
            report = session.client.get("sync")
    return report
