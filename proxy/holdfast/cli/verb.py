"""The declaration of verbs that use a node's admin API: options with several values, names, the node's address."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli import output as out
from holdfast.cli.exit_codes import FAILED, REFUSED, refuse
from holdfast.printable import printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from holdfast.cli.admin_client import AdminClient

DIRECTORY = click.Path(file_okay=False, path_type=Path)
#: Bounds of a completion: seconds, and names.
_COMPLETION_SECONDS, _COMPLETIONS = 2.0, 1000
#: no argument of a program contains it, so that it can separate values that were joined into one
_NUL = "\0"


class Name(click.ParamType[str]):
    """A name in a path. The server checks its grammar; here only a name that would change the path is refused."""

    name = "name"

    def __init__(self, noun: str) -> None:
        self._noun = noun

    _SEGMENT = re.compile(r"[^/?#%\s\\]+")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name as it is. Raises click.BadParameter."""
        text = str(value)
        if not self._SEGMENT.fullmatch(text) or not text.strip("."):
            self.fail(f"found {text!r}; allowed: a name without spaces, slashes and % ? #", param, ctx)
        return text

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names on the first page of the node's list; none when it does not answer within two seconds."""
        from click.shell_completion import CompletionItem

        from holdfast.cli.admin_client import AdminClient, AdminFailed, AdminRefused
        from holdfast.cli.login import LoginMissing, find

        try:
            endpoint = find(ctx.params.get("registry"), ctx.params.get("data"))
            client = AdminClient(endpoint, patience=_COMPLETION_SECONDS)
            page = client.get(self._noun, query={"$top": str(_COMPLETIONS)})
        except (LoginMissing, AdminRefused, AdminFailed):
            return []
        names = (str(one.get("name")) for one in page.get("value", ()))
        return [CompletionItem(name) for name in names if name.lower().startswith(incomplete.lower())]


class VerbWord(click.Choice[str]):
    """One of several values, in any casing; a refusal lists them as they are written."""

    def __init__(self, *words: str) -> None:
        super().__init__(words, case_sensitive=False)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """The values as they are written; click would show them in lower case."""
        return f"[{'|'.join(self.choices)}]"

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """The value found and the values allowed."""
        return f"found {value!r}; allowed: {', '.join(self.choices)}"


class _Words(click.ParamType[tuple[str, ...]]):
    name = "words"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The values that `Verb.parse_args` joined."""
        return tuple(value.split(_NUL)) if isinstance(value, str) else tuple(value)


class Several(click.Option):
    """An option that takes all values up to the next option, and may repeat: `--repository a b --mode ReadOnly`.

    Its value is a tuple with one tuple of values for each occurrence."""

    def __init__(self, declarations: Sequence[str], **attributes: Any) -> None:
        super().__init__(declarations, type=_Words(), multiple=True, **attributes)


class Verb(click.Command):
    """A command whose options may be `Several`. click itself has no such options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the values of each such option into one argument, then parse as click does."""
        names = {name for param in self.params if isinstance(param, Several) for name in param.opts}
        return super().parse_args(ctx, joined(args, names, partial=ctx.resilient_parsing))


def joined(args: Sequence[str], names: set[str], *, partial: bool = False) -> list[str]:
    """The arguments, with the values of each of these options joined into one. Raises click.BadOptionUsage without any,
    unless the line is `partial`: one that a shell completes."""
    rest, arguments = list(args), list[str]()
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if argument == "--":
            return [*arguments, argument, *rest]
        if name not in names:
            arguments.append(argument)
            continue
        values = [value] if equals else []
        while rest and not (rest[0].startswith("-") and len(rest[0]) > 1):
            values.append(rest.pop(0))
        if not values and partial:
            continue
        if not values:
            raise click.BadOptionUsage(name, f"Option {name!r} takes at least one value.")
        arguments.append(f"{name}={_NUL.join(values)}")
    return arguments


def examples(*lines: str) -> str:
    """The end of a help page: commands as they are typed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def flat(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The values of all occurrences, each once, in order."""
    return tuple(dict.fromkeys(value for group in groups for value in group))


class VerbSession:
    """A run of a verb: the client of its node, and the output format."""

    def __init__(self, client: AdminClient, output: str) -> None:
        self.client, self.output = client, output

    def note(self, sentence: str) -> None:
        """A sentence on stderr, so that stdout stays the answer alone."""
        click.echo(f"holdfast: {printable(sentence)}", err=True)


def asks_in(*outputs: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator for verbs that use a node: they take `session` first, and get --registry, --data and --output. A
    refused request ends with exit code 2 and the node's sentences, a failure with 1."""

    def decorated(function: Callable[..., None]) -> Callable[..., None]:
        @click.option("-r", "--registry", metavar="URL", help="Admin address of the node, as it prints it.")
        @click.option(
            "--data", type=DIRECTORY, metavar="DIR", help="Data directory of a node on this machine."
        )
        @click.option(
            "-o",
            "--output",
            type=click.Choice(outputs),
            default=outputs[0],
            show_default=True,
            help="How to print the answer.",
        )
        @wraps(function)
        def verb(*, registry: str | None, data: Path | None, output: str, **rest: Any) -> None:
            run(function, registry, data, output, rest)

        return verb

    return decorated


asks = asks_in("table", "json", "yaml")


def add_list(
    group: click.Group, noun: str, columns: Sequence[out.Column], description: str, *, none: str
) -> None:
    """Add the verb `list` of a noun of the admin API to a group; it prints `none` when there are no rows."""

    @group.command("list", cls=Verb, help=description)
    @asks
    def list_all(session: VerbSession) -> None:
        out.show_list(session.client.listed(noun), columns, session.output, none)


def run(
    function: Callable[..., None], registry: str | None, data: Path | None, output: str, rest: dict[str, Any]
) -> None:
    """Find the node and its credentials, do the work, turn failures into sentences and exit codes."""
    from holdfast.cli.admin_client import AdminClient, AdminFailed, AdminRefused
    from holdfast.cli.login import LoginMissing, find

    try:
        function(VerbSession(AdminClient(find(registry, data)), output), **rest)
    except (LoginMissing, AdminRefused) as error:
        refuse(str(error), REFUSED)
    except AdminFailed as error:
        refuse(str(error), FAILED)


def confirm(question: str, yes: bool, fetch: Callable[[], object]) -> None:
    """Ask the operator before something is deleted. `fetch` runs first, so that a resource that does not exist is
    reported without a question. Exits with code 2 without a terminal, with 1 when the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        refuse(f"{question} There is no terminal to answer at: add --yes.")
    fetch()
    if not click.confirm(f"{question} Go on?", default=False, err=True):
        refuse("nothing was changed", FAILED)
