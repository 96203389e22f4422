"""What child and parent say to each other under `/acr/gateway/v1/<connected registry>/`, as JSON in camelCase.

    POST activate     Activation → Lease
    POST deactivate   Deactivation → Lease without a life
    GET  config       resource.Configuration, with ETag
    PUT  status       StatusReport → Lease

What a child says is read strictly. Of what a parent answers, a child takes what it knows: a newer parent may say more.
"""

from __future__ import annotations

from msgspec import Struct, field

from holdfast.control.resource import LoginServer, Status, StatusDetail, SyncResult, Wire

#: `code` and text of a refused activation (connected-registry 2.5)
ALREADY_ACTIVATED = "ALREADY_ACTIVATED"
NOT_ACTIVATED = "NOT_ACTIVATED"
#: longest bodies (bytes): a question, a report with what is below, a configuration
BODY_BYTES, REPORT_BYTES, CONFIGURATION_BYTES = 4096, 4 << 20, 48 << 20
#: longest that a question for configuration is held open (seconds); the node's answer time-out bounds it, too
WAIT_SECONDS = 55.0


class Activation(Wire, frozen=True):
    """An instance asks to be the active one."""

    instance: str
    version: str | None = None


class Deactivation(Wire, frozen=True):
    """An instance leaves."""

    instance: str
    generation: int


class StatusReport(Wire, frozen=True):
    """What an active instance says of itself, and of the registries below it by name."""

    instance: str
    generation: int
    version: str | None = None
    last_sync_time: str | None = None
    login_server: LoginServer | None = None
    status_details: tuple[StatusDetail, ...] = ()
    registry_sync_result: SyncResult | None = None
    syncing: bool = False
    below: dict[str, Status] = field(default_factory=dict)


class Lease(Struct, frozen=True, rename="camel"):
    """The parent's word on the lease. `lease_seconds` count from the question: clocks need not agree."""

    generation: int
    lease_seconds: float
    expires: str = ""
