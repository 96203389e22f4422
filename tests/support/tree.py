"""A tree of real nodes: a root that its operator commands, and connected registries that know nothing but their
connection string."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from support.node import Node
from support.programs import wait_until
from support.transfer import Answer, fetch

#: a child that speaks often, so that tests need not wait; the lease of a silent instance is short as well
QUICK = "[gateway]\npoll = 1.0\nlease = 15.0\n"
#: how long a change takes at most to be known to a child that is connected (s): it asks with a question held open
ARRIVES = 3.0


class Operator:
    """Whoever commands a root, by the credentials in its data directory."""

    def __init__(self, root: Node) -> None:
        self.root = root

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One request to the admin API; the JSON of its answer. Raises AssertionError for a refusal."""
        url = json.loads((self.root.data / "admin.json").read_text())["url"]
        said = json.loads((self.root.data / "operator.json").read_text())
        login = base64.b64encode(f"{said['username']}:{said['password']}".encode()).decode()
        request = urllib.request.Request(
            f"{url}/api/v1/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except HTTPError as refused:
            with refused:
                raise AssertionError(f"{method} {path}: {refused.code} {refused.read()!r}") from None
        return json.loads(text) if text else None

    def registry(
        self,
        name: str,
        *repositories: str,
        parent: str | None = None,
        mode: str = "ReadOnly",
        clients: tuple[str, ...] = (),
    ) -> None:
        """A connected registry."""
        place = {"id": parent} if parent else {}
        properties = {
            "mode": mode,
            "parent": place,
            "repositories": repositories,
            "clientTokenIds": clients,
        }
        self.call("PUT", f"connectedRegistries/{name}", {"properties": properties})

    def change(self, name: str, **properties: object) -> None:
        """PATCH of a connected registry."""
        self.call("PATCH", f"connectedRegistries/{name}", {"properties": properties})

    def token(self, name: str, repository: str, *rights: str) -> str:
        """A token for one repository; its first password."""
        actions = [f"repositories/{repository}/{right}" for right in rights]
        made = self.call("PUT", f"tokens/{name}", {"properties": {"actions": actions}})
        passwords = made["properties"]["credentials"]["passwords"]
        return str(next(row["value"] for row in passwords if row["name"] == "password1"))

    def status(self, name: str, status: str) -> None:
        """Enable or disable a token."""
        self.call("PATCH", f"tokens/{name}", {"properties": {"status": status}})

    def shown(self, name: str) -> dict[str, Any]:
        """The properties of a connected registry."""
        found: dict[str, Any] = self.call("GET", f"connectedRegistries/{name}")["properties"]
        return found

    def string(self, name: str, parent: Node) -> str:
        """Its connection string with a new password, to a parent over plain HTTP."""
        wanted = {"parentProtocol": "http", "generatePassword": 1, "parentEndpoint": parent.address}
        found = self.call("POST", f"connectedRegistries/{name}/settings", wanted)
        return str(found["ACR_REGISTRY_CONNECTION_STRING"])

    def wait_online(self, name: str) -> None:
        """Wait until the root says so, and was told where the node is."""

        def online() -> bool:
            shown = self.shown(name)
            return bool(shown["connectionState"] == "Online" and shown["loginServer"])

        wait_until(online, f"{name} online")


def child(place: Path, string: str, *flags: str, configuration: str = QUICK, workers: int = 1) -> Node:
    """A node that has nothing but a connection string and a data directory."""
    environ = {"ACR_REGISTRY_CONNECTION_STRING": string}
    return Node(place, *flags, configuration=configuration, workers=workers, env=environ)


def login(name: str, password: str) -> dict[str, str]:
    """The header of a login."""
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def bearer(node: Node, name: str, password: str, scope: str) -> dict[str, str]:
    """The header of a token that a node's token endpoint gives for a login."""
    answer = fetch(
        node.url, f"/acr/oauth2/token?service={node.address}&scope={scope}", headers=login(name, password)
    )
    assert answer.status == 200, answer
    return {"Authorization": f"Bearer {json.loads(answer.body)['access_token']}"}


def pull(node: Node, repository: str, headers: Mapping[str, str]) -> Answer:
    """GET of the manifest `latest`."""
    return fetch(node.url, f"/v2/{repository}/manifests/latest", headers=headers)


def troubles(node: Node) -> str:
    """What /readyz tells beside being ready."""
    found: list[str] = json.loads(fetch(node.url, "/readyz").body)["troubles"]
    return "; ".join(found)
