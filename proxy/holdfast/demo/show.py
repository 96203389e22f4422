"""What the demonstration prints."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from holdfast.demo.lines import Lines
from holdfast.demo.pull import Object


@dataclass(frozen=True, slots=True)
class PullRound:
    """One pull: its title, the bytes received, and the bytes that crossed the link for it (None: not measured)."""

    title: str
    objects: list[Object]
    requests: int | None = None
    link_bytes: int | None = None

    @property
    def seconds(self) -> float:
        """Sum over its requests."""
        return sum(pulled.seconds for pulled in self.objects)

    @property
    def size(self) -> int:
        """Bytes that the client got."""
        return sum(pulled.size for pulled in self.objects)


def amount(size: int) -> str:
    """Bytes for a person, in powers of ten."""
    if size < 1000:
        return f"{size} B"
    for unit, scale in (("kB", 1e3), ("MB", 1e6)):
        if size < scale * 1000:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 1e9:.3g} GB"


def duration(seconds: float) -> str:
    """A time for a person."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def places(console: Console, rows: list[tuple[str, str, str]]) -> None:
    """The table of the addresses."""
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, url, what in rows:
        table.add_row(Text(name, "bold"), Text(url, "cyan"), Text(what, "dim"))
    console.print(Panel(table, title="Holdfast", title_align="left", border_style="blue", expand=False))


def round_line(console: Console, number: int, round_: PullRound) -> None:
    """One pull in one line."""
    line = Text.assemble(
        (f" {number}  ", "bold blue"),
        (f"{round_.title:<20}", "bold"),
        f"{amount(round_.size):>8} in {duration(round_.seconds):>8}   ",
        (link(round_), "dim"),
    )
    console.print(line)
    for warning in sorted({pulled.warning for pulled in round_.objects} - {""}):
        console.print(Text(f"    the node says: {warning}", "yellow"))


def link(round_: PullRound) -> str:
    """What crossed the link."""
    if round_.requests is None or round_.link_bytes is None:
        return ""
    if not round_.requests:
        return "nothing over the link"
    return f"{round_.requests} requests, {amount(round_.link_bytes)} over the link"


def compared(rounds: list[PullRound]) -> RenderableType:
    """Every object with its time in each pull."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("", "digest (checked)"):
        table.add_column(name)
    for name in ("size", *(f"pull {n}" for n in range(1, len(rounds) + 1))):
        table.add_column(name, justify="right")
    for same in zip(*(round_.objects for round_ in rounds), strict=True):
        times = [duration(pulled.seconds) for pulled in same]
        table.add_row(same[0].kind, Text(same[0].digest[:21] + "…", "cyan"), amount(same[0].size), *times)
    table.add_section()
    table.add_row("all", "", amount(rounds[0].size), *(duration(r.seconds) for r in rounds), style="bold")
    return table


def written(lines: list[Lines]) -> RenderableType:
    """The lines for each client under the path of its file."""
    parts: list[RenderableType] = []
    for one in lines:
        parts.append(Text.assemble((f"{one.client}  ", "bold"), (one.path, "cyan")))
        parts.append(
            Syntax(one.text, one.syntax, theme="ansi_dark", background_color="default", padding=(0, 2))
        )
        parts.append(Text())
    return Group(*parts[:-1])
