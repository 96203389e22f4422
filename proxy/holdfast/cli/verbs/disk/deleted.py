"""`holdfast deleted` and `undelete`: what was deleted, and what of it comes back."""

from __future__ import annotations

from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import amount
from holdfast.cli.verb import Verb, VerbSession, asks, examples

NOUN = "deleted"
#: repositories of a page
PAGE = "1000"
COLUMNS: list[out.Column] = [
    ("IMAGE", lambda row: row["image"]),
    ("TAGS", lambda row: ", ".join(row["tags"])),
    ("DELETED (UTC)", lambda row: out.seconds(row["deleted"])),
    ("KEPT UNTIL (UTC)", lambda row: out.seconds(row["until"])),
    ("FREES", lambda row: amount(row["bytes"])),
]
RESTORED: list[out.Column] = [
    ("RESTORED", lambda row: row["digest"]),
    ("TAGS", lambda row: ", ".join(row["tags"])),
    ("TAKEN BY OTHERS", lambda row: ", ".join(row["taken"])),
]


@click.command("deleted", cls=Verb)
@asks
def deleted(session: VerbSession) -> None:
    """List what was deleted and can be restored.

    A node keeps it for garbage_collection.deleted_after; without that nothing.
    """
    rows = session.client.listed(NOUN, query={"$top": PAGE})
    out.show_list(rows, COLUMNS, session.output, "nothing that was deleted is kept")


@click.command(
    "undelete",
    cls=Verb,
    epilog=examples("holdfast undelete app/web:1.0", "holdfast undelete app/web@sha256:4a… --tag 1.0"),
)
@click.argument("image")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Give it this tag instead; may repeat.")
@asks
def undelete(session: VerbSession, image: str, tags: tuple[str, ...]) -> None:
    """Restore what was deleted, as holdfast deleted shows it.

    IMAGE is NAME:TAG, or NAME@DIGEST for a manifest with those of its tags that
    name nothing else by now. It goes where pushes go.
    """
    body: dict[str, Any] = {"image": image, "tags": list(tags)} if tags else {"image": image}
    out.show_one(session.client.ask("POST", (NOUN,), body), RESTORED, session.output)
