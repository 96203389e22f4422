"""`holdfast token`: identities with two passwords and one scope map (references.md 1.7, 1.17)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from holdfast.cli import output as out
from holdfast.cli.output import last, properties, time_of
from holdfast.cli.verb import (
    Name,
    Several,
    Verb,
    VerbSession,
    VerbWord,
    add_list,
    asks,
    asks_in,
    confirm,
    examples,
)
from holdfast.cli.verbs.scope_map import GATEWAY_HELP, REPOSITORY_HELP, actions_of

NOUN = "tokens"


def passwords(token: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The passwords of a token, or of the answer that made them."""
    rows = out.at(token, "properties", "credentials", "passwords") or token.get("passwords")
    return list(rows or ())


def expiry(number: int) -> Any:
    """A reader of when one of the two passwords ends."""

    def read(token: Mapping[str, Any]) -> str:
        rows = (one for one in passwords(token) if one.get("name") == f"password{number}")
        return next((out.seconds(one.get("expiry") or "Never") for one in rows), "")

    return read


LIST_COLUMNS: list[out.Column] = [
    ("NAME", lambda document: document.get("name")),
    ("SCOPE MAP", last("scopeMapId")),
    ("PASSWORD1 EXPIRY", expiry(1)),
    ("PASSWORD2 EXPIRY", expiry(2)),
    ("STATUS", lambda document: str(out.at(document, "properties", "status")).title()),
    ("PROVISIONING STATE", properties("provisioningState")),
    ("CREATION DATE", time_of("creationDate")),
]


def credential_columns(answer: Mapping[str, Any]) -> list[out.Column]:
    """Name, and each password that is shown, with its expiry."""
    columns: list[out.Column] = [
        ("USERNAME", partial(_constant, str(answer.get("username") or answer.get("name"))))
    ]
    for one in passwords(answer):
        if one.get("value"):
            name = str(one["name"]).upper()
            columns.append((name, partial(_constant, one["value"])))
            columns.append((f"{name} EXPIRY", partial(_constant, out.seconds(one.get("expiry") or "Never"))))
    return columns


def show_secrets(answer: dict[str, Any], columns: list[out.Column], output: str) -> None:
    """New passwords: with `-o value` nothing but them, a line each, for --password-stdin of another program."""
    if output != "value":
        out.show_one(answer, columns, output)
    for one in passwords(answer) if output == "value" else ():
        click.echo(str(one.get("value", "")))


def _constant(value: str, _: Mapping[str, Any]) -> str:
    return value


@click.group()
def token() -> None:
    """Tokens: identities with two passwords and one scope map."""


@token.group()
def credential() -> None:
    """Passwords of a token."""


NAME = click.option("-n", "--name", type=Name(NOUN), required=True, help="Name of the token.")
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
STATUS = VerbWord("enabled", "disabled")
SECRETS = asks_in("table", "json", "yaml", "value")
EXPIRATION = click.option(
    "--expiration", metavar="TIME", help="When its passwords end, as 2030-01-31T00:00:00Z."
)
DAYS = click.option(
    "--expiration-in-days", type=click.IntRange(1), metavar="DAYS", help="The same, from now."
)


def ends(expiration: str | None, days: int | None) -> dict[str, Any]:
    """The properties for an expiry. Raises click.UsageError for two of them."""
    if expiration and days:
        raise click.UsageError("Say one of --expiration and --expiration-in-days.")
    given = {"expiry": expiration, "expirationInDays": days}
    return {key: value for key, value in given.items() if value}


@token.command(
    cls=Verb,
    epilog=examples(
        "holdfast token create -n phil1 --repository app/web content/read",
        "holdfast token create -n builds --expiration-in-days 90 \\",
        '    --repository "app/*" content/read content/write metadata/read',
    ),
)
@NAME
@click.option("--repository", cls=Several, metavar="REPO ACTION...", help=REPOSITORY_HELP)
@click.option("--gateway", cls=Several, metavar="NAME ACTION...", help=GATEWAY_HELP)
@click.option(
    "--scope-map",
    type=Name("scopeMaps"),
    help="An existing scope map, instead of --repository and --gateway.",
)
@click.option("--status", type=STATUS, default="enabled", show_default=True, help="Whether it may log in.")
@click.option(
    "--no-passwords",
    type=bool,
    is_flag=False,
    flag_value="true",
    metavar="[true|false]",
    help="Make no passwords yet.",
)
@EXPIRATION
@DAYS
@SECRETS
def create(
    session: VerbSession,
    name: str,
    repository: tuple[tuple[str, ...], ...],
    gateway: tuple[tuple[str, ...], ...],
    scope_map: str | None,
    status: str,
    no_passwords: bool | None,
    expiration: str | None,
    expiration_in_days: int | None,
) -> None:
    """Create a token. Its passwords are shown this once."""
    actions = actions_of(repository, gateway)
    if bool(actions) == bool(scope_map):
        raise click.UsageError("Say either --scope-map, or --repository and --gateway.")
    body: dict[str, Any] = {"status": status, **ends(expiration, expiration_in_days)}
    body.update({"scopeMapId": scope_map} if scope_map else {"actions": actions})
    if no_passwords:
        body["noPasswords"] = True
    made = session.client.ask("PUT", (NOUN, name), {"properties": body})
    new = credential_columns(made)[1:]
    show_secrets(made, [*LIST_COLUMNS[:2], *LIST_COLUMNS[4:], *new], session.output)
    if new and session.output == "table":
        session.note("the passwords are shown this once")
    elif not new and not no_passwords:
        session.note(
            f"{name} was there already; its passwords stay. token credential generate makes new ones"
        )


@token.command(cls=Verb)
@NAME
@click.option("--scope-map", type=Name("scopeMaps"), help="Its new scope map.")
@click.option("--status", type=STATUS, help="Whether it may log in.")
@asks
def update(session: VerbSession, name: str, scope_map: str | None, status: str | None) -> None:
    """Change a token's scope map or status."""
    given = {"scopeMapId": scope_map, "status": status}
    body = {key: value for key, value in given.items() if value}
    if not body:
        raise click.UsageError("Say --scope-map or --status.")
    out.show_one(
        session.client.ask("PATCH", (NOUN, name), {"properties": body}), LIST_COLUMNS, session.output
    )


@token.command(cls=Verb)
@NAME
@YES
@asks
def delete(session: VerbSession, name: str, yes: bool) -> None:
    """Delete a token and its passwords. Its scope map stays."""
    confirm(f"Token {name} will be gone.", yes, partial(session.client.get, NOUN, name))
    session.client.ask("DELETE", (NOUN, name))
    session.note(f"token {name} is deleted")


add_list(token, NOUN, LIST_COLUMNS, "List tokens.", none="no tokens")


@token.command(cls=Verb)
@NAME
@asks
def show(session: VerbSession, name: str) -> None:
    """Show a token, without its passwords."""
    out.show_one(session.client.get(NOUN, name), LIST_COLUMNS, session.output)


def numbered(password1: bool, password2: bool) -> list[str]:
    """The passwords that were named."""
    return [name for name, given in (("password1", password1), ("password2", password2)) if given]


@credential.command(cls=Verb)
@NAME
@click.option("--password1", is_flag=True, help="The first password only.")
@click.option("--password2", is_flag=True, help="The second password only.")
@click.option(
    "--password-stdin", is_flag=True, help="Take the new password from stdin instead of making one."
)
@EXPIRATION
@DAYS
@SECRETS
def generate(
    session: VerbSession,
    name: str,
    password1: bool,
    password2: bool,
    password_stdin: bool,
    expiration: str | None,
    expiration_in_days: int | None,
) -> None:
    """Make a token's passwords anew, both unless one is named. The old ones end at once."""
    body: dict[str, Any] = {
        "passwords": numbered(password1, password2),
        **ends(expiration, expiration_in_days),
    }
    if password_stdin:
        if len(body["passwords"]) != 1:
            raise click.UsageError("--password-stdin sets one password: say --password1 or --password2.")
        body["value"] = sys.stdin.readline().rstrip("\r\n")
    answer = session.client.ask("POST", (NOUN, name, "credentials"), body)
    show_secrets(answer, credential_columns({"username": name, **answer}), session.output)
    if not password_stdin and session.output == "table":
        session.note("shown this once")


@credential.command("delete", cls=Verb)
@NAME
@click.option("--password1", is_flag=True, help="The first password.")
@click.option("--password2", is_flag=True, help="The second password.")
@YES
@asks
def credential_delete(session: VerbSession, name: str, password1: bool, password2: bool, yes: bool) -> None:
    """End one or both of a token's passwords."""
    gone = numbered(password1, password2)
    if not gone:
        raise click.UsageError("Say --password1, --password2 or both.")
    confirm(f"{' and '.join(gone)} of {name} will end at once.", yes, partial(session.client.get, NOUN, name))
    session.client.ask("DELETE", (NOUN, name, "credentials"), {"passwords": gone})
    session.note(f"{' and '.join(gone)} of {name} ended")
