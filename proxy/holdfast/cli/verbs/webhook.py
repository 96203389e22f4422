"""`holdfast webhook`: receivers of events on pushes and deletes."""

from __future__ import annotations

import sys

import click

from holdfast.cli import output as out
from holdfast.cli.exit_codes import FAILED
from holdfast.cli.output import properties, time_of
from holdfast.cli.verb import Name, Verb, VerbSession, add_list, asks, examples

NOUN = "webhooks"

LIST_COLUMNS: list[out.Column] = [
    ("NAME", lambda document: document.get("name")),
    ("URL", properties("url")),
    ("STATE", properties("state")),
    ("PENDING", properties("pending")),
    ("LAST ANSWER", properties("lastAnswer")),
    ("FAILING SINCE (UTC)", time_of("failingSince")),
]
SHOW_COLUMNS: list[out.Column] = [
    *LIST_COLUMNS[:4],
    ("PATTERNS", properties("patterns")),
    ("FORMAT", properties("format")),
    ("SIGNED", properties("signed")),
    ("CURSOR", properties("cursor")),
    ("DELIVERED", properties("delivered")),
    ("LAST ANSWER", properties("lastAnswer")),
    ("ANSWERED", time_of("lastAnswerTime")),
    ("FAILING SINCE", time_of("failingSince")),
    ("FAILURES", properties("failures")),
    ("NEXT TRY", time_of("nextTry")),
    ("DROPPED", properties("dropped")),
    ("LAST DROP", time_of("lastDropTime")),
    ("DROPPED FOR", properties("lastDropReason")),
]
PING_COLUMNS: list[out.Column] = [
    ("NAME", lambda document: document.get("name")),
    ("TAKEN", lambda document: "yes" if document.get("taken") else "no"),
    ("ANSWER", lambda document: document.get("answer")),
]


@click.group("webhook")
def webhook() -> None:
    """Receivers of pushes and deletes; they are configured under [[webhook]]."""


NAME = click.argument("name", type=Name(NOUN))


add_list(webhook, NOUN, LIST_COLUMNS, "List webhooks, and how far each is.", none="there is no webhook")


@webhook.command(cls=Verb)
@NAME
@asks
def show(session: VerbSession, name: str) -> None:
    """Show how far a webhook is, and its receiver's last answer."""
    out.show_one(session.client.get(NOUN, name), SHOW_COLUMNS, session.output)


@webhook.command(cls=Verb, epilog=examples("holdfast webhook ping ci"))
@NAME
@asks
def ping(session: VerbSession, name: str) -> None:
    """Send a webhook's receiver an event of nothing, now.

    Exit code 1 when it does not take it.
    """
    document = session.client.ask("POST", (NOUN, name, "ping"))
    out.show_one(document, PING_COLUMNS, session.output)
    if not document.get("taken"):
        sys.exit(FAILED)
