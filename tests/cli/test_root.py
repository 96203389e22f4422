"""The verbs against a real root, found by its data directory as on the machine where it runs."""

import json
import shlex

import click
import pytest
from holdfast.cli.commands import holdfast
from support.command_line import command
from support.node import Node


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root in one process."""
    with Node(tmp_path_factory.mktemp("root"), workers=0) as node:
        yield node


@pytest.fixture
def ask(root):
    """Runs a verb against the root; must succeed unless it is told the exit code."""

    def run(*words, code=0, stdin=""):
        done = command(*words, env={"HOLDFAST_DATA": str(root.data)}, stdin=stdin)
        assert done.code == code, (words, done)
        return done

    return run


def document(done):
    return json.loads(done.out)


def actions(ask, registry):
    return document(ask("connected-registry", "permissions", "show", "-n", registry, "-o", "json"))[
        "properties"
    ]["actions"]


def test_the_life_of_a_connected_registry(ask):
    create = ("connected-registry", "create", "-n", "plant", "--repository", "app/web", "app/db")
    dry = ask(*create, "--dry-run").out.splitlines()
    assert "+ connected registry plant" in dry
    assert "    + repositories/app/web/content/read" in dry
    assert "plant" not in ask("connected-registry", "list").out
    made = document(ask(*create, "-w", "PT3H", "-s", "0 9 * * *", "-o", "json"))
    assert made["properties"]["parent"]["syncProperties"] | {"gatewayEndpoint": None} == {
        "tokenId": "/tokens/plant",
        "schedule": "0 9 * * *",
        "syncWindow": "PT3H",
        "messageTtl": "P2D",
        "lastSyncTime": None,
        "gatewayEndpoint": None,
    }
    ask("token", "create", "-n", "phil1", "--repository", "app/web", "content/read")
    changed = ("--add-client-tokens", "phil1", "--log-level", "Debug", "--gc-enabled", "false")
    dry = ask("connected-registry", "update", "-n", "plant", *changed, "--dry-run").out.splitlines()
    assert dry == [
        "~ connected registry plant",
        *("    + phil1", "    + logging.logLevel: Debug", "    + garbageCollection.enabled: false"),
        *("    - logging.logLevel: Information", "    - garbageCollection.enabled: true"),
    ]
    window = ("-s", "* * * * *", "-w", "none", "--add-notifications", "a:push")
    assert ask("connected-registry", "update", "-n", "plant", *window, "--dry-run").out.splitlines() == [
        "~ connected registry plant",
        *("    + syncProperties.schedule: * * * * *", "    + notificationsList: a:push"),
        *("    - syncProperties.schedule: 0 9 * * *", "    - syncProperties.syncWindow: PT3H"),
    ]
    shown = document(ask("connected-registry", "update", "-n", "plant", *changed, "-o", "json"))
    assert shown["properties"]["clientTokenIds"] == ["/tokens/phil1"]
    assert shown["properties"]["garbageCollection"]["enabled"] is False
    tokens = ask("connected-registry", "list-client-tokens", "-n", "plant").out.splitlines()
    assert [line.split()[0] for line in tokens] == ["NAME", "phil1"]
    offline = ask("connected-registry", "resync", "-n", "plant", code=2)
    assert "ConnectedRegistryHasOfflineChildren" in offline.err
    ask("connected-registry", "deactivate", "-n", "plant", "--yes")
    ask("connected-registry", "permissions", "update", "-n", "plant", "--add", "base", "--remove", "app/db")
    assert {action.split("/content")[0] for action in actions(ask, "plant") if "content" in action} == {
        "repositories/app/web",
        "repositories/base",
    }
    ask("connected-registry", "delete", "-n", "plant", "--cleanup", "--yes")
    assert "plant" not in ask("token", "list").out + ask("scope-map", "list").out


def test_creating_what_is_there_changes_nothing(ask):
    """A line that is run twice must not take the client tokens of a site away."""
    create = ("connected-registry", "create", "-n", "twice", "--repository", "a")
    ask(*create)
    ask("token", "create", "-n", "anna2", "--repository", "a", "content/read")
    ask("connected-registry", "update", "-n", "twice", "--add-client-tokens", "anna2")
    for more in ((), ("--dry-run",), ("--log-level", "Debug")):
        assert "twice exists; update it" in ask(*create, *more, code=2).err
    shown = document(ask("connected-registry", "show", "-n", "twice", "-o", "json"))["properties"]
    assert (shown["clientTokenIds"], shown["logging"]["logLevel"]) == (["/tokens/anna2"], "Information")
    again = ask("scope-map", "create", "-n", "anna2-scope-map", "--repository", "b", "content/write", code=2)
    assert "anna2-scope-map exists; update it" in again.err
    same = ask("token", "create", "-n", "anna2", "--repository", "a", "content/read")
    assert "its passwords stay" in same.err
    ask("connected-registry", "delete", "-n", "twice", "--cleanup", "--yes")
    ask("token", "delete", "-n", "anna2", "--yes")
    ask("scope-map", "delete", "-n", "anna2-scope-map", "--yes")


def examples(group=holdfast):
    """The command lines that --help shows, without where their output goes."""
    context = click.Context(group)
    for name in group.list_commands(context):
        verb = group.get_command(context, name)
        if isinstance(verb, click.Group):
            yield from examples(verb)
        for line in (verb.epilog or "").replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            if words[:1] == ["holdfast"]:
                yield words[1 : words.index(">") if ">" in words else None]


def test_what_help_shows_is_taken_by_a_node(ask):
    found = [words for words in examples() if words[0] in ("connected-registry", "token", "scope-map")]
    assert len(found) >= 5
    for words in found:
        ask(*words, *(["--yes"] if "--generate-password" in words else []))
    for name in ("line4", "plant"):
        ask("connected-registry", "delete", "-n", name, "--cleanup", "--yes")


def test_a_tree_is_widened_and_cleaned_by_the_commands_that_delete_prints(ask):
    ask("connected-registry", "create", "-n", "tree1", "--repository", "a")
    ask("connected-registry", "create", "-n", "tree2", "-p", "tree1", "--repository", "b")
    assert "repositories/b/content/read" in actions(ask, "tree1")
    below = ask("connected-registry", "list", "-p", "tree1", "--no-children", "-o", "json")
    assert [one["name"] for one in document(below)] == ["tree2"]
    refused = ask(
        "connected-registry",
        "create",
        "-n",
        "tree3",
        "-p",
        "tree2",
        "-m",
        "ReadWrite",
        "--repository",
        "b",
        code=2,
    )
    assert "ReadOnly" in refused.err
    in_use = ask("connected-registry", "delete", "-n", "tree1", "--yes", code=2)
    assert "tree2" in in_use.err
    left = ask("connected-registry", "delete", "-n", "tree2", "--yes").out.splitlines()
    assert any("gateway/tree2/" in action for action in actions(ask, "tree1"))
    for line in left:
        words = line.split()
        assert words[0] == "holdfast"
        ask(*words[1:], *(["--yes"] if "delete" in words else []))
    assert not any("gateway/tree2/" in action for action in actions(ask, "tree1"))
    assert "tree2" not in ask("token", "list").out + ask("scope-map", "list").out
    ask("connected-registry", "delete", "-n", "tree1", "--cleanup", "--yes")


def test_settings_rotate_nothing_unless_told(ask):
    ask("connected-registry", "create", "-n", "child", "--repository", "a")
    words = ("connected-registry", "get-settings", "-n", "child", "--parent-protocol", "http")

    def made():
        token = document(ask("token", "show", "-n", "child", "-o", "json"))
        return token["properties"]["credentials"]["passwords"]

    before = made()
    done = ask(*words)
    assert "SyncTokenPassword=<sync-token-password>" in done.out
    assert "no password was changed" in done.err
    assert made() == before
    done = ask(*words, "--generate-password", "1", "--yes", "-o", "env")
    variables = dict(line.split("=", 1) for line in done.out.splitlines())
    assert (
        f"SyncTokenPassword={variables['SYNC_TOKEN_PASSWORD']};"
        in variables["ACR_REGISTRY_CONNECTION_STRING"]
    )
    assert [one["name"] for one in made()] == ["password1"]
    ask("connected-registry", "delete", "-n", "child", "--cleanup", "--yes")


def test_tokens_and_scope_maps(ask):
    ask(
        "scope-map",
        "create",
        "-n",
        "readers",
        "--repository",
        "a",
        "content/read",
        "--description",
        "who reads",
    )
    ask("scope-map", "update", "-n", "readers", "--add-repository", "b/*", "content/read", "metadata/read")
    done = ask(
        "scope-map", "update", "-n", "readers", "--remove-repository", "a", "content/read", "-o", "json"
    )
    assert document(done)["properties"]["actions"] == [
        "repositories/b/*/content/read",
        "repositories/b/*/metadata/read",
    ]
    made = document(ask("token", "create", "-n", "anna1", "--scope-map", "readers", "-o", "json"))
    values = {one["value"] for one in made["properties"]["credentials"]["passwords"]}
    assert len(values) == 2
    refused = ask("scope-map", "delete", "-n", "readers", "--yes", code=2)
    assert "anna1" in refused.err or "token" in refused.err
    fresh = ask("token", "credential", "generate", "-n", "anna1", "--password2", "-o", "value").out.strip()
    assert fresh not in values
    assert len(fresh) >= 43
    chosen = ("token", "credential", "generate", "-n", "anna1", "--password1", "--password-stdin")
    assert "secret" in ask(*chosen, stdin="password1234\n", code=2).err
    ask(*chosen, stdin="a horse that was never seen before\n")
    ask("token", "update", "-n", "anna1", "--status", "disabled")
    assert "Disabled" in ask("token", "show", "-n", "anna1").out
    ask("token", "credential", "delete", "-n", "anna1", "--password1", "--yes")
    left = document(ask("token", "show", "-n", "anna1", "-o", "json"))["properties"]["credentials"][
        "passwords"
    ]
    assert [one["name"] for one in left] == ["password2"]
    ask("token", "delete", "-n", "anna1", "--yes")
    ask("scope-map", "delete", "-n", "readers", "--yes")


RULES = [
    (("connected-registry", "create", "-n", "a1", "--repository", "a"), "name"),
    (("connected-registry", "create", "-n", "rulez", "--repository", "a", "-w", "PT1M"), "indow"),
    (("connected-registry", "create", "-n", "rulez", "--repository", "a", "-s", "every day"), "chedule"),
    (("connected-registry", "create", "-n", "rulez", "--repository", "a", "-p", "nobody"), "nobody"),
    (("connected-registry", "create", "-n", "rulez", "--repository", "a/*/b"), "a/*/b"),
    (("connected-registry", "show", "-n", "nobody"), "nobody"),
    (("token", "create", "-n", "tom12", "--scope-map", "nowhere"), "nowhere"),
    (("token", "delete", "-n", "nobody", "--yes"), "nobody"),
    (("scope-map", "update", "-n", "_repositories_pull", "--description", "x"), "_repositories_pull"),
]


@pytest.mark.parametrize(("words", "said"), RULES, ids=[" ".join(words)[:70] for words, _ in RULES])
def test_a_rule_that_is_broken_is_told_in_words(ask, words, said):
    done = ask(*words, code=2)
    assert done.err.startswith("holdfast: ")
    assert said in done.err
    assert "rulez" not in ask("connected-registry", "list").out


def test_an_ambiguous_update_is_refused(ask):
    ask("connected-registry", "create", "-n", "ambig", "--repository", "a")
    ask("token", "create", "-n", "both1", "--repository", "a", "content/read")
    update = ("connected-registry", "update", "-n", "ambig")
    done = ask(*update, "--add-client-tokens", "both1", "--remove-client-tokens", "both1", code=2)
    assert "both1" in done.err
    words = ("connected-registry", "permissions", "update", "-n", "ambig", "--add", "b", "--remove", "b")
    assert "b" in ask(*words, code=2).err
    ask("connected-registry", "delete", "-n", "ambig", "--cleanup", "--yes")
    ask("token", "delete", "-n", "both1", "--yes")


def test_login_with_the_operator_s_password(root, tmp_path):
    operator = json.loads((root.data / "operator.json").read_text())
    url = json.loads((root.data / "admin.json").read_text())["url"]
    env = {"HOME": str(tmp_path)}
    wrong = command("login", url, "--password-stdin", env=env, stdin="not-the-password\n")
    assert wrong.code == 2
    done = command(
        "login", url, "-u", operator["username"], "--password-stdin", env=env, stdin=operator["password"]
    )
    assert done.code == 0, done
    assert command("scope-map", "list", env=env).code == 0


def test_the_clients_address_is_no_admin_api(root):
    operator = json.loads((root.data / "operator.json").read_text())
    env = {"HOLDFAST_USERNAME": operator["username"], "HOLDFAST_PASSWORD": operator["password"]}
    done = command("token", "list", "-r", root.url, env=env)
    assert (done.code, "has no admin API" in done.err) == (2, True), done
