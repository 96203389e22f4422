"""`holdfast pin`, `unpin` and `pins`: images that stay, whatever room is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.verb import Verb, VerbSession, asks, examples

NOUN = "pins"
UNTIL = click.option(
    "--until", metavar="TIME", help="When the pin ends, as 2030-01-31T00:00:00Z; without it never."
)
REFERRERS = click.option(
    "--with-referrers", is_flag=True, help="Keep what refers to it as well: signatures, attestations, SBOMs."
)
NONE = "nothing is pinned"


def _until(row: Mapping[str, Any]) -> str:
    if row["until"] is None:
        return "for good"
    return f"{out.seconds(row['until'])}{' (over)' if row['over'] else ''}"


COLUMNS: list[out.Column] = [
    ("IMAGE", lambda row: row["image"]),
    ("UNTIL (UTC)", _until),
    ("REFERRERS", lambda row: "kept" if row["withReferrers"] else ""),
    ("HERE", lambda row: "yes" if row["held"] else "not yet"),
    ("PINNED (UTC)", lambda row: out.seconds(row["pinned"])),
]


def pin_body(image: str, until: str | None, with_referrers: bool) -> dict[str, Any]:
    """The body of the request that pins an image."""
    return {"image": image, "withReferrers": with_referrers, **({"until": until} if until else {})}


@click.command(
    "pin", cls=Verb, epilog=examples("holdfast pin app/web:1.0", "holdfast pin app/web:1.0 --with-referrers")
)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@UNTIL
@REFERRERS
@asks
def pin(session: VerbSession, images: tuple[str, ...], until: str | None, with_referrers: bool) -> None:
    """Keep images from eviction and garbage collection.

    IMAGE is NAME:TAG, which keeps what the tag names at each time, or NAME@DIGEST.
    It need not be here yet; holdfast prefetch --pin brings it.
    """
    document: dict[str, Any] = {}
    for image in images:
        document = session.client.ask("POST", (NOUN,), pin_body(image, until, with_referrers))
    out.show_list(document["value"], COLUMNS, session.output, NONE)


@click.command("unpin", cls=Verb, epilog=examples("holdfast unpin app/web:1.0"))
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@asks
def unpin(session: VerbSession, images: tuple[str, ...]) -> None:
    """End the pins of images, written as holdfast pins shows them."""
    document: dict[str, Any] = {}
    for image in images:
        document = session.client.ask("DELETE", (NOUN,), query={"image": image})
    out.show_list(document["value"], COLUMNS, session.output, NONE)


@click.command("pins", cls=Verb)
@asks
def pins(session: VerbSession) -> None:
    """List the pinned images, those whose time is over as well."""
    out.show_list(session.client.listed(NOUN), COLUMNS, session.output, NONE)
