"""Bodies and queries: every refusal names the field, what was found and what is allowed."""

import pytest
from holdfast.admin import body
from holdfast.admin.reading import flag, page_size, read_query, read_struct, text
from holdfast.errors import ControlInvalid, QueryInvalid

REFUSED = [
    (body.NewRegistry, b"", "the body is no JSON"),
    (body.NewRegistry, b"{", "the body is no JSON"),
    (body.NewRegistry, b"[]", "the body: found a list; allowed: object"),
    (body.NewRegistry, b"{}", "properties: missing; it must be given"),
    (body.NewRegistry, b'{"properties":{}}', "properties.mode: missing"),
    (
        body.NewRegistry,
        b'{"properties":{"mode":"x"}}',
        "properties.mode: found 'x'; allowed: ReadWrite, ReadOnly",
    ),
    (
        body.NewRegistry,
        b'{"properties":{"mode":7}}',
        "properties.mode: found 7; allowed: ReadWrite, ReadOnly",
    ),
    (body.NewRegistry, b'{"properties":{"mode":null}}', "properties.mode: found null; allowed:"),
    (body.NewRegistry, b'{"properties":{"mode":"ReadOnly","mode":"ReadWrite"}}', "no JSON that can be used"),
    (
        body.NewRegistry,
        b'{"properties":{"mode":"ReadOnly","colour":1}}',
        "properties.colour: unknown; allowed here: c",
    ),
    (body.NewRegistry, b'{"properties":{"mode":"ReadOnly","version":"1"}}', "properties.version: read-only"),
    (
        body.NewRegistry,
        b'{"properties":{"mode":"ReadOnly","clientTokenIds":["a",5]}}',
        "properties.clientTokenIds[1]: found 5; allowed: str",
    ),
    (
        body.NewRegistry,
        b'{"properties":{"mode":"ReadOnly","parent":{"syncProperties":{"lastSyncTime":"x"}}}}',
        "properties.parent.syncProperties.lastSyncTime: read-only",
    ),
    (
        body.NewRegistry,
        b'{"properties":{"mode":"ReadOnly","logging":{"logLevel":"Loud"}}}',
        "properties.logging.logLevel: found 'Loud'; allowed: Debug, Information, Warning, Error, None",
    ),
    (body.RegistryChange, b'{"properties":{"mode":"ReadWrite"}}', "properties.mode: the mode cannot change"),
    (
        body.RegistryChange,
        b'{"properties":{"parent":{}}}',
        "properties.parent: the parent and the sync token cannot",
    ),
    (
        body.RegistryChange,
        b'{"properties":{"syncProperties":{"tokenId":"x"}}}',
        "properties.syncProperties.tokenId: the sync token cannot change",
    ),
    (body.RegistryChange, b'{"name":"x"}', "name: read-only"),
    (body.CredentialsGone, b'{"passwords":[]}', "passwords: found a list; allowed:"),
    (
        body.CredentialsGone,
        b'{"passwords":["password3"]}',
        "passwords[0]: found 'password3'; allowed: password1",
    ),
    (
        body.NewToken,
        b'{"properties":{"expirationInDays":0}}',
        "properties.expirationInDays: found 0; allowed: int >= 1",
    ),
    (body.SettingsWanted, b'{"parentProtocol":"ftp"}', "parentProtocol: found 'ftp'; allowed: http, https"),
    (
        body.SettingsWanted,
        b'{"parentProtocol":"http","generatePassword":3}',
        "generatePassword: found 3; allowed: 1, 2",
    ),
    (body.NewScopeMap, b'{"properties":{"actions":"x"}}', "properties.actions: found 'x'; allowed: array"),
    (
        body.NewScopeMap,
        b'{"properties":{"actions":[],"description":"' + b"d" * 257 + b'"}}',
        "properties.description: found 'ddd",
    ),
]


@pytest.mark.parametrize(("kind", "content", "said"), REFUSED)
def test_refused(kind, content, said):
    with pytest.raises(ControlInvalid) as refused:
        read_struct(content, kind)
    assert said in refused.value.message, refused.value.message


def test_the_detail_is_the_field():
    with pytest.raises(ControlInvalid) as refused:
        read_struct(b'{"properties":{"mode":"x"}}', body.NewRegistry)
    assert refused.value.detail == "properties.mode"


def test_defaults_are_the_originals():
    made = read_struct(b'{"properties":{"mode":"ReadOnly"}}', body.NewRegistry).properties
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
