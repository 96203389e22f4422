"""A site that reaches its parent through an egress proxy alone, and a parent whose certificate is of an authority of
its own: a node is activated, synchronises and pulls."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.request import urlopen

import pytest
from holdfast.cli.verbs.serve import checked, overrides
from holdfast.config import ConfigInvalid
from holdfast.demo.seed import seed
from holdfast.testing.sample import Sample, build_sample
from support.certificates import HOST, make_pair
from support.egress import EgressProxy
from support.node import Node
from support.programs import wait_until
from support.transfer import fetch
from support.tree import QUICK, Operator, troubles

NAME, OTHER = "team/app", "team/other"
#: of the two only the first is synchronised; the second is a miss
NARROW = f'[[sync.repositories]]\nname = "{NAME}"\n'


def sample_of(name: str) -> Sample:
    """The image of a repository; that of the second has layers of several MiB."""
    return build_sample(name, layer_bytes=(1 << 20, 5 << 20)) if name == OTHER else build_sample(name)


class TlsNode(Node):
    """A node whose certificate nobody knows."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/readyz", context=ssl._create_unverified_context()) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def root_of(place: Path, pair: Path | None = None) -> Node:
    """A root with two images, by TLS where it has a pair."""
    (place / "root").mkdir()
    for name in (NAME, OTHER):
        seed(place / "root" / "data", name, "latest", sample_of(name), 1.0)
    if pair is None:
        return Node(place / "root", configuration=QUICK, workers=1)
    files = ("--tls-cert", str(pair / "cert.pem"), "--tls-key", str(pair / "key.pem"))
    return TlsNode(place / "root", *files, configuration=QUICK, workers=1)


def string_of(operator: Operator, protocol: str) -> str:
    """A connection string to a name that is known to the proxy alone."""
    operator.registry("plant", "team/*")
    wanted = {
        "parentProtocol": protocol,
        "generatePassword": 1,
        "parentEndpoint": f"{HOST}:{operator.root.port}",
    }
    found = operator.call("POST", "connectedRegistries/plant/settings", wanted)
    return str(found["ACR_REGISTRY_CONNECTION_STRING"])


def serves_everything(operator: Operator, node: Node) -> None:
    """It is connected, has what is to be synchronised, and brings what somebody asks for."""
    operator.wait_online("plant")
    wait_until(
        lambda: operator.shown("plant")["registrySyncResult"]["syncState"] == "Succeeded", "it synchronises"
    )
    pulled(node, OTHER)


def pulled(node: Node, name: str) -> None:
    """Manifests and blobs, right to the byte."""
    sample = sample_of(name)
    assert fetch(node.url, f"/v2/{name}/manifests/latest").status == 200
    for digest, body in sample.blobs.items():
        assert fetch(node.url, f"/v2/{name}/blobs/{digest}").body == body


WAYS: dict[str, tuple[str, tuple[str, ...], Mapping[str, str]]] = {
    "flag": ("", ("--parent-proxy", "{proxy}"), {}),
    "file": ('proxy = "{proxy}"\n', (), {}),
    "environment": ("", (), {"HTTPS_PROXY": "{proxy}", "NO_PROXY": "elsewhere.test"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_case_trust_8_a_managed_node_behind_a_proxy_and_an_authority_of_its_own(
    way: str, tmp_path: Path
) -> None:
    """Said by flag, in [gateway], or in the environment as everywhere; the authority by flag."""
    file, flags, environ = WAYS[way]
    pair = make_pair(tmp_path / "pair", HOST, authority=True)
    with EgressProxy() as proxy, root_of(tmp_path, pair) as root:
        operator = Operator(root)
        said = {name: value.format(proxy=proxy.url) for name, value in environ.items()}
        node = Node(
            tmp_path / "plant",
            *("--anonymous", "pull", "--parent-ca", str(pair / "cert.pem")),
            *(flag.format(proxy=proxy.url) for flag in flags),
            configuration=QUICK + file.format(proxy=proxy.url) + NARROW,
            workers=1,
            env={"ACR_REGISTRY_CONNECTION_STRING": string_of(operator, "https"), **said},
        )
        with node:
            serves_everything(operator, node)
            assert set(proxy.asked) == {f"{HOST}:{root.port}"}
            proxy.refuse()
            wait_until(lambda: "the egress proxy refused (403)" in troubles(node), "it says why")
            assert fetch(node.url, f"/v2/{NAME}/manifests/latest").status == 200


def test_case_trust_8_an_http_parent_behind_the_environments_proxy(tmp_path: Path) -> None:
    with EgressProxy() as proxy, root_of(tmp_path) as root:
        operator = Operator(root)
        environ = {
            "ACR_REGISTRY_CONNECTION_STRING": string_of(operator, "http"),
            "http_proxy": proxy.url.removeprefix("http://"),
            "HTTPS_PROXY": "http://127.0.0.1:1",
        }
        flags = ("--anonymous", "pull")
        with Node(tmp_path / "plant", *flags, configuration=QUICK + NARROW, workers=1, env=environ) as node:
            serves_everything(operator, node)
            assert set(proxy.asked) == {f"{HOST}:{root.port}"}


def test_case_trust_8_this_machine_is_reached_without_the_environments_proxy(tmp_path: Path) -> None:
    with root_of(tmp_path) as root:
        operator = Operator(root)
        operator.registry("plant", "team/*")
        environ = {
            "ACR_REGISTRY_CONNECTION_STRING": operator.string("plant", root),
            "HTTP_PROXY": "http://127.0.0.1:1",
        }
        with Node(tmp_path / "plant", configuration=QUICK, workers=1, env=environ):
            operator.wait_online("plant")


def test_case_trust_8_a_flag_about_no_parent_is_refused(tmp_path: Path) -> None:
    flags = overrides(
        {
            **dict.fromkeys(("listen", "workers", "on_miss", "mode", "anonymous", "tls_cert", "tls_key")),
            "data": str(tmp_path),
            "parents": (),
            "parent_insecure": True,
            "parent_ca": None,
            "parent_proxy": "http://127.0.0.1:1",
        }
    )
    with pytest.raises(ConfigInvalid, match="--parent-insecure, --parent-proxy: found no parent"):
        checked(None, flags, {})
    assert checked(None, {**flags, "parent": [{"url": "https://root.test"}]}, {}).parent
