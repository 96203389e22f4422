"""A parent that wants our credentials, or wants us to talk to our own network (security.md S1-S8)."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import traceback
from pathlib import Path
from typing import Any

import pytest
from aiohttp.client_proto import ResponseHandler
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from holdfast.config import CredentialsSection
from holdfast.errors import ParentBroken, ParentErred, ParentFailed, ParentNotFound, ParentUnreachable
from holdfast.http.address import AddressPolicy, CheckingResolver, may_connect
from holdfast.http.redirect import Hop, headers_for, next_hop, origin
from holdfast.http.transport import INTERIM_ANSWERS, BoundedHandler
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent, HeldContent
from holdfast.testing.scripted_parent import ScriptedParent
from support.fills import drain, site
from support.logs import captured_logs
from support.parent_cases import client_of, read_all
from yarl import URL

pytestmark = pytest.mark.loop("asyncio")

BLOB = GeneratedContent(50_000, "hostile")
BODY = BLOB.read(0, BLOB.size)
LOGIN = CredentialsSection(username="canary-user", password="canary-password")

REALMS = [
    "http://127.0.0.1:{thief}/token",
    "http://localhost:{thief}/token",
    "https://127.0.0.1:{home}/token",
    "http://user:word@127.0.0.1:{home}/token",
    "http://127.0.0.1:{home}@127.0.0.1:{thief}/token",
    "http://127.0.0.1:{home}\\@127.0.0.1:{thief}/token",
    "http://2130706433:{thief}/token",
    "http://0177.0.0.1:{thief}/token",
    "http://0x7f.1:{thief}/token",
    "http://[::ffff:127.0.0.1]:{thief}/token",
    "http://127.0.0.1.evil.example:{thief}/token",
    "https://myregistry.azurecr.io.attacker.example/token",
    "http://\xd0\xb0uth.example/token",
    "//127.0.0.1:{thief}/token",
    "/token",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{thief}/",
    "http://127.0.0.1:{home}:80/token",
    "http://127.0.0.1:99999/token",
    "http:///token",
    "",
]


def locked(scripted: ScriptedParent) -> None:
    """A blob behind Bearer with a login."""
    scripted.add_blob("a", BLOB)
    scripted.door.scheme = "bearer"
    scripted.door.username, scripted.door.password = "canary-user", "canary-password"


def with_credentials(*servers: ScriptedParent) -> list[str]:
    """Paths of requests that carried a credential, in a header or in a form."""
    return [
        request.path
        for server in servers
        for request in server.log
        if request.header("authorization") or b"canary" in request.body or "canary" in request.query
    ]


@pytest.mark.parametrize("realm", REALMS)
@pytest.mark.parametrize("scheme", ["Bearer", "Basic realm=x, Bearer"])
async def test_s1_a_realm_elsewhere_gets_nothing(realm: str, scheme: str) -> None:
    async with ScriptedParent() as scripted:
        locked(scripted)
        async with ScriptedParent() as thief:
            place = realm.format(home=scripted.port, thief=thief.port)
            scripted.door.challenges = [f'{scheme} realm="{place}",service="s"']
            async with client_of(scripted, credentials=LOGIN) as parent:
                with pytest.raises(ParentFailed) as refused:
                    await read_all(parent, "a", BLOB.digest)
            assert thief.connections_made == 0
            assert scripted.count(path="token") == 0
            if scheme == "Bearer":
                assert isinstance(refused.value, ParentBroken)
                assert with_credentials(scripted, thief) == []


async def test_s1_a_realm_that_changes_later_gets_nothing() -> None:
    async with ScriptedParent() as scripted:
        locked(scripted)
        async with ScriptedParent() as thief, client_of(scripted, credentials=LOGIN) as parent:
            await read_all(parent, "a", BLOB.digest)
            scripted.door.expire()
            scripted.door.realm = f"{thief.url}/token"
            with pytest.raises(ParentBroken):
                await read_all(parent, "a", BLOB.digest)
            assert thief.connections_made == 0


async def test_s1_a_listed_realm_is_asked() -> None:
    async with ScriptedParent() as scripted:
        locked(scripted)
        async with ScriptedParent() as auth:
            scripted.door.realm = f"{auth.url}/token"
            scripted.door.tokens = auth.door.tokens
            async with client_of(scripted, credentials=LOGIN, realms=(auth.url,)) as parent:
                assert await read_all(parent, "a", BLOB.digest) == BODY
            assert auth.count("GET", "/token") == 1


# ---- S2: addresses


@pytest.mark.parametrize(
    ("text", "configured", "allowed"),
    [
        ("93.184.216.34", False, True),
        ("2606:4700::1111", False, True),
        ("127.0.0.1", False, False),
        ("127.0.0.1", True, True),
        ("10.1.2.3", False, False),
        ("10.1.2.3", True, True),
        ("172.16.0.1", False, False),
        ("172.32.0.1", False, True),
        ("192.168.1.1", False, False),
        ("100.64.0.1", False, False),
        ("100.128.0.1", False, True),
        ("0.0.0.0", False, False),
        ("255.255.255.255", False, False),
        ("169.254.169.254", False, False),
        ("169.254.169.254", True, False),
        ("168.63.129.16", True, False),
        ("100.100.100.200", True, False),
        ("fd00:ec2::254", True, False),
        ("224.0.0.1", True, False),
        ("::1", False, False),
        ("::1", True, True),
        ("::", False, False),
        ("fe80::1", True, False),
        ("fc00::1", False, False),
        ("::ffff:127.0.0.1", False, False),
        ("::ffff:169.254.169.254", True, False),
        ("::ffff:93.184.216.34", False, True),
        ("64:ff9b::7f00:1", False, False),
        ("64:ff9b::a9fe:a9fe", True, False),
        ("2002:7f00:1::", False, False),
        ("::127.0.0.1", False, False),
    ],
)
def test_s2_addresses(text: str, configured: bool, allowed: bool) -> None:
    assert may_connect(ipaddress.ip_address(text), configured=configured) is allowed


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "0.0.0.0",
    ],
)
async def test_s2_a_redirect_to_this_machine_under_another_name_is_refused(host: str) -> None:
    async with ScriptedParent() as scripted:
        scripted.add_blob("a", BLOB)
        async with ScriptedParent() as inside:
            scripted.script(ScriptedFault(redirect=f"http://{host}:{inside.port}{{path}}", times=-1))
            async with client_of(scripted) as parent:
                with pytest.raises(ParentBroken):
                    await read_all(parent, "a", BLOB.digest)
            assert inside.connections_made == 0
        assert scripted.count() == 1


@pytest.mark.parametrize(
    "answers", [["169.254.169.254"], ["10.0.0.7"], ["::ffff:10.0.0.7"], ["127.0.0.1", "fe80::1%eth0"]]
)
async def test_s2_a_name_that_resolves_inside_is_refused(answers: list[str]) -> None:
    async def lookup(host: str, port: int, family: int) -> list[str]:
        return answers if host == "cdn.example" else [host]

    async with ScriptedParent() as scripted:
        scripted.add_blob("a", BLOB)
        scripted.script(ScriptedFault(redirect="http://cdn.example{path}", times=-1))
        async with client_of(scripted, lookup=lookup) as parent:
            with pytest.raises(ParentBroken, match="private"):
                await read_all(parent, "a", BLOB.digest)


async def test_s2_what_was_checked_is_what_is_connected_to() -> None:
    """A rebinding name: public when checked, private when looked up again. It is looked up once."""
    answers = iter([["93.184.216.34", "10.0.0.1"], ["127.0.0.1"]])

    async def lookup(host: str, port: int, family: int) -> list[str]:
        return next(answers)

    resolver = CheckingResolver(AddressPolicy([]), lookup)
    (found,) = await resolver.resolve("rebind.example", 443)
    assert found["host"] == "93.184.216.34"
    with pytest.raises(ParentBroken):
        await resolver.resolve("rebind.example", 443)


async def test_s2_one_lookup_a_connection() -> None:
    asked: list[str] = []

    async def lookup(host: str, port: int, family: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.255.255.1"]

    async with ScriptedParent() as scripted:
        scripted.add_blob("a", BLOB)
        async with client_of(f"http://registry.example:{scripted.port}", lookup=lookup) as parent:
            assert await read_all(parent, "a", BLOB.digest) == BODY
            assert await read_all(parent, "a", BLOB.digest) == BODY
        assert asked == ["registry.example"]


async def test_s2_a_private_host_that_is_configured_may_be_redirected_to() -> None:
    async with ScriptedParent() as scripted:
        scripted.add_blob("a", BLOB)
        async with ScriptedParent() as store:
            store.add_blob("a", BLOB)
            scripted.script(ScriptedFault(redirect=f"http://LocalHost:{store.port}{{path}}", times=-1))
            async with client_of(scripted, redirects=(f"localhost:{store.port}",)) as parent:
                assert await read_all(parent, "a", BLOB.digest) == BODY
            async with client_of(scripted, redirects=(f"localhost:{store.port + 1}",)) as parent:
                with pytest.raises(ParentBroken):
                    await read_all(parent, "a", BLOB.digest)


# ---- S3: redirects


async def test_case_65_s3_headers_at_each_hop() -> None:
    """home → home/hop → away → back home: credentials on the first two only."""
    async with ScriptedParent() as scripted:
        locked(scripted)
        async with ScriptedParent() as away:
            scripted.script(
                ScriptedFault(path="/blobs/", skip=1, redirect="/hop{path}"),
                ScriptedFault(path="^/hop/", redirect=f"{away.url}/store{{path}}"),
            )
            away.script(ScriptedFault(path="/store/", redirect=f"{scripted.url}/last"))
            scripted.script(ScriptedFault(path="/last", status=200, body="x" * BLOB.size))
            async with client_of(scripted, credentials=LOGIN) as parent:
                body = await read_all(parent, "a", BLOB.digest)
            assert len(body) == BLOB.size
            chain = [(r.path.split("/")[1], r.header("authorization") is not None) for r in scripted.log]
            assert chain == [("v2", False), ("token", True), ("v2", True), ("hop", True), ("last", False)]
            allowed = {"host", "accept", "accept-encoding", "user-agent", "range", "if-range"}
            assert {name for name, _ in away.log[0].headers} <= allowed
            assert with_credentials(away) == []


async def test_case_65_s3_credentials_stay_away_on_every_hop_at_the_other_origin() -> None:
    async with ScriptedParent() as scripted:
        locked(scripted)
        async with ScriptedParent() as away:
            scripted.script(ScriptedFault(path="/blobs/", skip=1, redirect=f"{away.url}/first"))
            away.script(
                ScriptedFault(path="/first", redirect="/second"),
                ScriptedFault(path="/second", redirect=f"{away.url}/third"),
                ScriptedFault(path="/third", status=200, body="x"),
            )
            async with client_of(scripted, credentials=LOGIN) as parent:
                assert await read_all(parent, "a", BLOB.digest) == b"x"
            assert [request.path for request in away.log] == ["/first", "/second", "/third"]
            assert with_credentials(away) == []


async def test_s3_a_range_goes_along_the_redirect() -> None:
    async with ScriptedParent() as scripted:
        scripted.add_blob("a", BLOB)
        async with ScriptedParent() as store:
            store.add_blob("a", BLOB)
            scripted.script(ScriptedFault(redirect=f"{store.url}{{path}}?X-Sig=a%2Fb%2B", times=-1))
            async with client_of(scripted) as parent:
                assert await read_all(parent, "a", BLOB.digest, start=7, etag='"e"') == BODY
                assert await read_all(parent, "a", BLOB.digest, start=7) == BODY[7:]
            assert store.log[0].header("range") == "bytes=7-"
            assert store.log[0].header("if-range") == '"e"'
            assert store.log[0].query == "X-Sig=a%2Fb%2B"


@pytest.mark.parametrize(("hops", "good"), [(1, True), (5, True), (6, False), (1000, False)])
async def test_s3_at_most_five_hops(hops: int, good: bool) -> None:
    async with ScriptedParent() as scripted:
        scripted.add_blob("a", BLOB)
        scripted.script(ScriptedFault(redirect="{path}", times=hops))
        async with client_of(scripted) as parent:
            if good:
                assert await read_all(parent, "a", BLOB.digest) == BODY
            else:
                with pytest.raises(ParentBroken, match="more than 5"):
                    await read_all(parent, "a", BLOB.digest)
                assert scripted.count() == 6


@pytest.mark.parametrize(
    ("start", "location"),
    [
        ("https://a.example/v2/", "http://a.example/x"),
        ("https://a.example/v2/", "http://b.example/x"),
        ("http://a.example/v2/", "http://user:word@a.example/x"),
        ("http://a.example/v2/", "ftp://a.example/x"),
        ("http://a.example/v2/", "file:///etc/passwd"),
        ("http://a.example/v2/", "http://a.example:99999/x"),
        ("http://a.example/v2/", "http://a.example/x y"),
        ("http://a.example/v2/", "http://a.example/x\r\nHost: b"),
        ("http://a.example/v2/", "http://a.ex\xe4mple/"),
        ("http://a.example/v2/", "x" * 9000),
        ("http://a.example/v2/", ""),
        ("http://a.example/v2/", None),
    ],
)
def test_s3_locations_that_end_the_chain(start: str, location: str | None) -> None:
    with pytest.raises(ParentBroken):
        next_hop(Hop(URL(start)), location)


@pytest.mark.parametrize(
    ("location", "home"),
    [
        ("/x", True),
        ("x?y=%2F", True),
        ("https://a.example/x", True),
        ("https://a.example:443/x", True),
        ("https://A.EXAMPLE/x", True),
        ("https://a.example:444/x", False),
        ("https://a.example.evil/x", False),
        ("https://b.a.example/x", False),
        ("//b.example/x", False),
    ],
)
def test_s3_the_origin_decides_what_goes_along(location: str, home: bool) -> None:
    hop = next_hop(Hop(URL("https://a.example/v2/")), location)
    sent = headers_for(hop, {"Authorization": "s", "Cookie": "s", "X-Own": "s", "Range": "bytes=1-"})
    assert (hop.home, set(sent) == {"Range"}) == (home, not home)
    assert next_hop(hop, "/again").home is home
    back = next_hop(hop, "https://a.example/")
    assert back.home is home
    assert origin(back.url) == "https://a.example:443"


async def test_an_expired_presigned_redirect_goes_back_to_the_origin() -> None:
    async with ScriptedParent() as scripted:
        scripted.add_blob("a", BLOB)
        async with ScriptedParent() as store:
            store.add_blob("a", BLOB)
            scripted.script(ScriptedFault(redirect=f"{store.url}{{path}}?sig=canary", times=-1))
            store.script(ScriptedFault(status=403, times=1))
            async with client_of(scripted) as parent:
                assert await read_all(parent, "a", BLOB.digest) == BODY
                assert (scripted.count(), store.count()) == (2, 2)
                store.script(ScriptedFault(status=403, times=-1))
                with pytest.raises(ParentErred):
                    await read_all(parent, "a", BLOB.digest)
                assert parent.state != "offline"


async def test_a_storage_host_that_is_away_does_not_make_the_parent_offline() -> None:
    async with ScriptedParent() as scripted:
        scripted.add_blob("a", BLOB)
        async with ScriptedParent() as store:
            scripted.script(ScriptedFault(redirect=f"{store.url}{{path}}", times=-1))
            await store.stop()
            async with client_of(scripted) as parent:
                with pytest.raises(ParentErred):
                    await read_all(parent, "a", BLOB.digest)
                assert parent.state == "degraded"


# ---- S8: TLS


class Authority:
    """A certificate authority of a test."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "holdfast test")])
        self.certificate = self._sign(self.name, self.key, [], days=1, authority=True)

    def write(self, folder: Path) -> str:
        """The authority's certificate as a file."""
        file = folder / f"ca-{id(self)}.pem"
        file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return str(file)

    def server(self, folder: Path, days: int = 1) -> ssl.SSLContext:
        """A server's context for 127.0.0.1 and localhost."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        certificate = self._sign(x509.Name([]), key, names, days=days, authority=False)
        file = folder / f"server-{id(key)}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: list[x509.GeneralName],
        *,
        days: int,
        authority: bool,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return builder.sign(self.key, hashes.SHA256())


async def test_s8_own_ca_other_ca_and_expired(tmp_path: Path) -> None:
    own, other = Authority(), Authority()
    async with ScriptedParent(tls=own.server(tmp_path)) as scripted:
        scripted.add_blob("a", BLOB)
        async with client_of(scripted, insecure=False, ca=own.write(tmp_path)) as parent:
            assert await read_all(parent, "a", BLOB.digest) == BODY
        for ca in (other.write(tmp_path), ""):
            scripted.reset_counts()
            async with client_of(scripted, insecure=False, ca=ca) as parent:
                with pytest.raises(ParentBroken, match="TLS"):
                    await read_all(parent, "a", BLOB.digest)
            assert scripted.count() == 0
        async with client_of(scripted, insecure=True) as parent:
            assert await read_all(parent, "a", BLOB.digest) == BODY
    async with (
        ScriptedParent(tls=own.server(tmp_path, days=-1)) as expired,
        client_of(expired, insecure=False, ca=own.write(tmp_path)) as parent,
    ):
        with pytest.raises(ParentBroken, match="expired"):
            await read_all(parent, "a", BLOB.digest)


async def test_https_to_a_parent_that_speaks_http_says_so() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with client_of(f"https://127.0.0.1:{port}") as parent:
            with pytest.raises(ParentBroken, match="seems to speak http, not https"):
                await read_all(parent, "a", BLOB.digest)


async def test_s8_insecure_does_not_spread_to_redirect_targets() -> None:
    async with client_of("https://registry.example") as parent:
        own = parent._transport._tls_for(URL("https://registry.example/v2/"))
        foreign = parent._transport._tls_for(URL("https://cdn.example/x"))
    assert isinstance(own, ssl.SSLContext)
    assert isinstance(foreign, ssl.SSLContext)
    assert (own.verify_mode, own.check_hostname) == (ssl.CERT_NONE, False)
    assert (foreign.verify_mode, foreign.check_hostname) == (ssl.CERT_REQUIRED, True)


async def test_s8_https_is_never_left(tmp_path: Path) -> None:
    own = Authority()
    async with ScriptedParent(tls=own.server(tmp_path)) as scripted, ScriptedParent() as plain:
        scripted.add_blob("a", BLOB)
        scripted.script(ScriptedFault(redirect=f"{plain.url}{{path}}", times=-1))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken, match="http"):
                await read_all(parent, "a", BLOB.digest)
        assert plain.connections_made == 0


# ---- S35: secrets


async def test_s35_no_canary_in_any_log_or_exception() -> None:
    failures: list[str] = []

    async def attempt(scripted: ScriptedParent) -> None:
        async with client_of(scripted, credentials=LOGIN, clock=FakeClock(), answer_timeout=0.3) as parent:
            try:
                await read_all(parent, "a", BLOB.digest)
            except ParentFailed as error:
                failures.append("".join(traceback.format_exception(error)) + repr(vars(error)))

    with captured_logs() as logs:
        async with ScriptedParent() as scripted:
            locked(scripted)
            signed = "http://127.0.0.1:1{path}?X-Amz-Signature=canary-signature"
            for fault in (
                ScriptedFault(path="/blobs/", skip=1, redirect=signed, times=-1),
                ScriptedFault(path="/blobs/", skip=1, redirect="http://10.0.0.1/?canary", times=-1),
                ScriptedFault(path="/blobs/", skip=1, redirect="http://canary:canary@x/", times=-1),
                ScriptedFault(
                    path="/blobs/", skip=1, redirect="http://canary-host.invalid:x/?canary", times=-1
                ),
                ScriptedFault(path="/token", status=500, body="canary", times=-1),
                ScriptedFault(path="/token", status=200, body='{"token":"canary canary"}', times=-1),
                ScriptedFault(path="/token", status=401, body="canary", times=-1),
                ScriptedFault(path="/token", endless="line", times=-1),
                ScriptedFault(path="/blobs/", skip=1, endless="headers", times=-1),
                ScriptedFault(path="/blobs/", skip=1, drop=True, reset=True, times=-1),
                ScriptedFault(path="/blobs/", skip=1, cut_after=10, times=-1),
                ScriptedFault(path="/token", redirect="http://canary.invalid/canary", times=-1),
            ):
                scripted.faults[:] = [fault]
                await attempt(scripted)
            scripted.faults.clear()
            scripted.door.challenges = ['Bearer realm="https://x.invalid/canary-path?canary"']
            await attempt(scripted)
    assert len(failures) == 13
    assert "canary" not in "".join(failures).replace(__file__, "").replace("test_s35_no_canary", "")
    assert "canary" not in repr(logs)
    assert logs


async def test_unknown_host_is_unreachable() -> None:
    async def lookup(host: str, port: int, family: int) -> list[str]:
        raise OSError("canary")

    async with client_of("http://registry.example", lookup=lookup) as parent:
        with pytest.raises(ParentUnreachable, match="does not resolve"):
            await parent.get_manifest("a", "v1")
        assert parent.state == "offline"
        with pytest.raises(ParentUnreachable):
            await parent.get_manifest("a", "v1")


async def test_metadata_is_refused_even_as_the_parent_itself() -> None:
    async with client_of("http://169.254.169.254") as parent:
        with pytest.raises(ParentBroken):
            await parent.get_manifest("a", "v1")
        assert parent.counters["requests"] == 0
        with pytest.raises(ParentNotFound):
            await parent.get_manifest("a", "..")


@pytest.mark.parametrize("length", [1 << 44, 1 << 63, 10**30])
async def test_case_trust_25_a_blob_longer_than_any_is_the_parents_fault(tmp_path: Path, length: int) -> None:
    """Asked for by GET, in part, and by HEAD; nothing of it is begun on the disk."""
    async with site(tmp_path) as node:
        digest = node.parent.add_blob("demo", BLOB)
        for method in ("GET", "HEAD"):
            lines = [("Content-Length", str(length)), ("Content-Range", f"bytes 0-9/{length}")]
            node.parent.script(ScriptedFault(method=method, path="/blobs/", headers=lines, times=-1))
        for whole, end in ((True, -1), (False, 10)):
            with pytest.raises(ParentBroken):
                await node.fills.open("demo", digest, 0, end, whole)
        with pytest.raises(ParentBroken):
            await node.client.head_blob("demo", digest)
        assert list((tmp_path / "store" / "fills").iterdir()) == []


async def test_s38_a_blob_that_the_parent_says_is_empty_is_none_to_its_clients(tmp_path: Path) -> None:
    """They would have all of it before a digest can be compared. It is asked for once for each of them."""
    async with site(tmp_path) as node:
        digest = node.parent.add_blob("demo", BLOB)
        fault = node.script(status=200, body="", times=-1)
        for number in range(1, 3):
            with pytest.raises(ParentBroken):
                await drain(node, digest)
            assert fault.taken == number
        node.parent.script(ScriptedFault(method="HEAD", path="/blobs/", status=200, times=-1))
        with pytest.raises(ParentBroken):
            await node.client.head_blob("demo", digest)
        fault.times = 0
        assert await node.client.head_blob("demo", digest) == BLOB.size
        assert await drain(node, digest) == BLOB.read(0, BLOB.size)
        assert await drain(node, node.parent.add_blob("demo", HeldContent(b""))) == b""


@pytest.mark.parametrize("number", [INTERIM_ANSWERS + 1, 100, -1])
async def test_case_trust_24_interim_answers_without_end_are_the_parents_fault(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """No more of them are read than may come, however many are sent."""

    heads = list[int]()
    feed = BoundedHandler.feed_data

    def counted(handler: BoundedHandler, data: tuple[Any, Any], size: int = 0) -> None:
        heads.append(data[0].code)
        feed(handler, data, size)

    monkeypatch.setattr(BoundedHandler, "feed_data", counted)
    async with ScriptedParent() as scripted:
        locked(scripted)
        scripted.script(ScriptedFault(path="/blobs/", skip=1, interim=number, times=-1))
        async with client_of(scripted, credentials=LOGIN, clock=FakeClock(), answer_timeout=5) as parent:
            with pytest.raises(ParentBroken, match="over 8 interim answers"):
                await read_all(parent, "a", BLOB.digest)
        asked = scripted.count(path="/blobs/")
        assert asked > 1
        assert len(heads) <= (asked + scripted.count(path="/token") + 1) * (INTERIM_ANSWERS + 1)


async def test_case_trust_24_a_body_that_looks_like_interim_answers_is_read_in_few_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each piece that is cut off copies the rest: 256 KiB of such heads held the loop up for 0.2 s."""
    pieces = list[bytes]()
    monkeypatch.setattr(ResponseHandler, "data_received", lambda _, data: pieces.append(data))
    body = b"HTTP/1.1 1\r\n\r\n" * 1000
    BoundedHandler(asyncio.get_running_loop()).data_received(body)
    assert b"".join(pieces) == body
    assert len(pieces) <= INTERIM_ANSWERS + 2


async def test_a_few_interim_answers_before_each_answer_are_passed_over() -> None:
    async with ScriptedParent() as scripted:
        locked(scripted)
        scripted.script(ScriptedFault(interim=INTERIM_ANSWERS, times=-1))
        async with client_of(scripted, credentials=LOGIN) as parent:
            for _ in range(3):
                assert await read_all(parent, "a", BLOB.digest) == BLOB.read(0, BLOB.size)
