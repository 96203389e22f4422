"""The plot: for each case, every subject as a share of the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.case import CEILING, DIRECT, DISTRIBUTION, HOLDFAST, NGINX, REGISTRY, Case, Figure

COLOURS = {
    HOLDFAST: "#c2410c",
    NGINX: "#15803d",
    CEILING: "#111827",
    DISTRIBUTION: "#7c3aed",
    REGISTRY: "#2563eb",
    DIRECT: "#6b7280",
}
RATES = ("requests/s", "bytes/s")


def draw(cases: Sequence[Case], path: Path) -> None:
    """Write a PNG of all cases that compare subjects; nothing when there is none."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    compared = [case for case in cases if len(case.figures) > 1]
    if not compared:
        return
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.75 * len(compared)))
    for row, case in enumerate(compared):
        _bars(axes, row, case)
    axes.set_yticks(range(len(compared)), [case.name for case in compared], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("relative to the best of the row (1.0 = fastest); label = median")
    axes.set_xlim(0, 1.25)
    axes.margins(y=0.01)
    handles = [Patch(color=colour) for colour in COLOURS.values()]
    axes.legend(handles, list(COLOURS), fontsize=7, ncols=6, loc="lower left", bbox_to_anchor=(0, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _bars(axes: object, row: int, case: Case) -> None:
    from benchmarks.report import number

    speeds = [_speed(figure) for figure in case.figures]
    height = 0.8 / len(speeds)
    for index, (figure, speed) in enumerate(zip(case.figures, speeds, strict=True)):
        where = row - 0.4 + height * (index + 0.5)
        share = speed / max(speeds)
        axes.barh(where, share, height * 0.9, color=COLOURS.get(figure.subject, "#a3a3a3"))  # type: ignore[attr-defined]
        axes.text(share + 0.01, where, number(figure.median, figure.unit), va="center", fontsize=6)  # type: ignore[attr-defined]


def _speed(figure: Figure) -> float:
    return figure.median if figure.unit in RATES else 1 / figure.median
