"""`holdfast connected-registry permissions`: the repositories that a connected registry synchronises. An addition is
made at every ancestor too, a removal at every descendant, in one transaction."""

from __future__ import annotations

from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.verb import Several, Verb, VerbSession, asks, examples, flat
from holdfast.cli.verbs.connected_registry import DRY_RUN, NAME, NOUN, show_difference
from holdfast.cli.verbs.scope_map import SHOW_COLUMNS


@click.group()
def permissions() -> None:
    """Which repositories a connected registry synchronises."""


@permissions.command(cls=Verb)
@NAME
@asks
def show(session: VerbSession, name: str) -> None:
    """Show the scope map of a connected registry's sync token."""
    out.show_one(session.client.ask("GET", (NOUN, name, "permissions")), SHOW_COLUMNS, session.output)


@permissions.command(
    cls=Verb,
    epilog=examples("holdfast connected-registry permissions update -n plant --add app/db"),
)
@NAME
@click.option("--add", cls=Several, metavar="REPO...", help="Repositories to add, to every ancestor too.")
@click.option(
    "--remove", cls=Several, metavar="REPO...", help="Repositories to remove, from every descendant too."
)
@DRY_RUN
@asks
def update(
    session: VerbSession,
    name: str,
    add: tuple[tuple[str, ...], ...],
    remove: tuple[tuple[str, ...], ...],
    dry_run: bool,
) -> None:
    """Change which repositories a connected registry synchronises."""
    body: dict[str, Any] = {"add": list(flat(add)), "remove": list(flat(remove))}
    body = {key: words for key, words in body.items() if words}
    if not body:
        raise click.UsageError("Say --add, --remove or both.")
    query = {"dryRun": "true"} if dry_run else None
    answer = session.client.ask("POST", (NOUN, name, "permissions"), body, query=query)
    if dry_run:
        show_difference(answer, session.output)
    else:
        out.show_one(answer, SHOW_COLUMNS, session.output)
