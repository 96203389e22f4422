"""Groups of verbs whose files are imported when they are named: `holdfast --version` reads none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

#: A first sentence is shown whole (characters); click would cut it to one line.
_SENTENCE = 200


class LazyGroup(click.Group):
    """A group with subcommands that are imported when they are run, or listed by --help. `lazy` is name →
    "module:attribute"; `sections` is title → names, in the order of --help."""

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, str] | None = None,
        sections: Mapping[str, Sequence[str]] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self._lazy, self._sections = lazy or {}, sections or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all, sorted."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, imported now; None where there is none."""
        if where := self._lazy.get(cmd_name):
            module, _, attribute = where.partition(":")
            command: click.Command = getattr(import_module(module), attribute)
            return command
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand that is named. For one that is not there click proposes others, of those in its own table."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=self.list_commands(ctx), ctx=ctx
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help, in sections; verbs of no section are last."""
        placed = {name for names in self._sections.values() for name in names}
        others = [name for name in self.list_commands(ctx) if name not in placed]
        for title, names in {**self._sections, "Other" if placed else "Commands": others}.items():
            rows = [(name, self._short_help(ctx, name)) for name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _short_help(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        assert command is not None, name
        return command.get_short_help_str(_SENTENCE)
