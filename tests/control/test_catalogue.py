"""What a process reads: by name, in pages, along the tree, and what goes down to a child."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast.admin.documents import RegistryDocument, ScopeMapDocument, TokenDocument
from holdfast.control import command as c
from holdfast.control.catalogue import Catalogue
from holdfast.control.draft import SYSTEM_ETAG, etag_of
from holdfast.errors import ControlInvalid
from holdfast.resources.model import REGISTRY, SCOPE_MAP, TOKEN, Identity, RegistryConfiguration, lowered
from holdfast.resources.system_scope_maps import SYSTEM_SCOPE_MAPS
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.port import ScriptedPort
from holdfast_core import Store
from support.control import registry, update_registry

READ = ("repositories/base/content/read",)


class Node:
    """A store with its catalogue, and commands done to it."""

    def __init__(self, path: Path) -> None:
        self.store = Store.create_or_open(path, write=True)
        self.clock = FakeClock()
        self.port = ScriptedPort(self.store, self.clock)
        self.catalogue = Catalogue(self.store)

    def do(self, command: c.Command) -> c.CommandResult:
        async def main() -> bytes:
            return await self.port.control(msgspec.json.encode(command))

        return c.result_of(asyncio.run(main()))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "root")
    yield node
    node.store.close()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "child")
    yield node
    node.store.close()


def grow(node: Node) -> None:
    """plant > hall1 > line1; plant > hall2; other. A client token each for plant, line1 and other."""
    for name, parent in (
        ("plant", None),
        ("hall1", "plant"),
        ("hall2", "plant"),
        ("line1", "hall1"),
        ("other", None),
    ):
        node.do(registry(name, "base", parent=parent))
    for name in ("plant", "line1", "other"):
        node.do(c.CreateToken(name=f"{name}-client", actions=READ))
        node.do(update_registry(name=name, add_client_tokens=(f"{name}-client",)))


def test_case_fault_10_no_other_letter_is_an_ascii_one(node: Node) -> None:
    node.do(registry("kiosk", "base"))
    node.do(c.CreateToken(name="kiosk-client", actions=READ))
    found = node.catalogue
    assert found.registry("KIOSK") is not None
    assert found.token("Kiosk-client") is not None
    for letter in map(chr, range(128, sys.maxunicode + 1)):
        assert lowered(letter) == letter
    for name in ("\u212aiosk", "kio\u017fk", "kios\u212a"):
        assert (found.registry(name), found.token(f"{name}-client")) == (None, None)
        with pytest.raises(ControlInvalid):
            node.do(c.CreateToken(name="other", actions=(f"repositories/{name}/content/read",)))


def test_names_are_taken_plain_or_as_ids_whatever_their_casing(node: Node) -> None:
    grow(node)
    found = node.catalogue
    for name in ("plant", "PLANT", "/connectedRegistries/Plant"):
        one = found.registry(name)
        assert one is not None
        assert one.name == "plant"
    token = found.token("/tokens/PLANT-client")
    assert token is not None
    assert found.scope_map(token.scope_map_id) is not None
    for name in ("absent", "", "x" * 300, "a\0b", "ä\ud800"):
        assert (found.registry(name), found.token(name), found.scope_map(name)) == (None, None, None)
        assert found.etag(TOKEN, name) == ""
        assert found.status(name).lease is None


def test_what_was_decoded_is_kept_until_something_changes(node: Node) -> None:
    grow(node)
    first = node.catalogue.token("plant-client")
    assert node.catalogue.token("plant-client") is first
    assert node.catalogue.token("late-token") is None
    node.do(c.UpdateToken(name="plant-client", status="disabled"))
    node.do(c.CreateToken(name="late-token", actions=READ))
    changed = node.catalogue.token("plant-client")
    assert changed is not None
    assert changed.status == "disabled"
    assert node.catalogue.token("late-token") is not None
    node.do(c.DeleteToken(name="late-token"))
    assert node.catalogue.token("late-token") is None


def test_changes_that_nobody_counts_have_no_number(node: Node) -> None:
    """An older parent hands no revisions down, and refuses a report that names one."""
    grow(node)
    assert node.catalogue.number_of("plant") == node.catalogue.revision_of("plant").number > 0
    assert node.catalogue.number_of("nobody") is None


def test_an_activation_shows_though_it_is_no_revision(node: Node) -> None:
    grow(node)
    revision = node.catalogue.revision
    assert node.catalogue.status("plant").lease is None
    node.do(c.Activate(name="plant", instance="i", lease_seconds=9))
    assert node.catalogue.status("PLANT").lease is not None
    assert node.catalogue.revision == revision


def test_lists_come_in_pages(node: Node) -> None:
    grow(node)
    found = node.catalogue
    assert [one.name for one in found.registries()] == ["hall1", "hall2", "line1", "other", "plant"]
    assert [one.name for one in found.registries(after="HALL1", limit=2)] == ["hall2", "line1"]
    assert [one.name for one in found.tokens(after="other", limit=2)] == ["other-client", "plant"]
    assert found.count(TOKEN) == 8
    every = [one.name for one in found.scope_maps()]
    assert every[:5] == list(SYSTEM_SCOPE_MAPS)
    assert len(every) == 13
    pages, after = list[str](), ""
    while page := found.scope_maps(after=after, limit=2):
        assert len(page) <= 2
        pages += [one.name for one in page]
        after = pages[-1]
    assert pages == every


def test_the_tree(node: Node) -> None:
    grow(node)
    found = node.catalogue
    assert [one.name for one in found.children(None)] == ["other", "plant"]
    assert [one.name for one in found.children("Plant")] == ["hall1", "hall2"]
    assert [one.name for one in found.descendants("plant")] == ["hall1", "hall2", "line1"]
    assert [one.name for one in found.descendants(None)] == ["other", "plant", "hall1", "hall2", "line1"]
    assert [one.name for one in found.ancestors("line1")] == ["hall1", "plant"]
    assert found.children("line1") == found.ancestors("plant") == found.ancestors("absent") == []
    assert found.listed_by("/tokens/line1-client") == ["line1"]


def test_children_of_a_name_that_begins_like_another_are_its_own(node: Node) -> None:
    """The original's client matches a parent by the end of its id (references.md 1.8)."""
    for name, parent in (
        ("plant", None),
        ("xplant", None),
        ("plantx", None),
        ("child", "xplant"),
        ("other", "plantx"),
    ):
        node.do(registry(name, parent=parent))
    assert node.catalogue.children("plant") == []


def test_a_configuration_has_what_the_child_and_those_below_it_need(node: Node) -> None:
    grow(node)
    node.do(c.GenerateCredentials(token="plant"))
    node.do(c.GenerateCredentials(token="hall1"))
    found = node.catalogue.configuration_for("Plant")
    assert found is not None
    assert found.registry.name == "plant"
    assert [one.name for one in found.below] == ["hall1", "hall2", "line1"]
    passwords = {token.name: len(token.passwords) for token in found.tokens}
    assert passwords == {"plant": 0, "hall1": 2, "hall2": 0, "line1": 0, "plant-client": 2, "line1-client": 2}
    maps = {f"{name}-scope-map" for name in ("plant-client", "line1-client")} | {
        "plant",
        "hall1",
        "hall2",
        "line1",
    }
    assert {scope.name for scope in found.scope_maps} == maps
    assert node.catalogue.configuration_for("absent") is None


def test_the_etag_changes_with_the_content_and_only_with_it(node: Node) -> None:
    grow(node)

    def etag() -> str:
        found = node.catalogue.configuration_for("hall1")
        assert found is not None
        return found.etag

    first = etag()
    node.do(update_registry(name="other", log_level="Debug"))
    node.do(c.Activate(name="plant", instance="i", lease_seconds=9))
    assert etag() == first
    seen = {first}
    for command in (
        update_registry(name="hall1", log_level="Debug"),
        c.UpdateToken(name="line1-client", status="disabled"),
        c.GenerateCredentials(token="line1-client", passwords=("password1",)),
        c.UpdateScopeMap(name="line1-client-scope-map", add=("repositories/base/metadata/read",)),
        c.UpdatePermissions(name="line1", add=("more",)),
        c.DeleteToken(name="line1-client"),
    ):
        node.do(command)
        assert etag() not in seen, command
        seen.add(etag())


def send(configuration: RegistryConfiguration | None) -> RegistryConfiguration:
    """Through JSON, as the gateway does."""
    assert configuration is not None
    return msgspec.json.decode(msgspec.json.encode(configuration), type=RegistryConfiguration)


def test_what_a_child_received_it_hands_on_as_its_parent_would(node: Node, child: Node) -> None:
    grow(node)
    node.do(c.GenerateCredentials(token="line1"))
    child.do(
        c.Receive(
            identity=Identity(name="plant", instance="i"),
            configuration=send(node.catalogue.configuration_for("plant")),
        )
    )
    for name in ("hall1", "hall2", "line1"):
        assert child.catalogue.configuration_for(name) == node.catalogue.configuration_for(name)
    assert [one.name for one in child.catalogue.children("plant")] == ["hall1", "hall2"]
    identity = child.catalogue.identity()
    assert identity is not None
    assert identity.name == "plant"
    assert node.catalogue.identity() is None


def as_json(document: msgspec.Struct) -> Any:
    """A document as a client reads it."""
    return msgspec.json.decode(msgspec.json.encode(document))


# --- what the API shows ------------------------------------------------------------------------------------


def test_a_registry_is_shown_with_the_originals_names(node: Node) -> None:
    grow(node)
    found = node.catalogue
    one = found.registry("hall1")
    assert one is not None
    shown = as_json(
        RegistryDocument.of(
            one,
            found.status("hall1"),
            found.revision_of("hall1"),
            node.clock.now(),
            found.etag(REGISTRY, "hall1"),
        )
    )
    assert list(shown) == ["id", "name", "type", "etag", "properties"]
    assert (shown["id"], shown["name"], shown["etag"]) == (
        "/connectedRegistries/hall1",
        "hall1",
        etag_of(node.store.documents.get(REGISTRY, "hall1")),
    )
    assert shown["properties"] == {
        "provisioningState": "Succeeded",
        "mode": "ReadOnly",
        "version": None,
        "connectionState": "Offline",
        "lastActivityTime": None,
        "lastActivitySeconds": None,
        "expectedTime": None,
        "notTakenOverSince": None,
        "activation": {"status": "Inactive"},
        "parent": {
            "id": "/connectedRegistries/plant",
            "syncProperties": {
                "tokenId": "/tokens/hall1",
                "schedule": "* * * * *",
                "syncWindow": None,
                "messageTtl": "P2D",
                "lastSyncTime": None,
                "gatewayEndpoint": "",
            },
        },
        "clientTokenIds": [],
        "loginServer": None,
        "logging": {"logLevel": "Information", "auditLogStatus": "Disabled"},
        "statusDetails": [],
        "notificationsList": [],
        "garbageCollection": {"enabled": True, "schedule": "0 0 * * *"},
        "registrySyncResult": {
            "syncTrigger": None,
            "syncState": "NotActivated",
            "lastSyncStartTime": None,
            "lastSyncEndTime": None,
            "lastSuccessfulSyncEndTime": None,
        },
        "syncProgress": None,  # ours
    }


def test_no_verifier_and_no_lease_is_ever_shown(node: Node) -> None:
    grow(node)
    node.do(c.Activate(name="plant", instance="instance-1", lease_seconds=60))
    found = node.catalogue
    token, scope, one = (
        found.token("plant-client"),
        found.scope_map("plant-client-scope-map"),
        found.registry("plant"),
    )
    assert token is not None
    assert scope is not None
    assert one is not None
    shown = [
        TokenDocument.of(token, found.etag(TOKEN, "plant-client")),
        ScopeMapDocument.of(scope, found.etag(SCOPE_MAP, scope.name)),
        RegistryDocument.of(
            one,
            found.status("plant"),
            found.revision_of("plant"),
            node.clock.now(),
            found.etag(REGISTRY, "plant"),
        ),
    ]
    text = msgspec.json.encode(shown).decode()
    assert "password1" in text
    for secret in ("sha256:", "verifier", "instance-1", "lease", "deactivated", "resync"):
        assert secret not in text


def test_system_scope_maps_are_shown_as_such(node: Node) -> None:
    scope = node.catalogue.scope_map("/scopeMaps/_repositories_ADMIN")
    assert scope is not None
    shown = as_json(ScopeMapDocument.of(scope, node.catalogue.etag(SCOPE_MAP, "_repositories_admin")))
    assert (shown["etag"], shown["properties"]["type"]) == (SYSTEM_ETAG, "SystemDefined")
    assert len(shown["properties"]["actions"]) == 5
