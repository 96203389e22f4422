"""`holdfast completion`: scripts that make a shell complete verbs and flags."""

from __future__ import annotations

import click


def script(command: click.Command, shell: str) -> str:
    """The script for a shell. The program is asked for words by the variable that click looks at."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, shell
    # the class of bash asks the bash that is here for its version; the one that reads the script may be another
    return kind.source_template % kind(command, {}, "holdfast", "_HOLDFAST_COMPLETE").source_vars()
