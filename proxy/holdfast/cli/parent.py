"""`holdfast parent`: whether the parents of a node are there, and the operator's switch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import moment, properties
from holdfast.cli.verb import Name, Session, Verb, Word, asks, examples

NOUN = "parents"


def _budget(found: Mapping[str, Any]) -> str:
    """Requests that the parent still grants, where it says so."""
    row = found.get("properties") or {}
    left, limit = row.get("rateLimitRemaining"), row.get("rateLimit")
    return "" if left is None else f"{left} of {limit}" if limit is not None else f"{left}"


COLUMNS: list[out.Column] = [
    ("NAME", lambda found: found.get("name")),
    ("URL", properties("url")),
    ("STATE", properties("state")),
    ("SWITCH", properties("switch")),
    ("SINCE", moment("since")),
    ("LOSSES", properties("losses")),
    ("REQUESTS", properties("requests")),
    ("LEFT", _budget),
    ("NOTE", properties("note")),
]


@click.group("parent")
def parent() -> None:
    """The registries that a node fills from."""


@parent.command("list", cls=Verb)
@asks
def list_all(session: Session) -> None:
    """List the parents, and whether they are there."""
    out.show_list(session.client.listed(NOUN), COLUMNS, session.output, "this node has no parent")


@parent.command("set", cls=Verb, epilog=examples("holdfast parent set default offline"))
@click.argument("name", type=Name(NOUN))
@click.argument("switch", type=Word("auto", "offline"))
@asks
def turn(session: Session, name: str, switch: str) -> None:
    """Switch a parent off, or let the node find out itself.

    While it is offline not a packet goes there: what is held is served, what is
    not is refused at once. It stays so until it is set to auto.
    """
    from holdfast.cli.admin_client import path

    found = session.client.ask("PATCH", path(NOUN, name), {"switch": switch})
    out.show_one(found, COLUMNS, session.output)
