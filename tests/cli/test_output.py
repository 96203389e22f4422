"""Tables in the original's columns, JSON, YAML; on a terminal of 80 columns and in a pipe."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest
import yaml as other_reader  # type: ignore[import-untyped]
from holdfast.cli.output import yaml_text
from hypothesis import given
from hypothesis import strategies as st
from support.command_line import command, logged_in

PLANT = {
    "id": "/connectedRegistries/plant",
    "name": "plant",
    "type": "connectedRegistries",
    "etag": '"1"',
    "properties": {
        "mode": "ReadOnly",
        "version": "0.1.0",
        "connectionState": "Unhealthy",
        "lastActivityTime": "2026-11-26T22:00:01.25Z",
        "activation": {"status": "Active"},
        "parent": {
            "id": "/connectedRegistries/factory",
            "syncProperties": {
                "tokenId": "/tokens/plant",
                "schedule": "0 9 * * *",
                "syncWindow": "PT3H",
                "messageTtl": "P2D",
                "lastSyncTime": "2026-11-26T22:00:00.123456Z",
                "gatewayEndpoint": None,
            },
        },
        "clientTokenIds": ["/tokens/phil", "/tokens/anna"],
        "loginServer": {"host": "plant.example:5000", "tls": {"status": "Enabled"}},
        "logging": {"logLevel": "Information", "auditLogStatus": "Disabled"},
        "statusDetails": [
            {"type": "Disk", "code": "DiskError", "description": "no space left", "timestamp": ""},
            {"type": "Disk", "code": "Slow", "description": "x", "timestamp": "2026-11-27T06:00:00.5Z"},
        ],
        "notificationsList": ["*:*"],
        "garbageCollection": {"enabled": True, "schedule": "0 0 * * *"},
        "registrySyncResult": {
            "syncTrigger": "ManualResync",
            "syncState": "Syncing",
            "lastSuccessfulSyncEndTime": "2026-11-26T21:00:00Z",
        },
    },
}
BARE = {
    "name": "empty",
    "properties": {
        "mode": "ReadWrite",
        "connectionState": "Offline",
        "parent": {"id": None, "syncProperties": {"lastSyncTime": None}},
        "loginServer": None,
    },
}
TOKEN = {
    "name": "phil",
    "properties": {
        "scopeMapId": "/scopeMaps/phil-scope-map",
        "status": "enabled",
        "provisioningState": "Succeeded",
        "creationDate": "2026-11-26T22:00:00Z",
        "credentials": {
            "passwords": [
                {"name": "password1", "creationTime": "", "expiry": None},
                {"name": "password2", "creationTime": "", "expiry": "2030-01-31T00:00:00.5Z"},
            ]
        },
    },
}
SECRETS = {
    "username": "phil",
    "passwords": [
        {"name": "password1", "creationTime": "t", "expiry": None, "value": "secret-1"},
        {"name": "password2", "creationTime": "t", "expiry": "2030-01-31T00:00:00Z", "value": "secret-2"},
    ],
}


def rows(text):
    """Cells of a table that a pipe got: columns are two spaces apart."""
    return [re.split(r" {2,}", line) for line in text.splitlines()]


def test_the_list_has_the_original_s_columns(admin):
    admin.on("GET", "connectedRegistries", {"value": [PLANT, BARE], "nextLink": None})
    done = command("connected-registry", "list", env=logged_in(admin))
    assert rows(done.out) == [
        ["NAME", "MODE", "CONNECTION STATE", "PARENT", "LOGIN SERVER", "LAST SYNC (UTC)"],
        ["plant", "ReadOnly", "Unhealthy", "factory", "plant.example:5000", "2026-11-26T22:00:00Z"],
        ["empty", "ReadWrite", "Offline"],
    ]


def test_show_adds_schedule_and_window_and_what_is_wrong(admin):
    admin.on("GET", "connectedRegistries/plant", PLANT)
    done = command("connected-registry", "show", "-n", "plant", env=logged_in(admin))
    table = rows(done.out)
    assert [row[0] for row in table[:8]] == [
        *("NAME", "MODE", "CONNECTION STATE", "PARENT", "LOGIN SERVER", "LAST SYNC (UTC)"),
        *("SYNC SCHEDULE", "SYNC WINDOW"),
    ]
    assert ["SYNC SCHEDULE", "0 9 * * *"] in table
    assert ["FULL SYNC", "ManualResync Syncing (whole at 2026-11-26T21:00:00Z)"] in table
    assert ["STATUS", "Disk DiskError: no space left"] in table
    assert "Disk Slow: x (since 2026-11-27T06:00:00Z)" in done.out
    assert ["CLIENT TOKENS", "phil"] in table
    assert ["", "anna"] in table


def test_case_trust_14_what_a_node_has_not_taken_over_is_told(admin):
    behind = {"notTakenOverSince": "2026-11-26T22:00:00Z"}
    away = {"connectionState": "Offline", "expectedTime": "2027-01-01T03:00:00Z", "lastActivitySeconds": 9}
    one = {**PLANT, "properties": {**PLANT["properties"], **behind}}
    other = {**PLANT, "properties": {**PLANT["properties"], **away, **behind}}
    admin.on("GET", "connectedRegistries", {"value": [one, other], "nextLink": None})
    admin.on("GET", "connectedRegistries/plant", one)
    told = "configuration not taken over yet since 2026-11-26T22:00:00Z"
    _, first, second = rows(command("connected-registry", "list", env=logged_in(admin)).out)
    assert first[2] == f"Unhealthy; {told}"
    assert second[2] == f"Offline, expected 2027-01-01T03:00:00Z; {told}"
    done = command("connected-registry", "show", "-n", "plant", env=logged_in(admin))
    assert ["CONNECTION STATE", f"Unhealthy; {told}"] in rows(done.out)


def test_what_is_empty_is_no_line(admin):
    admin.on("GET", "connectedRegistries/empty", BARE)
    done = command("connected-registry", "show", "-n", "empty", env=logged_in(admin))
    assert rows(done.out) == [["NAME", "empty"], ["MODE", "ReadWrite"], ["CONNECTION STATE", "Offline"]]


def test_tokens(admin):
    admin.on("GET", "tokens", {"value": [TOKEN]})
    done = command("token", "list", env=logged_in(admin))
    assert rows(done.out) == [
        [
            *("NAME", "SCOPE MAP", "PASSWORD1 EXPIRY", "PASSWORD2 EXPIRY", "STATUS", "PROVISIONING STATE"),
            "CREATION DATE",
        ],
        [
            *("phil", "phil-scope-map", "Never", "2030-01-31T00:00:00Z", "Enabled", "Succeeded"),
            "2026-11-26T22:00:00Z",
        ],
    ]


def test_new_passwords_are_shown_with_their_expiry(admin):
    admin.on("POST", "tokens/phil/credentials", SECRETS)
    done = command("token", "credential", "generate", "-n", "phil", env=logged_in(admin))
    assert rows(done.out) == [
        ["USERNAME", "phil"],
        ["PASSWORD1", "secret-1"],
        ["PASSWORD1 EXPIRY", "Never"],
        ["PASSWORD2", "secret-2"],
        ["PASSWORD2 EXPIRY", "2030-01-31T00:00:00Z"],
    ]
    assert "once" in done.err


def test_passwords_alone_for_another_program(admin):
    admin.on("POST", "tokens/phil/credentials", SECRETS)
    done = command("token", "credential", "generate", "-n", "phil", "-o", "value", env=logged_in(admin))
    assert done.out == "secret-1\nsecret-2\n"


def test_scope_maps_and_their_cut_descriptions(admin):
    long = "x" * 60
    document = {
        "name": "readers",
        "properties": {
            "type": "UserDefined",
            "creationDate": "2026-11-26T22:00:00Z",
            "description": long,
            "actions": ["repositories/a/content/read", "repositories/b/content/read"],
        },
    }
    admin.on("GET", "scopeMaps", {"value": [document]})
    admin.on("GET", "scopeMaps/readers", document)
    listed = rows(command("scope-map", "list", env=logged_in(admin)).out)
    assert listed == [
        ["NAME", "TYPE", "CREATION DATE", "DESCRIPTION"],
        ["readers", "UserDefined", "2026-11-26T22:00:00Z", "x" * 57 + "..."],
    ]
    one = rows(command("scope-map", "show", "-n", "readers", env=logged_in(admin)).out)
    assert one[3:] == [
        ["DESCRIPTION", long],
        ["ACTIONS", "repositories/a/content/read"],
        ["", "repositories/b/content/read"],
    ]


def test_an_empty_list_says_so_beside_stdout(admin):
    admin.on("GET", "connectedRegistries", {"value": []})
    done = command("connected-registry", "list", env=logged_in(admin))
    assert (done.out, done.err) == ("", "holdfast: no connected registries\n")
    done = command("connected-registry", "list", "-o", "json", env=logged_in(admin))
    assert (done.document, done.err) == ([], "")


def test_json_is_the_node_s_document_and_nothing_else_is_on_stdout(admin):
    admin.on("GET", "connectedRegistries/plant", PLANT)
    done = command("connected-registry", "show", "-n", "plant", "-o", "json", env=logged_in(admin))
    assert done.document == PLANT
    admin.on("POST", "tokens/phil/credentials", SECRETS)
    done = command("token", "credential", "generate", "-n", "phil", "-o", "json", env=logged_in(admin))
    assert done.document == SECRETS


def test_yaml_is_the_same_document(admin):
    admin.on("GET", "connectedRegistries/plant", PLANT)
    done = command("connected-registry", "show", "-n", "plant", "-o", "yaml", env=logged_in(admin))
    assert other_reader.safe_load(done.out) == PLANT
    assert "  mode: ReadOnly\n" in done.out
    assert '  - "*:*"\n' in done.out


texts = st.text(max_size=20) | st.sampled_from(
    [
        "yes",
        "NO",
        "null",
        "~",
        "1e3",
        "0x1f",
        "1:30",
        "2026-11-26",
        "a: b",
        "a #b",
        "- a",
        "",
        " a",
        "a:",
        "=",
        "<<",
    ]
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


#: what a reader takes for another type than a string: YAML 1.1 (yaml.org/type), 1.2 (core schema, 10.3.2)
OTHER_TYPES = [
    *("y", "N", "yes", "No", "ON", "off", "true", "FALSE", "null", "Null", "~", ""),
    *("1", "-1", "+1", "0o7", "07", "0x1f", "0b1", "1_000", "1:30", "190:20:30.15"),
    *("1e3", "1.5", ".5", "1.", "-.inf", ".INF", ".nan", "2026-11-26", "2026-11-26T22:00:00Z", "=", "<<"),
]


def test_yaml_quotes_what_some_reader_takes_for_another_type():
    for text in OTHER_TYPES:
        assert yaml_text([text]) == f'- "{text}"\n'
        assert yaml_text({"k": {"l": text}}) == f'k:\n  l: "{text}"\n'


def test_yaml_is_in_block_style():
    document = {"a": ["x", {"b": [], "c": {}}], "d": [["/tokens/a", 1.5, True, None]], "e": "two\nlines é"}
    assert yaml_text(document) == (
        'a:\n  - x\n  - b: []\n    c: {}\nd:\n  - - /tokens/a\n    - 1.5\n    - true\n    - null\ne: "two\\nlines é"\n'
    )
    shared = ["x"]
    assert yaml_text([shared, shared]) == "- - x\n- - x\n"
    assert yaml_text({"long": "a b " * 100}).count("\n") == 1


@given(documents)
def test_yaml_is_read_back_as_it_was(document):
    text = yaml_text(document)
    assert other_reader.safe_load(text) == document, text


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_case_trust_25_control_characters_of_a_node_do_not_reach_the_terminal(admin, output):
    """C0, C1 (which some terminals take for ESC [), direction, and no width; JSON means the same as before."""
    name = "pl\x1b]0;title\x07ant\u202e\x9b1m\u200b\x7f\u2028"
    admin.on("GET", "connectedRegistries", {"value": [{**PLANT, "name": name}]})
    done = command("connected-registry", "list", "-o", output, env=logged_in(admin))
    assert not set("\x1b\x07\u202e\x9b\u200b\x7f\u2028") & set(done.out)
    assert "pl\\u001b]0;title\\u0007ant\\u202e\\u009b1m\\u200b\\u007f\\u2028" in done.out
    if output == "json":
        assert json.loads(done.out)[0]["name"] == name


def test_square_brackets_are_no_markup(admin):
    admin.on("GET", "scopeMaps/m", {"name": "m", "properties": {"description": "[red]hot[/red]"}})
    done = command("scope-map", "show", "-n", "m", env=logged_in(admin))
    assert ["DESCRIPTION", "[red]hot[/red]"] in rows(done.out)


SETTINGS = {
    "ACR_REGISTRY_CONNECTION_STRING": "ConnectedRegistryName=plant;SyncTokenPassword=a=b",
    "ACR_REGISTRY_DATA_VOLUME": "/var/acr/it's",
    "warnings": ["the parent is asked by http"],
}


def settings(admin, *flags):
    admin.on("POST", "connectedRegistries/plant/settings", SETTINGS)
    words = ("connected-registry", "get-settings", "-n", "plant", "--parent-protocol", "http", "--yes")
    done = command(*words, *flags, env=logged_in(admin))
    assert done.code == 0, done
    return done


def test_settings_as_variables(admin):
    done = settings(admin, "--generate-password", "1")
    assert done.out.splitlines() == [
        "ACR_REGISTRY_CONNECTION_STRING='ConnectedRegistryName=plant;SyncTokenPassword=a=b'",
        """ACR_REGISTRY_DATA_VOLUME='/var/acr/it'"'"'s'""",
    ]
    assert "the parent is asked by http" in done.err
    assert "password1 of the sync token is new" in done.err
    assert settings(admin, "-o", "env").out == done.out


@pytest.mark.parametrize("output", ["shell", "env", "table"])
def test_case_trust_27_settings_mean_the_same_in_a_shell(admin, tmp_path, output):
    (file := tmp_path / "plant.env").write_text(settings(admin, "-o", output).out)
    script = f'. {file} && printf "%s|%s" "$ACR_REGISTRY_CONNECTION_STRING" "$ACR_REGISTRY_DATA_VOLUME"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "ConnectedRegistryName=plant;SyncTokenPassword=a=b|/var/acr/it's"
    assert done.stderr == ""


def test_settings_say_that_nothing_was_rotated(admin):
    SILENT = {**SETTINGS, "warnings": []}
    admin.on("POST", "connectedRegistries/plant/settings", SILENT)
    words = ("connected-registry", "get-settings", "-n", "plant", "--parent-protocol", "http", "-o", "json")
    done = command(*words, env=logged_in(admin))
    assert done.document == SILENT
    assert "no password was changed" in done.err


DIFFERENCE = {
    "difference": [
        {"kind": "connected-registry", "name": "plant", "change": "created", "added": [], "removed": []},
        {
            "kind": "scope-map",
            "name": "factory",
            "change": "changed",
            "added": ["repositories/a/content/read"],
        },
        {"kind": "token", "name": "old", "change": "deleted", "removed": ["x"]},
    ]
}


def test_a_dry_run_prints_the_difference(admin):
    admin.on("PUT", "connectedRegistries/plant", DIFFERENCE)
    words = ("connected-registry", "create", "-n", "plant", "--repository", "a", "--dry-run")
    done = command(*words, env=logged_in(admin))
    assert done.out.splitlines() == [
        "+ connected registry plant",
        "~ scope map factory",
        "    + repositories/a/content/read",
        "- token old",
        "    - x",
    ]
    assert done.err == "holdfast: nothing was changed (--dry-run)\n"
    assert command(*words, "-o", "json", env=logged_in(admin)).document == DIFFERENCE


def test_a_delete_prints_the_commands_that_are_left(admin):
    left = ["holdfast token delete -n plant", "holdfast scope-map delete -n plant"]
    admin.on("DELETE", "connectedRegistries/plant", {"followUp": left})
    done = command("connected-registry", "delete", "-n", "plant", "--yes", env=logged_in(admin))
    assert done.out.splitlines() == left
    assert "--cleanup" in done.err


def on_a_terminal(admin, *words, answer=b"", columns=80):
    """What a person with a terminal of so many columns sees, and the exit code."""
    leader, follower = pty.openpty()
    env = {**os.environ, **logged_in(admin), "COLUMNS": str(columns), "TERM": "xterm"}
    command_line = [sys.executable, "-m", "holdfast", *words]
    process = subprocess.Popen(command_line, stdin=follower, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    os.write(leader, answer)
    seen = b""
    while True:
        try:
            more = os.read(leader, 65536)
        except OSError:  # how Linux says that the last writer has left
            break
        if not more:
            break
        seen += more
    os.close(leader)
    return process.wait(60), seen.decode()


def test_a_list_fits_a_terminal_of_80_columns(admin):
    admin.on("GET", "connectedRegistries", {"value": [PLANT, BARE]})
    code, seen = on_a_terminal(admin, "connected-registry", "list")
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in seen.splitlines()]
    assert (code, max(len(line) for line in lines) <= 80) == (0, True), seen
    assert "2026-11-26T22:00:00Z" in seen
    assert "\x1b[1m" in seen


def test_no_colours_in_a_pipe(admin):
    admin.on("GET", "connectedRegistries", {"value": [PLANT]})
    assert "\x1b" not in command("connected-registry", "list", env=logged_in(admin)).out


@pytest.mark.parametrize(("answer", "code", "asked"), [(b"y\n", 0, 1), (b"n\n", 1, 0), (b"\n", 1, 0)])
def test_a_person_is_asked_before_something_is_destroyed(admin, answer, code, asked):
    admin.on("GET", "tokens/phil", TOKEN)
    admin.on("DELETE", "tokens/phil", None, 204)
    done, seen = on_a_terminal(admin, "token", "delete", "-n", "phil", answer=answer)
    assert (done, [one.method for one in admin.asked]) == (code, ["GET", "DELETE"][: asked + 1]), seen
    assert "Token phil will be gone" in seen


def test_nobody_is_asked_about_what_is_not_there(admin):
    admin.on("GET", "tokens/phil", {"errors": [{"code": "NAME_UNKNOWN", "message": "no token phil"}]}, 404)
    done, seen = on_a_terminal(admin, "token", "delete", "-n", "phil", answer=b"y\n")
    assert (done, "no token phil" in seen, "will be gone" in seen) == (2, True, False), seen


def test_case_trust_18_a_long_list_costs_no_table(admin):
    """What a program reads is aligned as a table is."""
    rows = [{**PLANT, "name": f"plant{number}"} for number in range(1000)]
    admin.on("GET", "connectedRegistries", {"value": rows})
    done = command("connected-registry", "list", env=logged_in(admin))
    lines = done.out.splitlines()
    assert len(lines) == 1001
    assert len({line.index("ReadOnly") for line in lines[1:]}) == 1
    assert lines[0].index("MODE") == lines[1].index("ReadOnly")
    assert not any(line.endswith(" ") for line in lines)
