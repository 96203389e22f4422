"""The HTTP client of the parent's gateway; one request per method. All parts of a node share one client with a
transport of its own: a request that the parent holds open takes no connection from pulls. Redirects are not followed,
and the sync token is sent to the parent's origin alone.

Every method returns an outcome (`gateway/agent_state.py`), also for a failure, and raises nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec.structs import replace
from yarl import URL

from holdfast import config
from holdfast.clock import Clock
from holdfast.errors import ParentFailed, ParentUntrusted
from holdfast.gateway import lenient
from holdfast.gateway.agent_state import (
    AccessRefused,
    Activated,
    Deactivated,
    NoAnswer,
    OtherInstanceActive,
    Outcome,
    Reported,
    Unchanged,
)
from holdfast.gateway.protocol import (
    ALREADY_ACTIVATED,
    BODY_BYTES,
    CONFIGURATION_BYTES,
    NOT_ACTIVATED,
    ActivationRequest,
    Contents,
    Deactivation,
    InquiredNames,
    Inquiry,
    InquiryAnswer,
    LeaseAnswer,
    Messages,
    Notices,
    StatusReport,
    Taken,
)
from holdfast.http.credentials import login_source
from holdfast.http.endpoint import USER_AGENT
from holdfast.http.retry import Deadline, retry_after
from holdfast.http.transport import Transport
from holdfast.parent.client import address_policy
from holdfast.resources.model import RegistryConfiguration

T = TypeVar("T")

#: time-out of a request (references.md 1.10), without the time for which the parent may hold it open (seconds)
QUESTION_SECONDS = 10.0
#: time-out of a page of contents, over a slow link (seconds)
LIST_SECONDS = 60.0
#: connections to the gateway. A quarter of them serves small requests (`bandwidth.caps`): configuration and messages,
#: which the parent holds open, notices, inquiries of the outbox, pages of contents, and one spare
CONNECTIONS = 24
REFUSAL_BYTES = 64 * 1024
#: advice when the parent's certificate cannot be verified
UNTRUSTED = (
    "look at `gateway.ca` (the authorities that may have signed the parent's certificate), at the host in the"
    " connection string, and at that certificate"
)
#: the error code of an invalid command (`errors.ControlInvalid`)
INVALID = "UNSUPPORTED"
#: messages, or entries, of one answer
PAGE = 1000


class GatewayAnswer(NamedTuple):
    """An HTTP answer whose body was read."""

    status: int
    etag: str
    retry_after: float
    body: bytes


class Trimmed(msgspec.Struct, frozen=True):
    """The parent no longer has the messages after the requested cursor (410)."""


class NoticesRefused(msgspec.Struct, frozen=True):
    """The parent cannot read one or more of the notices; sending them again would not help."""

    why: str


class Unlogged(msgspec.Struct, frozen=True):
    """The parent's gateway has no message log: the node compares tag lists, as with any other registry."""


class GatewayClient:
    """Sends the requests of connected registry `name` to the gateway of its parent."""

    def __init__(self, parent: config.ParentSection, name: str, clock: Clock) -> None:
        settings = replace(parent, connections=CONNECTIONS, requests_per_second=0.0, answer_timeout=300.0)
        self.transport = Transport(settings, address_policy(parent), clock, {"requests": 0})
        self._source = login_source(parent.credentials, parent.url, clock)
        self._base, self._name, self._clock = URL(parent.url), name, clock
        #: this machine's local address on connections to the parent; "" before the first answer
        self.own_address = ""

    async def activate(self, instance: str, version: str) -> Outcome:
        """Activated, OtherInstanceActive, AccessRefused or NoAnswer."""
        answer = await self._ask("POST", "activate", ActivationRequest(instance=instance, version=version))
        lease = self._read(answer, LeaseAnswer)
        return Activated(lease.generation, lease.lease_seconds) if isinstance(lease, LeaseAnswer) else lease

    async def deactivate(self, instance: str, generation: int) -> Outcome:
        """Reported once this instance is not the active one any more."""
        body = Deactivation(instance=instance, generation=generation)
        lease = self._read(await self._ask("POST", "deactivate", body), LeaseAnswer)
        return Reported(0.0) if isinstance(lease, LeaseAnswer) else lease

    async def report(self, report: StatusReport) -> Outcome:
        """Reported, OtherInstanceActive, Deactivated, AccessRefused or NoAnswer."""
        lease = self._read(await self._ask("PUT", "status", report), LeaseAnswer)
        return Reported(lease.lease_seconds) if isinstance(lease, LeaseAnswer) else lease

    async def configuration(
        self, instance: str, generation: int, etag: str, wait: float
    ) -> tuple[RegistryConfiguration, str] | Outcome:
        """The configuration and its etag; or Unchanged when it has `etag`, OtherInstanceActive, Deactivated,
        AccessRefused or NoAnswer. When it has fields that this version does not know, its own field `etag` is ""."""
        query = urlencode({"wait": f"{wait:.3f}", "instance": instance, "generation": generation})
        headers = {"If-None-Match": f'"{etag}"'} if etag else {}
        answer = await self._ask("GET", f"config?{query}", None, headers, QUESTION_SECONDS + wait)
        if isinstance(answer, GatewayAnswer) and answer.status == 304:
            return Unchanged()
        received = self._read(answer, RegistryConfiguration)
        if not isinstance(received, RegistryConfiguration):
            return received
        if received.registry.name.lower() != self._name.lower() or not isinstance(answer, GatewayAnswer):
            return NoAnswer(
                f"the parent sent the configuration of another connected registry, {received.registry.name!r}"
            )
        return received, answer.etag

    async def notices(self, notices: Notices) -> Taken | NoticesRefused | Outcome:
        """Taken, NoticesRefused, OtherInstanceActive, Deactivated, AccessRefused or NoAnswer."""
        answer = await self._ask("POST", "messages", notices)
        if isinstance(answer, GatewayAnswer) and answer.status != 200:
            return meaning_for_notices(answer)
        return self._read(answer, Taken)

    async def messages(
        self, instance: str, generation: int, after: str, wait: float
    ) -> Messages | Trimmed | Unlogged | Outcome:
        """The changes after a cursor; or Trimmed, Unlogged or an outcome as of `configuration`. The parent may hold the
        request open for `wait` seconds."""
        query = {
            "after": after,
            "max": PAGE,
            "wait": f"{wait:.3f}",
            "instance": instance,
            "generation": generation,
        }
        answer = await self._ask("GET", f"messages?{urlencode(query)}", None, None, QUESTION_SECONDS + wait)
        gap = _log_gap(answer)
        return self._read(answer, Messages) if gap is None else gap

    async def contents(
        self, instance: str, generation: int, after: str
    ) -> Contents | Trimmed | Unlogged | Outcome:
        """A page of what the parent has in the scope of this registry; `after` "" for the first; or as `messages`."""
        query = {"max": PAGE, "instance": instance, "generation": generation} | (
            {"after": after} if after else {}
        )
        answer = await self._ask("GET", f"contents?{urlencode(query)}", None, None, LIST_SECONDS)
        gap = _log_gap(answer)
        return self._read(answer, Contents) if gap is None else gap

    async def exists(
        self, instance: str, generation: int, sought: Sequence[InquiredNames]
    ) -> InquiryAnswer | Unlogged | Outcome:
        """Which of the names in `sought` exist at the parent; Unlogged where its gateway has no such endpoint, or an
        outcome as of `configuration`."""
        inquiry = Inquiry(instance=instance, generation=generation, sought=tuple(sought))
        answer = await self._ask("POST", "exists", inquiry)
        return Unlogged() if _is_unlogged(answer) else self._read(answer, InquiryAnswer)

    async def close(self) -> None:
        """End every connection."""
        await self.transport.close()

    async def _ask(
        self,
        method: str,
        what: str,
        body: msgspec.Struct | None,
        headers: Mapping[str, str] | None = None,
        seconds: float = QUESTION_SECONDS,
    ) -> GatewayAnswer | Outcome:
        try:
            return await self._sent(method, what, body, headers or {}, seconds)
        except ParentUntrusted as failure:
            return NoAnswer(f"{failure.message}; {UNTRUSTED}")
        except ParentFailed as failure:
            return NoAnswer(failure.message, float(failure.retry_after or 0))

    async def _sent(
        self, method: str, what: str, body: msgspec.Struct | None, headers: Mapping[str, str], seconds: float
    ) -> GatewayAnswer:
        """Raises ParentFailed."""
        fields = {
            "User-Agent": USER_AGENT,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            **headers,
        }
        if (login := await self._source.login()) is not None:
            fields["Authorization"] = login.basic().reveal()
        if body is not None:
            fields["Content-Type"] = "application/json"
        path = URL(f"/acr/gateway/v1/{quote(self._name.lower())}/{what}", encoded=True)
        answer = await self.transport.send(
            method,
            self._base.join(path),
            fields,
            Deadline.after(self._clock, seconds),
            form=None if body is None else msgspec.json.encode(body),
        )
        self.own_address = self.transport.own_address or self.own_address
        try:
            bound = CONFIGURATION_BYTES if answer.status == 200 else REFUSAL_BYTES
            text = b"" if answer.status == 304 else await answer.body(bound)
            wait = retry_after(answer.header("Retry-After"), self._clock.now())
            return GatewayAnswer(
                answer.status, (answer.header("ETag") or "").strip('"'), float(wait or 0), text
            )
        finally:
            await answer.close()

    def _read(self, answer: GatewayAnswer | Outcome, kind: type[T]) -> T | Outcome:
        if not isinstance(answer, GatewayAnswer):
            return answer
        if answer.status != 200:
            return meaning(answer)
        try:
            document, is_whole = lenient.read(answer.body, kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            return NoAnswer(f"the parent's answer cannot be read: {error}")
        if isinstance(document, RegistryConfiguration) and not is_whole:
            return replace(document, etag="")
        return document


def _log_gap(answer: GatewayAnswer | Outcome) -> Trimmed | Unlogged | None:
    """Trimmed or Unlogged, None for any other answer."""
    if isinstance(answer, GatewayAnswer) and answer.status == 410:
        return Trimmed()
    return Unlogged() if _is_unlogged(answer) else None


def _is_unlogged(answer: GatewayAnswer | Outcome) -> bool:
    """Whether the gateway does not have the endpoint. 404 with NAME_UNKNOWN is of the connected registry instead."""
    if not isinstance(answer, GatewayAnswer):
        return False
    is_unknown = answer.status == 404 and "NAME_UNKNOWN" not in codes_in(answer.body)
    return is_unknown or answer.status == 405


def meaning(answer: GatewayAnswer) -> Outcome:
    """The outcome of an answer other than 200."""
    reason = reason_in(answer.body)
    if answer.status == 409 and ALREADY_ACTIVATED in reason:
        return OtherInstanceActive()
    if answer.status == 409 and NOT_ACTIVATED in reason:
        return Deactivated()
    if answer.status == 401:
        return AccessRefused(
            "the parent refuses the sync token (401): its password is wrong or expired, or it is disabled or deleted;"
            " `holdfast connected-registry get-settings --generate-password 1` at the root makes a new string"
        )
    if answer.status in (403, 404):
        return AccessRefused(
            f"the parent refuses this connected registry ({answer.status}): {reason or 'it gives no reason'}"
        )
    return NoAnswer(
        f"the parent answered {answer.status}: {reason or 'it gives no reason'}", answer.retry_after
    )


def meaning_for_notices(answer: GatewayAnswer) -> NoticesRefused | Outcome:
    """The outcome of an answer other than 200 to notices. A 400 without the gateway's own error code comes from a proxy
    in between and is NoAnswer."""
    outcome = meaning(answer)
    if isinstance(outcome, NoAnswer) and answer.status == 400 and INVALID in codes_in(answer.body):
        return NoticesRefused(outcome.why)
    return outcome


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""
    detail: object = None


class _Refusal(msgspec.Struct):
    errors: tuple[_Error, ...] = ()


def reason_in(body: bytes) -> str:
    """The text of an error body, in one line of at most 300 characters; "" for any other body."""
    texts = (_sentences(error.message, str(error.detail or "")) for error in _errors(body))
    return " ".join("; ".join(texts).split())[:300]


def _sentences(message: str, detail: str) -> str:
    """The two as one text."""
    return f"{message.rstrip('.')}. {detail}" if message and detail else message or detail


def codes_in(body: bytes) -> list[str]:
    """The codes of an error body; none for any other body."""
    return [error.code for error in _errors(body)]


def _errors(body: bytes) -> tuple[_Error, ...]:
    try:
        return msgspec.json.decode(body[:BODY_BYTES], type=_Refusal).errors
    except (msgspec.MsgspecError, RecursionError):
        return ()
