"""What a benchmark hands back: figures of each subject, and how they stand against a bound."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

#: Subjects, as they are called in every table.
HOLDFAST, NGINX, CEILING, DIRECT = "holdfast", "nginx", "ceiling", "direct"
REGISTRY, DISTRIBUTION = "docker-registry", "distribution 3"


@dataclass(frozen=True, slots=True)
class Figure:
    """What one subject did, a value a round; where it was taken, also the processor seconds of the server for each
    request (for each byte when `unit` is bytes/s) and the 99th percentile of the seconds of a request."""

    subject: str
    unit: str
    values: tuple[float, ...]
    costs: tuple[float, ...] = ()
    p99s: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One measured number beside its bound. `words` names what the number is; `unit` is "×" for a ratio."""

    words: str
    measured: float
    bound: float
    at_least: bool
    unit: str = "×"

    @property
    def met(self) -> bool:
        """Whether the number keeps its bound."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


@dataclass(frozen=True, slots=True)
class Case:
    """One row: a name, the figures, the verdicts, and remarks a reader needs."""

    name: str
    figures: tuple[Figure, ...]
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def figure(self, subject: str) -> Figure:
        """The figure of a subject. Raises KeyError."""
        for figure in self.figures:
            if figure.subject == subject:
                return figure
        raise KeyError(subject)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds (turns of each subject), seconds a turn, and whether sizes are cut."""

    rounds: int = 5
    seconds: float = 2.0
    quick: bool = False

    def pick(self, full: int, quick: int) -> int:
        """A size for this effort."""
        return quick if self.quick else full


def alternate(rounds: int, subjects: Mapping[str, Callable[[], float]], unit: str) -> tuple[Figure, ...]:
    """Measure the subjects in turns, the first to start moving on by one each round."""
    names = list(subjects)
    values: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            values[name].append(subjects[name]())
    return tuple(Figure(name, unit, tuple(values[name])) for name in names)


def ratio(one: Figure, other: Figure) -> float:
    """The median of the rounds' ratios, one ÷ other."""
    return statistics.median(a / b for a, b in zip(one.values, other.values, strict=True))


def against(figures: Sequence[Figure], others: Sequence[str], bound: float) -> Verdict:
    """Holdfast's ratio to the best of the others (larger figures are better)."""
    named = {figure.subject: figure for figure in figures}
    best = max((named[other] for other in others), key=lambda figure: figure.median)
    return Verdict(f"of {best.subject}", ratio(named[HOLDFAST], best), bound, at_least=True)
