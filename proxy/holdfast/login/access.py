"""Who a request comes from, and what that allows: one `Access` a process, asked by dispatch and by endpoints.

The control plane is read as it is now. Its revision is looked at twice a second while all goes well, and always before
a login and before anything is denied, so that a right that was given counts at once, and one that was taken away
within half a second, for tokens already issued as well.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import structlog
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.control.actions import Grants
from holdfast.control.catalogue import Catalogue
from holdfast.control.moment import seconds
from holdfast.control.resource import Password, Token, lowered
from holdfast.errors import TooManyLogins, Unauthorized
from holdfast.login.caller import OF_LEVEL, READS, Caller, Holder, Level, Stranger, claimed_by
from holdfast.login.credentials import Basic, Bearer, of_request
from holdfast.login.given import Recent
from holdfast.login.limiter import Limiter
from holdfast.login.network import Network, neighbourhood
from holdfast.login.proof import Proof, mark_of, still_good
from holdfast.login.realm import Realm
from holdfast.login.standing import Standing, stand
from holdfast.login.token import Claims, Mint
from holdfast.routing import compile_patterns
from holdfast.wire.message import Request

log = structlog.get_logger()

#: between looks at the control plane's revision while nothing is denied (s)
GLANCE = 0.5
#: verified tokens and passwords, and compiled scope maps, that are remembered
TOKENS, SCOPE_MAPS = 4096, 1024
#: longest name that is looked up, or counted failures of
NAME = 64
WRONG = (
    "the name or the password is wrong, the password has expired, or this token may not log in at this node"
)
#: A login that had to wait for a slow hash.
Login = Holder | Coroutine[Any, Any, Holder]
Identified = Caller | Coroutine[Any, Any, Caller]


class _Verified(NamedTuple):
    """A token whose signature was checked, and whose caller is known as of a revision."""

    claims: Claims
    claimed: dict[tuple[str, str], frozenset[str]]
    revision: int = -1
    caller: Holder | None = None


class Access:
    """See the module. `catalogue` is read from the event loop of this process alone."""

    def __init__(self, store: Store, config: Configuration, clock: Clock) -> None:
        self._store, self._config, self._clock = store, config, clock
        self.catalogue = Catalogue(store)
        self.realm = Realm(config.login)
        self.is_pinned = self.realm.is_pinned
        self.mint = Mint(store.uuid, store.path)
        self.given = Recent()
        self._limiter = Limiter(config.login.failures)
        self._proof = Proof(store)
        self._near = Network(config.login.client_addresses)
        self._open = compile_patterns(config.login.anonymous_repositories)
        self._standing = Standing(-1, "none", False, frozenset(), None)
        self._level: Level = "none"
        self._plain = Stranger(OF_LEVEL["none"], self._open)
        self._due = float("-inf")
        self._tokens: OrderedDict[bytes, _Verified] = OrderedDict()
        self._holders: OrderedDict[bytes, Holder] = OrderedDict()
        self._grants = lru_cache(SCOPE_MAPS)(self._compile)

    # -- what this node is -------------------------------------------------------------------------

    def level(self) -> Level:
        """What strangers may do, as of half a second ago at most."""
        if self._clock.monotonic() >= self._due:
            self.refresh()
        return self._level

    def refresh(self) -> Standing:
        """The standing now."""
        self._due = self._clock.monotonic() + GLANCE
        if self._standing.revision != self._store.control_revision():
            self._take(stand(self.catalogue, self._config))
        return self._standing

    def _take(self, standing: Standing) -> None:
        if self._standing.revision >= 0 and standing.level != self._level:
            log.warning("what strangers may do has changed", was=self._level, now=standing.level)
        self._standing, self._level = standing, standing.level
        self._holders.clear()
        self.given.forget()
        self._plain = Stranger(OF_LEVEL[standing.level], self._open)
        if standing.mode is not None and standing.mode != self._store.mode:
            self._store.set_mode(standing.mode)
            log.info("mode set by the parent", mode=standing.mode)

    @property
    def invites(self) -> bool:
        """Whether somebody can log in here, so that `/v2/` asks who does not say who he is."""
        return self.refresh().invites

    # -- who it is ---------------------------------------------------------------------------------

    def caller(self, request: Request) -> Identified:
        """Whose request it is; something to wait for when a password has to be hashed slowly.

        Raises, or the coroutine raises, `Unauthorized` for a login that is none, and `TooManyLogins`. Where nobody can
        log in, credentials mean nothing: clients send those of other registries.
        """
        standing, said = self.refresh(), of_request(request)
        if said is None or not standing.invites:
            return self.stranger(request)
        if isinstance(said, Bearer):
            return self._bearer(request, said.token)
        if isinstance(said, Basic):
            return self.login(request, said)
        raise Unauthorized(
            "the Authorization header cannot be read",
            detail="allowed: one, Basic or Bearer, up to 8 KiB",
            headers=(self.realm.challenge(request),),
        )

    def stranger(self, request: Request) -> Stranger:
        """The caller without login: what the level allows, and the reads of a certificate or an address that may."""
        if request.certified or (self._near and self.realm.address(request) in self._near):
            return replace(self._plain, rights=self._plain.rights | READS, is_near=True)
        return self._plain

    def login(self, request: Request, said: Basic) -> Login:
        """The holder of a token, by name and password. Raises as `caller`."""
        standing, now = self.refresh(), self._clock.now()
        key = self._proof.print(said.name, said.secret)
        holder = self._holders.get(key)
        if holder is None or holder.until <= now:
            token = self._eligible(standing, said.name)
            found = self._proof.quick(token, said.secret, now)
            if token is None or found is None:
                return self._login_slowly(request, token, said)
            holder = self._plain_holder(token, found)
            self._remember(key, holder)
        self._limiter.succeeded(lowered(said.name), self._place(request))
        return self._beside(request, holder)

    def _remember(self, key: bytes, holder: Holder) -> None:
        """What a right password gives, until the next revision: it is proved again then, and when it expires. A wrong
        one has another key and takes its whole way each time."""
        self._holders[key] = holder
        if len(self._holders) > TOKENS:
            self._holders.popitem(last=False)

    async def _login_slowly(self, request: Request, token: Token | None, said: Basic) -> Holder:
        """What follows when the quick way found nothing: the limit first, then the slow hashes."""
        name, place, at = lowered(said.name)[:NAME], self._place(request), self._clock.monotonic()
        if (wait := self._limiter.wait(name, place, at)) > 0:
            raise TooManyLogins(
                "too many failed logins with this name or from this address", retry_after=int(wait) + 1
            )
        now = self._clock.now()
        found = await self._proof.slow(token, said.secret, now)
        if token is None or found is None:
            self._limiter.failed(name, place, at)
            known, why = self._why(self._standing, said.name)
            log.info("login failed", address=request.client, token=known, reason=why)
            raise self._wrong(request)
        self._limiter.succeeded(name, place)
        return self._holder(request, token, found)

    def _wrong(self, request: Request) -> Unauthorized:
        return Unauthorized(WRONG, headers=(self.realm.challenge(request),))

    def _eligible(self, standing: Standing, name: str) -> Token | None:
        """The token of that name, if it may log in at this node."""
        token, listed = self._named(name), standing.lists(name)
        if token is None or token.status != "enabled" or not listed:
            return None
        return token

    def _named(self, name: str) -> Token | None:
        if "/" in name or not 0 < len(name) <= NAME or not name.isascii():
            return None
        return self.catalogue.token(name)

    def _why(self, standing: Standing, name: str) -> tuple[str, str]:
        """What the operator may know of a login that failed, and its caller may not: the token's name, and why. A name
        that no token has is not told: some type their password there."""
        if (token := self._named(name)) is None:
            return "", "no such token"
        if token.status != "enabled":
            return token.name, "the token is disabled"
        if not standing.lists(name):
            return token.name, "not a client token of this node"
        return token.name, "the password is wrong, or has expired"

    # -- tokens ------------------------------------------------------------------------------------

    def _bearer(self, request: Request, text: str) -> Caller:
        """The caller that a token stands for now. Raises `Unauthorized`: a new token may help."""
        key, now = hashlib.sha256(text.encode("latin-1", "replace")).digest(), self._clock.now()
        kept = self._tokens.get(key) or self._checked(request, text, now)
        if kept.claims.exp <= now:
            self._tokens.pop(key, None)
            raise self._refused(request)
        if not kept.claims.sub:
            self._keep(key, kept)
            return replace(self.stranger(request), scheme="bearer")
        revision, caller = self._standing.revision, kept.caller
        if caller is None or kept.revision != revision or caller.until <= now:
            caller = self._caller_of(request, kept, now)
            self._keep(key, kept._replace(revision=revision, caller=caller))
        return self._beside(request, caller)

    def _keep(self, key: bytes, kept: _Verified) -> None:
        self._tokens[key] = kept
        if len(self._tokens) > TOKENS:
            self._tokens.popitem(last=False)

    def _checked(self, request: Request, text: str, now: float) -> _Verified:
        try:
            claims = self.mint.read(text, now)
        except Unauthorized:
            raise self._refused(request) from None
        return _Verified(claims, claimed_by(claims))

    def _caller_of(self, request: Request, kept: _Verified, now: float) -> Holder:
        """By what the control plane says of the token that the claims name. It may be cached: nothing of the request
        is in it."""
        token = self._eligible(self._standing, kept.claims.sub)
        used = None if token is None else still_good(token, kept.claims.proof, now)
        if token is None or used is None:
            raise self._refused(request)
        holder = self._plain_holder(token, used)
        return replace(
            holder, claimed=kept.claimed, scheme="bearer", until=min(holder.until, kept.claims.exp)
        )

    def _refused(self, request: Request) -> Unauthorized:
        return Unauthorized(
            "the token is not valid here, or no longer",
            headers=(self.realm.challenge(request, (), "invalid_token"),),
        )

    def grants_of(self, token: Token) -> Grants:
        """What the scope map of a token says now."""
        return self._grants(self.refresh().revision, token.scope_map_id)

    def _holder(self, request: Request, token: Token, used: Password) -> Holder:
        return self._beside(request, self._plain_holder(token, used))

    def _beside(self, request: Request, holder: Holder) -> Holder:
        """With what a certificate or an address gives."""
        near = self.stranger(request)
        return holder if near is self._plain else replace(holder, beside=near)

    def _plain_holder(self, token: Token, used: Password) -> Holder:
        grants = self._grants(self._standing.revision, token.scope_map_id)
        until = float("inf") if used.expiry is None else seconds(used.expiry)
        return Holder(token.name, grants, self._plain, mark_of(used), until=until)

    def _compile(self, revision: int, scope_map: str) -> Grants:
        found = self.catalogue.scope_map(scope_map)
        return Grants.of(found.actions if found is not None else ())

    def _place(self, request: Request) -> str:
        return neighbourhood(self.realm.address(request))
