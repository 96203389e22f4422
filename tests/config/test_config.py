"""Every refusal of a configuration names the key, what was found and what is allowed."""

import re

import pytest
from holdfast.config import ConfigInvalid, Configuration, listen_address
from holdfast.config_file import from_table, in_words, key_table, kind_at, load

A = {"url": "https://a"}
REFUSED = [
    ({"colour": 1}, "colour", "unknown key"),
    ({"limits": {"head": 1}}, "limits.head", "unknown key"),
    ({"parent": [{"url": "https://a", "colour": 1}]}, "parent[0].colour", "unknown key"),
    (
        {"parent": [{"url": "https://a", "credentials": {"token": "x"}}]},
        "parent[0].credentials.token",
        "unknown",
    ),
    ({"workers": "two"}, "workers: found 'two'", "a whole number from -1 to 256; write it without quotes"),
    ({"workers": 257}, "workers: found 257", "a whole number from -1 to 256"),
    ({"catalog": 1}, "catalog: found 1", "true or false"),
    ({"on_miss": "maybe"}, "on_miss: found 'maybe'", '"parent" or "strict"'),
    (
        {"limits": {"head_bytes": 5}},
        "limits.head_bytes: found 5",
        "a whole number of bytes from 1024 to 1048576",
    ),
    ({"limits": 5}, "limits: found 5", "a table, under [limits]"),
    ({"parent": [{"name": "x"}]}, "parent[0].url: missing", "must be given"),
    ({"parent": [{"url": "ftp://a"}]}, "parent[0].url: found 'ftp://a'", "a URL that begins with https://"),
    ({"parent": [{"url": "http://a"}]}, "parent[0].url: found 'http://a'", "insecure"),
    ({"parent": [{"url": "https://u:p@a"}]}, "parent[0].url", "credentials"),
    ({"parent": [{"url": "https://a"}, {"url": "https://b"}]}, "parent[0].name", "twice"),
    ({"parent": [{"url": "https://a"}, {"url": "https://b", "name": "b", "default": True}]}, "parent", "one"),
    ({"parent": [{"url": "https://a", "prefixes": ["A"]}]}, "parent[0].prefixes: found 'A'", "components"),
    (
        {"parent": [{"url": "https://a:99999"}]},
        "parent[0].url: found 'https://a:99999'",
        "host[:port][/path]",
    ),
    ({"parent": [{"url": "https://a:0"}]}, "parent[0].url: found 'https://a:0'", "host[:port][/path]"),
    ({"parent": [{"url": "https://[::1"}]}, "parent[0].url: found 'https://[::1'", "host[:port]"),
    ({"parent": [{"url": "https://a b"}]}, "parent[0].url: found 'https://a b'", "host[:port]"),
    (
        {"parent": [A | {"mirrors": ["https://m", "ftp://m"]}]},
        "parent[0].mirrors: found 'ftp://m'",
        "https://",
    ),
    ({"parent": [A | {"mirrors": ["http://m"]}]}, "parent[0].mirrors: found 'http://m'", "insecure"),
    ({"parent": [A | {"mirrors": ["https://u@m"]}]}, "parent[0].mirrors: found a user", "credentials"),
    (
        {"parent": [A | {"realms": ["https://h:99999"]}]},
        "parent[0].realms: found 'https://h:99999'",
        "host[:port]",
    ),
    (
        {"parent": [A | {"realms": ["auth.test"]}]},
        "parent[0].realms: found 'auth.test'",
        "https://host[:port]",
    ),
    (
        {"parent": [A | {"realms": ["https://h/token"]}]},
        "parent[0].realms: found 'https://h/token'",
        "host[:port]",
    ),
    ({"parent": [A | {"realms": ["http://h"]}]}, "parent[0].realms: found 'http://h'", "insecure"),
    ({"parent": [A | {"proxy": "proxy:3128"}]}, "parent[0].proxy: found 'proxy:3128'", "http://host[:port]"),
    ({"parent": [A | {"proxy": "socks5://p:1"}]}, "parent[0].proxy: found 'socks5://p:1'", "http://host"),
    ({"parent": [A | {"proxy": "http://p:99999"}]}, "parent[0].proxy: found 'http://p:99999'", "http://host"),
    (
        {"parent": [A | {"redirects": ["https://s3"]}]},
        "parent[0].redirects: found 'https://s3'",
        "host[:port]",
    ),
    ({"parent": [A | {"redirects": ["s3:99999"]}]}, "parent[0].redirects: found 's3:99999'", "host[:port]"),
    ({"parent": [A | {"redirects": ["s3?x"]}]}, "parent[0].redirects: found 's3?x'", "host[:port]"),
    ({"parent": [A | {"redirects": [""]}]}, "parent[0].redirects: found ''", "host[:port]"),
    ({"parent": [A | {"hosts": ["https://h"]}]}, "parent[0].hosts: found 'https://h'", "without scheme"),
    ({"parent": [A | {"hosts": ["h:443"]}]}, "parent[0].hosts: found 'h:443'", "without scheme and port"),
    ({"parent": [A | {"hosts": ["*.h"]}]}, "parent[0].hosts: found '*.h'", "host name"),
    ({"parent": [A | {"ca": "/none.pem"}]}, "parent[0].ca: found '/none.pem'", "(No such file or directory)"),
    ({"parent": [A | {"ca": "/"}]}, "parent[0].ca: found '/'", "readable file"),
    ({"parent": [A | {"ca": __file__}]}, f"parent[0].ca: found {__file__!r}", "no certificate can be read"),
    ({"tls": {"cert": "a.pem"}}, "tls.key", "both"),
    ({"listen": "localhost"}, "listen: found 'localhost'", "HOST:PORT"),
    ({"listen": "localhost:65536"}, "listen", "0 to 65535"),
    ({"mode": "WriteBack"}, "mode: found 'WriteBack'", '"" or "ReadWrite" or "ReadOnly"'),
    ({"mode": "registry"}, "mode: found 'registry'", '"ReadWrite"'),
    ({"anonymous": "delete"}, "anonymous: found 'delete'", '"none" or "pull" or "push"'),
    (
        {"push": {"require_blobs": "yes"}},
        "push.require_blobs: found 'yes'",
        "true or false; write it without quotes",
    ),
    ({"push": {"expiry": 1}}, "push.expiry: found 1", "a number of seconds, at least 60"),
    ({"tags": {"version": ["("]}}, "tags.version: found '('", "regular expression"),
    ({"link": {"minimum_share": 0.6}}, "link.minimum_share: found 0.6", "a number from 0.01 to 0.5"),
    ({"link": {"caps": [{"mbit": -1}]}}, "link.caps[0].mbit: found -1", "a number, at least 0"),
    ({"link": {"caps": [{"mbit": 0}]}}, "link.caps[0].mbit: found 0", "with work sync or push"),
    ({"link": {"caps": [{"mbit": 0, "work": "interactive"}]}}, "link.caps[0].mbit", "wait for ever"),
    ({"link": {"caps": [{"mbit": 1, "work": "pull"}]}}, "link.caps[0].work: found 'pull'", '"interactive"'),
    ({"link": {"caps": [{"mbit": 1, "hours": "8-17"}]}}, "link.caps[0].hours: found '8-17'", "08:00-17:00"),
    ({"link": {"caps": [{"mbit": 1, "parent": "b"}]}}, "link.caps[0].parent: found 'b'", "default"),
    ({"link": {"caps": [{}]}}, "link.caps[0].mbit: missing", "must be given"),
    ({"parent": [A, A | {"name": "default"}]}, "parent[1].name: found 'default'", "another"),
    (
        {"parent": [{"url": "https://a", "credentials": {"password": "p", "password_env": "E"}}]},
        "parent[0].credentials",
        "one of",
    ),
]


def synchronising(row=None, **sync):
    """A file with a parent and a `[sync]` that can be kept, but for what is given."""
    return {
        "parent": [A],
        "sync": {"schedule": "0 22 * * *", "repositories": [{"name": "a", **(row or {})}], **sync},
    }


REFUSED_SYNC = [
    (synchronising(schedule="0 0 31 2 *"), "sync.schedule", "never fires"),
    (synchronising(schedule="nightly"), "sync.schedule", "5 fields"),
    (synchronising(window="P2D"), "sync.schedule: the window P2D is longer", "shorten the window"),
    (synchronising(window="6h"), "sync.schedule: the window '6h'", "such as PT4H"),
    (synchronising(schedule="", window="PT1H"), "sync.window: found 'PT1H'", "give the schedule"),
    (synchronising(misses="window"), "sync.misses: found 'window' without sync.window", "leave it out"),
    (synchronising(schedule=""), "sync.schedule: found nothing", "'0 22 * * *'"),
    (synchronising() | {"parent": []}, "sync.schedule: found without a parent", "[[parent]]"),
    (synchronising(message_ttl="x"), "sync.schedule: the message TTL 'x'", "such as PT4H"),
    (synchronising(caps=[{"mbit": 1}]), "sync.caps", "unknown key"),
    (synchronising(repositories=[]), "sync.repositories: found nothing", "[[sync.repositories]]"),
    (synchronising(prune_grace="1d"), "sync.prune_grace: found '1d'", "such as P1D"),
    (synchronising(prune_grace="PT0S"), "sync.prune_grace: found 'PT0S'", "ISO 8601"),
    (synchronising(referrers_every="week"), "sync.referrers_every: found 'week'", "such as P1D"),
    (synchronising(requests=-1), "sync.requests: found -1", "a whole number, at least 0"),
    (synchronising(reserve=1.5), "sync.reserve: found 1.5", "a number from 0 to 0.95"),
    (synchronising(prune="sometimes"), "sync.prune: found 'sometimes'", '"never" or "always"'),
    (synchronising(on_parent_delete="drop"), "sync.on_parent_delete: found 'drop'", '"keep" or "remove"'),
    (synchronising({"name": "A"}), "sync.repositories[0].name: found 'A'", "a repository"),
    (synchronising({"tag": "x"}), "sync.repositories[0].tag", "unknown key"),
    (synchronising({"name": "a/*?"}), "sync.repositories[0].name: found 'a/*?'", "** across"),
    (synchronising({"newer_than": "30d"}), "sync.repositories[0].newer_than: found '30d'", "such as P30D"),
    (synchronising({"parent": "b"}), "sync.repositories[0].parent: found 'b'", "name of a parent"),
    (synchronising({"regex": ["("]}), "sync.repositories[0].regex: found '('", "regular expression"),
    (synchronising({"exclude_regex": ["["]}), "sync.repositories[0].exclude_regex: found '['", "regular"),
    (synchronising({"platforms": ["linux"]}), "sync.repositories[0].platforms: found 'linux'", "linux/arm64"),
    (synchronising({"semver": ">>1"}), "sync.repositories[0].semver: found '>>1'", "1"),
    (
        synchronising() | {"parent": [A | {"name": "a"}, {"url": "https://b", "name": "b"}]},
        "sync.repositories[0].parent: found nothing",
        "name one",
    ),
    (
        synchronising() | {"parent": [], "gateway": {"connection_string": "x"}},
        "sync.schedule: found '0 22 * * *' beside a connection string",
        "the parent says it",
    ),
    (
        {"sync": {"message_ttl": "P3D"}, "gateway": {"connection_string": "x"}},
        "sync.message_ttl: found 'P3D' beside a connection string",
        "connected-registry update",
    ),
    (
        {"sync": {"repositories": [{"name": "a", "parent": "b"}]}, "gateway": {"connection_string": "x"}},
        "sync.repositories[0].parent: found 'b' beside a connection string",
        "leave the row out",
    ),
]


#: what each kind of key says of another kind of value
KINDS = [
    ({"data": 5}, "data: found 5; allowed: text in quotes: directory"),
    ({"parent": [A | {"mirrors": [5]}]}, "parent[0].mirrors[0]: found 5; allowed: text in quotes"),
    (
        {"parent": [A | {"mirrors": "x"}]},
        'parent[0].mirrors: found \'x\'; allowed: a list of texts, such as ["a", "b"]',
    ),
    ({"parent": "x"}, "parent: found 'x'; allowed: tables, each under [[parent]]"),
    ({"parent": ["x"]}, "parent[0]: found 'x'; allowed: a table, under [[parent]]"),
    (
        {"parent": [A | {"credentials": "x"}]},
        "parent[0].credentials: found ***; allowed: a table, under [[parent.credentials]]",
    ),
    ({"tags": {"floating_ttl": -1}}, "tags.floating_ttl: found -1; allowed: a number of seconds, at least 0"),
    (
        {"limits": {"head_timeout": 0}},
        "limits.head_timeout: found 0; allowed: a number of seconds, above 0, at most 600",
    ),
    ({"workers": 1.5}, "workers: found 1.5; allowed: a whole number from -1 to 256"),
    ({"control": {"tokens": "9"}}, "allowed: a whole number from 1 to 10000000; write it without quotes"),
]


@pytest.mark.parametrize(("table", "sentence"), KINDS)
def test_case_trust_27_a_refusal_is_a_sentence(table, sentence):
    with pytest.raises(ConfigInvalid) as refusal:
        from_table(table)
    assert str(refusal.value).endswith(sentence)


def test_case_trust_27_every_key_says_what_it_takes_without_the_names_of_types():
    rows = key_table()
    for key, *_ in rows:
        said = in_words(*kind_at(key.replace("[]", "[0]")), key)
        assert not re.search(r"\b(int|str|float|bool|object|array|None)\b|[<>]=|Literal", said), (key, said)


MEANT = [
    ({"listn": "x"}, "listn: unknown key; did you mean listen? allowed here: "),
    ({"log-level": "x"}, "log-level: unknown key; did you mean log_level? "),
    ({"tag": {}}, "tag: unknown key; did you mean tags? "),
    ({"floating_ttl": 1}, "floating_ttl: unknown key; did you mean tags.floating_ttl? "),
    ({"tags": {"flaoting_ttl": 1}}, "tags.flaoting_ttl: unknown key; did you mean tags.floating_ttl? "),
    ({"parent": [A | {"pasword": "x"}]}, "did you mean password under [[parent.credentials]]? "),
    (
        {"parent": [A | {"insecur": True}]},
        "parent[0].insecur: unknown key; did you mean parent[0].insecure? ",
    ),
    ({"colour": 1}, "colour: unknown key; allowed here: "),
]


@pytest.mark.parametrize(("table", "sentence"), MEANT)
def test_case_trust_27_the_key_that_was_meant_is_named(table, sentence):
    with pytest.raises(ConfigInvalid) as refusal:
        from_table(table)
    assert sentence in str(refusal.value)


MODES = [
    ({}, "root"),
    ({"mode": "ReadWrite"}, "root"),
    ({"mode": "Registry"}, "root"),
    ({"mode": "ReadOnly"}, "ReadOnly"),
    ({"parent": [{"url": "https://a"}]}, "ReadOnly"),
    ({"mode": "Mirror", "parent": [{"url": "https://a"}]}, "ReadOnly"),
    ({"mode": "ReadWrite", "parent": [{"url": "https://a"}]}, "ReadWrite"),
    ({"mode": "Registry", "parent": [{"url": "https://a"}]}, "ReadWrite"),
]


@pytest.mark.parametrize(("table", "mode"), MODES)
def test_the_mode_of_the_store(table, mode):
    config = from_table(table)
    assert config.store_mode == mode
    assert config.mode in ("", "ReadWrite", "ReadOnly")  # a former name is never shown
    assert config.anonymous == ""  # decided by what the node is: login.standing


@pytest.mark.parametrize(("table", "key", "allowed"), [*REFUSED, *REFUSED_SYNC])
def test_refusal_names_key_and_rule(table, key, allowed):
    with pytest.raises(ConfigInvalid) as refusal:
        from_table(table)
    assert key in str(refusal.value)
    assert allowed in str(refusal.value)


def test_a_synchronisation_that_can_be_kept_is_taken():
    assert from_table(synchronising(window="PT6H", prune_grace="P2W")).sync.window == "PT6H"


def test_password_is_never_shown():
    with pytest.raises(ConfigInvalid) as refusal:
        from_table({"parent": [{"url": "https://a", "credentials": {"password": 12345}}]})
    assert "12345" not in str(refusal.value)
    assert "password" in str(refusal.value)


@pytest.mark.parametrize("text", ["ftp://u:secret@h", "https://u:secret@h/?x", "https://u:secret@h/@/?x"])
def test_user_information_of_a_url_is_never_shown(text):
    with pytest.raises(ConfigInvalid) as refusal:
        from_table({"parent": [{"url": text}]})
    assert "parent[0].url: found '" in str(refusal.value)
    assert "//***@" in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("name", ["https://docker.io", "docker.io/", "docker.io/library", "docker io", ""])
def test_case_trust_4_a_name_that_no_client_can_mean_is_refused(name):
    for where, table in (
        ("gateway", {"gateway": {"namespaces": ["ghcr.io:443", "*", name]}}),
        ("parent[0]", {"parent": [A | {"namespaces": ["ghcr.io:443", "*", name]}]}),
    ):
        with pytest.raises(ConfigInvalid) as refused:
            from_table(table)
        assert (
            str(refused.value)
            == f"{where}.namespaces: found {name!r}; allowed: host[:port], or * for any name"
        )


def test_places_as_they_are_documented_are_taken():
    places = {
        "url": "https://registry.example:5000/path",
        "mirrors": ["https://[::1]:5000", "https://10.0.0.1", "https://a_b.c-d./x"],
        "realms": ["https://auth.example", "https://auth.example:8443/"],
        "proxy": "http://user:password@proxy.example:3128",
        "redirects": ["s3.internal", "s3.internal:9000", "[fd00::1]:9000", "10.0.0.1"],
        "hosts": ["node.example", "localhost", "10.0.0.1"],
    }
    (parent,) = from_table({"parent": [places]}).parent
    assert parent.url == places["url"]
    assert from_table({"parent": [{"url": "http://a", "insecure": True, "realms": ["http://b:1"]}]})


def test_defaults_are_a_valid_configuration():
    assert from_table({}) == Configuration()


def test_flags_override_the_file(tmp_path):
    file = tmp_path / "holdfast.toml"
    file.write_text('listen = "0.0.0.0:1"\nworkers = 3\n[[parent]]\nurl = "https://a"\n')
    config = load(file, {"listen": "127.0.0.1:2"})
    assert (config.listen, config.workers, config.parent[0].url) == ("127.0.0.1:2", 3, "https://a")


@pytest.mark.parametrize("text", ["x = ", "\x00"])
def test_a_file_that_is_not_toml(tmp_path, text):
    file = tmp_path / "holdfast.toml"
    file.write_text(text)
    with pytest.raises(ConfigInvalid, match="not TOML"):
        load(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "address"),
    [("localhost:5000", ("localhost", 5000)), (":0", ("0.0.0.0", 0)), ("[::1]:5", ("::1", 5))],
)
def test_listen_address(text, address):
    assert listen_address(text) == address


def test_every_key_is_documented():
    rows = key_table()
    assert len(rows) > 60
    assert all(meaning for _, _, _, _, meaning in rows), [key for key, *_, meaning in rows if not meaning]
