"""The child's questions to its parent's gateway. One request each, over a transport of its own: a question that is held
open takes no connection from pulls. Redirects are not followed, and the sync token goes to the parent's origin alone.

Every method returns what the parent's answer means (`gateway/child.py`) and raises nothing of its own.
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
from holdfast.control.resource import Configuration
from holdfast.errors import ParentFailed
from holdfast.gateway.child import (
    Activated,
    CutLoose,
    Denied,
    Elsewhere,
    Failed,
    Outcome,
    Reported,
    Unchanged,
)
from holdfast.gateway.message import (
    ALREADY_ACTIVATED,
    BODY_BYTES,
    CONFIGURATION_BYTES,
    NOT_ACTIVATED,
    Activation,
    Contents,
    Deactivation,
    Inquiry,
    Known,
    Lease,
    Messages,
    Notices,
    Sought,
    StatusReport,
    Taken,
)
from holdfast.parent.client import address_policy
from holdfast.parent.credentials import login_source
from holdfast.parent.endpoint import USER_AGENT
from holdfast.parent.retry import Deadline, retry_after
from holdfast.parent.transport import Transport

T = TypeVar("T")

#: one question (connected-registry 3.1, runtime 0.7.0); more when the parent was asked to wait (seconds)
QUESTION_SECONDS = 10.0
#: a page of a long list, over a slow link (seconds)
LIST_SECONDS = 60.0
#: a quarter of them for questions (`parent.caps`): one that is held open, and one that is answered at once
CONNECTIONS = 8
REFUSAL_BYTES = 64 * 1024
#: the code of an order that is not as it must be (`errors.ControlInvalid`)
INVALID = "UNSUPPORTED"
#: messages, or entries, of one answer
PAGE = 1000


class Answer(NamedTuple):
    """An answer, read."""

    status: int
    etag: str
    retry_after: float
    body: bytes


class Trimmed(msgspec.Struct, frozen=True):
    """The parent does not keep its log as far back as was asked (410)."""


class NoticesRefused(msgspec.Struct, frozen=True):
    """One of the notices, or more, is none that the parent understands: it will not take it later either."""

    why: str


class Unlogged(msgspec.Struct, frozen=True):
    """The parent has a gateway and no log: it is asked as any other registry is."""


class Link:
    """To the gateway of connected registry `name` at a parent."""

    def __init__(self, parent: config.Parent, name: str, clock: Clock) -> None:
        settings = replace(parent, connections=CONNECTIONS, requests_per_second=0.0, answer_timeout=300.0)
        self.transport = Transport(settings, address_policy(parent), clock, {"requests": 0})
        self._source = login_source(parent.credentials, parent.url, clock)
        self._base, self._name, self._clock = URL(parent.url), name, clock

    async def activate(self, instance: str, version: str) -> Outcome:
        """Activated, Elsewhere, Denied or Failed."""
        answer = await self._ask("POST", "activate", Activation(instance=instance, version=version))
        lease = self._read(answer, Lease)
        return Activated(lease.generation, lease.lease_seconds) if isinstance(lease, Lease) else lease

    async def deactivate(self, instance: str, generation: int) -> Outcome:
        """Reported once this instance is not the active one."""
        asked = Deactivation(instance=instance, generation=generation)
        lease = self._read(await self._ask("POST", "deactivate", asked), Lease)
        return Reported(0.0) if isinstance(lease, Lease) else lease

    async def report(self, report: StatusReport) -> Outcome:
        """Reported, Elsewhere, CutLoose, Denied or Failed."""
        lease = self._read(await self._ask("PUT", "status", report), Lease)
        return Reported(lease.lease_seconds) if isinstance(lease, Lease) else lease

    async def configuration(
        self, instance: str, generation: int, etag: str, wait: float
    ) -> tuple[Configuration, str] | Outcome:
        """Configuration other than `etag`, with its own; or Unchanged, Elsewhere, CutLoose, Denied or Failed."""
        query = urlencode({"wait": f"{wait:.3f}", "instance": instance, "generation": generation})
        headers = {"If-None-Match": f'"{etag}"'} if etag else {}
        answer = await self._ask("GET", f"config?{query}", None, headers, QUESTION_SECONDS + wait)
        if isinstance(answer, Answer) and answer.status == 304:
            return Unchanged()
        found = self._read(answer, Configuration)
        if not isinstance(found, Configuration):
            return found
        if found.registry.name.lower() != self._name.lower() or not isinstance(answer, Answer):
            return Failed(
                f"the parent sent the configuration of another connected registry, {found.registry.name!r}"
            )
        return found, answer.etag

    async def notices(self, notices: Notices) -> Taken | NoticesRefused | Outcome:
        """Taken or NoticesRefused, or Elsewhere, CutLoose, Denied or Failed."""
        answer = await self._ask("POST", "messages", notices)
        if isinstance(answer, Answer) and answer.status != 200:
            return meaning_for_notices(answer)
        return self._read(answer, Taken)

    async def messages(
        self, instance: str, generation: int, after: str, wait: float
    ) -> Messages | Trimmed | Unlogged | Outcome:
        """What changed after a cursor, or what `configuration` has; the parent may hold the question open."""
        query = {
            "after": after,
            "max": PAGE,
            "wait": f"{wait:.3f}",
            "instance": instance,
            "generation": generation,
        }
        answer = await self._ask("GET", f"messages?{urlencode(query)}", None, None, QUESTION_SECONDS + wait)
        said = _logged(answer)
        return self._read(answer, Messages) if said is None else said

    async def contents(
        self, instance: str, generation: int, after: str
    ) -> Contents | Trimmed | Unlogged | Outcome:
        """A page of what the parent has in the scope; `after` "" for the first."""
        query = {"max": PAGE, "instance": instance, "generation": generation} | (
            {"after": after} if after else {}
        )
        answer = await self._ask("GET", f"contents?{urlencode(query)}", None, None, LIST_SECONDS)
        said = _logged(answer)
        return self._read(answer, Contents) if said is None else said

    async def exists(
        self, instance: str, generation: int, sought: Sequence[Sought]
    ) -> Known | Unlogged | Outcome:
        """What of these the parent has; Unlogged where it knows no such question, or what `configuration` has."""
        inquiry = Inquiry(instance=instance, generation=generation, sought=tuple(sought))
        answer = await self._ask("POST", "exists", inquiry)
        said = _logged(answer)
        return self._read(answer, Known) if said is None or isinstance(said, Trimmed) else said

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
    ) -> Answer | Outcome:
        try:
            return await self._sent(method, what, body, headers or {}, seconds)
        except ParentFailed as failure:
            return Failed(failure.message, float(failure.retry_after or 0))

    async def _sent(
        self, method: str, what: str, body: msgspec.Struct | None, headers: Mapping[str, str], seconds: float
    ) -> Answer:
        """Raises ParentFailed."""
        said = {
            "User-Agent": USER_AGENT,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            **headers,
        }
        if (login := await self._source.login()) is not None:
            said["Authorization"] = login.basic().reveal()
        if body is not None:
            said["Content-Type"] = "application/json"
        path = URL(f"/acr/gateway/v1/{quote(self._name.lower())}/{what}", encoded=True)
        answer = await self.transport.send(
            method,
            self._base.join(path),
            said,
            Deadline.after(self._clock, seconds),
            form=None if body is None else msgspec.json.encode(body),
        )
        try:
            bound = CONFIGURATION_BYTES if answer.status == 200 else REFUSAL_BYTES
            text = b"" if answer.status == 304 else await answer.body(bound)
            wait = retry_after(answer.header("Retry-After"), self._clock.now())
            return Answer(answer.status, (answer.header("ETag") or "").strip('"'), float(wait or 0), text)
        finally:
            await answer.close()

    def _read(self, answer: Answer | Outcome, kind: type[T]) -> T | Outcome:
        if not isinstance(answer, Answer):
            return answer
        if answer.status != 200:
            return meaning(answer)
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            return Failed(f"the parent's answer cannot be read: {error}")


def _logged(answer: Answer | Outcome) -> Trimmed | Unlogged | None:
    """What is said of the log itself."""
    if not isinstance(answer, Answer):
        return None
    if answer.status == 410:
        return Trimmed()
    is_unknown = answer.status == 404 and "NAME_UNKNOWN" not in codes_in(answer.body)
    return Unlogged() if is_unknown or answer.status == 405 else None


def meaning(answer: Answer) -> Outcome:
    """What an answer other than 200 says."""
    said = said_in(answer.body)
    if answer.status == 409 and ALREADY_ACTIVATED in said:
        return Elsewhere()
    if answer.status == 409 and NOT_ACTIVATED in said:
        return CutLoose()
    if answer.status == 401:
        return Denied(
            "the parent refuses the sync token (401): its password is wrong or over, or it is disabled or deleted;"
            " `holdfast connected-registry get-settings --generate-password 1` at the root makes another string"
        )
    if answer.status in (403, 404):
        return Denied(
            f"the parent refuses this connected registry ({answer.status}): {said or 'it gives no reason'}"
        )
    return Failed(f"the parent answered {answer.status}: {said or 'it gives no reason'}", answer.retry_after)


def meaning_for_notices(answer: Answer) -> NoticesRefused | Outcome:
    """What an answer other than 200 says of notices. A 400 that is not the gateway's own word is of the link."""
    found = meaning(answer)
    if isinstance(found, Failed) and answer.status == 400 and INVALID in codes_in(answer.body):
        return NoticesRefused(found.why)
    return found


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""
    detail: object = None


class _Refusal(msgspec.Struct):
    errors: tuple[_Error, ...] = ()


def said_in(body: bytes) -> str:
    """The text of an error body, in one line of at most 300 characters; "" for any other body."""
    texts = (f"{error.message} {error.detail or ''}".strip() for error in _errors(body))
    return " ".join("; ".join(texts).split())[:300]


def codes_in(body: bytes) -> list[str]:
    """The codes of an error body; none for any other body."""
    return [error.code for error in _errors(body)]


def _errors(body: bytes) -> tuple[_Error, ...]:
    try:
        return msgspec.json.decode(body[:BODY_BYTES], type=_Refusal).errors
    except (msgspec.MsgspecError, RecursionError):
        return ()
