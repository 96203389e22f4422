"""`holdfast fsck` and `holdfast rebuild`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from holdfast_core.errors import StoreError

from holdfast.cli.exit_codes import FAILED, refuse

if TYPE_CHECKING:
    from holdfast_core.upkeep.fsck import FsckReport


def share(text: str) -> tuple[int, int]:
    """`n/m` as numbers with 1 ≤ n ≤ m."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        refuse(f"--read-data: found {text!r}; allowed: n/m with 1 ≤ n ≤ m")
    return int(match[1]), int(match[2])


def fsck(data: Path, read_data: str | None) -> None:
    """Print what is wrong; exit 1 when anything is."""
    from holdfast_core.upkeep.fsck import fsck as check

    part = share(read_data) if read_data else None
    report = check(data, part)
    show(report)
    sys.exit(FAILED if report.problems else 0)


def rebuild(data: Path) -> None:
    """Rebuild and print what was found and what was lost; exit 1 when anything was."""
    from holdfast_core.recovery.rebuild import rebuild as make_anew

    try:
        report = make_anew(data)
    except StoreError as error:
        refuse(str(error), FAILED)
    show(report)
    sys.exit(FAILED if report.problems else 0)


def show(report: FsckReport) -> None:
    """Each problem on a line, then the counts."""
    for problem in report.problems:
        click.echo(problem)
    counts = ", ".join(f"{count} {what}" for what, count in sorted(report.counts.items()))
    many = len(report.problems)
    verdict = f"{many or 'no'} problem{'s' * (many != 1)}"
    click.echo(f"{counts}: {verdict}" if counts else verdict)
