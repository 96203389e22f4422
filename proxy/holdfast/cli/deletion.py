"""`holdfast connected-registry delete`. Without --cleanup it prints what is left to do, as the original does."""

from __future__ import annotations

from functools import partial

import click

from holdfast.cli.connected_registry import DRY_RUN, NAME, NOUN, YES, path_of
from holdfast.cli.verb import Session, Verb, asks, confirm
from holdfast.printable import printable


@click.command("delete", cls=Verb)
@NAME
@click.option(
    "--cleanup", is_flag=True, help="Delete its sync token and scope map too, and its ancestors' part."
)
@DRY_RUN
@YES
@asks
def delete(session: Session, name: str, cleanup: bool, dry_run: bool, yes: bool) -> None:
    """Delete a connected registry. What its node holds stays there."""
    flags = {"cleanup": cleanup, "dryRun": dry_run}
    query = {key: "true" for key, said in flags.items() if said}
    if not dry_run:
        what = "It, its sync token and its scope map" if cleanup else f"Connected registry {name}"
        confirm(f"{what} will be gone, its node cut off.", yes, partial(session.client.get, NOUN, name))
    answer = session.client.ask("DELETE", path_of(name), query=query)
    if dry_run:
        from holdfast.cli.difference import show_difference

        show_difference(answer, session.output)
        return
    session.note(f"connected registry {name} is deleted")
    follow_up = answer.get("followUp") or ()
    if follow_up:
        session.note("left to do (--cleanup would have):")
    for command in follow_up:
        click.echo(printable(str(command)))
