"""`holdfast connected-registry`: verbs and flags of the original (references.md 1.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import click

from holdfast.cli import output as out
from holdfast.cli.lazy_group import LazyGroup
from holdfast.cli.output import last, properties, time_of
from holdfast.cli.verb import Name, Several, Verb, VerbSession, VerbWord, asks, confirm, examples, flat
from holdfast.cli.verbs.token import LIST_COLUMNS as TOKEN_COLUMNS
from holdfast.printable import printable

F = TypeVar("F", bound=Callable[..., Any])

NOUN = "connectedRegistries"
LOG_LEVELS = ("Debug", "Information", "Warning", "Error", "None")

#: kinds and changes of a difference, as `--dry-run` prints them
NOUNS = {"connected-registry": "connected registry", "scope-map": "scope map"}
SIGNS = {"created": "+", "deleted": "-"}

LIST_COLUMNS: list[out.Column] = [
    ("NAME", lambda document: document.get("name")),
    ("MODE", properties("mode")),
    ("CONNECTION STATE", lambda document: connection(out.at(document, "properties"))),
    ("PARENT", last("parent", "id")),
    ("LOGIN SERVER", properties("loginServer", "host")),
    ("LAST SYNC (UTC)", time_of("parent", "syncProperties", "lastSyncTime")),
]
SHOW_COLUMNS: list[out.Column] = [
    *LIST_COLUMNS,
    ("SYNC SCHEDULE", properties("parent", "syncProperties", "schedule")),
    ("SYNC WINDOW", properties("parent", "syncProperties", "syncWindow")),
    ("MESSAGE TTL", properties("parent", "syncProperties", "messageTtl")),
    ("SYNC TOKEN", last("parent", "syncProperties", "tokenId")),
    ("CLIENT TOKENS", lambda document: names(out.at(document, "properties", "clientTokenIds"))),
    ("ACTIVATION", properties("activation", "status")),
    ("FULL SYNC", lambda document: full_sync(out.at(document, "properties", "registrySyncResult"))),
    ("PROGRESS", lambda document: progress(out.at(document, "properties", "syncProgress"))),
    ("VERSION", properties("version")),
    ("LAST ACTIVITY (UTC)", time_of("lastActivityTime")),
    ("LOG LEVEL", properties("logging", "logLevel")),
    ("NOTIFICATIONS", properties("notificationsList")),
    ("STATUS", lambda document: troubles(out.at(document, "properties", "statusDetails"))),
]


def connection(document: Any) -> str:
    """The state; of a node that is offline with the age of its last report, or when it is expected; and since when
    there is a change that the node does not work by yet."""
    state, age, expected = (
        out.at(document, key) for key in ("connectionState", "lastActivitySeconds", "expectedTime")
    )
    if state == "Offline" and age != "":
        when = f"expected {out.seconds(expected)}" if expected else f"last report {out.ago(age)}"
        state = f"{state}, {when}"
    since = out.at(document, "notTakenOverSince")
    return f"{state}; configuration not taken over yet since {out.seconds(since)}" if since else str(state)


def names(ids: Any) -> list[str]:
    """Names at the ends of ids."""
    return [str(one).rpartition("/")[2] for one in ids or ()]


def full_sync(result: Any) -> str:
    """The last full synchronisation: its trigger, its state, and when the last one succeeded."""
    trigger, state = (out.at(result or {}, key) for key in ("syncTrigger", "syncState"))
    done = out.at(result or {}, "lastSuccessfulSyncEndTime")
    return f"{trigger} {state}{f' (whole at {out.seconds(done)})' if done else ''}" if trigger else ""


def progress(report: Any) -> str:
    """How far synchronisation was when the node last reported; "" when nothing was on its way."""
    if not report:
        return ""
    return f"{report['imagesDone']} of {report['images']} images, {out.transfer(report)}"


def troubles(details: Any) -> list[str]:
    """The troubles that a node reports, a sentence each, and since when."""

    def sentence(one: Any) -> str:
        since = f" (since {out.seconds(one['timestamp'])})" if one.get("timestamp") else ""
        return f"{one.get('type')} {one.get('code')}: {one.get('description')}{since}"

    return [sentence(one) for one in details or ()]


@click.group(
    "connected-registry",
    cls=LazyGroup,
    lazy={
        "get-settings": "holdfast.cli.verbs.settings:get_settings",
        "permissions": "holdfast.cli.verbs.permissions:permissions",
    },
)
def connected_registry() -> None:
    """Connected registries: nodes that this registry manages."""


NAME = click.option("-n", "--name", type=Name(NOUN), required=True, help="Name of the connected registry.")
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say what would change.")


class Setting(NamedTuple):
    """An option that create and update share, and the property that it sets."""

    option: Callable[[Any], Any]
    property: tuple[str, ...]
    #: the value in a request of what click read
    value: Callable[[Any], Any] = lambda value: value


#: by the parameter that the verb gets; a setting that is not given is left out
SETTINGS = {
    "sync_schedule": Setting(
        click.option(
            "-s", "--sync-schedule", metavar="CRON", help='When it synchronises, UTC; "* * * * *": always.'
        ),
        ("syncProperties", "schedule"),
    ),
    "sync_window": Setting(
        click.option("-w", "--sync-window", metavar="DURATION", help="How long each time, PT1H to P7D."),
        ("syncProperties", "syncWindow"),
        lambda text: None if text in ("none", "") else text,
    ),
    "sync_message_ttl": Setting(
        click.option(
            "--sync-message-ttl", metavar="DURATION", help="How long messages wait for it, P1D to P90D."
        ),
        ("syncProperties", "messageTtl"),
    ),
    "log_level": Setting(
        click.option("--log-level", type=VerbWord(*LOG_LEVELS), help="What it logs."), ("logging", "logLevel")
    ),
    "gc_enabled": Setting(
        click.option(
            "--gc-enabled",
            type=bool,
            is_flag=False,
            flag_value="true",
            metavar="[true|false]",
            help="Collect garbage.",
        ),
        ("garbageCollection", "enabled"),
    ),
    "gc_schedule": Setting(
        click.option("--gc-schedule", metavar="CRON", help="When garbage is collected, UTC."),
        ("garbageCollection", "schedule"),
    ),
    "audit_logs_enabled": Setting(
        click.option("--audit-logs-enabled", type=bool, hidden=True),
        ("logging", "auditLogStatus"),
        lambda enabled: "Enabled" if enabled else "Disabled",
    ),
}


def settings(verb: F) -> F:
    """Decorator: adds the options of all settings."""
    for setting in reversed(SETTINGS.values()):
        verb = setting.option(verb)
    return verb


def settings_of(values: dict[str, Any]) -> dict[str, Any]:
    """The properties of the settings among `values`, as far as these were given."""
    properties: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        if values[name] is not None:
            group, key = setting.property
            properties.setdefault(group, {})[key] = setting.value(values[name])
    return properties


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
    type=VerbWord("ReadOnly", "ReadWrite", "Mirror", "Registry"),
    metavar="[ReadOnly|ReadWrite]",
    default="ReadOnly",
    show_default=True,
    help="Whether its clients may push.",
)
@click.option(
    "-p", "--parent", type=Name(NOUN), help="Connected registry above it; without it this registry itself."
)
@settings
@click.option("--client-tokens", cls=Several, metavar="TOKEN...", help="Tokens that its clients may use.")
@click.option(
    "--notifications", cls=Several, metavar="PATTERN...", help="Events to send up, as repo:tag:push."
)
@DRY_RUN
@click.option("-y", "--yes", is_flag=True, hidden=True)
@asks
def create(session: VerbSession, name: str, dry_run: bool, yes: bool, **values: Any) -> None:
    """Create a connected registry and what its node needs to log in."""
    body = {"properties": new_properties(**values)}
    query = {"dryRun": "true"} if dry_run else None
    answer = session.client.ask("PUT", (NOUN, name), body, query=query, only_new=True)
    shown(session, answer, dry_run)
    if not dry_run:
        session.note(
            f"next: holdfast connected-registry get-settings -n {name} {reached(answer)} --generate-password 1"
        )


def reached(answer: dict[str, Any]) -> str:
    """The flags by which a node reaches its parent, as far as the parent has them."""
    endpoint = out.at(answer, "properties", "parent", "syncProperties", "gatewayEndpoint")
    protocol, _, host = endpoint.partition("://")
    flags = f"--parent-protocol {protocol or 'https'}"
    return flags if host else f"{flags} --parent-endpoint HOST:PORT"


def new_properties(
    repository: tuple[tuple[str, ...], ...],
    sync_token: str | None,
    mode: str,
    parent: str | None,
    client_tokens: tuple[tuple[str, ...], ...],
    notifications: tuple[tuple[str, ...], ...],
    **values: Any,
) -> dict[str, Any]:
    """The properties of a create request. Raises click.UsageError for both or neither of --repository and
    --sync-token."""
    if bool(repository) == bool(sync_token):
        raise click.UsageError("Say exactly one of --repository and --sync-token.")
    properties = settings_of(values)
    sync = {**properties.pop("syncProperties", {}), **({"tokenId": sync_token} if sync_token else {})}
    above = {"id": parent, "syncProperties": sync}
    lists = (
        ("repositories", flat(repository)),
        ("clientTokenIds", flat(client_tokens)),
        ("notificationsList", flat(notifications)),
    )
    properties.update({key: list(words) for key, words in lists if words})
    return {**properties, "mode": mode, "parent": {key: value for key, value in above.items() if value}}


def show_difference(answer: Mapping[str, Any], output: str) -> None:
    """The difference in the answer to a request with `dryRun`; nothing was changed."""
    if output != "table":
        out.show_one(answer, [], output)
        return
    for line in lines(answer.get("difference") or ()):
        click.echo(printable(line))
    click.echo("holdfast: nothing was changed (--dry-run)", err=True)


def lines(difference: Any) -> Iterator[str]:
    """`+` for what would be there, `-` for what would not, `~` for what would be another, members below it."""
    for one in difference:
        kind = str(one.get("kind"))
        yield f"{SIGNS.get(one.get('change'), '~')} {NOUNS.get(kind, kind)} {one.get('name')}"
        yield from (f"    + {member}" for member in one.get("added") or ())
        yield from (f"    - {member}" for member in one.get("removed") or ())


def shown(session: VerbSession, answer: dict[str, Any], dry_run: bool) -> None:
    """The registry as it is now, or what would change."""
    if dry_run:
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
@settings
@DRY_RUN
@asks
def update(session: VerbSession, name: str, dry_run: bool, **values: Any) -> None:
    """Change a connected registry. Mode, parent, name and sync token stay."""
    lists = {
        "addClientTokens": flat(values["add_client_tokens"]),
        "removeClientTokens": flat(values["remove_client_tokens"]),
        "addNotifications": flat(values["add_notifications"]),
        "removeNotifications": flat(values["remove_notifications"]),
    }
    body = settings_of(values)
    body.update({key: list(words) for key, words in lists.items() if words})
    if not body:
        raise click.UsageError("Say what to change; --help lists it.")
    query = {"dryRun": "true"} if dry_run else None
    shown(session, session.client.ask("PATCH", (NOUN, name), {"properties": body}, query=query), dry_run)


@connected_registry.command(cls=Verb)
@NAME
@click.option(
    "--cleanup", is_flag=True, help="Delete its sync token and scope map too, and its ancestors' part."
)
@DRY_RUN
@YES
@asks
def delete(session: VerbSession, name: str, cleanup: bool, dry_run: bool, yes: bool) -> None:
    """Delete a connected registry. What its node holds stays there.

    Without --cleanup it prints the commands that are left to do.
    """
    flags = {"cleanup": cleanup, "dryRun": dry_run}
    query = {key: "true" for key, given in flags.items() if given}
    if not dry_run:
        what = "It, its sync token and its scope map" if cleanup else f"Connected registry {name}"
        confirm(f"{what} will be gone, its node cut off.", yes, partial(session.client.get, NOUN, name))
    answer = session.client.ask("DELETE", (NOUN, name), query=query)
    if dry_run:
        show_difference(answer, session.output)
        return
    session.note(f"connected registry {name} is deleted")
    follow_up = answer.get("followUp") or ()
    if follow_up:
        session.note("left to do (--cleanup would have):")
    for command in follow_up:
        click.echo(printable(str(command)))


@connected_registry.command(cls=Verb)
@NAME
@YES
@asks
def deactivate(session: VerbSession, name: str, yes: bool) -> None:
    """Cut the active instance loose, so that another may take its place."""
    confirm(
        f"The active instance of {name} will lose its place.", yes, partial(session.client.get, NOUN, name)
    )
    session.client.ask("POST", (NOUN, name, "deactivate"))
    session.note(f"{name} is inactive; the next instance that asks becomes the active one")


@connected_registry.command(cls=Verb)
@NAME
@asks
def resync(session: VerbSession, name: str) -> None:
    """Have a connected registry synchronise everything anew, at its next contact."""
    shown(session, session.client.ask("POST", (NOUN, name, "resync")), False)


@connected_registry.command("list", cls=Verb)
@click.option("-p", "--parent", type=Name(NOUN), help="Only those below this one.")
@click.option("--no-children", is_flag=True, help="Only those directly below, not theirs.")
@asks
def list_all(session: VerbSession, parent: str | None, no_children: bool) -> None:
    """List connected registries, all levels."""
    query = {"parent": parent} if parent else {}
    if no_children:
        query["noChildren"] = "true"
    rows = session.client.listed(NOUN, query=query)
    out.show_list(rows, LIST_COLUMNS, session.output, "no connected registries")


@connected_registry.command(cls=Verb)
@NAME
@asks
def show(session: VerbSession, name: str) -> None:
    """Show a connected registry."""
    shown(session, session.client.get(NOUN, name), False)


@connected_registry.command("list-client-tokens", cls=Verb)
@NAME
@asks
def list_client_tokens(session: VerbSession, name: str) -> None:
    """List the tokens that a connected registry's clients may use."""
    rows = session.client.listed(NOUN, name, "clientTokens")
    out.show_list(rows, TOKEN_COLUMNS, session.output, f"{name} has no client tokens")
