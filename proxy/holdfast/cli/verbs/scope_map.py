"""`holdfast scope-map`: named permissions (references.md 1.7, 1.18)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import properties, time_of
from holdfast.cli.verb import Name, Several, Verb, VerbSession, add_list, asks, confirm

NOUN = "scopeMaps"
REPOSITORY_ACTIONS = ("content/read", "content/write", "content/delete", "metadata/read", "metadata/write")
GATEWAY_ACTIONS = ("config/read", "config/write", "message/read", "message/write")
REPOSITORY_HELP = f"A repository, or all below one (apps/*), and any of: {', '.join(REPOSITORY_ACTIONS)}."
GATEWAY_HELP = f"A connected registry, and any of: {', '.join(GATEWAY_ACTIONS)}."
#: The original cuts descriptions in its table here.
_DESCRIPTION_CHARACTERS = 57

LIST_COLUMNS: list[out.Column] = [
    ("NAME", lambda document: document.get("name")),
    ("TYPE", properties("type")),
    ("CREATION DATE", time_of("creationDate")),
    ("DESCRIPTION", lambda document: cut(str(out.at(document, "properties", "description")))),
]
SHOW_COLUMNS: list[out.Column] = [
    *LIST_COLUMNS[:3],
    ("DESCRIPTION", properties("description")),
    ("ACTIONS", properties("actions")),
]


def cut(text: str) -> str:
    """A description, cut for a list."""
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
    for action in words or ("",):
        if action.lower() not in allowed:
            problem = f"found {action!r} after {name!r}" if action else f"found {name!r} without an action"
            raise click.UsageError(f"{option}: {problem}; allowed: {', '.join(allowed)}.")
    # gateway names are lower case in actions, whatever casing the registry has (references.md 1.1)
    return [f"{prefix}/{name.lower() if prefix == 'gateway' else name}/{action.lower()}" for action in words]


@click.group("scope-map")
def scope_map() -> None:
    """Scope maps: named permissions of tokens."""


NAME = click.option("-n", "--name", type=Name(NOUN), required=True, help="Name of the scope map.")
DESCRIPTION = click.option("--description", help="For people, up to 256 characters.")


@scope_map.command(cls=Verb)
@NAME
@click.option("--repository", cls=Several, metavar="REPO ACTION...", help=REPOSITORY_HELP)
@click.option("--gateway", cls=Several, metavar="NAME ACTION...", help=GATEWAY_HELP)
@DESCRIPTION
@asks
def create(
    session: VerbSession,
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
    made = session.client.ask("PUT", (NOUN, name), {"properties": body}, only_new=True)
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
def update(
    session: VerbSession, name: str, description: str | None, **values: tuple[tuple[str, ...], ...]
) -> None:
    """Change a scope map; tokens that have it change with it."""
    body: dict[str, Any] = {
        "addActions": actions_of(values["add_repository"], values["add_gateway"], "add-"),
        "removeActions": actions_of(values["remove_repository"], values["remove_gateway"], "remove-"),
    }
    body = {key: actions for key, actions in body.items() if actions}
    if description is not None:
        body["description"] = description
    if not body:
        raise click.UsageError("Say what to change; --help lists it.")
    out.show_one(
        session.client.ask("PATCH", (NOUN, name), {"properties": body}), SHOW_COLUMNS, session.output
    )


@scope_map.command(cls=Verb)
@NAME
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@asks
def delete(session: VerbSession, name: str, yes: bool) -> None:
    """Delete a scope map that no token has."""
    confirm(f"Scope map {name} will be gone.", yes, partial(session.client.get, NOUN, name))
    session.client.ask("DELETE", (NOUN, name))
    session.note(f"scope map {name} is deleted")


add_list(scope_map, NOUN, LIST_COLUMNS, "List scope maps, those of the system too.", none="no scope maps")


@scope_map.command(cls=Verb)
@NAME
@asks
def show(session: VerbSession, name: str) -> None:
    """Show a scope map with its actions."""
    out.show_one(session.client.get(NOUN, name), SHOW_COLUMNS, session.output)
