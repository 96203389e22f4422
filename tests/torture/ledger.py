"""What must be true after a fault: of each thing, the states that a client was told of or is not sure about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

#: kind ("blob", "manifest", "tag", "cached"), repository, and digest or tag
Key = tuple[str, str, str]
#: what is there: "" when nothing is; a size, a media type, or the digest that a tag names
State = str
ABSENT: State = ""
_NEW = frozenset({ABSENT})


@dataclass
class Change:
    """One request that changes one thing. Until it is acknowledged, both the old and the new may be found."""

    acknowledged: bool = False


class Ledger:
    """Thread-safe; each key is changed by one client at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._allowed: dict[Key, frozenset[State]] = {}
        self._fresh: set[Key] = set()
        #: changes that were acknowledged, and looks at things afterwards
        self.acknowledged = self.compared = 0
        self.complaints: list[str] = []

    def allowed(self, key: Key) -> frozenset[State]:
        """The states in which it may be found."""
        with self._lock:
            return self._allowed.get(key, _NEW)

    def certain(self, kind: str, repository: str) -> dict[str, State]:
        """Names and states of the things of a repository that are certainly there."""
        with self._lock:
            return {
                name: next(iter(states))
                for (what, where, name), states in self._allowed.items()
                if (what, where) == (kind, repository) and len(states) == 1 and ABSENT not in states
            }

    def uncertain(self, kind: str, repository: str, state: State) -> list[Key]:
        """Things of a repository that may be in that state, and in another one as well."""
        with self._lock:
            return [
                key
                for key, states in self._allowed.items()
                if key[:2] == (kind, repository) and state in states and len(states) > 1
            ]

    def keys(self, *, fresh: bool = False) -> list[Key]:
        """Everything it knows of; `fresh`: what was changed since `settle`, only."""
        with self._lock:
            return sorted(self._fresh if fresh else self._allowed)

    @contextmanager
    def changing(self, *changes: tuple[Key, State]) -> Iterator[Change]:
        """Around a request that makes these changes in one step."""
        with self._lock:
            for key, state in changes:
                self._allowed[key] = self._allowed.get(key, _NEW) | {state}
                self._fresh.add(key)
        change = Change()
        yield change
        if change.acknowledged:
            with self._lock:
                self._allowed.update({key: frozenset({state}) for key, state in changes})
                self.acknowledged += 1

    def may_be(self, keys: Iterable[Key], state: State) -> None:
        """These may be found so, too."""
        with self._lock:
            for key in keys:
                self._allowed[key] = self._allowed.get(key, _NEW) | {state}
                self._fresh.add(key)

    def expect(self, allowed: dict[Key, frozenset[State]]) -> None:
        """Only these states are right, whatever was found since."""
        with self._lock:
            self._allowed.update(allowed)

    def found(self, key: Key, state: State) -> None:
        """It was looked at, with the clients at rest: from here on it is so. Complains when it may not be."""
        with self._lock:
            allowed = self._allowed.get(key, _NEW)
            if state not in allowed:
                expected = " or ".join(repr(s) for s in sorted(allowed))
                self.complaints.append(f"{' '.join(key)}: found {state!r}, not {expected}")
            self._allowed[key] = frozenset({state})

    def complain(self, text: str) -> None:
        """Something else is wrong."""
        with self._lock:
            self.complaints.append(text)

    def forget(self) -> None:
        """Whatever was there is of no interest any more."""
        with self._lock:
            self._allowed.clear()
            self._fresh.clear()

    def settle(self, looked: int) -> None:
        """So many things have been looked at; among them all that were fresh."""
        with self._lock:
            self.compared += looked
            self._fresh.clear()
