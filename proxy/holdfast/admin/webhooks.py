"""Webhooks over the admin API: how far each is, and a ping. What is told to whom is the configuration's."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

from holdfast import config
from holdfast.admin.document import WebhookDocument, WebhookProperties
from holdfast.admin.operation import Call, reply
from holdfast.admin.pages import PAGE_ENTRIES, page_reply
from holdfast.endpoint.history import stamp
from holdfast.errors import ControlUnknown
from holdfast.notify.progress import pending, standing_of
from holdfast.notify.standing import Standing
from holdfast.wire.message import Reply
from holdfast.wire.names import shown

#: events of the log that are looked at to count those that are pending
COUNTED = 1000


async def show_list(call: Call) -> Reply:
    """GET of all, by name."""
    size, after = call.query.get("$top", PAGE_ENTRIES), call.query.get("$skipToken", "")
    hooks = sorted(call.node.config.webhook, key=lambda hook: hook.name)
    rows = [hook for hook in hooks if hook.name > after]
    return page_reply(call, rows[: size + 1], size, view)


async def show(call: Call) -> Reply:
    """GET of one."""
    return reply(view(call, _found(call)))


async def ping(call: Call) -> Reply:
    """POST: an event of nothing, now. What the receiver says is the answer, not a failure of the operation."""
    answer = await call.node.port.ping_webhook(_found(call).name)
    return Reply(200, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], answer)


def _found(call: Call) -> config.Webhook:
    for hook in call.node.config.webhook:
        if hook.name == call.name:
            return hook
    raise ControlUnknown(
        f"there is no webhook {shown(call.name)!r}; they are under [[webhook]] of the configuration",
        field="name",
    )


def view(call: Call, hook: config.Webhook) -> dict[str, Any]:
    """What is shown of one."""
    store = call.node.store
    standing = standing_of(store, hook.name) or Standing()
    waiting = pending(store, hook, standing, COUNTED)
    properties = WebhookProperties(
        url=origin_of(hook.url),
        patterns=hook.patterns,
        format=hook.format,
        signed=bool(hook.secret or hook.secret_file or hook.secret_env),
        state="failing" if standing.failures else "delivering" if waiting else "idle",
        cursor=standing.number,
        pending=waiting,
        delivered=standing.delivered,
        dropped=standing.dropped,
        last_drop_time=_time(standing.dropped_at),
        last_drop_reason=standing.dropped_for,
        last_answer=standing.answer,
        last_answer_time=_time(standing.answered_at),
        failing_since=_time(standing.failing_since),
        failures=standing.failures,
        next_try=_time(standing.retry_at),
    )
    document = WebhookDocument(
        id=f"webhooks/{hook.name}", name=hook.name, type="holdfast/webhooks", properties=properties
    )
    found: dict[str, Any] = msgspec.to_builtins(document)
    return found


def _time(seconds: float) -> str | None:
    return stamp(seconds) if seconds else None


def origin_of(url: str) -> str:
    """What of a URL may be shown: the rest is often the receiver's password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
