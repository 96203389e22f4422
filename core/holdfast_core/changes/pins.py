"""Pins: tags and manifests that are not evicted or collected, with everything that they name."""

from __future__ import annotations

import math

from holdfast_core import format as layout
from holdfast_core import space_format
from holdfast_core.changes.change import IndexChange, IndexView, Keep, present, put, remove
from holdfast_core.errors import Mistake, NotHeld
from holdfast_core.record import Pin

KINDS = ("tag", "manifest")


def pinned(view: IndexView, pin: Pin, *, now: float) -> list[IndexChange]:
    """Pin a tag or a manifest, whether it is held yet or not; a later pin replaces an earlier one. Raises Mistake for a
    pin that ended before it began, or of another kind."""
    if pin.kind not in KINDS:
        raise Mistake(f"a {pin.kind} cannot be pinned; allowed: {', '.join(KINDS)}")
    if not pin.until > now:
        raise Mistake(f"a pin until {pin.until:.0f} (seconds since 1970) would be over; it is {now:.0f}")
    key = space_format.pin_key(pin.repository, pin.kind, pin.name)
    name = layout.repository_key(pin.repository)
    rows = [] if present(view, name) else [put(name, layout.encode_time(now), Keep.DISK)]
    return [*rows, put(key, space_format.encode_pin(now, pin.until, pin.with_referrers), Keep.DISK)]


def unpinned(view: IndexView, repository: str, kind: str, name: str) -> list[IndexChange]:
    """End a pin. Raises NotHeld when there is none."""
    key = space_format.pin_key(repository, kind, name)
    if not present(view, key):
        raise NotHeld(f"no pin on the {kind} {name} of {repository}")
    return remove([key], Keep.DISK)


def is_pinned(view: IndexView, repository: bytes, digest_key: bytes, now: float) -> bool:
    """Whether a manifest of a repository (its hash), or a tag that names it, is pinned, or a subject of it is together
    with its referrers. A pin that cannot be read holds."""
    if not view.keys(layout.PIN + repository, limit=1):
        return False
    if _until(view, _of_manifest(repository, digest_key)) > now:
        return True
    prefix = layout.TAGGED + repository + digest_key
    if any(_until(view, _of_tag(repository, key[len(prefix) :])) > now for key in view.keys(prefix)):
        return True
    return any(
        _until(view, pin, with_referrers=True) > now
        for subject in view.keys(layout.SUBJECT + repository + digest_key)
        for pin in _pins_of(view, repository, subject[17 + len(digest_key) :])
    )


def _pins_of(view: IndexView, repository: bytes, digest_key: bytes) -> list[bytes]:
    prefix = layout.TAGGED + repository + digest_key
    tags = [_of_tag(repository, key[len(prefix) :]) for key in view.keys(prefix)]
    return [_of_manifest(repository, digest_key), *tags]


def _of_manifest(repository: bytes, digest_key: bytes) -> bytes:
    return layout.PIN + repository + layout.AS_MANIFEST + digest_key


def _of_tag(repository: bytes, name: bytes) -> bytes:
    return layout.PIN + repository + layout.NOUNS["tag"] + name


def _until(view: IndexView, key: bytes, *, with_referrers: bool = False) -> float:
    """Until when a pin holds; for ever when it cannot be read, -inf for none, or for one that is not for referrers."""
    payload = view.get(key)
    if payload is None:
        return math.inf if view.raw(key) is not None else -math.inf
    _, until, also_referrers = space_format.decode_pin(payload)
    return until if also_referrers or not with_referrers else -math.inf


def pin_of(repository: str, key: bytes, payload: bytes) -> Pin:
    """The pin that a record says."""
    pinned_at, until, with_referrers = space_format.decode_pin(payload)
    kind = "tag" if key[17:18] == layout.NOUNS["tag"] else "manifest"
    name = (
        key[18:].decode("utf-8", "surrogatepass") if kind == "tag" else str(layout.digest_from(key, key[18:]))
    )
    return Pin(repository, kind, name, until, with_referrers, pinned_at)
