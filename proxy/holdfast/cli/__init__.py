"""The command line. `main` is the console script; each verb lives in a file of its own."""

from __future__ import annotations


def main() -> None:
    """Run the `holdfast` command."""
    from holdfast.cli.commands import holdfast

    holdfast(prog_name="holdfast")
