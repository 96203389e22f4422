"""`holdfast scope-map`: named permissions (connected-registry 2.2, 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import moment, properties
from holdfast.cli.verb import Name, Session, Several, Verb, asks, confirm

NOUN = "scopeMaps"
REPOSITORY_ACTIONS = ("content/read", "content/write", "content/delete", "metadata/read", "metadata/write")
GATEWAY_ACTIONS = ("config/read", "config/write", "message/read", "message/write")
REPOSITORY_HELP = f"A repository, or all below one (apps/*), and any of: {', '.join(REPOSITORY_ACTIONS)}."
GATEWAY_HELP = f"A connected registry, and any of: {', '.join(GATEWAY_ACTIONS)}."
#: The original cuts descriptions in its table here.
_DESCRIPTION_CHARACTERS = 57

LIST_COLUMNS: list[out.Column] = [
    ("NAME", lambda found: found.get("name")),
    ("TYPE", properties("type")),
    ("CREATION DATE", moment("creationDate")),
    ("DESCRIPTION", lambda found: cut(str(out.at(found, "properties", "description")))),
]
SHOW_COLUMNS: list[out.Column] = [
    *LIST_COLUMNS[:3],
    ("DESCRIPTION", properties("description")),
    ("ACTIONS", properties("actions")),
]


def cut(text: str) -> str:
    """A description as it stands in a list."""
    return text if len(text) <= _DESCRIPTION_CHARACTERS else text[:_DESCRIPTION_CHARACTERS] + "..."


def actions_of(
    repositories: Sequence[Sequence[str]], gateways: Sequence[Sequence[str]], suffix: str = ""
) -> list[str]:
    """Action strings of `--repository REPO ACTION...` and `--gateway NAME ACTION...`. Raises click.UsageError."""
    kinds = (
        (repositories, "repository", "repositories", REPOSITORY_ACTIONS),
        (gateways, "gateway", "gateway", GATEWAY_ACTIONS),
    )
    return [
        action
        for groups, option, prefix, allowed in kinds
        for name, *words in groups
        for action in _actions(f"--{suffix}{option}", prefix, name, words, allowed)
    ]


def _actions(option: str, prefix: str, name: str, words: Sequence[str], allowed: Sequence[str]) -> list[str]:
    for word in words or ("",):
        if word.lower() not in allowed:
            found = f"found {word!r} after {name!r}" if word else f"found {name!r} without an action"
            raise click.UsageError(f"{option}: {found}; allowed: {', '.join(allowed)}.")
    # gateway names are lower case in actions, whatever casing the registry has (connected-registry 1.2)
    return [f"{prefix}/{name.lower() if prefix == 'gateway' else name}/{word.lower()}" for word in words]


@click.group("scope-map")
def scope_map() -> None:
    """Scope maps: named permissions of tokens."""


NAME = click.option("-n", "--name", type=Name(NOUN), required=True, help="Name of the scope map.")
DESCRIPTION = click.option("--description", help="For people, up to 256 characters.")


def path_of(name: str) -> str:
    """Where a scope map is."""
    from holdfast.cli.admin_client import path

    return path(NOUN, name)


@scope_map.command(cls=Verb)
@NAME
@click.option("--repository", cls=Several, metavar="REPO ACTION...", help=REPOSITORY_HELP)
@click.option("--gateway", cls=Several, metavar="NAME ACTION...", help=GATEWAY_HELP)
@DESCRIPTION
@asks
def create(
    session: Session,
    name: str,
    repository: tuple[tuple[str, ...], ...],
    gateway: tuple[tuple[str, ...], ...],
    description: str | None,
) -> None:
    """Create a scope map."""
    actions = actions_of(repository, gateway)
    if not actions:
        raise click.UsageError("Say --repository, --gateway or both.")
    body: dict[str, Any] = {"actions": actions}
    if description is not None:
        body["description"] = description
    made = session.client.ask("PUT", path_of(name), {"properties": body}, only_new=True)
    out.show_one(made, SHOW_COLUMNS, session.output)


@scope_map.command(cls=Verb)
@NAME
@click.option("--add-repository", cls=Several, metavar="REPO ACTION...", help="Permissions to add.")
@click.option("--remove-repository", cls=Several, metavar="REPO ACTION...", help="Permissions to remove.")
@click.option("--add-gateway", cls=Several, metavar="NAME ACTION...", help="Gateway permissions to add.")
@click.option(
    "--remove-gateway", cls=Several, metavar="NAME ACTION...", help="Gateway permissions to remove."
)
@DESCRIPTION
@asks
def update(session: Session, name: str, description: str | None, **said: tuple[tuple[str, ...], ...]) -> None:
    """Change a scope map; tokens that have it change with it."""
    body: dict[str, Any] = {
        "addActions": actions_of(said["add_repository"], said["add_gateway"], "add-"),
        "removeActions": actions_of(said["remove_repository"], said["remove_gateway"], "remove-"),
    }
    body = {key: actions for key, actions in body.items() if actions}
    if description is not None:
        body["description"] = description
    if not body:
        raise click.UsageError("Say what to change; --help lists it.")
    out.show_one(
        session.client.ask("PATCH", path_of(name), {"properties": body}), SHOW_COLUMNS, session.output
    )


@scope_map.command(cls=Verb)
@NAME
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@asks
def delete(session: Session, name: str, yes: bool) -> None:
    """Delete a scope map that no token has."""
    confirm(f"Scope map {name} will be gone.", yes, partial(session.client.get, NOUN, name))
    session.client.ask("DELETE", path_of(name))
    session.note(f"scope map {name} is deleted")


@scope_map.command("list", cls=Verb)
@asks
def list_all(session: Session) -> None:
    """List scope maps, those of the system too."""
    out.show_list(session.client.listed(NOUN), LIST_COLUMNS, session.output, "no scope maps")


@scope_map.command(cls=Verb)
@NAME
@asks
def show(session: Session, name: str) -> None:
    """Show a scope map with its actions."""
    out.show_one(session.client.get(NOUN, name), SHOW_COLUMNS, session.output)
