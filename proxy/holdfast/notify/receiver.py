"""The client of a webhook's receiver: posts a body and returns the outcome.

The rules for connections to parents hold here as well: TLS is verified, redirects are not followed, and the connection
goes to the addresses that were checked. The operator configured the host, so its address may be private; link-local
addresses and the metadata services of clouds are refused. The URL is never logged: its path often contains the password
of the receiver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from yarl import URL

from holdfast import config
from holdfast.clock import Clock
from holdfast.errors import ParentFailed, TimedOut
from holdfast.http.address import AddressPolicy, Lookup
from holdfast.http.credentials import login_source
from holdfast.http.endpoint import USER_AGENT
from holdfast.http.retry import Deadline, retry_after
from holdfast.http.transport import Transport
from holdfast.notify.delivery_state import DeliveryOutcome
from holdfast.resources.notification import SIGNATURE_HEADER, signature

#: connections to one receiver: one for events, one for a ping
CONNECTIONS = 2


class Receiver:
    """The receiver of one webhook."""

    def __init__(self, hook: config.WebhookSection, clock: Clock, lookup: Lookup | None = None) -> None:
        self._url = URL(hook.url, encoded=hook.url.isascii())
        self._clock, self._hook = clock, hook
        settings = config.ParentSection(
            url=hook.url,
            insecure=hook.insecure,
            ca=hook.ca,
            proxy=hook.proxy,
            direct=hook.direct,
            connections=CONNECTIONS,
            connect_timeout=min(hook.timeout, 60.0),
            answer_timeout=hook.timeout,
        )
        named = [self._url, *([URL(hook.proxy)] if hook.proxy else [])]
        policy = AddressPolicy([(url.host or "", url.port) for url in named])
        self._transport = Transport(settings, policy, clock, {"requests": 0}, lookup)
        self._headers = [(name.strip(), value.strip()) for name, _, value in map(_parts, hook.headers)]
        given = config.CredentialsSection(
            password=hook.secret, password_file=hook.secret_file, password_env=hook.secret_env
        )
        self._secret = login_source(given, hook.url, clock)

    async def post(self, body: bytes) -> DeliveryOutcome:
        """Posts a body once. Raises nothing: a missing answer is an outcome with status 0."""
        deadline = Deadline.after(self._clock, self._hook.timeout)
        try:
            headers = await self._request_headers(body)
            answer = await self._transport.send("POST", self._url, headers, deadline, form=body)
        except TimedOut:
            return DeliveryOutcome(0, f"no answer within {self._hook.timeout:g} s")
        except ParentFailed as failure:
            # the transport's message names a parent; here it is a receiver
            return DeliveryOutcome(0, failure.message.replace("parent", "receiver"))
        try:
            after = retry_after(answer.header("Retry-After"), self._clock.now())
            return DeliveryOutcome(answer.status, f"answered {answer.status}", float(after or 0))
        finally:
            with suppress(
                TimeoutError
            ):  # only the status counts; the body of a slow answer is not read to its end
                async with asyncio.timeout(deadline.remaining()):
                    await answer.discard()

    async def _request_headers(self, body: bytes) -> Mapping[str, str]:
        """Returns the headers of a POST, with the signature of the body. Raises ParentDenied when the secret cannot be
        read."""
        headers = {
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **dict(self._headers),
            "Content-Type": "application/json; charset=utf-8",
        }
        if (login := await self._secret.login()) is not None:
            headers[SIGNATURE_HEADER] = signature(login.secret.reveal().encode(), body)
        return headers

    async def close(self) -> None:
        """Closes every connection."""
        await self._transport.close()


def _parts(line: str) -> tuple[str, str, str]:
    return line.partition(":")
