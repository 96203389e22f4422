"""The scripted parent's door: no lock, Basic, or Bearer tokens from its own (or another's) token server."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field

from holdfast.testing.random_content import HeldContent
from holdfast.testing.scripted_wire import Recorded, ScriptedAnswer


@dataclass(slots=True)
class Issued:
    """A token given out: what it is good for, and until when (loop time)."""

    scopes: frozenset[str]
    expires: float


@dataclass(slots=True)
class Door:
    """The login that the scripted parent asks for. `scheme` is "" (everyone), "basic" or "bearer".

    `username` "" with bearer: anonymous callers get tokens. `realm` "" means this server's /token.
    `challenges`, when set, replaces the WWW-Authenticate lines (hostile realms, several schemes).
    `post` says how POST (oauth2) is met: "yes", or a status such as "404". `get` alike.
    `refused` is the status for a token that is expired or unknown, after one was presented (ECR: 400).
    """

    scheme: str = ""
    username: str = ""
    password: str = ""
    realm: str = ""
    service: str = "scripted"
    expires_in: int | None = 300
    challenges: list[str] = field(default_factory=list)
    post: str = "yes"
    get: str = "yes"
    give_refresh: str = ""
    accept_refresh: str = ""
    refused: int = 401
    tokens: dict[str, Issued] = field(default_factory=dict)
    made: int = 0

    def expire(self) -> None:
        """Every token given out so far stops working now."""
        self.tokens.clear()

    def admits(self, request: Recorded, scope: str) -> bool:
        """Whether the request carries what it needs for `repository:<name>:pull`."""
        scheme, _, value = (request.header("authorization") or "").partition(" ")
        if self.scheme == "basic":
            return scheme.lower() == "basic" and self._known(value)
        if self.scheme != "bearer":
            return True
        token = self.tokens.get(value) if scheme.lower() == "bearer" else None
        return token is not None and token.expires > _now() and (not scope or scope in token.scopes)

    def turn_away(
        self, request: Recorded, scope: str, base: str
    ) -> tuple[ScriptedAnswer, list[tuple[str, str]]]:
        """The refusal and its WWW-Authenticate lines."""
        status = self.refused if request.header("authorization") else 401
        lines = self.challenges or [self._challenge(scope, base)]
        body = HeldContent(b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}')
        answer = ScriptedAnswer(status, {"Content-Type": "application/json"}, body)
        return answer, [("WWW-Authenticate", line) for line in lines] if status == 401 else []

    def _challenge(self, scope: str, base: str) -> str:
        if self.scheme == "basic":
            return 'Basic realm="scripted"'
        scope_field = f',scope="{scope}"' if scope else ""
        return f'Bearer realm="{self.realm or base + "/token"}",service="{self.service}"{scope_field}'

    def _known(self, encoded: str) -> bool:
        try:
            return base64.b64decode(encoded).decode() == f"{self.username}:{self.password}"
        except ValueError:
            return False

    def serve(self, request: Recorded) -> ScriptedAnswer:
        """The token endpoint: GET with Basic, POST with a form."""
        way = self.post if request.method == "POST" else self.get
        if way != "yes":
            return ScriptedAnswer(int(way))
        fields = request.form() if request.method == "POST" else request.parameters()
        if not self._may_have_token(request, fields):
            return ScriptedAnswer(401, {"Content-Type": "application/json"}, HeldContent(b'{"errors":[]}'))
        return self._issue(fields.get("scope", ""))

    def _may_have_token(self, request: Recorded, fields: dict[str, str]) -> bool:
        if not self.username:
            return True
        if fields.get("grant_type") == "refresh_token":
            return bool(self.accept_refresh) and fields.get("refresh_token") == self.accept_refresh
        if fields.get("grant_type") == "password":
            return (fields.get("username"), fields.get("password")) == (self.username, self.password)
        scheme, _, value = (request.header("authorization") or "").partition(" ")
        return scheme.lower() == "basic" and self._known(value)

    def _issue(self, scope: str) -> ScriptedAnswer:
        self.made += 1
        text = f"token-{self.made}"
        lifetime = 60 if self.expires_in is None else self.expires_in
        self.tokens[text] = Issued(frozenset(scope.split()), _now() + lifetime)
        grant: dict[str, object] = {"token": text, "access_token": text}
        if self.expires_in is not None:
            grant["expires_in"] = self.expires_in
        if self.give_refresh:
            grant["refresh_token"] = self.give_refresh
        return ScriptedAnswer(
            200, {"Content-Type": "application/json"}, HeldContent(json.dumps(grant).encode())
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
