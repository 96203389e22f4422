"""The statuses of the registries below, as this node reports them to its parent: what is new of them is reported within
seconds, so that the root knows of every level; that they are still connected goes with the next report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from holdfast.gateway.own_registry import OwnRegistry
from holdfast.resources.model import Status
from holdfast.resources.report_bounds import fitting, relayed, share
from holdfast.resources.states import timeless


class StatusRelay:
    """`statuses` has the last status of each registry below, by name."""

    def __init__(self, own: OwnRegistry, statuses: Callable[[], Mapping[str, Status]] = dict) -> None:
        self._own, self._statuses = own, statuses
        #: what the parent was last sent, without its times
        self._reported: dict[str, Status] = {}

    def status_received(self) -> None:
        """A registry below reported its status: have it reported when it is new."""
        if _timeless(self._below()) != self._reported:
            self._own.report_due.set()

    def next_report(self) -> dict[str, Status]:
        """The statuses that fit into one report, the new ones first. From now on they count as reported."""
        below = self._below()
        sent = relayed(below, lambda name, status: self._reported.get(name) != timeless(status))
        self._reported = _timeless(sent) | {
            name: status for name, status in self._reported.items() if name in below.keys() - sent.keys()
        }
        return sent

    def _below(self) -> dict[str, Status]:
        """The statuses of the registries below, cut to the share of each."""
        own, statuses = self._own.identity.name.lower(), self._statuses()
        most = share(len(statuses))
        return {name: fitting(status, most) for name, status in statuses.items() if name.lower() != own}


def _timeless(below: Mapping[str, Status]) -> dict[str, Status]:
    """Without the fields that change with each report."""
    return {name: timeless(status) for name, status in below.items()}
