"""Access tokens given a moment ago. Many machines that pull the same image with the same login, and one that pulls many
of its layers, ask the same question within a second; they get the same token, which costs no new signature.

The caller is found out anew each time, password, expiry and rights; it is part of the question, so that a password
that was changed or a right that was taken away asks another one. Refusals are not here. Pure: takes `now`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from holdfast.login.caller import Caller
from holdfast.login.token import Entry

#: a token is given out again for so long (s)
AGAIN = 10.0
#: Docker's clients take every token for one of 60 s at least, and would use one of less beyond its end (s).
LEAST_LEFT = 60.0
#: questions remembered; those of more bytes than this are rare and are not, so that all are 4 MiB at most
REMEMBERED, LONGEST = 1024, 4096


class Question(NamedTuple):
    """Who asks what. `service`, `host` and `sni` are those that the request was made to, `scopes` as written."""

    caller: Caller
    service: str
    host: str
    sni: str
    scopes: tuple[str, ...]


class Given(NamedTuple):
    """A token, what it grants, and when it began and ends (whole wall seconds)."""

    text: str
    entries: tuple[Entry, ...]
    at: int
    end: int


class Recent:
    """What was given; one for a process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Question, Given] = OrderedDict()

    def find(self, question: Question, now: float) -> Given | None:
        """What was given for this question, if it may be given again."""
        found = self._kept.get(question)
        if found is None or not found.at <= now < found.at + AGAIN or found.end - now < LEAST_LEFT:
            return None
        return found

    def keep(self, question: Question, given: Given) -> Given:
        """Remember, and hand back, what is given for a question."""
        if len(given.text) + sum(map(len, question.scopes)) <= LONGEST:
            self._kept[question] = given
            self._kept.move_to_end(question)
            if len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)
        return given

    def forget(self) -> None:
        """Let go of all of it: the rights have changed."""
        self._kept.clear()

    def __len__(self) -> int:
        """What is remembered."""
        return len(self._kept)
