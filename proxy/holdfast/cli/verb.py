"""How verbs that ask a node's admin API are declared: words up to the next option, names, where the node is."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.commands import DIRECTORY, FAILED, REFUSED, refuse

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from holdfast.cli.admin_client import AdminClient

#: A person who presses Tab waits no longer (s), and reads no more.
_COMPLETION_SECONDS, _COMPLETIONS = 2.0, 1000
#: No argument of a program contains it, so it can part words that were joined into one.
_NUL = "\0"


class Name(click.ParamType[str]):
    """A name that stands in a path. Its grammar is the server's; here only what could be another path is refused."""

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
        """The names that the node knows, as far as one page goes; none when it cannot be asked within a moment."""
        from click.shell_completion import CompletionItem

        from holdfast.cli.admin_client import AdminClient, AdminFailed, AdminRefused, path
        from holdfast.cli.login import LoginMissing, find

        try:
            endpoint = find(ctx.params.get("registry"), ctx.params.get("data"))
            client = AdminClient(endpoint, patience=_COMPLETION_SECONDS)
            page = client.get(path(self._noun), query={"$top": str(_COMPLETIONS)})
        except (LoginMissing, AdminRefused, AdminFailed):
            return []
        names = (str(one.get("name")) for one in page.get("value", ()))
        return [CompletionItem(name) for name in names if name.lower().startswith(incomplete.lower())]


class Word(click.Choice[str]):
    """One of some words, in any casing; a refusal lists them as they are written."""

    def __init__(self, *words: str) -> None:
        super().__init__(words, case_sensitive=False)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """The words as they are written; click would show them in lower case."""
        return f"[{'|'.join(self.choices)}]"

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """What was found and what is allowed."""
        return f"found {value!r}; allowed: {', '.join(self.choices)}"


class _Words(click.ParamType[tuple[str, ...]]):
    name = "words"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The words that `Verb.parse_args` joined."""
        return tuple(value.split(_NUL)) if isinstance(value, str) else tuple(value)


class Several(click.Option):
    """An option that takes every word up to the next option, and may repeat: `--repository a b --mode ReadOnly`.

    Its value is a tuple with one tuple of words for each time it was given."""

    def __init__(self, declarations: Sequence[str], **attributes: Any) -> None:
        super().__init__(declarations, type=_Words(), multiple=True, **attributes)


class Verb(click.Command):
    """A command whose options may be `Several`. click itself has no such options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the words of each such option into one argument, then parse as click does."""
        names = {name for param in self.params if isinstance(param, Several) for name in param.opts}
        return super().parse_args(ctx, joined(args, names, partial=ctx.resilient_parsing))


def joined(args: Sequence[str], names: set[str], *, partial: bool = False) -> list[str]:
    """Arguments with the words after each of these options in one. Raises click.BadOptionUsage for none at all,
    unless the line is `partial`: one that a shell completes."""
    rest, found = list(args), list[str]()
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            return [*found, word, *rest]
        if name not in names:
            found.append(word)
            continue
        words = [value] if equals else []
        while rest and not (rest[0].startswith("-") and len(rest[0]) > 1):
            words.append(rest.pop(0))
        if not words and partial:
            continue
        if not words:
            raise click.BadOptionUsage(name, f"Option {name!r} takes at least one word.")
        found.append(f"{name}={_NUL.join(words)}")
    return found


def examples(*lines: str) -> str:
    """The end of a help page: commands as they are typed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def flat(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The words of every occurrence, each once, in order."""
    return tuple(dict.fromkeys(word for group in groups for word in group))


class Session:
    """One verb's work: the node that is asked, and how its answer is shown."""

    def __init__(self, client: AdminClient, output: str) -> None:
        self.client, self.output = client, output

    def note(self, sentence: str) -> None:
        """A sentence for the person, on stderr, so that stdout stays the answer alone."""
        from holdfast.printable import printable

        click.echo(f"holdfast: {printable(sentence)}", err=True)


def asks_in(*outputs: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A verb that asks a node: takes `session` first; adds --registry, --data and --output. A refused request
    ends with exit code 2 and the node's sentences, a failure with 1."""

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


def run(
    function: Callable[..., None], registry: str | None, data: Path | None, output: str, rest: dict[str, Any]
) -> None:
    """Find the node and its credentials, do the work, turn failures into sentences and exit codes."""
    from holdfast.cli.admin_client import AdminClient, AdminFailed, AdminRefused
    from holdfast.cli.login import LoginMissing, find

    try:
        function(Session(AdminClient(find(registry, data)), output), **rest)
    except (LoginMissing, AdminRefused) as error:
        refuse(str(error), REFUSED)
    except AdminFailed as error:
        refuse(str(error), FAILED)


def confirm(question: str, yes: bool, look: Callable[[], object]) -> None:
    """Ask before something is destroyed. `look` fetches it first, so that nobody is asked about what is not there.
    Ends with exit code 2 when nobody is there to answer, 1 when the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        refuse(f"{question} Nobody is here to answer: add --yes.")
    look()
    if not click.confirm(f"{question} Go on?", default=False, err=True):
        refuse("nothing was changed", FAILED)
