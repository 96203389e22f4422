"""`holdfast webhook`: who is told of pushes and deletes, seen from the terminal."""

from __future__ import annotations

import click

from holdfast.cli import output as out
from holdfast.cli.output import moment, properties
from holdfast.cli.verb import Name, Session, Verb, asks, examples

NOUN = "webhooks"

LIST_COLUMNS: list[out.Column] = [
    ("NAME", lambda found: found.get("name")),
    ("URL", properties("url")),
    ("STATE", properties("state")),
    ("PENDING", properties("pending")),
    ("LAST ANSWER", properties("lastAnswer")),
    ("FAILING SINCE (UTC)", moment("failingSince")),
]
SHOW_COLUMNS: list[out.Column] = [
    *LIST_COLUMNS[:4],
    ("PATTERNS", properties("patterns")),
    ("FORMAT", properties("format")),
    ("SIGNED", properties("signed")),
    ("CURSOR", properties("cursor")),
    ("DELIVERED", properties("delivered")),
    ("LAST ANSWER", properties("lastAnswer")),
    ("ANSWERED", moment("lastAnswerTime")),
    ("FAILING SINCE", moment("failingSince")),
    ("FAILURES", properties("failures")),
    ("NEXT TRY", moment("nextTry")),
    ("DROPPED", properties("dropped")),
    ("LAST DROP", moment("lastDropTime")),
    ("DROPPED FOR", properties("lastDropReason")),
]
PING_COLUMNS: list[out.Column] = [
    ("NAME", lambda found: found.get("name")),
    ("TAKEN", lambda found: "yes" if found.get("taken") else "no"),
    ("ANSWER", lambda found: found.get("answer")),
]


@click.group("webhook")
def webhook() -> None:
    """Who is told of pushes and deletes; they are configured under [[webhook]]."""


NAME = click.argument("name", type=Name(NOUN))


@webhook.command("list", cls=Verb)
@asks
def list_all(session: Session) -> None:
    """List webhooks, and how far each is."""
    out.show_list(session.client.listed(NOUN), LIST_COLUMNS, session.output, "there is no webhook")


@webhook.command(cls=Verb)
@NAME
@asks
def show(session: Session, name: str) -> None:
    """Show how far a webhook is, and what its receiver last said."""
    out.show_one(session.client.get(NOUN, name), SHOW_COLUMNS, session.output)


@webhook.command(cls=Verb, epilog=examples("holdfast webhook ping ci"))
@NAME
@asks
def ping(session: Session, name: str) -> None:
    """Send a webhook's receiver an event of nothing, now.

    Exit code 1 when it does not take it.
    """
    import sys

    from holdfast.cli.admin_client import path
    from holdfast.cli.commands import FAILED

    found = session.client.ask("POST", path(NOUN, name, "ping"))
    out.show_one(found, PING_COLUMNS, session.output)
    if not found.get("taken"):
        sys.exit(FAILED)
