"""`holdfast repository`: a repository as a whole."""

from __future__ import annotations

import click

from holdfast.cli import output as out
from holdfast.cli.verb import Verb, VerbSession, asks, confirm, examples


@click.group("repository")
def repository() -> None:
    """The repositories of a node."""


COLUMNS: list[out.Column] = [
    ("REPOSITORY", lambda row: row["name"]),
    ("DELETED", lambda row: f"{row['deleted']} manifests and tags"),
]


@repository.command(cls=Verb, epilog=examples("holdfast repository delete app/old"))
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@asks
def delete(session: VerbSession, name: str, yes: bool) -> None:
    """Delete a repository with everything that the node has of it.

    It goes as clients delete: in the connected registries below as well, and on
    a ReadWrite node at the parent. The bytes follow by gc and sweep.
    """
    confirm(
        f"Everything in {name} is deleted, here and wherever deletes go.",
        yes,
        lambda: session.client.get("usage", "tags", query={"repository": name, "$top": "1"}),
    )
    deleted, gone = 0, False
    document = {}
    while not gone:
        document = session.client.ask("DELETE", ("repositories",), query={"repository": name})
        deleted, gone = deleted + document["deleted"], document["gone"]
    out.show_one({**document, "deleted": deleted}, COLUMNS, session.output)
