"""What a newcomer reads first: help that fits a terminal of 80 columns, completion, and a quick start."""

import re
import subprocess
import sys

import click
import pytest
from holdfast.cli.commands import holdfast
from support.command_line import command, logged_in


def verbs(group, words=()):
    """Every command with the words that name it."""
    yield words, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            yield from verbs(group.get_command(context, name), (*words, name))


VERBS = list(verbs(holdfast))


def test_the_verbs_of_the_original_are_there():
    found = {" ".join(words) for words, verb in VERBS if not isinstance(verb, click.Group)}
    registry = [
        "create",
        "update",
        "deactivate",
        "delete",
        "list",
        "show",
        "list-client-tokens",
        "get-settings",
        "resync",
    ]
    wanted = {f"connected-registry {verb}" for verb in (*registry, "permissions show", "permissions update")}
    wanted |= {f"token {verb}" for verb in ["create", "update", "delete", "list", "show"]}
    wanted |= {"token credential generate", "token credential delete"}
    wanted |= {f"scope-map {verb}" for verb in ["create", "update", "delete", "list", "show"]}
    wanted |= {"login", "logout", "completion", "serve"}
    assert wanted <= found


@pytest.mark.parametrize(("words", "verb"), VERBS, ids=[" ".join(words) or "holdfast" for words, _ in VERBS])
def test_help_fits_and_says_what_everything_is_for(words, verb):
    done = command(*words, "--help", env={"COLUMNS": "80"})
    assert done.code == 0
    assert all(len(line) <= 80 for line in done.out.splitlines()), done.out
    assert not re.search(r"[a-z]\.\.\.", done.out), "a sentence that is cut off"
    assert verb.help
    for option in verb.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, f"{words}: {option.opts} says nothing"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("conected-registry", "list"), "connected-registry"),
        (("scopemap", "list"), "scope-map"),
        (("connected-registry", "lst"), "list"),
        (("connected-registry", "permission"), "permissions"),
    ],
)
def test_a_slip_of_the_keyboard_is_answered_with_what_was_meant(words, meant):
    done = command(*words)
    assert (done.code, f"Did you mean '{meant}'" in done.err) == (2, True), done.err


def test_help_is_in_sections():
    out = command("--help").out
    assert out.index("A node:") < out.index("serve ") < out.index("What a serving node manages:")
    assert out.index("What a serving node manages:") < out.index("connected-registry ") < out.index("Other:")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    done = command("completion", shell)
    assert (done.code, f"_HOLDFAST_COMPLETE={shell}_complete" in done.out) == (0, True)


def test_bash_completes_verbs_flags_and_names(tmp_path, admin):
    """The script that is printed, in a real bash, asking the real command."""
    script = command("completion", "bash").out
    (tmp_path / "holdfast").write_text(f'#!/bin/sh\nexec {sys.executable} -m holdfast "$@"\n')
    (tmp_path / "holdfast").chmod(0o755)

    def completed(*words, **variables):
        quoted = " ".join(f"'{word}'" for word in words)
        lines = (
            f"{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}\n_holdfast_completion holdfast\n"
        )
        lines += 'printf "%s\\n" "${COMPREPLY[@]}"\n'
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **variables}
        done = subprocess.run(
            ["bash", "-c", lines], capture_output=True, text=True, check=True, env=environment
        )
        assert not done.stderr
        return done.stdout.split()

    assert completed("holdfast", "conn") == ["connected-registry"]
    assert completed("holdfast", "connected-registry", "perm") == ["permissions"]
    assert completed("holdfast", "connected-registry", "create", "--sync-t") == ["--sync-token"]
    assert set(completed("holdfast", "completion", "")) == {"bash", "zsh", "fish"}
    assert "--mode" in completed("holdfast", "connected-registry", "create", "--repository", "--m")
    assert completed("holdfast", "connected-registry", "create", "--repository", "a") == []
    admin.on("GET", "tokens", {"value": [{"name": "phil"}, {"name": "Philippa"}, {"name": "anna"}]})
    assert completed("holdfast", "token", "show", "-n", "ph", **logged_in(admin)) == ["phil", "Philippa"]
    assert completed("holdfast", "token", "show", "-n", "ph", HOLDFAST_REGISTRY="nowhere") == []


def test_a_quick_start_imports_nothing_of_the_verbs():
    """`holdfast --version` costs what it did: no HTTP, no tables, no files of other verbs."""
    code = "import sys, holdfast.cli\nsys.argv = ['holdfast', '--version']\n"
    code += "try:\n    holdfast.cli.main()\nexcept SystemExit:\n    print(*sorted(sys.modules), file=sys.stderr)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    own = {name for name in loaded if name.startswith("holdfast.")}
    assert own == {"holdfast.cli", "holdfast.cli.commands", "holdfast.cli.lazy_group"}
    assert not loaded & {"urllib.request", "http.client", "ssl", "rich", "msgspec", "asyncio", "lmdb", "yaml"}
