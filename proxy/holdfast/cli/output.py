"""Answers as tables, JSON and YAML.

A list is a table with a row each; one object is a table with a line for each property, which fits 80 columns where the
original's eight columns do not. Column names are the original's. A node's answer comes from another machine,
so control characters in it never reach the terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from holdfast.printable import printable, printable_json

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

_UNITS = ("B", "KiB", "MiB", "GiB")
Column = tuple[str, Callable[[Mapping[str, Any]], object]]
#: rows of a list that a terminal shows folded to its width
FOLDED = 500
#: Wide enough for any row, for output that a program reads.
_UNLIMITED = 10_000


def at(document: Mapping[str, Any], *keys: str) -> Any:
    """A property deep inside; "" where there is none."""
    value: Any = document
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return "" if value is None else value


def properties(*keys: str) -> Callable[[Mapping[str, Any]], Any]:
    """A reader of `properties.<keys>`."""
    return lambda document: at(document, "properties", *keys)


def last(*keys: str) -> Callable[[Mapping[str, Any]], str]:
    """A reader of the name at the end of the id in `properties.<keys>`."""
    return lambda document: str(at(document, "properties", *keys)).rpartition("/")[2]


def time_of(*keys: str) -> Callable[[Mapping[str, Any]], str]:
    """A reader of the time in `properties.<keys>`, to the second."""
    return lambda document: seconds(at(document, "properties", *keys))


def seconds(time: str) -> str:
    """`2026-11-26T22:00:00Z` without its fraction."""
    return re.sub(r"\.\d+", "", time)


def show_list(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], output: str, none: str) -> None:
    """A list; `none` is printed on stderr when a table would be empty."""
    entries = list(rows)
    if output != "table":
        click.echo(_text(entries, output), nl=False)
    elif entries and sys.stdout.isatty() and len(entries) <= FOLDED:
        _print(_rows(entries, columns))
    elif entries:
        _print_plain(entries, columns)
    else:
        click.echo(f"holdfast: {none}", err=True)


def show_one(document: Mapping[str, Any], columns: Sequence[Column], output: str) -> None:
    """One object, without the lines that are empty."""
    if output != "table":
        click.echo(_text(document, output), nl=False)
    else:
        _print(_properties(document, columns))


def _text(document: Any, output: str) -> str:
    if output == "json":
        return printable_json(json.dumps(document, indent=2, ensure_ascii=False)) + "\n"
    return yaml_text(document)


def _rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for number, (name, _) in enumerate(columns):
        table.add_column(name, overflow="fold", no_wrap=number == 0 or name.endswith("(UTC)"))
    for row in rows:
        table.add_row(*(_cell(read(row)) for _, read in columns))
    return table


def _properties(document: Mapping[str, Any], columns: Sequence[Column]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, read in columns:
        value = read(document)
        for number, line in enumerate(value if isinstance(value, list | tuple) else [value]):
            if line not in ("", None):
                table.add_row("" if number else name, _cell(line))
    return table


def _cell(value: object) -> Any:
    from rich.text import Text

    return Text(_text_of(value))


def _text_of(value: object) -> str:
    if isinstance(value, list | tuple):
        value = ", ".join(str(one) for one in value)
    return printable("" if value is None else str(value))


def _print_plain(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    """A list that is not folded: for programs, and for more rows than a table shows well. It looks the same;
    20,000 tokens took 44.7 s as a table."""
    names = [name for name, _ in columns]
    lines = [names, *([_text_of(read(row)) for _, read in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print(table: Table) -> None:
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    console = Console(highlight=False, width=_UNLIMITED, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def ago(age: int) -> str:
    """An age in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if age >= 2 * length:
            return f"{age // length} {unit} ago"
    return f"{age} s ago"


def amount(size: float) -> str:
    """A number of bytes in its largest unit."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def transfer(progress: Mapping[str, Any]) -> str:
    """The bytes copied so far, their rate, and the time left."""
    left = progress["secondsLeft"]
    time = "" if left is None else f", {left:.0f} s left"
    rate = f"{amount(progress['rate'])}/s{time}"
    return f"{amount(progress['bytesDone'])} of {amount(progress['bytes'])} ({rate})"


def progress_bars() -> Progress:
    """Bars on stderr, where that is a terminal; the `detail` of each stands behind it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def yaml_text(document: Any) -> str:
    """A JSON document as YAML in block style, which readers of YAML 1.1 and 1.2 read alike."""
    from yaml import SafeDumper, dump  # type: ignore[import-untyped]

    class JsonDumper(SafeDumper):  # type: ignore[misc]
        """Quotes a string as JSON does unless every reader takes it for a string, and indents the items of a list."""

        def choose_scalar_style(self) -> str:
            _, is_string = self.event.implicit
            return "" if not is_string or _is_plain(self.event.value) else '"'

        def write_double_quoted(self, text: str, split: bool = True) -> None:
            self.write_indicator(_quoted(text), True)

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:
            return True

    text: str = dump(document, Dumper=JsonDumper, sort_keys=False, allow_unicode=True, width=sys.maxsize)
    return text


#: Starts with a letter, so it is no number, date, "~" or indicator; has no ": " and no " #".
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)*|(?:/[A-Za-z0-9_.-]+)+")
#: Words that YAML 1.1 or 1.2 reads as a truth value, null or a number.
_RESERVED = frozenset({"y", "n", "yes", "no", "true", "false", "on", "off", "null", "nan", "inf"})
#: What JSON and a terminal accept, and YAML does not (production c-printable).
_UNPRINTABLE = re.compile("[\ufffe\uffff\ud800-\udfff]")


def _is_plain(text: str) -> bool:
    return text.lower() not in _RESERVED and bool(_PLAIN.fullmatch(text))


def _quoted(text: str) -> str:
    return _UNPRINTABLE.sub(
        lambda match: f"\\u{ord(match[0]):04x}", printable_json(json.dumps(text, ensure_ascii=False))
    )
