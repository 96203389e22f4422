"""`holdfast outbox`: what was pushed, tagged and deleted here and is still to go up to a parent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import moment, properties
from holdfast.cli.verb import Name, Session, Verb, asks

NOUN = "outbox"


def _what(found: Mapping[str, Any]) -> str:
    """The tag, or else the digest."""
    row = found.get("properties") or {}
    return (
        f"{row.get('repository')}:{row['tag']}"
        if row.get("tag")
        else f"{row.get('repository')}@{row.get('digest')}"
    )


LIST_COLUMNS: list[out.Column] = [
    ("NUMBER", lambda found: found.get("name")),
    ("DEED", properties("deed")),
    ("WHAT", _what),
    ("STATE", properties("state")),
    ("SINCE", moment("time")),
    ("REASON", properties("reason")),
]
SHOW_COLUMNS: list[out.Column] = [
    *LIST_COLUMNS[:4],
    ("DIGEST", properties("digest")),
    *LIST_COLUMNS[4:],
    ("ATTEMPTS", properties("attempts")),
    ("NEXT TRY", moment("nextTry")),
    ("OURS", properties("conflict", "ours")),
    ("THEIRS", properties("conflict", "theirs")),
    ("BASE", properties("conflict", "base")),
    ("POLICY", properties("conflict", "policy")),
    ("WINNER", properties("conflict", "winner")),
]


BACKLOG_COLUMNS: list[out.Column] = [
    ("ENTRIES", lambda found: str(found["entries"])),
    ("UNDER WAY", lambda found: str(found["underWay"])),
    ("OLDEST", lambda found: out.seconds(found["oldestTime"] or "none")),
    ("WAITS FOR", lambda found: f"{found['oldestSeconds']} s"),
    ("CONFIRMED", lambda found: f"{found['perMinute']} a minute"),
]


@click.group("outbox")
def outbox() -> None:
    """Pushes, tag moves and deletes on their way to a parent."""


NUMBER = click.argument("number", type=Name(NOUN))


@outbox.command("list", cls=Verb)
@asks
def list_all(session: Session) -> None:
    """List what is still to go up, and the last conflicts over tags."""
    out.show_list(session.client.listed(NOUN), LIST_COLUMNS, session.output, "nothing is to go up")


@outbox.command(cls=Verb)
@asks
def status(session: Session) -> None:
    """Show how much is still to go up, since when, and how fast it goes."""
    out.show_one(session.client.get(NOUN, "status"), BACKLOG_COLUMNS, session.output)


@outbox.command(cls=Verb)
@NUMBER
@asks
def show(session: Session, number: str) -> None:
    """Show what holds an entry back, and how a conflict was decided."""
    out.show_one(session.client.get(NOUN, number), SHOW_COLUMNS, session.output)


@outbox.command(cls=Verb)
@NUMBER
@asks
def retry(session: Session, number: str) -> None:
    """Try an entry now; one in conflict goes up as if this side had won."""
    from holdfast.cli.admin_client import path

    found = session.client.ask("POST", path(NOUN, number, "retry"))
    out.show_one(found, SHOW_COLUMNS, session.output)
