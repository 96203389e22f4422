"""Parses WWW-Authenticate, and decides whether its realm may get a token request. Pure.

A registry may send several challenges, in one line or in many, in any order, with unknown schemes
(RFC 9110, 11.6.1). All are read; the choice is by scheme.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from yarl import URL

from holdfast.errors import ParentBroken
from holdfast.http.redirect import origin

LINES, LINE_BYTES = 16, 8192

_ITEM = re.compile(
    r"""(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z/-]+)
        (?:[ \t]*=[ \t]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,"]*)))?""",
    re.VERBOSE,
)
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: the scheme in lower case and its parameters by lower-case name."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(lines: Iterable[str]) -> list[Challenge]:
    """Every challenge of every line, in order. Total: nonsense gives challenges that are never chosen.

    A name followed by `=` is a parameter of the challenge before it, any other name starts a new one.
    A token68 (`Negotiate YII=`) becomes a parameter without meaning. The first of a repeated name counts.
    """
    challenges: list[Challenge] = []
    for line in list(lines)[:LINES]:
        for item in _ITEM.finditer(line[:LINE_BYTES]):
            name = item["name"].lower()
            value = item["bare"] if item["quoted"] is None else re.sub(r"\\(.)", r"\1", item["quoted"])
            if value is None:
                challenges.append(Challenge(name))
            elif challenges:
                challenges[-1].parameters.setdefault(name, value)
    return challenges


@dataclass(frozen=True, slots=True)
class TokenRealm:
    """A token server that passed the rule. `scope` is that of the challenge, or ""."""

    url: URL
    service: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class RealmRule:
    """Which realms may see credentials: the parent's own origin, or an origin on the list (exact: scheme,
    host and port). Everything else is refused, also for anonymous tokens (security.md S1, S2)."""

    home: str
    listed: frozenset[str]
    insecure: bool = False

    def realm(self, challenge: Challenge) -> TokenRealm:
        """The realm of a Bearer challenge. Raises ParentBroken."""
        text = challenge.parameters.get("realm", "")
        url = self._url(text)
        if origin(url) != self.home and origin(url) not in self.listed:
            raise ParentBroken(
                f"the parent names a token server at {url.raw_host}, which is neither its own origin nor"
                " listed under realms"
            )
        if url.scheme != "https" and not self.insecure:
            raise ParentBroken("the parent names a token server without TLS")
        scope = challenge.parameters.get("scope", "")
        service = challenge.parameters.get("service", "")
        return TokenRealm(url, service[:256], scope if _SCOPE.fullmatch(scope) and len(scope) <= 1024 else "")

    def _url(self, text: str) -> URL:
        if not text.isascii() or not re.fullmatch(r"https?://[^\s\\@]+", text, re.IGNORECASE):
            raise ParentBroken("the parent names a token server that is no plain URL")
        try:
            url = URL(text)
            if url.raw_host and url.port and url.raw_user is None:
                return url.with_fragment(None)
        except ValueError:
            pass
        raise ParentBroken("the parent names a token server that is no plain URL")


def choose(challenges: list[Challenge], rule: RealmRule, *, has_login: bool) -> TokenRealm | None:
    """Bearer when its realm is allowed, else Basic (None) when there is a login for it.

    Raises ParentBroken when only refused realms were offered, or nothing this client speaks.
    """
    refused: ParentBroken | None = None
    for challenge in challenges:
        if challenge.scheme == "bearer":
            try:
                return rule.realm(challenge)
            except ParentBroken as error:
                refused = refused or error
    if has_login and any(challenge.scheme == "basic" for challenge in challenges):
        return None
    if refused is not None:
        raise refused
    raise NoChallenge("the parent demands a login, and this node has none")


class NoChallenge(Exception):
    """No challenge this client can answer: none at all, an unknown scheme, or Basic without a login."""
