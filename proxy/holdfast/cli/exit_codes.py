"""How a verb ends when it fails: a sentence on stderr and an exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

#: Exit codes: 1 something failed or is damaged, 2 the request itself is wrong.
FAILED, REFUSED = 1, 2


def refuse(message: str, code: int = REFUSED) -> NoReturn:
    """Print the reason on stderr and exit."""
    click.echo(f"holdfast: {message}", err=True)
    sys.exit(code)
