"""Authorization for one endpoint: learns its scheme, fetches tokens, keeps them, renews them ahead.

One token request runs per repository, for all callers at once. Credentials go to the endpoint's own origin
(Basic) or to a realm that passed `RealmRule`, and nowhere else. A refresh token goes to the token server
that gave it, and nowhere else (references.md 2.14).
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from yarl import URL

from holdfast.clock import Clock
from holdfast.errors import (
    LevelAway,
    LoginRefused,
    ParentBroken,
    ParentDenied,
    ParentErred,
    ParentFailed,
    ParentThrottled,
    TimedOut,
)
from holdfast.http.challenge import NoChallenge, RealmRule, TokenRealm, choose, parse_challenges
from holdfast.http.credentials import LoginSource, ParentLogin, Secret
from holdfast.http.retry import Deadline, retry_after
from holdfast.http.transport import HttpAnswer, Transport
from holdfast.log import log
from holdfast.wire.refusal import AWAY

CLIENT_ID = "holdfast"
BODY_BYTES = 64 * 1024
#: references.md 2.14: 60 s when absent, and never less. A day at most, so that a clock error ends some time
LEAST_SECONDS, MOST_SECONDS = 60.0, 86_400.0
#: renewed in the background once this share of its life is over
RENEW_SHARE = 0.8
#: how long a refusal by the token server is believed
DENIED_SECONDS = 30.0
#: repositories of which a token, or a refusal, is remembered
REPOSITORIES = 1024
#: the actions wanted of a repository, unless the caller names others
PULL = "pull"
#: the access that reads the list of all repositories
CATALOGUE = "catalogue"
#: a repository, and the access wanted to it
Key = tuple[str, str]
T = TypeVar("T")

_LEVEL = re.compile(r"[1-9][0-9]?", re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]{1,32768}")


class _Grant(msgspec.Struct):
    """A token server's answer; both names of the token exist in the field."""

    token: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: float | None = None


@dataclass(frozen=True, slots=True)
class ParentToken:
    """A token as it goes on the wire, and its life on the monotonic clock."""

    header: Secret
    renew_at: float
    expires: float


@dataclass(frozen=True, slots=True)
class _Denied:
    until: float
    login: ParentLogin | None
    message: str
    is_login: bool


def read_grant(body: bytes, now: float) -> tuple[ParentToken, Secret | None]:
    """The token and, if there is one, the refresh token. Raises ParentBroken. `now` is monotonic.

    The life counts from now: `issued_at` needs clocks that agree, and an early 401 is cheap.
    """
    try:
        grant = msgspec.json.decode(body, type=_Grant, strict=False)
    except (msgspec.MsgspecError, RecursionError):
        raise ParentBroken("the token server's answer cannot be read") from None
    text = grant.token or grant.access_token or ""
    if not _TOKEN.fullmatch(text):
        raise ParentBroken("the token server's answer holds no token")
    life = min(max(grant.expires_in or LEAST_SECONDS, LEAST_SECONDS), MOST_SECONDS)
    token = ParentToken(Secret(f"Bearer {text}"), now + life * RENEW_SHARE, now + life)
    return token, Secret(grant.refresh_token) if grant.refresh_token else None


class Authority:
    """See the module. `name` below is the repository as the endpoint knows it."""

    def __init__(
        self,
        transport: Transport,
        source: LoginSource,
        rule: RealmRule,
        clock: Clock,
        counters: dict[str, int],
        token_seconds: float,
        on_service: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._transport, self._source, self._rule = transport, source, rule
        self._clock, self._counters, self._seconds = clock, counters, token_seconds
        self._on_service = on_service
        self.is_basic = False
        self._realm: TokenRealm | None = None
        self._refresh: dict[URL, Secret] = {}
        self._tokens: OrderedDict[Key, ParentToken] = OrderedDict()
        self._denied: OrderedDict[Key, _Denied] = OrderedDict()
        self._flights: dict[Key, asyncio.Task[ParentToken]] = {}

    async def header(self, name: str, want: str = PULL) -> Secret | None:
        """The Authorization to send now; None while the endpoint never demanded one. `want` are the actions, and after
        a space the repository that a blob is mounted from. Raises ParentFailed."""
        if self.is_basic:
            login = await self._source.login()
            return login.basic() if login else None
        if self._realm is None:
            return None
        key = (name, want)
        token, now = self._tokens.get(key), self._clock.monotonic()
        if token is None or now >= token.expires:
            return (await self._shared(key, self._realm)).header
        if now >= token.renew_at:
            self._flight(key, self._realm)
        return token.header

    async def renew(
        self, name: str, rejected: Secret | None, lines: Iterable[str], want: str = PULL
    ) -> Secret:
        """The Authorization to send after a refusal that carried these WWW-Authenticate lines (maybe none).

        Raises ParentDenied when there is nothing new to try, ParentBroken for a realm that is refused.
        """
        key = (name, want)
        token = self._tokens.get(key)
        if token is not None and token.header is not rejected and self._clock.monotonic() < token.expires:
            return token.header
        realm = await self.learn(list(lines))
        if realm is None:
            return await self._fresh_basic(rejected)
        if key not in self._flights:
            self._tokens.pop(key, None)
        return (await self._shared(key, realm)).header

    async def close(self) -> None:
        """Cancel token requests."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def learn(self, lines: list[str]) -> TokenRealm | None:
        """The realm of the token server, or None for Basic, by the WWW-Authenticate lines of a refusal; without lines,
        what was learnt before. Raises as `renew`."""
        if not lines and (self.is_basic or self._realm):
            return self._realm
        has_login = await self._source.login() is not None
        try:
            realm = choose(parse_challenges(lines), self._rule, has_login=has_login)
        except NoChallenge as error:
            raise ParentDenied(str(error)) from None
        except ParentBroken as refused:
            log.warning("realm refused", parent=self._rule.home, reason=refused.message)
            raise
        self.is_basic, self._realm = realm is None, realm
        if realm is not None:
            self._on_service(realm.service)
        return realm

    async def _fresh_basic(self, rejected: Secret | None) -> Secret:
        login = await self._source.login(fresh=rejected is not None)
        if login is None or login.basic() == rejected:
            raise (ParentDenied if login is None else LoginRefused)("the parent refused the login")
        return login.basic()

    async def _shared(self, key: Key, realm: TokenRealm) -> ParentToken:
        return await asyncio.shield(self._flight(key, realm))

    def _flight(self, key: Key, realm: TokenRealm) -> asyncio.Task[ParentToken]:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._fetch(key, realm))
            flight.add_done_callback(lambda done: self._landed(key, done))
        return flight

    def _landed(self, key: Key, flight: asyncio.Task[ParentToken]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled() and (error := flight.exception()) is not None:
            log.info("token request failed", parent=self._rule.home, reason=str(error))

    async def _fetch(self, key: Key, realm: TokenRealm) -> ParentToken:
        login = await self._source.login()
        self._recall_denial(key, login)
        name, want = key
        fields = {"service": realm.service} if realm.service else {}
        fields["scope"] = realm.scope if want == PULL and _covers(realm.scope, name) else scope_of(name, want)
        try:
            body = await self._exchange(realm.url, fields, login)
        except ParentDenied as error:
            denied = _Denied(
                self._clock.monotonic() + DENIED_SECONDS,
                login,
                error.message,
                isinstance(error, LoginRefused),
            )
            _remember(self._denied, key, denied)
            raise
        token, refresh = read_grant(body, self._clock.monotonic())
        if refresh is not None:
            self._refresh[realm.url] = refresh
        _remember(self._tokens, key, token)
        return token

    def _recall_denial(self, key: Key, login: ParentLogin | None) -> None:
        denied = self._denied.get(key)
        if denied is None:
            return
        if self._clock.monotonic() < denied.until and denied.login == login:
            raise (LoginRefused if denied.is_login else ParentDenied)(denied.message)
        del self._denied[key]

    async def _exchange(self, url: URL, fields: Mapping[str, str], login: ParentLogin | None) -> bytes:
        """Refresh token first, then GET, then POST with the password where GET is not offered."""
        refresh = login.secret if login and login.identity else self._refresh.get(url)
        if refresh is not None:
            form = {**fields, "grant_type": "refresh_token", "refresh_token": refresh.reveal()}
            status, body = await self._ask("POST", url, form, None)
            if status == 200:
                return body
            self._refresh.pop(url, None)
        status, body = (401, b"") if login and login.identity else await self._ask("GET", url, fields, login)
        if status in (400, 404, 405) and login is not None:
            password = {"username": login.username, "password": login.secret.reveal()}
            status, body = await self._ask(
                "POST", url, {**fields, "grant_type": "password", **password}, None
            )
        if status == 200:
            return body
        refused = LoginRefused if login is not None and status == 401 else ParentDenied
        raise refused(f"the token server refused with {status}")

    async def _ask(
        self, method: str, url: URL, fields: Mapping[str, str], login: ParentLogin | None
    ) -> tuple[int, bytes]:
        self._counters["token_requests"] += 1
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": CLIENT_ID}
        if login is not None:
            headers["Authorization"] = login.basic().reveal()
        deadline = Deadline.after(self._clock, self._seconds)
        post = method == "POST"
        target = url if post else url.update_query(fields)
        form = {**fields, "client_id": CLIENT_ID} if post else None
        answer = await self._transport.send(method, target, headers, deadline, form=form)
        try:
            refuse_unwell(answer, self._clock.now())
            # a token is small: all callers share this one request, so its body gets no longer than its head
            async with asyncio.timeout(self._seconds):
                return answer.status, await answer.body(BODY_BYTES)
        except TimeoutError:
            raise TimedOut(f"the token server did not answer fully within {self._seconds:g} s") from None
        finally:
            await answer.close()


def scope_of(name: str, want: str) -> str:
    """The scope to request, several joined by a space (references.md 2.12)."""
    if want == CATALOGUE:
        return "registry:catalog:*"
    actions, _, source = want.partition(" ")
    scope = f"repository:{name}:{actions}"
    return f"{scope} repository:{source}:{PULL}" if source else scope


def _remember(kept: OrderedDict[Key, T], key: Key, what: T) -> None:
    """Keep the newest of each repository, and of so many repositories."""
    kept[key] = what
    kept.move_to_end(key)
    while len(kept) > REPOSITORIES:
        kept.popitem(last=False)


def refuse_unwell(answer: HttpAnswer, now: float) -> None:
    """Raise for statuses that say "not now": 429, 408 and 5xx. `now` is wall time."""
    wait = retry_after(answer.header("Retry-After"), now)
    if answer.status == 503 and (away := _LEVEL.fullmatch(answer.header(AWAY) or "")):
        level = int(away[0]) + 1
        raise LevelAway(
            f"level {level} above this node is away; level 1, its parent, answers",
            retry_after=wait,
            headers=((AWAY, str(level)),),
        )
    if answer.status == 429:
        raise ParentThrottled("the parent asks to slow down (429)", retry_after=wait)
    if answer.status >= 500 or answer.status == 408:
        failure: ParentFailed = ParentErred(f"the parent answered {answer.status}", retry_after=wait)
        raise failure


def _covers(scope: str, name: str) -> bool:
    """Whether a challenge's scope names this repository and nothing beside it."""
    return re.fullmatch(rf"repository(\([a-z0-9]+\))?:{re.escape(name)}:[a-z,*]+", scope) is not None
