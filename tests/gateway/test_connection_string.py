"""What is emitted is read back as it was, and every malformed form is refused by name, without the password."""

from __future__ import annotations

import string

import pytest
from holdfast.gateway.connection_string import (
    KEYS,
    ConnectionString,
    ConnectionStringInvalid,
    emit,
    parse,
)
from hypothesis import example, given
from hypothesis import strategies as st

PLANT = ConnectionString("plantA", "plantA", "a+b/c==", "root.example:8443", "https")
TEXT = (
    "ConnectedRegistryName=plantA;SyncTokenName=plantA;SyncTokenPassword=a+b/c==;"
    "ParentGatewayEndpoint=root.example:8443;ParentEndpointProtocol=https"
)
LETTERS = string.ascii_letters + string.digits

names = st.builds(
    str.__add__, st.sampled_from(string.ascii_letters), st.text(LETTERS, min_size=4, max_size=39)
)
hosts = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z][a-z0-9]{0,9}){0,3}", fullmatch=True),
    st.sampled_from(["127.0.0.1", "[::1]", "[fe80::1]"]),
)
endpoints = st.one_of(hosts, st.builds("{}:{}".format, hosts, st.integers(1, 65535)))
passwords = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp"), exclude_characters=";\ufeff"),
    min_size=1,
    max_size=200,
).filter(lambda text: text == text.strip() and not text.startswith("$"))
strings = st.builds(ConnectionString, names, names, passwords, endpoints, st.sampled_from(["http", "https"]))


def without(key: str) -> str:
    """TEXT less one key."""
    return ";".join(piece for piece in TEXT.split(";") if not piece.startswith(key))


def with_value(key: str, value: str) -> str:
    """TEXT with another value of one key."""
    return f"{without(key)};{key}={value}"


def test_the_original_form_is_read_and_written() -> None:
    assert parse(TEXT) == PLANT
    assert emit(PLANT) == TEXT
    assert PLANT.url == "https://root.example:8443"


@given(strings)
@example(ConnectionString("abcde", "t", "===;"[:3], "h", "http"))
@example(ConnectionString("abcde", "t", "=starts=with=it", "h:1", "http"))
@example(ConnectionString("abcde", "t", "pa$$word$HOME", "h:1", "http"))
def test_what_is_emitted_is_read_back(said: ConnectionString) -> None:
    assert parse(emit(said), {"HOME": "elsewhere"}) == said


@given(st.text(max_size=300))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        said = parse(text)
    except ConnectionStringInvalid:
        return
    assert parse(emit(said)) == said


@given(strings, st.data())
def test_a_key_that_is_lost_is_named(said: ConnectionString, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(list(KEYS)))
    text = ";".join(piece for piece in emit(said).split(";") if not piece.startswith(f"{key}="))
    with pytest.raises(ConnectionStringInvalid, match=f"^{key}: missing"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [f"\ufeff{TEXT}", f"{TEXT}\r\n", f"{TEXT};", TEXT.replace(";", ";\r\n"), f"  {TEXT}\n\n", f"{TEXT};\r\n"],
    ids=["mark", "windows", "semicolon", "lines", "blanks", "both"],
)
def test_what_editors_leave_is_dropped(text: str) -> None:
    assert parse(text) == PLANT


def test_references_are_looked_up() -> None:
    text = with_value("ParentGatewayEndpoint", "$IOTEDGE_PARENTHOSTNAME:8000")
    assert parse(text, {"IOTEDGE_PARENTHOSTNAME": "upper"}).endpoint == "upper:8000"
    text = with_value("SyncTokenPassword", "${SYNC}")
    assert parse(text, {"SYNC": "s3cret\n"}).password == "s3cret"
    assert parse(with_value("SyncTokenPassword", "x$SYNC"), {"SYNC": "s3cret"}).password == "x$SYNC"


def test_the_endpoint_of_the_environment_goes_first() -> None:
    assert parse(TEXT, {"UP": "upper"}, "$UP:1").endpoint == "upper:1"
    assert parse(without("ParentGatewayEndpoint"), {}, "upper").endpoint == "upper"


REFUSED = [
    ("", "empty connection string"),
    ("\ufeff\r\n", "empty connection string"),
    ("x" * 9000, "9000 characters"),
    (f"{TEXT};nonsense", "piece 6 has no `=`"),
    (TEXT.replace(";", ";;"), "piece 2 has no `=`"),
    (f"{TEXT};Colour=red", "^Colour: unknown key; the keys are ConnectedRegistryName"),
    (TEXT.replace("SyncTokenName", "synctokenname"), "^synctokenname: unknown key"),
    (f"{TEXT};SyncTokenName=plantA", "^SyncTokenName: found twice"),
    (with_value("SyncTokenPassword", ""), "^SyncTokenPassword: found nothing"),
    (f"{TEXT};ManagedIdentityClientId=1234", "^ManagedIdentityClientId: found beside a sync token"),
    (
        "ConnectedRegistryName=plantA;ManagedIdentityClientId=1234;ParentGatewayEndpoint=h;ParentEndpointProtocol=https",
        "^ManagedIdentityClientId: managed identities are Azure's",
    ),
    (with_value("ConnectedRegistryName", "abcd"), "^ConnectedRegistryName: found 'abcd'; allowed: 5 to 40"),
    (with_value("ConnectedRegistryName", "plant-a"), "^ConnectedRegistryName"),
    (with_value("ConnectedRegistryName", "1plant"), "^ConnectedRegistryName"),
    (with_value("SyncTokenName", "a:b"), "^SyncTokenName: found 'a:b'"),
    (with_value("ParentGatewayEndpoint", "https://h"), "^ParentGatewayEndpoint: found 'https://h'"),
    (with_value("ParentGatewayEndpoint", "h/v2"), "^ParentGatewayEndpoint"),
    (with_value("ParentGatewayEndpoint", "h:0"), "^ParentGatewayEndpoint"),
    (with_value("ParentGatewayEndpoint", "h:65536"), "^ParentGatewayEndpoint"),
    (with_value("ParentGatewayEndpoint", "u:p@h"), "^ParentGatewayEndpoint: found 'h'"),
    (with_value("ParentGatewayEndpoint", "[::1"), "^ParentGatewayEndpoint"),
    (
        with_value("ParentEndpointProtocol", "ftp"),
        "^ParentEndpointProtocol: found 'ftp'; allowed: http or https",
    ),
    (with_value("ParentGatewayEndpoint", "$NOWHERE"), r"^ParentGatewayEndpoint: refers to \$NOWHERE"),
    (with_value("SyncTokenPassword", "a\x01b"), "^SyncTokenPassword: holds a control character"),
    (with_value("SyncTokenPassword", "p" * 1025), "^SyncTokenPassword: found none, or over 1024"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_malformed_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(ConnectionStringInvalid, match=why) as refusal:
        parse(text, {})
    assert "a+b/c==" not in str(refusal.value)


@pytest.mark.parametrize("password", ["a;b", " a", "a ", "$HOME", "${HOME}", "a\nb", ""])
def test_a_password_that_no_string_can_carry_is_refused(password: str) -> None:
    with pytest.raises(ConnectionStringInvalid, match=r"^SyncTokenPassword"):
        emit(ConnectionString("plantA", "plantA", password, "h"))


def test_the_password_is_never_shown() -> None:
    assert "a+b/c==" not in repr(PLANT)
    assert "a+b/c==" not in f"{PLANT}"
