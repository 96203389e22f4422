"""Webhooks over the admin API: their delivery states, and a ping. The configuration defines them."""

from __future__ import annotations

from urllib.parse import urlsplit

from holdfast import config
from holdfast.admin.documents import WebhookDocument, WebhookProperties
from holdfast.admin.filter import PAGE_ENTRIES, page_reply
from holdfast.admin.operation import AdminCall, reply
from holdfast.errors import ControlUnknown
from holdfast.notify.delivery_record import delivery_state_of, pending
from holdfast.notify.delivery_state import DeliveryState
from holdfast.oci.names import shown
from holdfast.timestamps import stamp_milliseconds
from holdfast.wire.message import Reply

#: events of the log that are looked at to count those that are pending
COUNTED = 1000


async def show_list(call: AdminCall) -> Reply:
    """GET of all, by name."""
    size, after = call.query.get("$top", PAGE_ENTRIES), call.query.get("$skipToken", "")
    hooks = sorted(call.node.config.webhook, key=lambda hook: hook.name)
    rows = [hook for hook in hooks if hook.name > after]
    return page_reply(call, rows[: size + 1], size, document)


async def show(call: AdminCall) -> Reply:
    """GET of one."""
    return reply(document(call, _named(call)))


async def ping(call: AdminCall) -> Reply:
    """POST: an event of nothing, now. The reply has the receiver's answer, also a refusal."""
    return reply(await call.node.port.ping_webhook(_named(call).name))


def _named(call: AdminCall) -> config.WebhookSection:
    for hook in call.node.config.webhook:
        if hook.name == call.name:
            return hook
    raise ControlUnknown(
        f"there is no webhook {shown(call.name)!r}; they are under [[webhook]] of the configuration",
        field="name",
    )


def document(call: AdminCall, hook: config.WebhookSection) -> WebhookDocument:
    """A webhook and its delivery state."""
    store = call.node.store
    state = delivery_state_of(store, hook.name) or DeliveryState()
    waiting = pending(store, hook, state, COUNTED)
    properties = WebhookProperties(
        url=origin_of(hook.url),
        patterns=hook.patterns,
        format=hook.format,
        signed=bool(hook.secret or hook.secret_file or hook.secret_env),
        state="failing" if state.failures else "delivering" if waiting else "idle",
        cursor=state.number,
        pending=waiting,
        delivered=state.delivered,
        dropped=state.dropped,
        last_drop_time=_time(state.dropped_at),
        last_drop_reason=state.dropped_for,
        last_answer=state.answer,
        last_answer_time=_time(state.answered_at),
        failing_since=_time(state.failing_since),
        failures=state.failures,
        next_try=_time(state.retry_at),
    )
    return WebhookDocument(
        id=f"webhooks/{hook.name}", name=hook.name, type="holdfast/webhooks", properties=properties
    )


def _time(seconds: float) -> str | None:
    return stamp_milliseconds(seconds) if seconds else None


def origin_of(url: str) -> str:
    """What of a URL may be shown: the rest is often the receiver's password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
