"""Writes what was measured: a table in Markdown, the same as JSON with every round, and a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.case import (
    CEILING,
    DIRECT,
    DISTRIBUTION,
    HOLDFAST,
    NGINX,
    REGISTRY,
    Case,
    Figure,
    Verdict,
)
from benchmarks.machine import Machine

COLUMNS = (HOLDFAST, NGINX, CEILING, DISTRIBUTION, REGISTRY, DIRECT)
#: how every figure is taken, and how each side is set up
HOW = (
    "Loopback; medians of alternating rounds; a ratio is the median of the rounds' ratios. A cell has the rate, "
    "the processor time of all processes of the server for each request (each GB), and the 99th percentile. Hits:"
    " one worker of Holdfast and of nginx, one thread of the ceiling, every core for the registries; no access "
    "log unless the row says so. nginx serves files from the paths of the API: `open_file_cache` on, `sendfile` "
    "and `tcp_nopush` off below 1 MB and on from there, its log buffered. Holdfast verifies, authorises and "
    "counts as it always does. The ceiling is an epoll loop in C that knows its answers beforehand."
)
SCALES = {
    "bytes/s": ((1e9, "GB/s"), (1e6, "MB/s")),
    "bytes": ((1e9, "GB"), (1e6, "MB")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One question: what it was asked on, its rows, and why it could not be asked when it could not."""

    machine: Machine
    command: str
    cases: tuple[Case, ...] = ()
    failed: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        cases = [document_of(case) for case in self.cases]
        return {**self.machine.document(), "command": self.command, "failed": self.failed, "cases": cases}

    @staticmethod
    def read(document: dict[str, Any]) -> Answer:
        """From JSON."""
        rest = dict(document)
        command, failed, cases = (rest.pop(name) for name in ("command", "failed", "cases"))
        return Answer(Machine(**rest), command, tuple(map(case_of, cases)), failed)


@dataclass(slots=True)
class Report:
    """The answers by question. Those of an earlier run stay until their question is asked again."""

    answers: dict[str, Answer] = field(default_factory=dict)

    @staticmethod
    def read(place: Path) -> Report:
        """What `write` left in a directory; nothing when it left nothing."""
        file = place / "figures.json"
        document = json.loads(file.read_text()) if file.exists() else {}
        return Report({name: Answer.read(answer) for name, answer in document.items()})

    @property
    def cases(self) -> list[Case]:
        """All rows."""
        return [case for answer in self.answers.values() for case in answer.cases]

    def write(self, place: Path) -> None:
        """Write `table.md`, `figures.json` and `plot.png` into a directory."""
        place.mkdir(parents=True, exist_ok=True)
        (place / "table.md").write_text(self.table())
        document = {name: answer.document() for name, answer in self.answers.items()}
        (place / "figures.json").write_text(json.dumps(document, indent=1) + "\n")
        from benchmarks.plot import draw

        draw(self.cases, place / "plot.png")

    def table(self) -> str:
        """The Markdown table, with what a reader needs to judge it."""
        settings: dict[str, list[str]] = {}
        for name, answer in self.answers.items():
            settings.setdefault(_setting(answer), []).append(name)
        lines = [f"{', '.join(names)}: {setting}\n" for setting, names in settings.items()]
        lines += [HOW, ""]
        lines += [f"| case | {' | '.join(COLUMNS)} | measured | bound | |"]
        lines += ["|---|" + "--:|" * (len(COLUMNS) + 2) + "---|"]
        for case in self.cases:
            lines += _rows(case)
        notes = [f"- {case.name}: {note}" for case in self.cases for note in case.notes]
        failed = [
            f"- not measured: {n}: {answer.failed}" for n, answer in self.answers.items() if answer.failed
        ]
        return "\n".join([*lines, "", *notes, *failed, ""])


def _setting(answer: Answer) -> str:
    machine = answer.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    return (
        f"`{answer.command}`, {machine.date}, commit {machine.commit}; {machine.cores} cores ({machine.processor}), "
        f"{machine.memory_gb} GB, Linux {machine.kernel}, load {machine.load} a core before it. {versions}."
    )


def _rows(case: Case) -> Iterable[str]:
    named = {figure.subject: figure for figure in case.figures}
    values = " | ".join(_shown(named[name]) if name in named else "" for name in COLUMNS)
    first, *rest = case.verdicts or (None,)
    yield f"| {case.name} | {values} | {verdict_text(first)} |"
    for verdict in rest:
        yield f"| | {' | '.join('' for _ in COLUMNS)} | {verdict_text(verdict)} |"


def _shown(figure: Figure) -> str:
    words = [number(figure.median, figure.unit)]
    if figure.costs:
        cost = statistics.median(figure.costs)
        words += [f"{cost * 1e9:.2f} s/GB" if figure.unit == "bytes/s" else number(cost, "s")]
    if figure.p99s:
        words += [f"p99 {number(statistics.median(figure.p99s), 's')}"]
    return ", ".join(words)


def number(value: float, unit: str) -> str:
    """A value with a unit a reader can take in."""
    for scale, name in SCALES.get(unit, ()):
        if abs(value) >= scale or scale == SCALES[unit][-1][0]:
            return f"{value / scale:.3g} {name}"
    return f"{value:,.0f} {unit}".strip() if abs(value) >= 100 else f"{value:.3g} {unit}".strip()


def verdict_text(verdict: Verdict | None) -> str:
    """Three cells of the table: measured, bound, and whether it is kept."""
    if verdict is None:
        return " | | "
    sign, word = "≥" if verdict.at_least else "≤", "met" if verdict.met else _missed(verdict)
    if verdict.unit == "×":
        measured, bound = f"{verdict.measured:.2f}×", f"{verdict.bound:.3g}×"
    else:
        measured, bound = number(verdict.measured, verdict.unit), number(verdict.bound, verdict.unit)
    return f"{measured} {verdict.words} | {sign} {bound} | {word}"


def _missed(verdict: Verdict) -> str:
    if not verdict.bound:
        return "**missed**"
    return f"**missed** by {abs(verdict.measured / verdict.bound - 1):.0%}"


def document_of(case: Case) -> dict[str, Any]:
    """A case as JSON: every round's value, the median and the least, and each verdict."""
    return {
        "case": case.name,
        "figures": [
            {
                "subject": figure.subject,
                "unit": figure.unit,
                "median": figure.median,
                "min": min(figure.values),
                "n": len(figure.values),
                "values": list(figure.values),
                "costs": list(figure.costs),
                "p99s": list(figure.p99s),
            }
            for figure in case.figures
        ],
        "verdicts": [
            {
                "of": verdict.words,
                "measured": verdict.measured,
                "bound": verdict.bound,
                "at_least": verdict.at_least,
                "unit": verdict.unit,
                "met": verdict.met,
            }
            for verdict in case.verdicts
        ],
        "notes": list(case.notes),
    }


def case_of(document: dict[str, Any]) -> Case:
    """A case from its JSON."""
    figures = tuple(
        Figure(
            one["subject"],
            one["unit"],
            tuple(one["values"]),
            tuple(one.get("costs", ())),
            tuple(one.get("p99s", ())),
        )
        for one in document["figures"]
    )
    verdicts = tuple(
        Verdict(one["of"], one["measured"], one["bound"], one["at_least"], one["unit"])
        for one in document["verdicts"]
    )
    return Case(document["case"], figures, verdicts, tuple(document["notes"]))
