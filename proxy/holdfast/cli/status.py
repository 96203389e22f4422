"""`holdfast status`: one screen that says how a node is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.commands import FAILED
from holdfast.cli.output import amount
from holdfast.cli.verb import Session, Verb, asks, examples

_SAID = {
    "Healthy": "healthy",
    "Troubled": "serves, and something is wrong",
    "NotReady": "not ready: no client should be sent here",
}


def _node(found: Mapping[str, Any]) -> str:
    """What it is; the mode where that does not say it."""
    mode = "" if found["role"].endswith(found["mode"]) else f", {found['mode']}"
    return f"{found['role']}{mode}, version {found['version']}"


def _parents(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['name']}  {one['properties']['state']} since {out.seconds(one['properties']['since'])}"
        f"  {one['properties']['url']}"
        for one in found["parents"]
    ]


def _synchronisation(found: Mapping[str, Any]) -> str:
    report = found["synchronisation"]
    if report is None:
        return ""
    doing = f"running ({report['running']})" if report["running"] else "idle"
    window = "window open" if report["windowOpen"] else "window closed: nothing is synchronised"
    last = out.seconds(report["lastSyncTime"]) if report["lastSyncTime"] else "never"
    return f"{doing}, {window}, last complete {last}"


COLUMNS: list[out.Column] = [
    ("HEALTH", lambda found: _SAID[found["health"]]),
    ("WRONG", lambda found: found["troubles"]),
    ("NODE", _node),
    ("PARENTS", _parents),
    ("SYNC", _synchronisation),
    ("OUTBOX", lambda found: f"{found['outboxEntries']} to go up" if found["outboxEntries"] else ""),
    ("DISK", lambda found: f"{amount(found['freeBytes'])} free"),
]


@click.command(cls=Verb, epilog=examples("holdfast status", "holdfast status --data /var/lib/holdfast"))
@asks
def status(session: Session) -> None:
    """Say how a node is: what is wrong first.

    Exit code 0: nothing is wrong. 1: something is, or the node does not answer.
    """
    found = session.client.get("status")
    out.show_one(found, COLUMNS, session.output)
    if found["health"] != "Healthy":
        sys.exit(FAILED)
