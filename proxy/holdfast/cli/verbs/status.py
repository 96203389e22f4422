"""`holdfast status`: the state of a node on one screen."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.exit_codes import FAILED
from holdfast.cli.output import amount
from holdfast.cli.verb import Verb, VerbSession, asks, examples
from holdfast.cli.verbs.disk import scrub

_SAID = {
    "Healthy": "healthy",
    "Troubled": "serves, and something is wrong",
    "NotReady": "not ready: no client should be sent here",
}


def _node(document: Mapping[str, Any]) -> str:
    """The role of a node, with its mode where the role does not imply one."""
    mode = "" if document["role"].endswith(document["mode"]) else f", {document['mode']}"
    return f"{document['role']}{mode}, version {document['version']}"


def _parents(document: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['name']}  {one['properties']['state']} since {out.seconds(one['properties']['since'])}"
        f"  {one['properties']['url']}"
        for one in document["parents"]
    ]


def _synchronisation(document: Mapping[str, Any]) -> str:
    report = document["synchronisation"]
    if report is None:
        return ""
    doing = f"running ({report['running']})" if report["running"] else "idle"
    until = f" until {out.seconds(report['opens'])}" if report["opens"] else ""
    closed = f"window closed{until}: nothing is synchronised (holdfast sync run does it now)"
    window = "window open" if report["windowOpen"] else closed
    if not report["schedule"]:
        window = "no schedule is known yet"
    last = out.seconds(report["lastSyncTime"]) if report["lastSyncTime"] else "never"
    failed = report["incomplete"]
    lacking = f", {failed} images could not be fetched (holdfast sync status)" if failed else ""
    return f"{doing}, {window}, last run {last}{lacking}"


def _outbox(document: Mapping[str, Any]) -> str:
    waiting, capped = document["outboxEntries"], document["outboxCapped"]
    held = f", {capped} of them when a cap of 0 on pushes is over (link.caps)" if capped else ""
    return f"{waiting} to go up{held}" if waiting else ""


COLUMNS: list[out.Column] = [
    ("HEALTH", lambda document: _SAID[document["health"]]),
    ("WRONG", lambda document: document["troubles"]),
    ("NODE", _node),
    ("PARENTS", _parents),
    ("SYNC", _synchronisation),
    ("OUTBOX", _outbox),
    ("SCRUB", lambda document: "" if document["scrub"] is None else scrub.summary(document["scrub"])),
    ("DISK", lambda document: f"{amount(document['freeBytes'])} free"),
]


@click.command(cls=Verb, epilog=examples("holdfast status", "holdfast status --data /var/lib/holdfast"))
@asks
def status(session: VerbSession) -> None:
    """Say how a node is: what is wrong first.

    Exit code 0: nothing is wrong. 1: something is, or the node does not answer.
    """
    document = session.client.get("status")
    out.show_one(document, COLUMNS, session.output)
    if document["health"] != "Healthy":
        sys.exit(FAILED)
