"""`holdfast connected-registry get-settings`: what a node needs to become a connected registry.

Nothing is rotated unless `--generate-password` says so; without it the connection string has a placeholder where the
password stood when it was shown, and says so.
"""

from __future__ import annotations

from shlex import quote
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.verb import Verb, VerbSession, VerbWord, asks_in, confirm, examples
from holdfast.cli.verbs.connected_registry import NAME, NOUN, YES
from holdfast.printable import printable


@click.command(
    "get-settings",
    cls=Verb,
    epilog=examples(
        "holdfast connected-registry get-settings -n plant --parent-protocol https \\",
        "    --generate-password 1 -o env > plant.env",
        "docker run --env-file plant.env ...",
    ),
)
@NAME
@click.option(
    "--parent-protocol",
    type=VerbWord("http", "https"),
    required=True,
    help="How the node reaches its parent.",
)
@click.option(
    "--parent-endpoint", metavar="HOST[:PORT]", help="Where it reaches it, if the parent does not know."
)
@click.option(
    "--generate-password", type=VerbWord("1", "2"), help="Make this password of the sync token anew."
)
@YES
@asks_in("table", "json", "yaml", "env", "shell")
def get_settings(
    session: VerbSession,
    name: str,
    parent_protocol: str,
    parent_endpoint: str | None,
    generate_password: str | None,
    yes: bool,
) -> None:
    """Show what a node needs to become this connected registry.

    Passwords stay as they are unless a new one is requested, which replaces the old one.

    \b
    -o env    lines for an environment file (docker --env-file, systemd, or sh)
    -o shell  the same, exported: eval "$(holdfast ... -o shell)"
    """
    body: dict[str, Any] = {"parentProtocol": parent_protocol.lower()}
    if parent_endpoint:
        body["parentEndpoint"] = parent_endpoint
    if generate_password:
        if not yes and has_password(session, name, generate_password):
            question = (
                f"Password {generate_password} of the sync token of {name} will end, and a new one be made."
            )
            confirm(question, yes, lambda: None)
        body["generatePassword"] = int(generate_password)
    answer = session.client.ask("POST", (NOUN, name, "settings"), body)
    show(answer, session.output)
    for warning in answer.get("warnings") or ():
        session.note(str(warning))
    session.note(rotation(generate_password))


def has_password(session: VerbSession, name: str, number: str) -> bool:
    """Whether the sync token of a connected registry has this password, which a new one would end."""
    registry = session.client.get(NOUN, name)
    token = str(out.at(registry, "properties", "parent", "syncProperties", "tokenId")).rpartition("/")[2]
    held = session.client.get("tokens", token)
    passwords = out.at(held, "properties", "credentials", "passwords") or ()
    return any(one.get("name") == f"password{number}" for one in passwords)


def rotation(generated: str | None) -> str:
    """What happened to the passwords."""
    if generated:
        return f"password{generated} of the sync token is new and is shown this once"
    return "no password was changed, and none can be shown again; --generate-password 1 or 2 makes one"


def show(answer: dict[str, Any], output: str) -> None:
    """The settings, as variables or as a document."""
    if output in ("json", "yaml"):
        out.show_one(answer, [], output)
        return
    prefix = "export " if output == "shell" else ""
    for key, value in answer.items():
        if key.isupper():
            click.echo(f"{prefix}{key}={quote(printable(str(value)))}")
