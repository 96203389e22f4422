"""Bodies and queries: every refusal names the field, what was found and what is allowed."""

import pytest
from holdfast.admin import request_bodies
from holdfast.admin.request_reading import flag, in_words, page_size, read_query, read_struct, text
from holdfast.errors import ControlInvalid, QueryInvalid

REFUSED = [
    (request_bodies.NewRegistry, b"", "the body is no JSON"),
    (request_bodies.NewRegistry, b"{", "the body is no JSON"),
    (request_bodies.NewRegistry, b"[]", "the body: found a list; allowed: an object"),
    (request_bodies.NewRegistry, b"{}", "properties: missing; it must be given"),
    (request_bodies.NewRegistry, b'{"properties":{}}', "properties.mode: missing"),
    (
        request_bodies.NewRegistry,
        b'{"properties":{"mode":"x"}}',
        "properties.mode: found 'x'; allowed: ReadWrite, ReadOnly",
    ),
    (
        request_bodies.NewRegistry,
        b'{"properties":{"mode":7}}',
        "properties.mode: found 7; allowed: ReadWrite, ReadOnly",
    ),
    (request_bodies.NewRegistry, b'{"properties":{"mode":null}}', "properties.mode: found null; allowed:"),
    (
        request_bodies.NewRegistry,
        b'{"properties":{"mode":"ReadOnly","mode":"ReadWrite"}}',
        "no JSON that can be used",
    ),
    (
        request_bodies.NewRegistry,
        b'{"properties":{"mode":"ReadOnly","colour":1}}',
        "properties.colour: unknown; allowed here: c",
    ),
    (
        request_bodies.NewRegistry,
        b'{"properties":{"mode":"ReadOnly","version":"1"}}',
        "properties.version: read-only",
    ),
    (
        request_bodies.NewRegistry,
        b'{"properties":{"mode":"ReadOnly","clientTokenIds":["a",5]}}',
        "properties.clientTokenIds[1]: found 5; allowed: a text",
    ),
    (
        request_bodies.NewRegistry,
        b'{"properties":{"mode":"ReadOnly","parent":{"syncProperties":{"lastSyncTime":"x"}}}}',
        "properties.parent.syncProperties.lastSyncTime: read-only",
    ),
    (
        request_bodies.NewRegistry,
        b'{"properties":{"mode":"ReadOnly","logging":{"logLevel":"Loud"}}}',
        "properties.logging.logLevel: found 'Loud'; allowed: Debug, Information, Warning, Error, None",
    ),
    (
        request_bodies.RegistryChange,
        b'{"properties":{"mode":"ReadWrite"}}',
        "properties.mode: the mode cannot change",
    ),
    (
        request_bodies.RegistryChange,
        b'{"properties":{"parent":{}}}',
        "properties.parent: the parent and the sync token cannot",
    ),
    (
        request_bodies.RegistryChange,
        b'{"properties":{"syncProperties":{"tokenId":"x"}}}',
        "properties.syncProperties.tokenId: the sync token cannot change",
    ),
    (request_bodies.RegistryChange, b'{"name":"x"}', "name: read-only"),
    (request_bodies.CredentialsGone, b'{"passwords":[]}', "passwords: found a list; allowed:"),
    (
        request_bodies.CredentialsGone,
        b'{"passwords":["password3"]}',
        "passwords[0]: found 'password3'; allowed: password1",
    ),
    (
        request_bodies.NewToken,
        b'{"properties":{"expirationInDays":0}}',
        "properties.expirationInDays: found 0; allowed: a whole number, at least 1",
    ),
    (
        request_bodies.SettingsWanted,
        b'{"parentProtocol":"ftp"}',
        "parentProtocol: found 'ftp'; allowed: http, https",
    ),
    (
        request_bodies.SettingsWanted,
        b'{"parentProtocol":"http","generatePassword":3}',
        "generatePassword: found 3; allowed: 1, 2",
    ),
    (
        request_bodies.NewScopeMap,
        b'{"properties":{"actions":"x"}}',
        "properties.actions: found 'x'; allowed: a list",
    ),
    (
        request_bodies.NewScopeMap,
        b'{"properties":{"actions":[],"description":"' + b"d" * 257 + b'"}}',
        "properties.description: found 'ddd",
    ),
]


@pytest.mark.parametrize(("kind", "content", "said"), REFUSED)
def test_refused(kind, content, said):
    with pytest.raises(ControlInvalid) as refused:
        read_struct(content, kind)
    assert said in refused.value.message, refused.value.message


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ("`int | null`", "a whole number or null"),
        ("`str` of length <= 3", "a text of at most 3 characters"),
        ("`array` of length >= 2", "a list of at least 2 entries"),
        ("`int` <= 5", "a whole number, at most 5"),
        ("`float` > 0.5", "a number, above 0.5"),
        ("`bool`", "true or false"),
    ],
)
def test_case_trust_27_what_is_allowed_is_said_without_the_names_of_types(expected, words):
    assert in_words(expected) == words


def test_the_detail_is_the_field():
    with pytest.raises(ControlInvalid) as refused:
        read_struct(b'{"properties":{"mode":"x"}}', request_bodies.NewRegistry)
    assert refused.value.detail == "properties.mode"


def test_defaults_are_the_originals():
    made = read_struct(b'{"properties":{"mode":"ReadOnly"}}', request_bodies.NewRegistry).properties
    sync = made.parent.sync_properties
    assert (sync.schedule, sync.sync_window, sync.message_ttl) == ("* * * * *", None, "P2D")
    assert (made.logging.log_level, made.logging.audit_log_status) == ("Information", "Disabled")
    assert made.garbage_collection.enabled


def test_a_query():
    known = {"$top": page_size, "dryRun": flag, "$skipToken": text}
    pairs = (("dryRun", "true"), ("$top", "5"))
    assert read_query(pairs, known) == {"dryRun": True, "$top": 5}
    for pair, said in [
        (("colour", "1"), "unknown query parameter; allowed here: $skipToken, $top, dryRun"),
        (("dryRun", "yes"), "allowed: true, false"),
        (("$top", "0"), "1 to 1000"),
        (("$top", "1001"), "1 to 1000"),
        (("$top", "1_0"), "1 to 1000"),
        (("$top", "٣"), "1 to 1000"),
        (("$skipToken", ""), "1 to 512"),
    ]:
        with pytest.raises(QueryInvalid) as refused:
            read_query((pair,), known)
        assert said in refused.value.message
    with pytest.raises(QueryInvalid, match="given twice"):
        read_query((("dryRun", "true"), ("dryRun", "true")), known)
