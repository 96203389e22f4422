"""One webhook's receiver: posts a body and says what came of it.

The connection is as careful as one to a parent: TLS is verified, no redirect is followed, the name's addresses are
checked and the checked ones are connected to. The operator named this host, so it may be a private one; link-local
addresses and the clouds' metadata services stay refused. The URL reaches no log: its path is often the
receiver's password.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from yarl import URL

from holdfast import config
from holdfast.clock import Clock
from holdfast.errors import ParentFailed, TimedOut
from holdfast.notify.standing import Answer
from holdfast.parent.address import AddressPolicy, Lookup
from holdfast.parent.credentials import login_source
from holdfast.parent.endpoint import USER_AGENT
from holdfast.parent.retry import Deadline, retry_after
from holdfast.parent.transport import Transport
from holdfast.sync.notification import SIGNATURE_HEADER, signature

#: at once: an event, and a ping beside it
CONNECTIONS = 2


class Receiver:
    """Where one webhook posts to."""

    def __init__(self, hook: config.Webhook, clock: Clock, lookup: Lookup | None = None) -> None:
        self._url = URL(hook.url, encoded=hook.url.isascii())
        self._clock, self._hook = clock, hook
        settings = config.Parent(
            url=hook.url,
            insecure=hook.insecure,
            ca=hook.ca,
            connections=CONNECTIONS,
            connect_timeout=min(hook.timeout, 60.0),
            answer_timeout=hook.timeout,
        )
        policy = AddressPolicy([(self._url.host or "", self._url.port)])
        self._transport = Transport(settings, policy, clock, {"requests": 0}, lookup)
        self._headers = [(name.strip(), value.strip()) for name, _, value in map(_parts, hook.headers)]
        given = config.Credentials(
            password=hook.secret, password_file=hook.secret_file, password_env=hook.secret_env
        )
        self._secret = login_source(given, hook.url, clock)

    async def post(self, body: bytes) -> Answer:
        """Send a body once. Raises nothing: no answer is an answer, too."""
        deadline = Deadline.after(self._clock, self._hook.timeout)
        try:
            headers = await self._said(body)
            found = await self._transport.send("POST", self._url, headers, deadline, form=body)
        except TimedOut:
            return Answer(0, f"no answer within {self._hook.timeout:g} s")
        except ParentFailed as failure:
            # the transport's words are a parent's; here it is a receiver that does not answer
            return Answer(0, failure.message.replace("parent", "receiver"))
        try:
            after = retry_after(found.header("Retry-After"), self._clock.now())
            return Answer(found.status, f"answered {found.status}", float(after or 0))
        finally:
            with suppress(TimeoutError):  # the status is all that counts; a long answer is not waited for
                async with asyncio.timeout(deadline.remaining()):
                    await found.discard()

    async def _said(self, body: bytes) -> Mapping[str, str]:
        """Raises ParentDenied when the secret cannot be read."""
        said = {
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **dict(self._headers),
            "Content-Type": "application/json; charset=utf-8",
        }
        if (login := await self._secret.login()) is not None:
            said[SIGNATURE_HEADER] = signature(login.secret.reveal().encode(), body)
        return said

    async def close(self) -> None:
        """End every connection."""
        await self._transport.close()


def _parts(line: str) -> tuple[str, str, str]:
    return line.partition(":")
