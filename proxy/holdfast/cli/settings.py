"""`holdfast connected-registry get-settings`: what a node needs to become a connected registry.

Nothing is rotated unless `--generate-password` says so; without it the connection string has a placeholder where the
password stood when it was shown, and says so.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.connected_registry import NAME, NOUN, YES, path_of
from holdfast.cli.verb import Session, Verb, Word, asks_in, confirm, examples
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
    type=Word("http", "https"),
    required=True,
    help="How the node reaches its parent.",
)
@click.option(
    "--parent-endpoint", metavar="HOST[:PORT]", help="Where it reaches it, if the parent does not know."
)
@click.option("--generate-password", type=Word("1", "2"), help="Make this password of the sync token anew.")
@YES
@asks_in("table", "json", "yaml", "env", "shell")
def get_settings(
    session: Session,
    name: str,
    parent_protocol: str,
    parent_endpoint: str | None,
    generate_password: str | None,
    yes: bool,
) -> None:
    """Show what a node needs to become this connected registry.

    Passwords stay as they are unless a new one is asked for, which ends the old one.

    \b
    -o env    lines for an environment file (docker --env-file, systemd)
    -o shell  lines for a shell: eval "$(holdfast ... -o shell)"
    """
    body: dict[str, Any] = {"parentProtocol": parent_protocol.lower()}
    if parent_endpoint:
        body["parentEndpoint"] = parent_endpoint
    if generate_password:
        question = (
            f"Password {generate_password} of the sync token of {name} will end, and a new one be made."
        )
        confirm(question, yes, partial(session.client.get, NOUN, name))
        body["generatePassword"] = int(generate_password)
    answer = session.client.ask("POST", path_of(name, "settings"), body)
    show(answer, session.output)
    for warning in answer.get("warnings") or ():
        session.note(str(warning))
    session.note(told(generate_password))


def told(generated: str | None) -> str:
    """What happened to the passwords."""
    if generated:
        return f"password{generated} of the sync token is new and is shown this once"
    return "no password was changed, and none can be shown again; --generate-password 1 or 2 makes one"


def show(answer: dict[str, Any], output: str) -> None:
    """The settings, as variables or as a document."""
    variables = {key: str(value) for key, value in answer.items() if key.isupper()}
    if output in ("json", "yaml"):
        out.show_one(answer, [], output)
    for key, value in variables.items() if output == "shell" else ():
        click.echo(f"export {key}={quoted(value)}")
    for key, value in variables.items() if output in ("env", "table") else ():
        click.echo(f"{key}={printable(value)}")


def quoted(value: str) -> str:
    """A word of a POSIX shell."""
    return "'" + value.replace("'", "'\\''") + "'"
