"""`holdfast events`: what changed on a node and in the connected registries below it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import properties, time_of
from holdfast.cli.verb import Verb, VerbSession, asks_in, examples
from holdfast.clock import SystemClock
from holdfast.printable import printable, printable_json

NOUN = "events"
#: between two looks of --follow (seconds)
FOLLOW_SECONDS = 1.0


def _what(document: Mapping[str, Any]) -> str:
    row = document.get("properties") or {}
    if row.get("tag"):
        return f"{row.get('repository')}:{row['tag']}"
    return f"{row.get('repository')}@{row['digest']}" if row.get("digest") else str(row.get("repository"))


def _where(document: Mapping[str, Any]) -> str:
    row = document.get("properties") or {}
    return str(row.get("connectedRegistry") or row.get("origin"))


COLUMNS: list[out.Column] = [
    ("NUMBER", lambda document: document.get("name")),
    ("TIME (UTC)", time_of("time")),
    ("ACTION", properties("action")),
    ("KIND", properties("kind")),
    ("WHAT", _what),
    ("WHERE", _where),
]


@click.command(
    "events",
    cls=Verb,
    epilog=examples("holdfast events --of plant1", "holdfast events --follow -o json"),
)
@click.option(
    "--after", type=click.IntRange(min=0), metavar="NUMBER", help="Only events with higher numbers."
)
@click.option(
    "--last", type=click.IntRange(1, 1000), default=100, show_default=True, help="Without --after: so many."
)
@click.option("--of", "place", metavar="NAME", help="Only what happened in this connected registry.")
@click.option("--repository", metavar="NAME", help="Only what happened in this repository.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until ^C.")
@asks_in("table", "json")
def events(
    session: VerbSession,
    after: int | None,
    last: int,
    place: str | None,
    repository: str | None,
    follow: bool,
) -> None:
    """Show what was pushed and deleted here, and in the connected registries below."""
    query = {"registry": place, "repository": repository}
    kept = {name: value for name, value in query.items() if value is not None}
    start = {"$top": str(last)} if after is None else {"after": str(after)}
    pages = _pages(session, {**kept, **start}, follow)
    if not follow:
        rows = (row for page in pages for row in page)
        out.show_list(rows, COLUMNS, session.output, "nothing happened, as far as the log goes back")
        return
    for page in pages:
        for row in page:
            click.echo(_line(row, session.output))


def _line(row: Mapping[str, Any], output: str) -> str:
    """One event in one line, as it happens."""
    if output == "json":
        return printable_json(json.dumps(row, ensure_ascii=False))
    return "  ".join(printable(str(read(row))) for _, read in COLUMNS)


def _pages(session: VerbSession, query: dict[str, str], follow: bool) -> Iterator[list[Mapping[str, Any]]]:
    """Page after page; with `follow` for ever."""
    import asyncio

    clock = SystemClock()
    while True:
        page = session.client.get(NOUN, query=query)
        yield list(page["value"])
        query = {**query, "after": str(page["cursor"])}
        if page["nextLink"]:
            continue
        if not follow:
            return
        asyncio.run(clock.sleep(FOLLOW_SECONDS))
