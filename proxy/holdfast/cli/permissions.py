"""`holdfast connected-registry permissions`: which repositories a connected registry synchronises. What is added goes
to every ancestor too, what is removed goes from every descendant; the node does both in one transaction."""

from __future__ import annotations

from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.connected_registry import DRY_RUN, NAME, path_of
from holdfast.cli.scope_map import SHOW_COLUMNS
from holdfast.cli.verb import Session, Several, Verb, asks, examples, flat


@click.group()
def permissions() -> None:
    """Which repositories a connected registry synchronises."""


@permissions.command(cls=Verb)
@NAME
@asks
def show(session: Session, name: str) -> None:
    """Show the scope map of a connected registry's sync token."""
    out.show_one(session.client.ask("GET", path_of(name, "permissions")), SHOW_COLUMNS, session.output)


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
    session: Session,
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
    answer = session.client.ask("POST", path_of(name, "permissions"), body, query=query)
    if dry_run:
        from holdfast.cli.difference import show_difference

        show_difference(answer, session.output)
    else:
        out.show_one(answer, SHOW_COLUMNS, session.output)
