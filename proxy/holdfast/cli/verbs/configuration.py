"""`holdfast config check` and `holdfast config keys`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from holdfast.cli.exit_codes import refuse
from holdfast.cli.verbs.serve import checked
from holdfast.config import ConfigInvalid
from holdfast.config_file import key_table, secret_problems


def check(file: Path) -> None:
    """Check a file as serve does. Exits with code 2 when it is wrong."""
    try:
        config = checked(file, {}, os.environ)
    except ConfigInvalid as error:
        refuse(str(error))
    if problems := list(secret_problems(config, os.environ)):
        refuse("\n".join(problems))
    click.echo(f"{file}: right")


def key_table_as_markdown() -> str:
    """Every key as a row of a Markdown table. `docs/operate.md` holds this output; a test compares them."""
    lines = ["| key | type | default | unit | meaning |", "|---|---|---|---|---|"]
    for key, kind, default, unit, meaning in key_table():
        cells = (f"`{key}`", kind, f"`{default}`" if default else "", unit, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
