"""`holdfast parent`: whether the parents of a node are there, and the operator's switch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import properties, time_of
from holdfast.cli.verb import Name, Verb, VerbSession, VerbWord, add_list, asks, examples

NOUN = "parents"


def _budget(document: Mapping[str, Any]) -> str:
    """The requests that the parent's rate limit still allows, where it reports one."""
    row = document.get("properties") or {}
    left, limit = row.get("rateLimitRemaining"), row.get("rateLimit")
    return "" if left is None else f"{left} of {limit}" if limit is not None else f"{left}"


COLUMNS: list[out.Column] = [
    ("NAME", lambda document: document.get("name")),
    ("URL", properties("url")),
    ("STATE", properties("state")),
    ("SWITCH", properties("switch")),
    ("SINCE", time_of("since")),
    ("LOSSES", properties("losses")),
    ("REQUESTS", properties("requests")),
    ("LEFT", _budget),
    ("NOTE", properties("note")),
]


@click.group("parent")
def parent() -> None:
    """The registries that a node fills from."""


add_list(
    parent, NOUN, COLUMNS, "List the parents, and whether they are there.", none="this node has no parent"
)


@parent.command("set", cls=Verb, epilog=examples("holdfast parent set default offline"))
@click.argument("name", type=Name(NOUN))
@click.argument("switch", type=VerbWord("auto", "offline"))
@asks
def turn(session: VerbSession, name: str, switch: str) -> None:
    """Switch a parent off, or let the node find out itself.

    While it is offline no request is sent there: what is held is served, what is
    not is refused at once. It stays so until it is set to auto.
    """
    document = session.client.ask("PATCH", (NOUN, name), {"switch": switch})
    out.show_one(document, COLUMNS, session.output)
