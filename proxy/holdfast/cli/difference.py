"""What `--dry-run` prints: a line for each thing that would change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from holdfast.cli.output import show_one
from holdfast.printable import printable

NOUNS = {"connected-registry": "connected registry", "scope-map": "scope map"}
SIGNS = {"created": "+", "deleted": "-"}


def show_difference(answer: Mapping[str, Any], output: str) -> None:
    """The difference in the answer to a request with `dryRun`; nothing was changed."""
    if output != "table":
        show_one(answer, [], output)
        return
    for line in lines(answer.get("difference") or ()):
        click.echo(printable(line))
    click.echo("holdfast: nothing was changed (--dry-run)", err=True)


def lines(difference: Any) -> Iterator[str]:
    """`+` for what would be there, `-` for what would not, `~` for what would be another, members below it."""
    for one in difference:
        kind = str(one.get("kind"))
        yield f"{SIGNS.get(one.get('change'), '~')} {NOUNS.get(kind, kind)} {one.get('name')}"
        yield from (f"    + {member}" for member in one.get("added") or ())
        yield from (f"    - {member}" for member in one.get("removed") or ())
