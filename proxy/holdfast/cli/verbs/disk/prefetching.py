"""`holdfast prefetch`: images come before a client asks for them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.exit_codes import FAILED
from holdfast.cli.output import amount
from holdfast.cli.verb import Verb, VerbSession, asks, examples
from holdfast.cli.verbs.disk.pinning import REFERRERS, UNTIL, pin_body
from holdfast.clock import SystemClock

#: between two looks at what is under way (seconds)
LOOK_SECONDS = 0.5

COLUMNS: list[out.Column] = [
    ("IMAGE", lambda row: row["image"]),
    ("STATE", lambda row: row["state"]),
    ("BYTES", lambda row: f"{amount(row['bytesDone'])} of {amount(row['bytes'])}"),
    ("REASON", lambda row: row["reason"]),
]


@click.command(
    "prefetch",
    cls=Verb,
    epilog=examples("holdfast prefetch app/web:1.0 app/db:2.1", "holdfast prefetch app/web:1.0 --pin"),
)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--pin", "is_pinned", is_flag=True, help="Pin them first.")
@UNTIL
@REFERRERS
@asks
def prefetch(
    session: VerbSession, images: tuple[str, ...], is_pinned: bool, until: str | None, with_referrers: bool
) -> None:
    """Bring images from their parents now, and wait until they are here.

    IMAGE is NAME:TAG or NAME@DIGEST. They come as synchronisation brings them,
    whatever it selects and whenever its window opens; clients have priority.
    The node goes on when this command is stopped. Exit code 1: one failed.
    """
    if (until or with_referrers) and not is_pinned:
        raise click.UsageError("--until and --with-referrers are of the pin: add --pin.")
    for image in images if is_pinned else ():
        session.client.ask("POST", ("pins",), pin_body(image, until, with_referrers))
    wanted = list(dict.fromkeys(images))
    rows = _watched(session, session.client.ask("POST", ("prefetch",), {"images": wanted})["value"])
    out.show_list(rows, COLUMNS, session.output, "nothing was to be brought")
    if any(row["state"] == "Failed" for row in rows):
        sys.exit(FAILED)


def _watched(session: VerbSession, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bars on stderr until none is under way; the last reports, in the order of `rows`."""
    import asyncio

    clock, names = SystemClock(), [row["image"] for row in rows]
    latest = {row["image"]: row for row in rows}
    with out.progress_bars() as bars:
        tasks = {name: bars.add_task(name, total=None, detail="") for name in names}
        while any(latest[name]["state"] in ("Waiting", "Running") for name in names):
            asyncio.run(clock.sleep(LOOK_SECONDS))
            latest |= {row["image"]: row for row in session.client.listed("prefetch")}
            for name in names:
                row = latest[name]
                bars.update(
                    tasks[name], completed=row["bytesDone"], total=row["bytes"] or None, detail=row["state"]
                )
    return [latest[name] for name in names]
