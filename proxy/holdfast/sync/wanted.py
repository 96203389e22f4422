"""What this node should hold: which repositories, and of each which tags, platforms and referrers. Pure.

A managed node has its scope from its parent and takes tags, platforms and referrers from the first rule of its own
`[sync]` that names the repository; without one it wants all of it. A node without a managing parent wants what its
rules name and nothing else. What a filter leaves empty is told in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cached_property

from holdfast.config import SyncRepository
from holdfast.routing import compile_patterns
from holdfast.sync.cron import ScheduleInvalid
from holdfast.sync.platform import Platforms, is_platform
from holdfast.sync.schedule import seconds
from holdfast.sync.version import Range, RangeInvalid, Version, version_of
from holdfast.wire.names import is_repository


@dataclass(frozen=True, slots=True)
class TagFact:
    """A tag as the parent lists it. `at`: when it was pushed or its image made (wall seconds), None unknown."""

    name: str
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The tags wanted, in the parent's order, and what to tell a person about the choice."""

    tags: tuple[TagFact, ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One `[[sync.repositories]]`, compiled. Its texts were checked by `problems`."""

    given: SyncRepository

    @cached_property
    def names(self) -> re.Pattern[str]:
        """Repositories it is for."""
        return compile_patterns([self.given.name])

    @cached_property
    def platforms(self) -> Platforms:
        """Platforms of an index that are fetched."""
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
        """Whether it names one repository, which need not be in the parent's catalogue."""
        return "*" not in self.given.name

    def wants_referrer(self, artifact_type: str) -> bool:
        """Whether a referrer of this type comes with its image."""
        return any(kind in ("*", artifact_type) for kind in self.given.referrers)

    def choose(self, tags: Iterable[TagFact], now: float) -> Chosen:
        """The tags wanted of those that are there."""
        listed = tuple(tags)
        found = tuple(tag for tag in listed if self.passes(tag.name))
        words = (
            []
            if found or not listed
            else [f"none of {len(listed)} tags passes {self._told()}; correct it, or take the row out"]
        )
        found, late = self._recent(found, now)
        found, unordered = self._newest(found)
        return Chosen(found, tuple(f"{self.given.name}: {w}" for w in (*words, *late, *unordered)))

    def passes(self, tag: str) -> bool:
        """Whether a tag's name is wanted, whatever its age."""
        if self._included is not None and not self._included.fullmatch(tag):
            return False
        if self._excluded is not None and self._excluded.fullmatch(tag):
            return False
        if self._range is None:
            return True
        version = version_of(tag)
        return version is not None and self._range.admits(version)

    def follows(self, tag: str) -> bool:
        """Whether a tag comes down whenever the parent has it. Of a choice among tags that is not known."""
        return not (self.given.newest or self.given.newer_than) and self.passes(tag)

    def _recent(self, tags: tuple[TagFact, ...], now: float) -> tuple[tuple[TagFact, ...], list[str]]:
        """`newer_than`; a tag whose time is unknown stays."""
        given = self.given.newer_than
        if not given:
            return tags, []
        least = now - seconds(given, "newer_than")
        found = tuple(tag for tag in tags if tag.at is None or tag.at >= least)
        words = []
        if len(found) < len(tags):
            left_out = "all" if not found else f"{len(tags) - len(found)} of"
            words.append(f"newer_than {given} leaves out {left_out} {len(tags)} tags")
        unknown = sum(tag.at is None for tag in tags)
        if unknown:
            words.append(f"newer_than keeps {unknown} tags whose images do not say when they were made")
        return found, words

    def _newest(self, tags: tuple[TagFact, ...]) -> tuple[tuple[TagFact, ...], list[str]]:
        """`newest`: by version where `semver` is given, else by time; what has neither comes last, and is told."""
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

    def _told(self) -> str:
        given = self.given
        parts = [
            ("tags", given.tags),
            ("regex", given.regex),
            ("exclude", given.exclude + given.exclude_regex),
        ]
        told = [f"{name} {', '.join(texts)}" for name, texts in parts if texts]
        return " and ".join([*told, *([f"semver {given.semver}"] if given.semver else [])]) or "its filters"


@dataclass(frozen=True, slots=True)
class Repositories:
    """Names wanted, in order, and what to tell a person."""

    names: tuple[str, ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """The whole wish. `scope` is that of a managed node (connected-registry 4.2: names, `team/*`, `*`), None for a node
    that takes it from `rules` alone."""

    rules: tuple[Rule, ...]
    scope: tuple[str, ...] | None = None
    _all: Rule = field(default_factory=lambda: Rule(SyncRepository(name="**")), repr=False)

    @classmethod
    def of(
        cls, rows: Sequence[SyncRepository], scope: Iterable[str] | None = None, parent: str = ""
    ) -> Wanted:
        """From the configuration's rows for one parent."""
        rules = tuple(Rule(row) for row in rows if row.parent == parent)
        return cls(rules, None if scope is None else tuple(scope))

    @property
    def needs_catalogue(self) -> bool:
        """Whether only the parent's list of repositories tells which are meant."""
        return any("*" in name for name in self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Repositories and patterns, as they were given."""
        return tuple(rule.given.name for rule in self.rules) if self.scope is None else self.scope

    @cached_property
    def _scoped(self) -> re.Pattern[str]:
        if self.scope is None:
            return compile_patterns(self.names)
        # the scope's one star crosses segments
        return compile_patterns(name.replace("*", "**") for name in self.scope)

    def covers(self, repository: str) -> bool:
        """Whether a repository is wanted, whatever of it."""
        return self._scoped.fullmatch(repository) is not None

    def follows(self, repository: str, tag: str) -> bool:
        """Whether a tag comes down whenever the parent has it."""
        return self.covers(repository) and self.rule_of(repository).follows(tag)

    def rule_of(self, repository: str) -> Rule:
        """The first rule for it; one that wants everything where none is."""
        return next((rule for rule in self.rules if rule.names.fullmatch(repository)), self._all)

    def repositories(self, catalogue: Iterable[str]) -> Repositories:
        """Those wanted: names given outright, whether listed or not, and those that a pattern finds in the
        catalogue."""
        listed = tuple(catalogue)
        literal = [name for name in self.names if "*" not in name]
        found = tuple(dict.fromkeys([*literal, *(name for name in listed if self.covers(name))]))
        return Repositories(found, tuple(self._unmatched(listed)))

    def _unmatched(self, catalogue: tuple[str, ...]) -> Iterator[str]:
        for name in self.names:
            pattern = compile_patterns([name if self.scope is None else name.replace("*", "**")])
            if "*" in name and not any(map(pattern.fullmatch, catalogue)):
                found = f"none of the parent's {len(catalogue)} repositories matches"
                yield f"{name}: {found}; correct the pattern, or take it out"
        if self.scope is None:
            return
        for rule in self.rules:
            if not any(map(rule.names.fullmatch, (*catalogue, *self.scope))):
                yield f"{rule.given.name}: this rule is for no repository of the scope ({', '.join(self.scope)[:200]})"


def problems(row: SyncRepository) -> Iterator[tuple[str, str]]:
    """(key, sentence) for each text of a rule that cannot be used."""
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
    """One pattern of several; None when none is given. `*` and `?` cross nothing in a tag, which has no slash."""
    texts = [*(translate(glob) for glob in globs), *regexes]
    return re.compile("|".join(f"(?:{text})" for text in texts)) if texts else None
