"""`holdfast scrub`: how far the bytes on the disk are compared with their hashes, and what was found."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.exit_codes import FAILED
from holdfast.cli.output import amount
from holdfast.cli.verb import Verb, VerbSession, asks, examples

DAY_SECONDS = 86_400


def _period(document: Mapping[str, Any]) -> str:
    return f"every {document['period'] / DAY_SECONDS:g} days" if document["period"] else "only by order"


def figures(report: Mapping[str, Any]) -> str:
    """What a pass did, in a line."""
    found = (
        f"{report['found']} chunks found bad, {report['repaired']} repaired"
        if report["found"]
        else "nothing bad"
    )
    frames = (
        f", {report['journalFrames']} frames of the journal written again" if report["journalFrames"] else ""
    )
    return f"{amount(report['bytes'])}, {found}{frames}"


def _now(document: Mapping[str, Any]) -> str:
    report = document["current"]
    if report is None:
        return ""
    state = "paused while clients are served" if document["paused"] else "running"
    of = f"of {amount(document['held'])}"
    return f"{state} since {out.seconds(report['began'])} ({report['trigger']}), {of}: {figures(report)}"


def _last(document: Mapping[str, Any]) -> str:
    report = document["lastFullPass"]
    if report is None:
        return "never"
    return f"{out.seconds(report['began'])} to {out.seconds(report['ended'])} ({report['trigger']}): {figures(report)}"


def summary(document: Mapping[str, Any]) -> str:
    """For `holdfast status`: the last full pass, and what is damaged now."""
    damaged = f"; {document['unrepaired']} blob(s) damaged now" if document["unrepaired"] else ""
    return f"last full pass {_last(document)}{damaged}"


COLUMNS: list[out.Column] = [
    ("PERIOD", _period),
    ("NOW", _now),
    ("LAST FULL PASS", _last),
    ("DAMAGED BLOBS", lambda document: str(document["unrepaired"])),
]


@click.command("scrub", cls=Verb, epilog=examples("holdfast scrub", "holdfast scrub --now"))
@click.option("--now", is_flag=True, help="Read everything now, from the beginning.")
@asks
def scrub(session: VerbSession, now: bool) -> None:
    """Say how far the bytes on the disk are compared with their hashes.

    A node does so by itself (scrub in the configuration). Exit code 1: blobs
    are damaged now; the node fetches them again where a parent has them.
    """
    document = session.client.ask("POST", ("scrub", "run")) if now else session.client.get("scrub")
    out.show_one(document, COLUMNS, session.output)
    if document["unrepaired"]:
        sys.exit(FAILED)
