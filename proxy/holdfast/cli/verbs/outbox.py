"""`holdfast outbox`: pushes, tags and deletes of this node that are still to be sent to a parent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import properties, time_of
from holdfast.cli.verb import Name, Verb, VerbSession, add_list, asks

NOUN = "outbox"


def _what(document: Mapping[str, Any]) -> str:
    """The tag, or else the digest."""
    row = document.get("properties") or {}
    return (
        f"{row.get('repository')}:{row['tag']}"
        if row.get("tag")
        else f"{row.get('repository')}@{row.get('digest')}"
    )


LIST_COLUMNS: list[out.Column] = [
    ("NUMBER", lambda document: document.get("name")),
    ("DEED", properties("deed")),
    ("WHAT", _what),
    ("STATE", properties("state")),
    ("SINCE", time_of("time")),
    ("REASON", properties("reason")),
]
SHOW_COLUMNS: list[out.Column] = [
    *LIST_COLUMNS[:4],
    ("DIGEST", properties("digest")),
    *LIST_COLUMNS[4:],
    ("ATTEMPTS", properties("attempts")),
    ("NEXT TRY", time_of("nextTry")),
    ("OURS", properties("conflict", "ours")),
    ("THEIRS", properties("conflict", "theirs")),
    ("BASE", properties("conflict", "base")),
    ("POLICY", properties("conflict", "policy")),
    ("WINNER", properties("conflict", "winner")),
]


BACKLOG_COLUMNS: list[out.Column] = [
    ("ENTRIES", lambda document: str(document["entries"])),
    ("UNDER WAY", lambda document: str(document["underWay"])),
    ("OLDEST", lambda document: out.seconds(document["oldestTime"] or "none")),
    ("WAITS FOR", lambda document: f"{document['oldestSeconds']} s"),
    ("CONFIRMED", lambda document: f"{document['perMinute']} a minute"),
]


@click.group("outbox")
def outbox() -> None:
    """Pushes, tag moves and deletes on their way to a parent."""


NUMBER = click.argument("number", type=Name(NOUN))


add_list(
    outbox,
    NOUN,
    LIST_COLUMNS,
    "List the entries of the outbox, and the last conflicts over tags.",
    none="the outbox is empty",
)


@outbox.command(cls=Verb)
@asks
def status(session: VerbSession) -> None:
    """Show the size of the outbox, its oldest entry, and its rate."""
    out.show_one(session.client.get(NOUN, "status"), BACKLOG_COLUMNS, session.output)


@outbox.command(cls=Verb)
@NUMBER
@asks
def show(session: VerbSession, number: str) -> None:
    """Show what holds an entry back, and how a conflict was decided."""
    out.show_one(session.client.get(NOUN, number), SHOW_COLUMNS, session.output)


@outbox.command(cls=Verb)
@NUMBER
@asks
def retry(session: VerbSession, number: str) -> None:
    """Try an entry now; one in conflict is sent as if this node had won."""
    document = session.client.ask("POST", (NOUN, number, "retry"))
    out.show_one(document, SHOW_COLUMNS, session.output)
