"""`holdfast gc`: what no tag and no manifest names goes, or is only counted."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.exit_codes import FAILED
from holdfast.cli.output import amount
from holdfast.cli.verb import Verb, VerbSession, asks, examples
from holdfast.clock import SystemClock

#: between two looks at a collection that is under way (seconds)
LOOK_SECONDS = 1.0
#: repositories in the table; -o json has up to 1,000
SHOWN = 50


def _report(document: Mapping[str, Any], field: str) -> Any:
    return "" if document["report"] is None else document["report"][field]


def _schedule(document: Mapping[str, Any]) -> str:
    if not document["enabled"]:
        return "off"
    return f"{document['schedule']}, next {out.seconds(document['nextRun'] or 'never')}"


def _last(document: Mapping[str, Any]) -> str:
    if document["report"] is None:
        return "never"
    trigger, began = _report(document, "trigger"), out.seconds(_report(document, "began"))
    state = "running" if document["running"] else f"{_report(document, 'seconds'):.1f} s"
    return f"{began} ({trigger}, {state})"


def _gone(document: Mapping[str, Any]) -> str:
    if document["report"] is None:
        return ""
    of = f"{_report(document, 'digests')} of {_report(document, 'lookedAt')} without a name"
    return f"{of}, {amount(_report(document, 'bytes'))} of the disk"


def _gone_of(is_dry: bool) -> Any:
    return lambda document: _gone(document) if bool(_report(document, "dryRun")) == is_dry else ""


def _repositories(document: Mapping[str, Any]) -> list[str]:
    rows = _report(document, "repositories") or []
    lines = [f"{row['name']}  {row['digests']}, {amount(row['bytes'])}" for row in rows]
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], f"and {more} more"] if more > 0 else lines


COLUMNS: list[out.Column] = [
    ("SCHEDULE", _schedule),
    ("LAST", _last),
    ("COLLECTED", _gone_of(False)),
    ("WOULD GO", _gone_of(True)),
    ("REPOSITORIES", _repositories),
    ("FAILED", lambda document: _report(document, "failure")),
]


@click.command("gc", cls=Verb, epilog=examples("holdfast gc --dry-run", "holdfast gc --last"))
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--last", is_flag=True, help="Only show the schedule, and what the last collection did.")
@asks
def gc(session: VerbSession, dry_run: bool, last: bool) -> None:
    """Remove content that no tag and no manifest names.

    Leases and retention hold (garbage_collection in the configuration). The
    bytes are free push.sweep_grace later, on a full disk at once.
    """
    if dry_run and last:
        raise click.UsageError("Say one of --dry-run and --last.")
    document = session.client.get("collection") if last else _ended(session, dry_run)
    out.show_one(document, COLUMNS, session.output)
    if _report(document, "failure"):
        sys.exit(FAILED)


def _ended(session: VerbSession, dry_run: bool) -> dict[str, Any]:
    """The answer once the collection is over."""
    import asyncio

    clock, query = SystemClock(), {"dryRun": "true"} if dry_run else {}
    document = session.client.ask("POST", ("collection", "run"), query=query)
    while document["running"]:
        asyncio.run(clock.sleep(LOOK_SECONDS))
        document = session.client.get("collection", query=query)
    return document
