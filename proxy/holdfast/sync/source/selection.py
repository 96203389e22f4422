"""The content that this node should hold: which repositories, and which tags, platforms and referrers of each. Pure.

A managed node gets its scope from its parent and takes tags, platforms and referrers from the first rule of its own
`[sync]` that names the repository; without one it selects everything in it. A node without a managing parent selects
what its rules name. A filter that selects nothing is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cached_property

from holdfast.config import SyncRepositorySection
from holdfast.oci.names import is_repository
from holdfast.oci.platforms import Platforms, is_platform
from holdfast.resources.cron import ScheduleInvalid
from holdfast.routing import compile_patterns
from holdfast.sync.schedule import seconds
from holdfast.sync.source.version import Range, RangeInvalid, Version, version_of


@dataclass(frozen=True, slots=True)
class TagFact:
    """A tag in the parent's list. `at`: when it was pushed or its image was made (wall seconds), None unknown."""

    name: str
    at: float | None = None


@dataclass(frozen=True, slots=True)
class TagChoice:
    """The selected tags in the parent's order, and remarks for the operator."""

    tags: tuple[TagFact, ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One row of `[[sync.repositories]]`, compiled. `problems` has checked its texts."""

    given: SyncRepositorySection

    @cached_property
    def names(self) -> re.Pattern[str]:
        """Returns the pattern of the repositories that the row is for."""
        return compile_patterns([self.given.name])

    @cached_property
    def platforms(self) -> Platforms:
        """Returns the platforms of an index that are fetched."""
        return Platforms(self.given.platforms)

    @cached_property
    def _included(self) -> re.Pattern[str] | None:
        return _either(self.given.tags, self.given.regex)

    @cached_property
    def _excluded(self) -> re.Pattern[str] | None:
        return _either(self.given.exclude, self.given.exclude_regex)

    @cached_property
    def _range(self) -> Range | None:
        return Range(self.given.semver) if self.given.semver else None

    @property
    def is_literal(self) -> bool:
        """Whether the row names one repository, which need not be in the parent's catalogue."""
        return "*" not in self.given.name

    def selects_referrer(self, artifact_type: str) -> bool:
        """Whether a referrer of this type comes with its image."""
        return any(kind in ("*", artifact_type) for kind in self.given.referrers)

    def choose(self, tags: Iterable[TagFact], now: float) -> TagChoice:
        """Returns the selected ones of the tags that the parent lists."""
        listed = tuple(tags)
        chosen = tuple(tag for tag in listed if self.passes(tag.name))
        words = (
            []
            if chosen or not listed
            else [f"none of {len(listed)} tags passes {self._filters()}; correct it, or take the row out"]
        )
        chosen, late = self._recent(chosen, now)
        chosen, unordered = self._newest(chosen)
        return TagChoice(chosen, tuple(f"{self.given.name}: {w}" for w in (*words, *late, *unordered)))

    def passes(self, tag: str) -> bool:
        """Whether a tag's name passes the filters, at any age."""
        if self._included is not None and not self._included.fullmatch(tag):
            return False
        if self._excluded is not None and self._excluded.fullmatch(tag):
            return False
        if self._range is None:
            return True
        version = version_of(tag)
        return version is not None and self._range.admits(version)

    def follows(self, tag: str) -> bool:
        """Whether a tag is fetched whenever the parent has it. False where `newest` or `newer_than` chooses among
        tags."""
        return not (self.given.newest or self.given.newer_than) and self.passes(tag)

    def _recent(self, tags: tuple[TagFact, ...], now: float) -> tuple[tuple[TagFact, ...], list[str]]:
        """Applies `newer_than`; a tag of unknown time stays."""
        given = self.given.newer_than
        if not given:
            return tags, []
        least = now - seconds(given, "newer_than")
        recent = tuple(tag for tag in tags if tag.at is None or tag.at >= least)
        words = []
        if len(recent) < len(tags):
            left_out = "all" if not recent else f"{len(tags) - len(recent)} of"
            words.append(f"newer_than {given} leaves out {left_out} {len(tags)} tags")
        unknown = sum(tag.at is None for tag in tags)
        if unknown:
            words.append(f"newer_than keeps {unknown} tags whose images do not say when they were made")
        return recent, words

    def _newest(self, tags: tuple[TagFact, ...]) -> tuple[tuple[TagFact, ...], list[str]]:
        """Applies `newest`: by version where `semver` is given, else by time; a tag with neither comes last and is
        reported."""
        if not self.given.newest or len(tags) <= self.given.newest:
            return tags, []
        ranked = sorted(tags, key=self._age, reverse=True)
        kept = {tag.name for tag in ranked[: self.given.newest]}
        unknown = 0 if self._range is not None else sum(tag.at is None for tag in tags)
        words = [f"newest orders {unknown} tags by version, for want of a time"] if unknown else []
        return tuple(tag for tag in tags if tag.name in kept), words

    def _age(self, tag: TagFact) -> tuple[float, Version, str]:
        version = version_of(tag.name) or Version((-1, 0, 0))
        at = 0.0 if self._range is not None or tag.at is None else tag.at
        return at, version, tag.name

    def _filters(self) -> str:
        given = self.given
        parts = [
            ("tags", given.tags),
            ("regex", given.regex),
            ("exclude", given.exclude + given.exclude_regex),
        ]
        filters = [f"{name} {', '.join(texts)}" for name, texts in parts if texts]
        return (
            " and ".join([*filters, *([f"semver {given.semver}"] if given.semver else [])]) or "its filters"
        )


@dataclass(frozen=True, slots=True)
class RepositoryChoice:
    """The names of the selected repositories, in order, and remarks for the operator."""

    names: tuple[str, ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Everything that is selected at one parent. `scope` is that of a managed node (references.md 1.18: names,
    `team/*`, `*`), None for a node whose `rules` alone select."""

    rules: tuple[Rule, ...]
    scope: tuple[str, ...] | None = None
    _all: Rule = field(default_factory=lambda: Rule(SyncRepositorySection(name="**")), repr=False)

    @classmethod
    def of(
        cls, rows: Sequence[SyncRepositorySection], scope: Iterable[str] | None = None, parent: str = ""
    ) -> Selection:
        """Makes a selection of the configuration's rows for one parent."""
        rules = tuple(Rule(row) for row in rows if row.parent == parent)
        return cls(rules, None if scope is None else tuple(scope))

    @property
    def needs_catalogue(self) -> bool:
        """Whether the parent's catalogue is needed to know which repositories are selected."""
        return any("*" in name for name in self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the repositories and patterns as they are configured."""
        return tuple(rule.given.name for rule in self.rules) if self.scope is None else self.scope

    @cached_property
    def _scoped(self) -> re.Pattern[str]:
        if self.scope is None:
            return compile_patterns(self.names)
        # the scope's one star crosses segments
        return compile_patterns(name.replace("*", "**") for name in self.scope)

    def covers(self, repository: str) -> bool:
        """Whether anything of a repository is selected."""
        return self._scoped.fullmatch(repository) is not None

    def follows(self, repository: str, tag: str) -> bool:
        """Whether a tag is fetched whenever the parent has it."""
        return self.covers(repository) and self.rule_of(repository).follows(tag)

    def has_rule(self, repository: str) -> bool:
        """Whether the configuration has a row for a repository."""
        return any(rule.names.fullmatch(repository) for rule in self.rules)

    def rule_of(self, repository: str) -> Rule:
        """Returns the first rule for a repository; one that selects everything where there is none."""
        return next((rule for rule in self.rules if rule.names.fullmatch(repository)), self._all)

    def repositories(self, catalogue: Iterable[str]) -> RepositoryChoice:
        """Returns the selected repositories: literal names, listed or not, and those of the catalogue that match a
        pattern."""
        listed = tuple(catalogue)
        literal = [name for name in self.names if "*" not in name]
        names = tuple(dict.fromkeys([*literal, *(name for name in listed if self.covers(name))]))
        return RepositoryChoice(names, tuple(self._unmatched(listed)))

    def _unmatched(self, catalogue: tuple[str, ...]) -> Iterator[str]:
        for name in self.names:
            pattern = compile_patterns([name if self.scope is None else name.replace("*", "**")])
            if "*" in name and not any(map(pattern.fullmatch, catalogue)):
                yield (
                    f"{name}: none of the parent's {len(catalogue)} repositories matches; correct the pattern, or take"
                    " it out"
                )
        if self.scope is None:
            return
        for rule in self.rules:
            if not any(map(rule.names.fullmatch, (*catalogue, *self.scope))):
                yield f"{rule.given.name}: this rule is for no repository of the scope ({', '.join(self.scope)[:200]})"


def problems(row: SyncRepositorySection) -> Iterator[tuple[str, str]]:
    """Yields (key, sentence) for each text of a row that is invalid."""
    if not is_repository(row.name.replace("**", "a").replace("*", "a")):
        yield "name", f"found {row.name!r}; allowed: a repository, * within a segment, ** across"
    for key, patterns in (("regex", row.regex), ("exclude_regex", row.exclude_regex)):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                yield key, f"found {pattern!r}; allowed: a regular expression ({error})"
    for text in row.platforms:
        if not is_platform(text):
            yield "platforms", f"found {text!r}; allowed: os/architecture[/variant], such as linux/arm64"
    if row.newer_than:
        try:
            seconds(row.newer_than, "newer_than")
        except ScheduleInvalid:
            yield "newer_than", f"found {row.newer_than!r}; allowed: an ISO 8601 duration, such as P30D"
    try:
        Range(row.semver) if row.semver else None
    except RangeInvalid as error:
        yield "semver", f"found {row.semver!r}; {error}"


def _either(globs: tuple[str, ...], regexes: tuple[str, ...]) -> re.Pattern[str] | None:
    """Returns one pattern for several globs and regular expressions; None without any. A tag has no slash, so `*` and
    `?` match within it."""
    texts = [*(translate(glob) for glob in globs), *regexes]
    return re.compile("|".join(f"(?:{text})" for text in texts)) if texts else None
