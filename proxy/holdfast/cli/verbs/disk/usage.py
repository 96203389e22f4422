"""`holdfast usage`: where the disk of a node went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import amount
from holdfast.cli.verb import Verb, VerbSession, asks, examples

#: repositories in the table, those that have most; -o json has all
SHOWN = 20
#: entries of a page
PAGE = "1000"


def _bytes(*keys: str) -> Any:
    return lambda document: amount(out.at(document, *keys))


def _content(document: Mapping[str, Any]) -> str:
    return f"{amount(document['bytes'])} in {document['files']} files"


def _index(document: Mapping[str, Any]) -> str:
    inline = f"{document['inlines']} small blobs and manifests, {amount(document['inlineBytes'])}"
    return f"{amount(document['outside']['index'])}, with {inline}"


def _parents(document: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['name'] or 'default'}  {amount(one['bytes'])}, {amount(one['ownBytes'])} of it alone"
        f" ({one['repositories']} repositories)"
        for one in document["parents"]
    ]


def _repositories(document: Mapping[str, Any]) -> list[str]:
    rows = sorted(document["repositories"], key=lambda row: -row["bytes"])
    lines = [
        f"{row['name']}  {amount(row['bytes'])}, {amount(row['ownBytes'])} of it alone{_deleted(row)}"
        for row in rows
    ]
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], f"and {more} more"] if more > 0 else lines


def _deleted(row: Mapping[str, Any]) -> str:
    return f", {amount(row['deletedBytes'])} deleted" if row.get("deletedBytes") else ""


NODE_COLUMNS: list[out.Column] = [
    ("FREE", _bytes("freeBytes")),
    ("CONTENT", _content),
    ("  IN ONE REPOSITORY", _bytes("ownBytes")),
    ("  SHARED", _bytes("sharedBytes")),
    ("  TO BE SWEPT", _bytes("unlinkedBytes")),
    ("INDEX", _index),
    ("JOURNAL", _bytes("outside", "journal")),
    ("FETCHES", _bytes("outside", "fills")),
    ("UPLOADS", _bytes("outside", "uploads")),
    ("QUARANTINE", _bytes("outside", "quarantine")),
    ("OLD INDEXES", _bytes("outside", "replacedIndexes")),
    ("RESERVE", _bytes("outside", "reserve")),
    ("PARENTS", _parents),
    ("REPOSITORIES", _repositories),
]
TAG_COLUMNS: list[out.Column] = [
    ("TAG", lambda row: row["tag"]),
    ("IMAGE", _bytes("bytes")),
    ("DELETE FREES", _bytes("freedBytes")),
    ("DIGEST", lambda row: row["digest"]),
]


@click.command(cls=Verb, epilog=examples("holdfast usage", "holdfast usage app/web"))
@click.argument("repository", required=False)
@asks
def usage(session: VerbSession, repository: str | None) -> None:
    """Show where the disk went; with a REPOSITORY its images.

    DELETE FREES is what a delete of that image alone gives back, once what
    nothing else names is collected and swept.
    """
    if repository:
        query = {"repository": repository, "$top": PAGE}
        rows = session.client.listed("usage", "tags", query=query)
        return out.show_list(rows, TAG_COLUMNS, session.output, f"{repository} has no tags")
    document = session.client.get("usage")
    rows = session.client.listed("usage", "repositories", query={"$top": PAGE})
    return out.show_one({**document, "repositories": list(rows)}, NODE_COLUMNS, session.output)
