"""What each verb asks of the admin API, flag by flag, and what it refuses before it asks."""

from typing import Any

import pytest
from support.command_line import command, logged_in

REGISTRY = {
    "id": "/connectedRegistries/plant",
    "name": "plant",
    "properties": {"mode": "ReadOnly", "connectionState": "Offline", "parent": {"syncProperties": {}}},
}
TOKEN = {"name": "phil", "properties": {"status": "enabled", "scopeMapId": "/scopeMaps/phil-scope-map"}}
SCOPE_MAP = {"name": "readers", "properties": {"actions": [], "type": "UserDefined"}}
PLANT, PHIL, READERS = "connectedRegistries/plant", "tokens/phil", "scopeMaps/readers"


def create(*flags):
    return ("connected-registry", "create", "-n", "plant", *flags)


def update(*flags):
    return ("connected-registry", "update", "-n", "plant", *flags)


#: words → method, path, query, body
REQUESTS: list[Any] = [
    (
        create("--repository", "app/web", "app/db"),
        ("PUT", PLANT, {}, {"mode": "ReadOnly", "repositories": ["app/web", "app/db"], "parent": {}}),
    ),
    (
        create("--repository=app/web", "app/db", "-m", "readwrite", "--repository", "app/db", "base"),
        (
            "PUT",
            PLANT,
            {},
            {"mode": "ReadWrite", "repositories": ["app/web", "app/db", "base"], "parent": {}},
        ),
    ),
    (
        create(
            *("--sync-token", "sync", "-p", "factory", "-s", "0 9 * * *", "-w", "PT3H"),
            *("--sync-message-ttl", "P5D", "--log-level", "debug", "--client-tokens", "phil", "anna"),
            *("--notifications", "*:*", "a:b:push", "--gc-enabled", "false", "--gc-schedule", "0 1 * * *"),
            *("--dry-run", "--yes"),
        ),
        (
            "PUT",
            PLANT,
            {"dryRun": "true"},
            {
                "mode": "ReadOnly",
                "parent": {
                    "id": "factory",
                    "syncProperties": {
                        "tokenId": "sync",
                        "schedule": "0 9 * * *",
                        "syncWindow": "PT3H",
                        "messageTtl": "P5D",
                    },
                },
                "clientTokenIds": ["phil", "anna"],
                "notificationsList": ["*:*", "a:b:push"],
                "logging": {"logLevel": "Debug"},
                "garbageCollection": {"enabled": False, "schedule": "0 1 * * *"},
            },
        ),
    ),
    (
        create("--repository", "a", "--gc-enabled", "--audit-logs-enabled", "true"),
        (
            "PUT",
            PLANT,
            {},
            {
                "mode": "ReadOnly",
                "repositories": ["a"],
                "parent": {},
                "garbageCollection": {"enabled": True},
                "logging": {"auditLogStatus": "Enabled"},
            },
        ),
    ),
    (
        update(
            *("--add-client-tokens", "a", "b", "--remove-client-tokens", "c"),
            *("--add-notifications", "x:*", "--remove-notifications", "y:*"),
        ),
        (
            "PATCH",
            PLANT,
            {},
            {
                "addClientTokens": ["a", "b"],
                "removeClientTokens": ["c"],
                "addNotifications": ["x:*"],
                "removeNotifications": ["y:*"],
            },
        ),
    ),
    (
        update("--dry-run", "--log-level", "Error"),
        ("PATCH", PLANT, {"dryRun": "true"}, {"logging": {"logLevel": "Error"}}),
    ),
    (
        update("-s", "* * * * *", "-w", "none", "--log-level", "None", "--gc-enabled", "true"),
        (
            "PATCH",
            PLANT,
            {},
            {
                "syncProperties": {"schedule": "* * * * *", "syncWindow": None},
                "logging": {"logLevel": "None"},
                "garbageCollection": {"enabled": True},
            },
        ),
    ),
    (("connected-registry", "show", "-n", "plant"), ("GET", PLANT, {}, None)),
    (("connected-registry", "resync", "--name", "plant"), ("POST", f"{PLANT}/resync", {}, None)),
    (
        ("connected-registry", "deactivate", "-n", "plant", "--yes"),
        ("POST", f"{PLANT}/deactivate", {}, None),
    ),
    (("connected-registry", "delete", "-n", "plant", "-y"), ("DELETE", PLANT, {}, None)),
    (
        ("connected-registry", "delete", "-n", "plant", "--cleanup", "-y"),
        ("DELETE", PLANT, {"cleanup": "true"}, None),
    ),
    (
        ("connected-registry", "delete", "-n", "plant", "--cleanup", "--dry-run"),
        ("DELETE", PLANT, {"cleanup": "true", "dryRun": "true"}, None),
    ),
    (("connected-registry", "list"), ("GET", "connectedRegistries", {}, None)),
    (
        ("connected-registry", "list", "-p", "factory", "--no-children"),
        ("GET", "connectedRegistries", {"parent": "factory", "noChildren": "true"}, None),
    ),
    (
        ("connected-registry", "list-client-tokens", "-n", "plant"),
        ("GET", f"{PLANT}/clientTokens", {}, None),
    ),
    (
        ("connected-registry", "get-settings", "-n", "plant", "--parent-protocol", "http"),
        ("POST", f"{PLANT}/settings", {}, {"parentProtocol": "http"}),
    ),
    (
        (
            *("connected-registry", "get-settings", "-n", "plant", "--parent-protocol", "HTTPS"),
            *("--generate-password", "2", "--parent-endpoint", "root:5000", "--yes"),
        ),
        (
            "POST",
            f"{PLANT}/settings",
            {},
            {"parentProtocol": "https", "generatePassword": 2, "parentEndpoint": "root:5000"},
        ),
    ),
    (("connected-registry", "permissions", "show", "-n", "plant"), ("GET", f"{PLANT}/permissions", {}, None)),
    (
        ("connected-registry", "permissions", "update", "-n", "plant", "--add", "a", "b", "--remove", "c"),
        ("POST", f"{PLANT}/permissions", {}, {"add": ["a", "b"], "remove": ["c"]}),
    ),
    (
        ("connected-registry", "permissions", "update", "-n", "plant", "--add", "a", "--dry-run"),
        ("POST", f"{PLANT}/permissions", {"dryRun": "true"}, {"add": ["a"]}),
    ),
    (
        ("token", "create", "-n", "phil", "--repository", "app/web", "content/read", "METADATA/read"),
        (
            "PUT",
            PHIL,
            {},
            {
                "status": "enabled",
                "actions": ["repositories/app/web/content/read", "repositories/app/web/metadata/read"],
            },
        ),
    ),
    (
        (
            *("token", "create", "-n", "phil", "--repository", "a/*", "content/read"),
            *("--repository", "b", "content/write", "--gateway", "Plant", "config/read"),
            *("--status", "disabled", "--no-passwords", "--expiration-in-days", "30"),
        ),
        (
            "PUT",
            PHIL,
            {},
            {
                "status": "disabled",
                "actions": [
                    "repositories/a/*/content/read",
                    "repositories/b/content/write",
                    "gateway/plant/config/read",
                ],
                "noPasswords": True,
                "expirationInDays": 30,
            },
        ),
    ),
    (
        ("token", "create", "-n", "phil", "--scope-map", "readers", "--expiration", "2030-01-31T00:00:00Z"),
        ("PUT", PHIL, {}, {"status": "enabled", "scopeMapId": "readers", "expiry": "2030-01-31T00:00:00Z"}),
    ),
    (("token", "update", "-n", "phil", "--status", "disabled"), ("PATCH", PHIL, {}, {"status": "disabled"})),
    (("token", "update", "-n", "phil", "--scope-map", "m"), ("PATCH", PHIL, {}, {"scopeMapId": "m"})),
    (("token", "delete", "-n", "phil", "--yes"), ("DELETE", PHIL, {}, None)),
    (("token", "list"), ("GET", "tokens", {}, None)),
    (("token", "show", "-n", "phil"), ("GET", PHIL, {}, None)),
    (
        ("token", "credential", "generate", "-n", "phil"),
        ("POST", f"{PHIL}/credentials", {}, {"passwords": []}),
    ),
    (
        ("token", "credential", "generate", "-n", "phil", "--password1", "--expiration-in-days", "7"),
        ("POST", f"{PHIL}/credentials", {}, {"passwords": ["password1"], "expirationInDays": 7}),
    ),
    (
        ("token", "credential", "generate", "-n", "phil", "--password2", "--password-stdin"),
        ("POST", f"{PHIL}/credentials", {}, {"passwords": ["password2"], "value": "typed by a person"}),
    ),
    (
        ("token", "credential", "delete", "-n", "phil", "--password1", "--password2", "--yes"),
        ("DELETE", f"{PHIL}/credentials", {}, {"passwords": ["password1", "password2"]}),
    ),
    (
        (
            *("scope-map", "create", "-n", "readers", "--repository", "a", "content/read"),
            *("--gateway", "plant", "message/write", "--description", "who reads"),
        ),
        (
            "PUT",
            READERS,
            {},
            {
                "actions": ["repositories/a/content/read", "gateway/plant/message/write"],
                "description": "who reads",
            },
        ),
    ),
    (
        (
            *("scope-map", "update", "-n", "readers", "--add-repository", "a", "content/read"),
            *("--remove-repository", "b", "content/read", "content/write", "--add-gateway", "plant"),
            *("config/read", "--remove-gateway", "other", "config/write"),
        ),
        (
            "PATCH",
            READERS,
            {},
            {
                "addActions": ["repositories/a/content/read", "gateway/plant/config/read"],
                "removeActions": [
                    "repositories/b/content/read",
                    "repositories/b/content/write",
                    "gateway/other/config/write",
                ],
            },
        ),
    ),
    (
        ("scope-map", "update", "-n", "readers", "--description", ""),
        ("PATCH", READERS, {}, {"description": ""}),
    ),
    (("scope-map", "delete", "-n", "readers", "--yes"), ("DELETE", READERS, {}, None)),
    (("scope-map", "list"), ("GET", "scopeMaps", {}, None)),
    (("scope-map", "show", "-n", "_repositories_pull"), ("GET", "scopeMaps/_repositories_pull", {}, None)),
    (("outbox", "list"), ("GET", "outbox", {}, None)),
    (("outbox", "show", "7"), ("GET", "outbox/7", {}, None)),
    (("outbox", "retry", "7"), ("POST", "outbox/7/retry", {}, None)),
    (("webhook", "list"), ("GET", "webhooks", {}, None)),
    (("webhook", "show", "ci"), ("GET", "webhooks/ci", {}, None)),
]
LISTS = ("connectedRegistries", "tokens", "scopeMaps", "outbox", "webhooks", f"{PLANT}/clientTokens")
#: bodies that have their own fields, not `properties`
BARE = ("settings", "permissions", "credentials")


@pytest.mark.parametrize(("words", "wanted"), REQUESTS, ids=[" ".join(words)[:70] for words, _ in REQUESTS])
def test_a_verb_asks_exactly_this(admin, words, wanted):
    method, path, query, body = wanted
    document = {"value": [], "nextLink": None} if path in LISTS else REGISTRY
    admin.on(method, path, document)
    said = command(*words, env=logged_in(admin), stdin="typed by a person\n")
    assert said.code == 0, said
    assert (admin.last.method, admin.last.path, admin.last.query) == (method, f"/api/v1/{path}", query)
    if body is not None and not path.endswith(BARE):
        body = {"properties": body}
    assert admin.last.body == body
    assert len(admin.asked) == 1


REFUSED = [
    (create(), "exactly one of --repository and --sync-token"),
    (create("--repository", "a", "--sync-token", "b"), "exactly one of --repository and --sync-token"),
    (create("--repository", "--mode", "ReadOnly"), "'--repository' takes at least one value"),
    (create("--repository", "a", "--mode", "Mirror2"), "ReadOnly"),
    (("connected-registry", "create", "--repository", "a"), "--name"),
    (("connected-registry", "show", "-n", "a/b"), "without spaces, slashes"),
    (("connected-registry", "show", "-n", ".."), "without spaces, slashes"),
    (("connected-registry", "show", "-n", ""), "without spaces, slashes"),
    (update(), "Say what to change"),
    (("connected-registry", "permissions", "update", "-n", "plant"), "Say --add, --remove or both"),
    (("connected-registry", "get-settings", "-n", "plant"), "--parent-protocol"),
    (
        (
            "connected-registry",
            "get-settings",
            "-n",
            "plant",
            "--parent-protocol",
            "http",
            "--generate-password",
            "3",
        ),
        "--generate-password",
    ),
    (("token", "create", "-n", "phil"), "either --scope-map, or --repository and --gateway"),
    (
        ("token", "create", "-n", "phil", "--repository", "app"),
        "found 'app' without an action; allowed: content/read",
    ),
    (
        ("token", "create", "-n", "phil", "--repository", "app", "pull"),
        "--repository: found 'pull' after 'app'; allowed: content/read",
    ),
    (
        ("token", "create", "-n", "phil", "--scope-map", "m", "--repository", "app", "content/read"),
        "either --scope-map, or --repository and --gateway",
    ),
    (
        ("token", "create", "-n", "p", "--scope-map", "m", "--expiration", "x", "--expiration-in-days", "1"),
        "one of --expiration and --expiration-in-days",
    ),
    (("token", "create", "-n", "p", "--scope-map", "m", "--expiration-in-days", "0"), "x>=1"),
    (("token", "update", "-n", "phil"), "Say --scope-map or --status"),
    (("token", "credential", "delete", "-n", "phil", "--yes"), "Say --password1, --password2 or both"),
    (("token", "credential", "generate", "-n", "phil", "--password-stdin"), "sets one password"),
    (("scope-map", "create", "-n", "m"), "Say --repository, --gateway or both"),
    (
        ("scope-map", "update", "-n", "m", "--add-gateway", "plant", "content/read"),
        "--add-gateway: found 'content/read' after 'plant'; allowed: config/read",
    ),
    (("scope-map", "update", "-n", "m"), "Say what to change"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words)[:70] for words, _ in REFUSED])
def test_a_wrong_command_exits_2_and_asks_nothing(admin, words, said):
    done = command(*words, env=logged_in(admin))
    assert (done.code, said in " ".join(done.err.split())) == (2, True), done
    assert admin.asked == []


DESTROYERS = [
    ("connected-registry", "delete", "-n", "plant"),
    ("connected-registry", "delete", "-n", "plant", "--cleanup"),
    ("connected-registry", "deactivate", "-n", "plant"),
    ("token", "delete", "-n", "phil"),
    ("token", "credential", "delete", "-n", "phil", "--password1"),
    ("scope-map", "delete", "-n", "readers"),
]


@pytest.mark.parametrize("words", DESTROYERS, ids=[" ".join(words) for words in DESTROYERS])
def test_nothing_is_destroyed_without_a_word(admin, words):
    """Nobody is at a terminal, so the question is a refusal, and not even a line on stdin answers it."""
    done = command(*words, env=logged_in(admin), stdin="y\n")
    assert (done.code, admin.asked) == (2, [])
    assert "add --yes" in done.err


@pytest.mark.parametrize(
    ("endpoint", "flags"),
    [
        ("http://root.example:5000", "--parent-protocol http"),
        ("https://root.example", "--parent-protocol https"),
        ("http://", "--parent-protocol http --parent-endpoint HOST:PORT"),
        ("", "--parent-protocol https --parent-endpoint HOST:PORT"),
    ],
)
def test_case_trust_18_what_comes_next_says_how_the_parent_serves(admin, endpoint, flags):
    properties = {**REGISTRY["properties"], "parent": {"syncProperties": {"gatewayEndpoint": endpoint}}}
    admin.on("PUT", PLANT, {"name": "plant", "properties": properties})
    done = command(*create("--repository", "a"), env=logged_in(admin))
    assert f"get-settings -n plant {flags} --generate-password 1\n" in done.err


GENERATE = ("connected-registry", "get-settings", "-n", "plant", "--parent-protocol", "http")


@pytest.mark.parametrize(("held", "code"), [(["password1"], 2), (["password2"], 0), ([], 0)])
def test_case_trust_27_only_a_password_that_is_there_ends(admin, held, code):
    sync = {"syncProperties": {"tokenId": "/tokens/plant-sync"}}
    admin.on("GET", "connectedRegistries/plant", {"name": "plant", "properties": {"parent": sync}})
    passwords = [{"name": name, "creationTime": None, "expiry": None} for name in held]
    admin.on("GET", "tokens/plant-sync", {"properties": {"credentials": {"passwords": passwords}}})
    admin.on("POST", "connectedRegistries/plant/settings", {"SYNC_TOKEN_USER": "plant-sync"})
    done = command(*GENERATE, "--generate-password", "1", env=logged_in(admin), stdin="y\n")
    assert done.code == code, done
    assert [asked.path for asked in admin.asked if asked.method != "GET"] == (
        [] if code else ["/api/v1/connectedRegistries/plant/settings"]
    )
    assert ("Password 1 of the sync token of plant will end" in done.err) == bool(code)
    assert ("add --yes" in done.err) == bool(code)


def test_a_list_is_read_page_by_page(admin):
    admin.on("GET", "tokens", {"value": [TOKEN], "nextLink": f"{admin.url}/api/v1/tokens?%24skipToken=phil"})
    admin.on("GET", "tokens", {"value": [{**TOKEN, "name": "zoe"}], "nextLink": None})
    done = command("token", "list", "-o", "json", env=logged_in(admin))
    assert [one["name"] for one in done.document] == ["phil", "zoe"]
    assert [asked.query for asked in admin.asked] == [{}, {"$skipToken": "phil"}]


def test_the_password_does_not_follow_a_link_to_another_place(admin):
    admin.on("GET", "tokens", {"value": [], "nextLink": "http://127.0.0.1:9/api/v1/tokens?page=2"})
    admin.on("GET", "tokens", {"value": [TOKEN], "nextLink": None})
    done = command("token", "list", "-o", "json", env=logged_in(admin))
    assert [one["name"] for one in done.document] == ["phil"]
    assert admin.last.query == {"page": "2"}


def test_a_redirect_is_not_followed(admin):
    admin.on("GET", PLANT, None, 307)
    admin.headers["Location"] = f"{admin.url}/elsewhere"
    done = command("connected-registry", "show", "-n", "plant", env=logged_in(admin))
    assert (done.code, len(admin.asked)) == (1, 1)
    assert "307" in done.err
