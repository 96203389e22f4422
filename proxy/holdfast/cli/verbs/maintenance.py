"""What is done to a store by hand: `holdfast fsck`, `rebuild`, `compact`, `backup`, `restore`, `export`, `import`."""

from __future__ import annotations

import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import click
from holdfast_core.errors import REBUILD, StoreError, StoreRefused
from holdfast_core.upkeep.fsck import FsckReport

from holdfast.cli.exit_codes import FAILED, REFUSED, refuse
from holdfast.cli.output import amount
from holdfast.clock import Clock, SystemClock
from holdfast.token_bucket import TokenBucket

#: what a node keeps beside its store: the operator's password, and the key that signs clients' tokens
BESIDE = ("operator.json", "token-key.pem")


class ReadPace:
    """Keeps a reader to `rate` MB a second, or to none, by `sleep` (seconds)."""

    def __init__(self, rate: float | None, clock: Clock, sleep: Callable[[float], None]) -> None:
        self._clock, self._sleep = clock, sleep
        now = clock.monotonic()
        self._bucket = None if rate is None else TokenBucket(rate * 1e6, rate * 1e6 / 10, now)

    def told(self, count: int) -> None:
        """So many bytes were read: wait until more may be."""
        if self._bucket is not None and (wait := self._bucket.take(count, self._clock.monotonic())):
            self._sleep(wait)


def refuse_store(error: StoreError, before: str = "") -> NoReturn:
    """Exit with the reason: 2 when it is what was asked for (no store there, a node that runs, a directory of something
    else), 1 when something is damaged, or the disk does not take it."""
    is_request = isinstance(error, StoreRefused) and REBUILD not in str(error)
    refuse(f"{before}{error}", REFUSED if is_request else FAILED)


def share(text: str) -> tuple[int, int]:
    """`n/m` as numbers with 1 ≤ n ≤ m."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        refuse(f"--read-data: found {text!r}; allowed: n/m with 1 ≤ n ≤ m")
    return int(match[1]), int(match[2])


def fsck(data: Path, read_data: str | None, *, repair: bool) -> None:
    """Print what is wrong, with `repair` what is left of it; exit 1 when anything is, or nothing could be mended."""
    from holdfast_core.upkeep.fsck import fsck as check

    part = share(read_data) if read_data else None
    report = _repaired(data, part) if repair else check(data, part)
    show(report)
    sys.exit(FAILED if report.problems else 0)


def _repaired(data: Path, part: tuple[int, int] | None) -> FsckReport:
    from holdfast_core.recovery.store_repair import repair as mend

    try:
        return mend(data, part)
    except StoreError as error:
        refuse_store(error, "nothing was repaired: ")


def rebuild(data: Path) -> None:
    """Rebuild and print what was found and what was lost; exit 1 when anything was."""
    from holdfast_core.recovery.rebuild import rebuild as make_anew

    try:
        report = make_anew(data)
    except StoreError as error:
        refuse_store(error)
    show(report)
    sys.exit(FAILED if report.problems else 0)


def compact(data: Path) -> None:
    """Compact the index and print its length before and after; exit 1 when it is damaged or the disk does not take it,
    2 where there is no store, or one that a process has open."""
    from holdfast_core.recovery.compact import compact as compact_index

    try:
        report = compact_index(data)
    except StoreError as error:
        refuse_store(error)
    click.echo(f"index: {amount(report.before)}, now {amount(report.after)}")


def backup(data: Path, to: Path, rate: float | None) -> None:
    """Bring a backup up to date and print what it took, reading at most `rate` MB of blobs a second; exit 1 when
    anything is damaged, 2 for a directory that is no store or no place for a backup."""
    from holdfast_core.recovery.backup import backup as copy_store

    try:
        report = copy_store(data, to, beside=BESIDE, pace=ReadPace(rate, SystemClock(), time.sleep).told)
    except StoreError as error:
        refuse_store(error)
    show(report)
    sys.exit(FAILED if report.problems else 0)


def restore(source: Path, data: Path) -> None:
    """Make a store of a backup; exit 1 when anything is damaged, 2 for what is no backup and for a directory with
    something in it."""
    from holdfast_core.recovery.backup import restore as make_store

    from holdfast.keeper.restored_store import settle

    try:
        report = make_store(
            source, data, beside=BESIDE, settle=lambda store: settle(store, secrets.token_hex(16))
        )
    except StoreError as error:
        refuse_store(error)
    show(report)
    sys.exit(FAILED if report.problems else 0)


def export(data: Path, images: Sequence[str], to: Path, *, with_referrers: bool, hard_links: bool) -> None:
    """Write images of a store into a layout; exit 1 when one is damaged or lacks a part, 2 when one is not here."""
    from holdfast_core.store import Store

    from holdfast.layout.image_export import ImageAbsent, ImageExport, find
    from holdfast.layout.layout_files import LayoutInvalid, opened_target

    try:
        with closing(Store.create_or_open(data, write=False)) as store:
            found = [find(store, image) for image in images]
            with (
                opened_target(to, hard_links=hard_links) as target,
                closing(ImageExport(store, target, with_referrers=with_referrers)) as exported,
            ):
                exported.run(found)
    except (ImageAbsent, LayoutInvalid) as error:
        refuse(str(error))
    except StoreError as error:
        refuse(str(error), FAILED)
    except OSError as error:
        refuse(f"{to} cannot be written: {error.strerror or error}", FAILED)
    show(FsckReport(exported.problems, exported.counts + target.counts))
    sys.exit(FAILED if exported.problems else 0)


def login_of(username: str | None, from_stdin: bool) -> tuple[str, str] | None:
    """Name and password of a client token; None without a login."""
    if bool(username) != from_stdin:
        refuse("--username and --password-stdin go together: the password of the token is read from stdin")
    return (username, sys.stdin.readline().rstrip("\n")) if username else None


def import_layout(source: Path, name: str, reference: str, node: str, login: tuple[str, str] | None) -> None:
    """Push images of a layout to a node; exit 1 when the layout is damaged or the node fails, 2 when it refuses."""
    from holdfast.layout.image_import import ImageImport, LayoutDamaged, split_name
    from holdfast.layout.layout_files import LayoutInvalid
    from holdfast.layout.node_push import NodePush, NodeUnreachable, PushRefused

    try:
        repository, tag = split_name(name)
        with closing(NodePush(node, repository, login)) as push:
            counts = ImageImport(source, push).run(tag, reference)
    except LayoutDamaged as error:
        show(FsckReport(list(error.problems)))
        sys.exit(FAILED)
    except LayoutInvalid as error:
        refuse(str(error))
    except PushRefused as error:
        refuse(str(error), REFUSED if error.is_final else FAILED)
    except NodeUnreachable as error:
        refuse(str(error), FAILED)
    except OSError as error:
        refuse(f"{source} cannot be read: {error}", FAILED)
    show(FsckReport([], counts))


def show(report: FsckReport) -> None:
    """Each problem on a line, then the counts."""
    for problem in report.problems:
        click.echo(problem)
    counts = ", ".join(f"{count} {what}" for what, count in sorted(report.counts.items()))
    many = len(report.problems)
    verdict = f"{many or 'no'} problem{'s' * (many != 1)}"
    click.echo(f"{counts}: {verdict}" if counts else verdict)
