"""What is reached through an egress proxy, and what directly."""

from __future__ import annotations

import asyncio

import pytest
from holdfast.clock import SystemClock
from holdfast.config import (
    ConfigInvalid,
    Configuration,
    GatewaySection,
    ParentSection,
    ParentSettings,
    WebhookSection,
)
from holdfast.config_file import from_table
from holdfast.gateway.environment import joined
from holdfast.http.egress import EgressInvalid, NoProxy, proxied
from holdfast.notify import receiver as notify
from support.certificates import HOST
from support.egress import EgressProxy
from support.receiver import Receiver

STRING = (
    "ConnectedRegistryName=plant;SyncTokenName=plant;SyncTokenPassword=secret;"
    "ParentGatewayEndpoint=root.example;ParentEndpointProtocol=https"
)

ROWS = [
    ("*", "any.example", 443, True),
    ("example.com", "example.com", 443, True),
    ("example.com", "a.Example.com.", 443, True),
    ("example.com", "badexample.com", 443, False),
    (".example.com", "example.com", 443, False),
    (".example.com", "a.example.com", 443, True),
    ("*.example.com", "a.example.com", 443, True),
    ("example.com:8443", "example.com", 8443, True),
    ("example.com:8443", "example.com", 443, False),
    ("10.0.0.0/8", "10.1.2.3", 443, True),
    ("10.0.0.0/8", "11.1.2.3", 443, False),
    ("10.0.0.0/8", "ten.example", 443, False),
    ("10.1.2.3:5000", "10.1.2.3", 5000, True),
    ("10.1.2.3:5000", "10.1.2.3", 443, False),
    ("::1", "::1", 443, True),
    ("[fd00::1]:5000", "fd00::1", 5000, True),
    ("fd00::/8", "fd12::1", 443, True),
    (" Example.com ", "example.com", 443, True),
]


@pytest.mark.parametrize(("row", "host", "port", "is_direct"), ROWS)
def test_case_trust_8_what_is_left_out(row: str, host: str, port: int, is_direct: bool) -> None:
    assert NoProxy([row]).covers(host, port) is is_direct
    assert NoProxy(["other.test", row]).covers(host, port) is is_direct


PARENT = ParentSection(url="https://root.example")
ENVIRON = {"HTTPS_PROXY": "http://proxy:3128", "HTTP_PROXY": "http://other:1", "NO_PROXY": "a.test, .b.test"}


def test_case_trust_8_the_environment_is_for_who_names_no_proxy() -> None:
    found = proxied(PARENT, ENVIRON)
    assert (found.proxy, found.direct[:2]) == ("http://proxy:3128", ("a.test", ".b.test"))
    for here in ("localhost", "127.0.0.1", "127.9.9.9", "::1"):
        assert NoProxy(found.direct).covers(here, 443)
    assert not NoProxy(found.direct).covers("root.example", 443)
    assert proxied(ParentSection(url="http://root.example", insecure=True), ENVIRON).proxy == "http://other:1"
    own = ParentSection(url="https://root.example", proxy="http://mine:1")
    assert proxied(own, ENVIRON) == own
    assert proxied(ParentSection(url="https://root.example", proxy="none"), ENVIRON) == PARENT
    assert proxied(PARENT, {}) == PARENT
    assert proxied(PARENT, {"https_proxy": "proxy:3128"}).proxy == "http://proxy:3128"
    with pytest.raises(
        EgressInvalid, match=r"^HTTPS_PROXY: found a proxy of socks5; allowed: http://host:port"
    ):
        proxied(PARENT, {"HTTPS_PROXY": "socks5://proxy:1080"})


@pytest.mark.parametrize(
    "text",
    [
        "http://[::1",
        "http://user:pa#ss@proxy:3128",
        "http://proxy:99999",
        "proxy:port",
        "http://user:p/w@proxy:1",
    ],
)
def test_case_trust_8_a_proxy_of_the_environment_that_is_no_address_is_refused(text: str) -> None:
    """A password with a `#` in it would be the port of a host that is the user's name."""
    with pytest.raises(EgressInvalid, match=r"^HTTPS_PROXY: found no address; allowed: ") as refused:
        proxied(PARENT, {"HTTPS_PROXY": text})
    assert "pa" not in str(refused.value).partition(";")[0]


def test_case_trust_8_webhooks_go_the_same_way() -> None:
    hook = WebhookSection(name="site", url="https://hooks.test:8443/x")
    (found,) = joined(Configuration(webhook=(hook,)), ENVIRON).webhook
    assert found.proxy == "http://proxy:3128"
    with EgressProxy() as proxy, Receiver() as receiver:
        port = receiver.url.rpartition(":")[2].partition("/")[0]
        hook = WebhookSection(name="site", url=f"http://{HOST}:{port}/hook", insecure=True, proxy=proxy.url)

        async def posted() -> bool:
            one = notify.Receiver(hook, SystemClock())
            try:
                return (await one.post(b"{}")).is_taken
            finally:
                await one.close()

        assert asyncio.run(posted())
        assert proxy.asked == [f"{HOST}:{port}"]


#: something else than the default for each
OTHERS: dict[str, object] = {
    "insecure": True,
    "ca": "ca.pem",
    "proxy": "http://proxy:3128",
    "direct": ("a.test",),
    "realms": ("https://login.example",),
    "redirects": ("storage.example",),
    "connections": 4,
    "requests_per_second": 2.0,
    "connect_timeout": 1.0,
    "answer_timeout": 2.0,
    "stall_timeout": 3.0,
    "probe_interval": 4.0,
}


def test_case_trust_8_one_table_serves_both_kinds_of_parents() -> None:
    assert set(OTHERS) == set(ParentSettings.__struct_fields__)
    gateway = GatewaySection(connection_string=STRING, **OTHERS)  # type: ignore[arg-type]
    (parent,) = joined(Configuration(gateway=gateway), ENVIRON).parent
    assert {name: getattr(parent, name) for name in OTHERS} == OTHERS


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"proxy": "socks5://proxy"}, "proxy: found 'socks5://proxy'; allowed: http://host[:port], or none"),
        ({"direct": ["a b:c:d"]}, "direct: found 'a b:c:d'; allowed: host, .domain"),
        (
            {"direct": ["10.0.0.0/33"]},
            "direct: found '10.0.0.0/33'; allowed: host, .domain, address or range",
        ),
        ({"direct": ["https://a.example"]}, "direct: found 'https://a.example'"),
        ({"realms": ["login.example"]}, "realms: found 'login.example'"),
        ({"redirects": ["https://s.example"]}, "redirects: found 'https://s.example'"),
        ({"ca": "/nowhere"}, "ca: found '/nowhere'"),
    ],
)
def test_case_trust_8_the_same_is_refused_of_both(settings: dict[str, object], why: str) -> None:
    for where, table in (
        ("gateway", {"gateway": settings}),
        ("parent[0]", {"parent": [{"url": "https://root.example", **settings}]}),
    ):
        with pytest.raises(ConfigInvalid) as refused:
            from_table(table)
        assert str(refused.value).startswith(f"{where}.{why}")
