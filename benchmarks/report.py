"""Writes what was measured: a table in Markdown, the same as JSON with every round, and a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.case import DIRECT, HOLDFAST, NGINX, REGISTRY, Case, Figure, Verdict
from benchmarks.machine import Machine

COLUMNS = (HOLDFAST, REGISTRY, NGINX, DIRECT)
SCALES = {
    "bytes/s": ((1e9, "GB/s"), (1e6, "MB/s")),
    "bytes": ((1e6, "MB"),),
    "s": ((1.0, "s"), (1e-3, "ms")),
}


@dataclass(slots=True)
class Report:
    """One run. `failed` names questions that could not be asked, with the reason."""

    machine: Machine
    command: str
    cases: list[Case] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def write(self, place: Path) -> None:
        """Write `table.md`, `figures.json` and `plot.png` into a directory."""
        place.mkdir(parents=True, exist_ok=True)
        (place / "table.md").write_text(self.table())
        document = {**self.machine.document(), "command": self.command, "failed": self.failed}
        document["cases"] = [document_of(case) for case in self.cases]
        (place / "figures.json").write_text(json.dumps(document, indent=1) + "\n")
        from benchmarks.plot import draw

        draw(self.cases, self.machine, place / "plot.png")

    def table(self) -> str:
        """The Markdown table, with what a reader needs to judge it."""
        lines = [
            f"`{self.command}`, {self.machine.date}, commit {self.machine.commit}.",
            "",
            self._setting(),
            "",
        ]
        lines += [f"| case | {' | '.join(COLUMNS)} | measured | bound | |", "|---|" + "--:|" * 6 + "---|"]
        for case in self.cases:
            lines += _rows(case)
        notes = [f"- {case.name}: {note}" for case in self.cases for note in case.notes]
        failed = [f"- not measured: {name}: {reason}" for name, reason in self.failed.items()]
        return "\n".join([*lines, "", *notes, *failed, ""])

    def _setting(self) -> str:
        machine = self.machine
        versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
        return (
            f"{machine.cores} cores ({machine.processor}), {machine.memory_gb} GB, Linux {machine.kernel}, "
            f"loopback, load {machine.load} a core before the run; no access logs. Medians of alternating "
            f"rounds; a ratio is the median of the rounds' ratios. {versions}."
        )


def _rows(case: Case) -> Iterable[str]:
    named = {figure.subject: figure for figure in case.figures}
    values = " | ".join(_shown(named[name]) if name in named else "" for name in COLUMNS)
    first, *rest = case.verdicts or (None,)
    yield f"| {case.name} | {values} | {verdict_text(first)} |"
    for verdict in rest:
        yield f"| | {' | '.join('' for _ in COLUMNS)} | {verdict_text(verdict)} |"


def _shown(figure: Figure) -> str:
    return number(figure.median, figure.unit)


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
    sign, word = "≥" if verdict.at_least else "≤", "met" if verdict.met else "**missed**"
    if verdict.unit == "×":
        measured, bound = f"{verdict.measured:.2f}×", f"{verdict.bound:g}×"
    else:
        measured, bound = number(verdict.measured, verdict.unit), number(verdict.bound, verdict.unit)
    return f"{measured} {verdict.words} | {sign} {bound} | {word}"


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
