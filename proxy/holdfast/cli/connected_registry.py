"""`holdfast connected-registry`: verbs and flags of the original (connected-registry 2.2)."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.lazy_group import LazyGroup
from holdfast.cli.output import last, moment, properties
from holdfast.cli.verb import Name, Session, Several, Verb, Word, asks, confirm, examples, flat

NOUN = "connectedRegistries"
LOG_LEVELS = ("Debug", "Information", "Warning", "Error", "None")

LIST_COLUMNS: list[out.Column] = [
    ("NAME", lambda found: found.get("name")),
    ("MODE", properties("mode")),
    ("CONNECTION STATE", lambda found: connection(out.at(found, "properties"))),
    ("PARENT", last("parent", "id")),
    ("LOGIN SERVER", properties("loginServer", "host")),
    ("LAST SYNC (UTC)", moment("parent", "syncProperties", "lastSyncTime")),
]
SHOW_COLUMNS: list[out.Column] = [
    *LIST_COLUMNS,
    ("SYNC SCHEDULE", properties("parent", "syncProperties", "schedule")),
    ("SYNC WINDOW", properties("parent", "syncProperties", "syncWindow")),
    ("MESSAGE TTL", properties("parent", "syncProperties", "messageTtl")),
    ("SYNC TOKEN", last("parent", "syncProperties", "tokenId")),
    ("CLIENT TOKENS", lambda found: names(out.at(found, "properties", "clientTokenIds"))),
    ("ACTIVATION", properties("activation", "status")),
    ("FULL SYNC", lambda found: full_sync(out.at(found, "properties", "registrySyncResult"))),
    ("PROGRESS", lambda found: progress(out.at(found, "properties", "syncProgress"))),
    ("VERSION", properties("version")),
    ("LAST ACTIVITY (UTC)", moment("lastActivityTime")),
    ("LOG LEVEL", properties("logging", "logLevel")),
    ("NOTIFICATIONS", properties("notificationsList")),
    ("STATUS", lambda found: troubles(out.at(found, "properties", "statusDetails"))),
]


def connection(found: Any) -> str:
    """The state, of a node that is away with how long ago it was heard of, or when it is expected."""
    state, age, expected = (
        out.at(found, key) for key in ("connectionState", "lastActivitySeconds", "expectedTime")
    )
    if state != "Offline" or age == "":
        return str(state)
    when = f"expected {out.seconds(expected)}" if expected else f"last heard of {out.ago(age)}"
    return f"{state}, {when}"


def names(ids: Any) -> list[str]:
    """Names at the ends of ids."""
    return [str(one).rpartition("/")[2] for one in ids or ()]


def full_sync(result: Any) -> str:
    """The last full synchronisation: why, how it stands, and when it last was through."""
    trigger, state = (out.at(result or {}, key) for key in ("syncTrigger", "syncState"))
    done = out.at(result or {}, "lastSuccessfulSyncEndTime")
    return f"{trigger} {state}{f' (whole at {out.seconds(done)})' if done else ''}" if trigger else ""


def progress(found: Any) -> str:
    """How far synchronisation was when the node last reported; "" when nothing was on its way."""
    if not found:
        return ""
    return f"{found['imagesDone']} of {found['images']} images, {out.transfer(found)}"


def troubles(details: Any) -> list[str]:
    """What a node says is wrong with it, a sentence each, and since when."""

    def sentence(one: Any) -> str:
        since = f" (since {out.seconds(one['timestamp'])})" if one.get("timestamp") else ""
        return f"{one.get('type')} {one.get('code')}: {one.get('description')}{since}"

    return [sentence(one) for one in details or ()]


@click.group(
    "connected-registry",
    cls=LazyGroup,
    lazy={
        "get-settings": "holdfast.cli.settings:get_settings",
        "permissions": "holdfast.cli.permissions:permissions",
        "delete": "holdfast.cli.deletion:delete",
    },
)
def connected_registry() -> None:
    """Connected registries: nodes that this registry manages."""


NAME = click.option("-n", "--name", type=Name(NOUN), required=True, help="Name of the connected registry.")
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
SCHEDULE = click.option(
    "-s", "--sync-schedule", metavar="CRON", help='When it synchronises, UTC; "* * * * *": always.'
)
WINDOW = click.option("-w", "--sync-window", metavar="DURATION", help="How long each time, PT1H to P7D.")
TTL = click.option(
    "--sync-message-ttl", metavar="DURATION", help="How long messages wait for it, P1D to P90D."
)
LOG_LEVEL = click.option("--log-level", type=Word(*LOG_LEVELS), help="What it logs.")
AUDIT = click.option("--audit-logs-enabled", type=bool, hidden=True)
COLLECTS = click.option(
    "--gc-enabled",
    type=bool,
    is_flag=False,
    flag_value="true",
    metavar="[true|false]",
    help="Collect garbage.",
)
COLLECTION = click.option("--gc-schedule", metavar="CRON", help="When garbage is collected, UTC.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say what would change.")


def sync_of(schedule: str | None, window: str | None, ttl: str | None) -> dict[str, Any]:
    """What was said of synchronisation; "none" removes a window."""
    said = {"schedule": schedule, "syncWindow": window, "messageTtl": ttl}
    found: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    return {**found, "syncWindow": None} if window in ("none", "") else found


def settings_of(
    sync: dict[str, Any], level: str | None, audit: bool | None, enabled: bool | None, schedule: str | None
) -> dict[str, Any]:
    """The properties that create and update share, as far as they were said."""
    logging = {
        "logLevel": level,
        "auditLogStatus": None if audit is None else "Enabled" if audit else "Disabled",
    }
    said = {
        "syncProperties": sync,
        "logging": {key: value for key, value in logging.items() if value is not None},
        "garbageCollection": {
            key: value for key, value in (("enabled", enabled), ("schedule", schedule)) if value is not None
        },
    }
    return {key: value for key, value in said.items() if value}


@connected_registry.command(
    cls=Verb,
    epilog=examples(
        "holdfast connected-registry create -n plant --repository app/web app/db",
        "holdfast connected-registry create -n line4 -p plant --repository app/web \\",
        '    --sync-schedule "0 2 * * *" --sync-window PT3H',
    ),
)
@NAME
@click.option(
    "--repository", cls=Several, metavar="REPO...", help="What it holds; a sync token is made for these."
)
@click.option("--sync-token", type=Name("tokens"), help="An existing token, instead of --repository.")
@click.option(
    "-m",
    "--mode",
    type=Word("ReadOnly", "ReadWrite", "Mirror", "Registry"),
    metavar="[ReadOnly|ReadWrite]",
    default="ReadOnly",
    show_default=True,
    help="Whether its clients may push.",
)
@click.option(
    "-p", "--parent", type=Name(NOUN), help="Connected registry above it; without it this registry itself."
)
@SCHEDULE
@WINDOW
@TTL
@LOG_LEVEL
@click.option("--client-tokens", cls=Several, metavar="TOKEN...", help="Tokens that its clients may use.")
@click.option(
    "--notifications", cls=Several, metavar="PATTERN...", help="Events to send up, as repo:tag:push."
)
@COLLECTS
@COLLECTION
@AUDIT
@DRY_RUN
@click.option("-y", "--yes", is_flag=True, hidden=True)
@asks
def create(session: Session, name: str, dry_run: bool, yes: bool, **said: Any) -> None:
    """Create a connected registry and what its node needs to log in."""
    body = {"properties": new_properties(**said)}
    query = {"dryRun": "true"} if dry_run else None
    answer = session.client.ask("PUT", path_of(name), body, query=query, only_new=True)
    shown(session, answer, dry_run)
    if not dry_run:
        session.note(
            f"next: holdfast connected-registry get-settings -n {name} --parent-protocol https --generate-password 1"
        )


def new_properties(
    repository: tuple[tuple[str, ...], ...],
    sync_token: str | None,
    mode: str,
    parent: str | None,
    sync_schedule: str | None,
    sync_window: str | None,
    sync_message_ttl: str | None,
    log_level: str | None,
    client_tokens: tuple[tuple[str, ...], ...],
    notifications: tuple[tuple[str, ...], ...],
    gc_enabled: bool | None,
    gc_schedule: str | None,
    audit_logs_enabled: bool | None,
) -> dict[str, Any]:
    """The body of a create. Raises click.UsageError for both or neither of --repository and --sync-token."""
    if bool(repository) == bool(sync_token):
        raise click.UsageError("Say exactly one of --repository and --sync-token.")
    sync = sync_of(sync_schedule, sync_window, sync_message_ttl)
    rest = settings_of(sync, log_level, audit_logs_enabled, gc_enabled, gc_schedule)
    sync = {**rest.pop("syncProperties", {}), **({"tokenId": sync_token} if sync_token else {})}
    body: dict[str, Any] = {"mode": mode, **rest}
    above = {"id": parent, "syncProperties": sync}
    lists = (
        ("repositories", flat(repository)),
        ("clientTokenIds", flat(client_tokens)),
        ("notificationsList", flat(notifications)),
    )
    body.update({key: list(words) for key, words in lists if words})
    return {**body, "parent": {key: value for key, value in above.items() if value}}


def path_of(name: str, *more: str) -> str:
    """Where a connected registry is."""
    from holdfast.cli.admin_client import path

    return path(NOUN, name, *more)


def shown(session: Session, answer: dict[str, Any], dry_run: bool) -> None:
    """The registry as it is now, or what would change."""
    if dry_run:
        from holdfast.cli.difference import show_difference

        show_difference(answer, session.output)
    else:
        out.show_one(answer, SHOW_COLUMNS, session.output)


@connected_registry.command(cls=Verb)
@NAME
@click.option(
    "--add-client-tokens", cls=Several, metavar="TOKEN...", help="Tokens that its clients may use now."
)
@click.option(
    "--remove-client-tokens", cls=Several, metavar="TOKEN...", help="Tokens that they may use no more."
)
@click.option("--add-notifications", cls=Several, metavar="PATTERN...", help="Events to send up.")
@click.option("--remove-notifications", cls=Several, metavar="PATTERN...", help="Events to send up no more.")
@SCHEDULE
@WINDOW
@TTL
@LOG_LEVEL
@COLLECTS
@COLLECTION
@AUDIT
@DRY_RUN
@asks
def update(session: Session, name: str, dry_run: bool, **said: Any) -> None:
    """Change a connected registry. Mode, parent, name and sync token stay."""
    lists = {
        "addClientTokens": flat(said["add_client_tokens"]),
        "removeClientTokens": flat(said["remove_client_tokens"]),
        "addNotifications": flat(said["add_notifications"]),
        "removeNotifications": flat(said["remove_notifications"]),
    }
    sync = sync_of(said["sync_schedule"], said["sync_window"], said["sync_message_ttl"])
    body = settings_of(
        sync, said["log_level"], said["audit_logs_enabled"], said["gc_enabled"], said["gc_schedule"]
    )
    body.update({key: list(words) for key, words in lists.items() if words})
    if not body:
        raise click.UsageError("Say what to change; --help lists it.")
    query = {"dryRun": "true"} if dry_run else None
    shown(session, session.client.ask("PATCH", path_of(name), {"properties": body}, query=query), dry_run)


@connected_registry.command(cls=Verb)
@NAME
@YES
@asks
def deactivate(session: Session, name: str, yes: bool) -> None:
    """Cut the active instance loose, so that another may take its place."""
    confirm(
        f"The active instance of {name} will lose its place.", yes, partial(session.client.get, NOUN, name)
    )
    session.client.ask("POST", path_of(name, "deactivate"))
    session.note(f"{name} is inactive; the next instance that asks becomes the active one")


@connected_registry.command(cls=Verb)
@NAME
@asks
def resync(session: Session, name: str) -> None:
    """Have a connected registry synchronise everything anew, at its next contact."""
    shown(session, session.client.ask("POST", path_of(name, "resync")), False)


@connected_registry.command("list", cls=Verb)
@click.option("-p", "--parent", type=Name(NOUN), help="Only those below this one.")
@click.option("--no-children", is_flag=True, help="Only those directly below, not theirs.")
@asks
def list_all(session: Session, parent: str | None, no_children: bool) -> None:
    """List connected registries, all levels."""
    query = {"parent": parent} if parent else {}
    if no_children:
        query["noChildren"] = "true"
    rows = session.client.listed(NOUN, query=query)
    out.show_list(rows, LIST_COLUMNS, session.output, "no connected registries")


@connected_registry.command(cls=Verb)
@NAME
@asks
def show(session: Session, name: str) -> None:
    """Show a connected registry."""
    shown(session, session.client.get(NOUN, name), False)


@connected_registry.command("list-client-tokens", cls=Verb)
@NAME
@asks
def list_client_tokens(session: Session, name: str) -> None:
    """List the tokens that a connected registry's clients may use."""
    from holdfast.cli.token import LIST_COLUMNS as TOKEN_COLUMNS

    rows = session.client.listed(NOUN, name, "clientTokens")
    out.show_list(rows, TOKEN_COLUMNS, session.output, f"{name} has no client tokens")
