"""The caller of a request and its rights: one `Access` a process, used by dispatch and by endpoints.

Rights are those of the control plane now. Its revision is read twice a second, and always before a login and before a
refusal, so that a new right counts at once, and a withdrawn one ends within half a second, for tokens already issued
as well.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from holdfast_core.errors import StoreError
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.control.catalogue import Catalogue
from holdfast.errors import TooManyLogins, Unauthorized
from holdfast.log import log
from holdfast.login.access_token import Claims, TokenSigner
from holdfast.login.authorization_header import Basic, Bearer, of_request
from holdfast.login.caller import (
    OF_LEVEL,
    READS,
    Caller,
    Level,
    Network,
    Stranger,
    TokenHolder,
    claimed_by,
    neighbourhood,
)
from holdfast.login.limiter import Limiter
from holdfast.login.password_check import PasswordCheck, mark_of, still_good
from holdfast.login.realm import Realm
from holdfast.login.token_cache import TokenCache
from holdfast.resources.actions import Grants
from holdfast.resources.model import REGISTRY, TOKEN, Identity, Password, Token, lowered, name_in
from holdfast.routing import compile_patterns
from holdfast.timestamps import seconds
from holdfast.wire.message import Request

#: between reads of the control plane's revision while nothing is refused (s)
GLANCE = 0.5
#: verified tokens and passwords, and compiled scope maps, that are kept
TOKENS, SCOPE_MAPS = 4096, 1024
#: the reason of a failed login is looked up this long after its answer (seconds)
LATER_SECONDS = 0.002
#: longest name that is looked up, or by which failures are counted
NAME = 64
WRONG = (
    "the name or the password is wrong, the password has expired, or this token may not log in at this node"
)
#: the result of a login; a coroutine when it has to wait for a slow hash
Login = TokenHolder | Coroutine[Any, Any, TokenHolder]
Identified = Caller | Coroutine[Any, Any, Caller]


class _Verified(NamedTuple):
    """A token whose signature was checked, and whose caller is known as of a revision."""

    claims: Claims
    claimed: dict[tuple[str, str], frozenset[str]]
    revision: int = -1
    caller: TokenHolder | None = None


class LoginRules(NamedTuple):
    """The rules for logins on this node, as of one revision of the control plane (references.md 1.19).

    `level` is the rights of strangers; `invites` says that a login is possible here, so that `/v2/` asks for one.
    `listed` are the tokens, in lower case, that may log in; None is every one. `mode` is the mode that the parent gave
    this node, None without a managing parent."""

    revision: int
    level: Level
    invites: bool
    listed: frozenset[str] | None
    mode: str | None

    def lists(self, token: str) -> bool:
        """Whether a token may log in here at all."""
        return self.listed is None or lowered(token) in self.listed


class Access:
    """See the module. `catalogue` is read from the event loop of this process alone."""

    def __init__(self, store: Store, config: Configuration, clock: Clock) -> None:
        self._store, self._config, self._clock = store, config, clock
        self._documents = store.documents
        self.catalogue = Catalogue(store)
        self.realm = Realm(config.login)
        self.is_pinned = self.realm.is_pinned
        self.mint = TokenSigner(store.uuid, store.path)
        self.cached_tokens = TokenCache()
        self._limiter = Limiter(config.login.failures)
        self._proof = PasswordCheck(store)
        self._near = Network(config.login.client_addresses)
        self._open = compile_patterns(config.login.anonymous_repositories)
        self._rules = LoginRules(-1, "none", False, frozenset(), None)
        self._level: Level = "none"
        self._plain = Stranger(OF_LEVEL["none"], self._open)
        self._due = float("-inf")
        self._tokens: OrderedDict[bytes, _Verified] = OrderedDict()
        self._holders: OrderedDict[bytes, TokenHolder] = OrderedDict()
        self._grants = lru_cache(SCOPE_MAPS)(self._compile)

    # -- rules -------------------------------------------------------------------------------------

    def level(self) -> Level:
        """The level of strangers, as of half a second ago at most."""
        if self._clock.monotonic() >= self._due:
            self.refresh()
        return self._level

    def refresh(self) -> LoginRules:
        """The rules for logins now."""
        self._due = self._clock.monotonic() + GLANCE
        if self._rules.revision != self._documents.revision():
            self._take(login_rules(self.catalogue, self._config))
        return self._rules

    def _take(self, rules: LoginRules) -> None:
        if self._rules.revision >= 0 and rules.level != self._level:
            log.warning("rights without login changed", was=self._level, now=rules.level)
        self._rules, self._level = rules, rules.level
        self._holders.clear()
        self.cached_tokens.forget()
        self._plain = Stranger(OF_LEVEL[rules.level], self._open)
        if rules.mode is not None and rules.mode != self._store.mode:
            self._store.set_mode(rules.mode)
            log.info("mode set by the parent", mode=rules.mode)

    @property
    def invites(self) -> bool:
        """Whether a login is possible here, so that `/v2/` asks a caller without credentials for one."""
        return self.refresh().invites

    @property
    def knows_addresses(self) -> bool:
        """Whether rights may depend on the address of a connection."""
        return bool(self._near) or self.realm.has_proxies

    # -- callers -----------------------------------------------------------------------------------

    def caller(self, request: Request) -> Identified:
        """The caller of a request; a coroutine when a password has to be hashed slowly.

        Raises, or the coroutine raises, `Unauthorized` for a wrong login, and `TooManyLogins`. Where no login is
        possible, credentials are ignored: clients send those of other registries.
        """
        rules, credentials = self.refresh(), of_request(request)
        if credentials is None or not rules.invites:
            return self.stranger(request)
        if isinstance(credentials, Bearer):
            return self._bearer(request, credentials.token)
        if isinstance(credentials, Basic):
            return self.login(request, credentials)
        raise Unauthorized(
            "the Authorization header cannot be read",
            detail="allowed: one, Basic or Bearer, up to 8 KiB",
            headers=(self.realm.challenge(request),),
        )

    def stranger(self, request: Request) -> Stranger:
        """A caller without login: the rights of the level, and the reads that its certificate or address gives."""
        if request.certified or (self._near and self.realm.address(request) in self._near):
            return replace(self._plain, rights=self._plain.rights | READS, is_near=True)
        return self._plain

    def login(self, request: Request, credentials: Basic) -> Login:
        """The holder of a token, by name and password. Raises as `caller`."""
        rules, now = self.refresh(), self._clock.now()
        key = self._proof.print(credentials.name, credentials.secret)
        holder = self._holders.get(key)
        if holder is None or holder.until <= now:
            token = self._eligible(rules, credentials.name)
            password = self._proof.quick(token, credentials.secret, now)
            if token is None or password is None:
                return self._login_slowly(request, token, credentials)
            holder = self._plain_holder(token, password)
            self._remember(key, holder)
        # each right password ends the count of wrong ones, so that no answer to one stands for the next
        request.note.end(float("-inf"))
        self._limiter.succeeded(lowered(credentials.name), self._network(request))
        return self._beside(request, holder)

    def _remember(self, key: bytes, holder: TokenHolder) -> None:
        """Keep the holder of a correct password until the next revision; the password is checked again then, and when
        it expires. A wrong password has another key and is checked in full each time."""
        self._holders[key] = holder
        if len(self._holders) > TOKENS:
            self._holders.popitem(last=False)

    async def _login_slowly(self, request: Request, token: Token | None, credentials: Basic) -> TokenHolder:
        """The holder by the slow hashes, after the limit of failed logins. Raises as `caller`."""
        name, network, at = lowered(credentials.name)[:NAME], self._network(request), self._clock.monotonic()
        if (wait := self._limiter.wait(name, network, at)) > 0:
            raise TooManyLogins(
                "too many failed logins with this name or from this address", retry_after=int(wait) + 1
            )
        now = self._clock.now()
        password = await self._proof.slow(token, credentials.secret, now)
        if token is None or password is None:
            self._limiter.failed(name, network, at)
            # after the answer: the reason takes longer to find for an existing name (security.md S32)
            asyncio.get_running_loop().call_later(
                LATER_SECONDS, self._record_failure, request.client, credentials.name
            )
            raise self._wrong(request)
        self._limiter.succeeded(name, network)
        return self._holder(request, token, password)

    def _record_failure(self, address: str, name: str) -> None:
        try:
            known, why = self._why(self._rules, name)
        except StoreError:  # the node ends
            known, why = "", "not looked up"
        log.info("login failed", address=address, token=known, reason=why)

    def _wrong(self, request: Request) -> Unauthorized:
        return Unauthorized(WRONG, headers=(self.realm.challenge(request),))

    def _eligible(self, rules: LoginRules, name: str) -> Token | None:
        """The token of that name, None unless it may log in at this node."""
        token, listed = self._named(name), rules.lists(name)
        if token is None or token.status != "enabled" or not listed:
            return None
        return token

    def _named(self, name: str) -> Token | None:
        if "/" in name or not 0 < len(name) <= NAME or not name.isascii():
            return None
        return self.catalogue.token(name)

    def _why(self, rules: LoginRules, name: str) -> tuple[str, str]:
        """The token's name and the reason of a failed login, for the operator's log; the caller does not learn them. A
        name that no token has is left out: some users type their password there."""
        if (token := self._named(name)) is None:
            return "", "no such token"
        if token.status != "enabled":
            return token.name, "the token is disabled"
        if not rules.lists(name):
            return token.name, "not a client token of this node"
        return token.name, "the password is wrong, or has expired"

    # -- tokens ------------------------------------------------------------------------------------

    def _bearer(self, request: Request, text: str) -> Caller:
        """The caller of a Bearer token now. Raises `Unauthorized`: a new token may help."""
        key, now = hashlib.sha256(text.encode("latin-1", "replace")).digest(), self._clock.now()
        kept = self._tokens.get(key) or self._checked(request, text, now)
        if kept.claims.exp <= now:
            self._tokens.pop(key, None)
            raise self._refused(request)
        if not kept.claims.sub:
            self._keep(key, kept)
            request.note.end(kept.claims.exp)
            return replace(self.stranger(request), scheme="bearer")
        revision, caller = self._rules.revision, kept.caller
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

    def _caller_of(self, request: Request, kept: _Verified, now: float) -> TokenHolder:
        """The holder of the token that the claims name, by the control plane now. It may be cached: it depends on no
        part of the request."""
        token = self._eligible(self._rules, kept.claims.sub)
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
        """The grants of a token's scope map now."""
        return self._grants(self.refresh().revision, token.scope_map_id)

    def _holder(self, request: Request, token: Token, used: Password) -> TokenHolder:
        return self._beside(request, self._plain_holder(token, used))

    def _beside(self, request: Request, holder: TokenHolder) -> TokenHolder:
        """The holder with the rights that its certificate or address gives."""
        request.note.user = holder.name
        request.note.end(holder.until)
        near = self.stranger(request)
        return holder if near is self._plain else replace(holder, beside=near)

    def _plain_holder(self, token: Token, used: Password) -> TokenHolder:
        grants = self._grants(self._rules.revision, token.scope_map_id)
        until = float("inf") if used.expiry is None else seconds(used.expiry)
        return TokenHolder(token.name, grants, self._plain, mark_of(used), until=until)

    def _compile(self, revision: int, scope_map: str) -> Grants:
        row = self.catalogue.scope_map(scope_map)
        return Grants.of(row.actions if row is not None else ())

    def _network(self, request: Request) -> str:
        return neighbourhood(self.realm.address(request))


def login_rules(catalogue: Catalogue, config: Configuration) -> LoginRules:
    """The rules for logins now. On a managed node its client tokens log in, and the sync tokens of the registries
    directly below it; on any other node every token."""
    revision, identity = catalogue.revision, catalogue.identity()
    tokens = catalogue.count(TOKEN) > 0
    if identity is None and not _is_to_be_managed(config):
        has_children = catalogue.count(REGISTRY) > 0
        return LoginRules(
            revision, config.anonymous or ("none" if has_children else "pull"), tokens, None, None
        )
    listed, mode = _managed(catalogue, identity)
    return LoginRules(revision, config.anonymous or "none", True, listed, mode)


def _is_to_be_managed(config: Configuration) -> bool:
    """Whether this node is a connected registry that has not reached its parent yet."""
    return bool(config.gateway.connection_string or config.gateway.connection_string_file)


def _managed(catalogue: Catalogue, identity: Identity | None) -> tuple[frozenset[str], str | None]:
    own = catalogue.registry(identity.name) if identity is not None else None
    if own is None:
        return frozenset(), None
    below = [child.parent.sync_properties.token_id for child in catalogue.children(own.name)]
    return frozenset(name_in(id).lower() for id in (*own.client_token_ids, *below)), own.mode
