"""Events of the log, kept for a test to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from holdfast.log import log


def record_logs() -> list[dict[str, Any]]:
    """From here on, events of every level land in the returned list, with the fields that the product writes."""
    events: list[dict[str, Any]] = []

    def keep(event: Mapping[str, object]) -> bytes:
        events.append(dict(event))
        return b""

    log.set_level("debug")
    log.render, log.write = keep, lambda _: None
    return events


@contextmanager
def captured_logs() -> Iterator[list[dict[str, Any]]]:
    """As `record_logs`, until the block ends."""
    before = log.least, log.render, log.write
    try:
        yield record_logs()
    finally:
        log.least, log.render, log.write = before
