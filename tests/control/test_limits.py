"""The control plane at its limits and at ten times as much, in the store it lives in. Prints figures:

pytest -s tests/control/test_limits.py
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from holdfast.admin.documents import TokenDocument
from holdfast.clock import SystemClock
from holdfast.config import ControlSection as Limits
from holdfast.control import command as c
from holdfast.control.catalogue import Catalogue
from holdfast.control.draft import Draft
from holdfast.errors import ControlConflict
from holdfast.resources.actions import Grants, of_repository
from holdfast.resources.model import QUIET, SCOPE_MAP, TOKEN, Password, ScopeMap, Token, id_of
from holdfast.testing.port import ScriptedPort
from holdfast_core import Store
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.record import ResourceChange
from support.control import Plane, registry, update_registry

pytestmark = pytest.mark.loop("asyncio")

BATCH = 5_000
#: Generous, because test machines are shared; the figures are printed.
SECONDS = 1.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.create_or_open(tmp_path / "store", write=True)
    yield store
    store.close()


def fill(store: Store, number: int) -> None:
    """So many tokens, each with its scope map, as commands would have left them."""
    for start in range(0, number, BATCH):

        def plan(view: ResourceView, start: int = start) -> Sequence[ResourceChange]:
            draft = Draft(view)
            for n in range(start, min(start + BATCH, number)):
                actions = tuple(of_repository(f"team{n}/app", ("content/read", "metadata/read")))
                draft.put(SCOPE_MAP, ScopeMap(name=f"t{n:06}-scope-map", actions=actions))
                password = Password(name="password1", creation_time="", verifier="sha256:" + "0" * 64)
                scope = id_of(SCOPE_MAP, f"t{n:06}-scope-map")
                draft.put(TOKEN, Token(name=f"t{n:06}", scope_map_id=scope, passwords=(password,)))
            return draft.changes()

        store.documents.change(plan, quiet=frozenset()).result(120)


def took(what: str, work: Callable[[int], object], times: int = 20) -> float:
    """The median of some runs in seconds, printed."""
    spent = []
    for n in range(times):
        began = time.perf_counter()
        work(n)
        spent.append(time.perf_counter() - began)
    median = statistics.median(spent)
    print(f"  {what}: {median * 1000:.2f} ms (worst {max(spent) * 1000:.2f})")
    return median


@pytest.mark.parametrize("number", [20_000, 200_000])
def test_tokens(store: Store, number: int) -> None:
    fill(store, number - 100)
    limits = Limits(tokens=number, scope_maps=number)
    port, catalogue = ScriptedPort(store, SystemClock(), limits), Catalogue(store)

    def do(command: c.Command) -> None:
        asyncio.run(port.control(msgspec.json.encode(command)))

    def page(n: int) -> None:
        fresh = Catalogue(store)
        page = fresh.tokens(after=f"t{n * (number // 25):06}", limit=100)
        assert len([TokenDocument.of(token, fresh.etag(TOKEN, token.name)) for token in page]) == 100

    print(f"\n{number:,} tokens, {store.statistics().index_bytes / 1e6:.0f} MB of index:")
    assert (
        took(
            "create a token",
            lambda n: do(c.CreateToken(name=f"new{n:03}", actions=("repositories/a/content/read",))),
        )
        < SECONDS
    )
    assert took("disable one", lambda n: do(c.UpdateToken(name=f"t{n:06}", status="disabled"))) < SECONDS
    assert took("generate passwords", lambda n: do(c.GenerateCredentials(token=f"t{n:06}"))) < SECONDS
    assert took("delete a token", lambda n: do(c.DeleteToken(name=f"new{n:03}"))) < SECONDS
    assert took("delete its scope map", lambda n: do(c.DeleteScopeMap(name=f"new{n:03}-scope-map"))) < SECONDS
    assert took("create a registry and give it a client", lambda n: _registry(do, n), 5) < SECONDS
    assert took("a page of 100", page) < SECONDS
    assert took("find one", lambda n: catalogue.token(f"t{n * 37:06}"), 1_000) < 0.01
    assert took("find it again", lambda n: catalogue.token(f"t{n * 37:06}"), 1_000) < 0.01


def _registry(do: Callable[[c.Command], None], n: int) -> None:
    do(registry(f"plant{n}", f"team{n}/app"))
    do(update_registry(name=f"plant{n}", add_client_tokens=(f"t{n:06}",)))


async def test_the_last_token_is_taken_and_the_next_refused(store: Store) -> None:
    fill(store, 19_999)
    port = ScriptedPort(store, SystemClock())
    await port.control(msgspec.json.encode(c.CreateToken(name="last1", scope_map="_repositories_pull")))
    with pytest.raises(
        ControlConflict, match=r"20001 tokens; allowed: 20000 at most \(configuration: control.tokens"
    ):
        await port.control(msgspec.json.encode(c.CreateToken(name="next1", scope_map="_repositories_pull")))
    assert store.documents.count(TOKEN) == 20_000


@pytest.mark.parametrize("scale", [1, 10])
def test_registries_clients_and_permissions(store: Store, scale: int) -> None:
    """50 registries, ten of them in a chain, 50 clients of one, 500 permissions of the top; and ten times that."""
    limits = {
        "connected_registries": 50 * scale,
        "client_tokens": 50 * scale,
        "permissions": 500 * scale,
        "tokens": 20_000 * scale,
    }
    names = [f"node{n:03}" for n in range(50 * scale)]
    plant(store, Plane(**limits), names)
    port = ScriptedPort(store, SystemClock(), Limits(**limits))

    def do(command: c.Command) -> None:
        asyncio.run(port.control(msgspec.json.encode(command)))

    print(f"\n{len(names)} connected registries:")
    do(c.DeleteRegistry(name=names[-1], cleanup=True))
    last = registry(names[-1], "r0", parent=names[0])
    assert took("create the last", lambda n: do(last), 1) < SECONDS * scale
    there = took(
        "add a repository nine levels down and take it away", lambda n: _there_and_back(do, names[9]), 3
    )
    assert there < SECONDS * scale
    assert took("all below the root", lambda n: Catalogue(store).descendants(None), 3) < SECONDS * scale
    assert (
        took("the configuration of the top", lambda n: _configuration(store, names[0]), 3) < SECONDS * scale
    )
    print(f"  it has {_configuration(store, names[0]) / 1e6:.2f} MB")
    assert _configuration(store, names[0]) < c.COMMAND_BYTES
    scope = Catalogue(store).scope_map(names[0])
    assert scope is not None
    took(f"compile {len(scope.actions)} actions", lambda n: Grants.of(scope.actions), 5)
    for command, text in (
        (registry("onemore", "r0"), "connected registries; allowed"),
        (c.UpdatePermissions(name=names[0], add=("more",)), "permissions in the scope map"),
        (update_registry(name=names[0], add_client_tokens=("extra",)), "client tokens"),
    ):
        with pytest.raises(ControlConflict, match=text):
            do(command)


def plant(store: Store, plane: Plane, names: list[str]) -> None:
    """The tree, made in memory and put into the store at once."""
    limits = plane.limits
    for n, name in enumerate(names):
        plane.do(registry(name, "r0", parent=None if n == 0 else names[n - 1] if n < 10 else names[0]))
    rest = tuple(f"r{n}" for n in range(1, limits.permissions // 2))
    plane.do(c.UpdatePermissions(name=names[0], add=rest))
    clients = [f"client{n:03}" for n in range(limits.client_tokens)]
    for client in [*clients, "extra"]:
        plane.do(c.CreateToken(name=client, scope_map="_repositories_pull_metadata_read", no_passwords=True))
    plane.do(update_registry(name=names[0], client_tokens=tuple(clients)))
    rows = [ResourceChange(row.kind, row.name, row.body) for row in plane.view.rows.values()]
    store.documents.change(lambda view: rows, quiet=QUIET).result(120)


def _configuration(store: Store, name: str) -> int:
    """Its size in bytes."""
    return len(msgspec.json.encode(Catalogue(store).configuration_for(name)))


def _there_and_back(do: Callable[[c.Command], None], name: str) -> None:
    do(c.UpdatePermissions(name=name, add=("r1",)))
    do(c.UpdatePermissions(name=name, remove=("r1",)))
