"""`KeeperApi.control` by each of its carriers: in process, over the socket, and as tests script it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from holdfast import errors
from holdfast.clock import SystemClock
from holdfast.config import Configuration
from holdfast.config import ControlSection as Limits
from holdfast.control import command as c
from holdfast.fill.registry import FillRegistry
from holdfast.keeper.api import KeeperApi
from holdfast.keeper.keeper import Keeper
from holdfast.keeper.rpc.remote_keeper import RemoteKeeper
from holdfast.keeper.rpc.service import Service
from holdfast.parent.client import Parent
from holdfast.process.assembly import compose
from holdfast.resources import password
from holdfast.testing.port import ScriptedPort
from holdfast_core import Store
from support.control import registry, update_registry

CHOSEN = "a horse of another colour"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.create_or_open(tmp_path / "store", write=True, mode="ReadOnly")
    yield store
    store.close()


def keeper_of(store: Store, **limits: int) -> Keeper:
    """A keeper that fills nothing."""
    config = Configuration(data="unused", control=Limits(**limits))
    clock, parents = SystemClock(), dict[str, Parent]()
    return compose(
        config, store, clock, parents, FillRegistry(store, parents.__getitem__, config.fills, clock)
    )


async def ask(port: KeeperApi, command: c.Command) -> c.CommandResult:
    return c.result_of(await port.control(msgspec.json.encode(command)))


@asynccontextmanager
async def served(path: Path, keeper: object) -> AsyncIterator[None]:
    """A keeper's end of the socket."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()
    service = Service(cast(Keeper, keeper))
    await service.start(listener)
    try:
        yield
    finally:
        await service.close()


@asynccontextmanager
async def worker(path: Path, store: Store) -> AsyncIterator[RemoteKeeper]:
    """A worker's end."""
    port = RemoteKeeper.at(os.fspath(path), store, SystemClock())
    await port.start()
    try:
        yield port
    finally:
        await port.close()


@asynccontextmanager
async def in_process(store: Store, path: Path) -> AsyncIterator[KeeperApi]:
    yield keeper_of(store)


@asynccontextmanager
async def over_the_socket(store: Store, path: Path) -> AsyncIterator[KeeperApi]:
    async with served(path, keeper_of(store)), worker(path, store) as port:
        yield port


@asynccontextmanager
async def scripted(store: Store, path: Path) -> AsyncIterator[KeeperApi]:
    yield ScriptedPort(store, SystemClock())


@pytest.mark.parametrize("carrier", [in_process, over_the_socket, scripted])
async def test_a_command_is_done_and_a_refusal_keeps_its_field(
    carrier: Callable[..., Any], store: Store, tmp_path: Path
) -> None:
    async with carrier(store, tmp_path / "socket") as port:
        assert (await ask(port, registry("plant"))).changed
        made = await ask(port, c.CreateToken(name="reader", scope_map="_repositories_pull"))
        verifiers = [p.verifier for p in _token(store, "reader").passwords]
        assert [password.verify(v, p.value) for v, p in zip(verifiers, made.passwords, strict=True)] == [
            True,
            True,
        ]
        for command, kind, field in (
            (registry("pla-nt"), errors.ControlInvalid, "name"),
            (c.DeleteToken(name="plant"), errors.ControlConflict, "name"),
            (c.DeleteToken(name="absent"), errors.ControlUnknown, ""),
            (c.DeleteToken(name="reader", if_match='"0"'), errors.PreconditionFailed, None),
        ):
            with pytest.raises(kind) as refusal:
                await ask(port, command)
            assert field is None or refusal.value.detail == field
        with pytest.raises(errors.ControlInvalid, match="no command"):
            await port.control(b'{"command":"Format"}')


def _token(store: Store, name: str) -> Any:
    from holdfast.control.catalogue import Catalogue

    return Catalogue(store).token(name)


@pytest.mark.loop("asyncio")
async def test_a_chosen_secret_is_hashed_beside_the_writer_and_refused_when_weak(store: Store) -> None:
    keeper = keeper_of(store)
    await ask(keeper, c.CreateToken(name="reader", scope_map="_repositories_pull", no_passwords=True))
    await asyncio.gather(
        *(ask(keeper, c.GenerateCredentials(token="reader", passwords=(n,), secret=CHOSEN)) for n in _names())
    )
    assert [password.is_slow(p.verifier) for p in _token(store, "reader").passwords] == [True, True]
    assert all(password.verify(p.verifier, CHOSEN) for p in _token(store, "reader").passwords)
    with pytest.raises(errors.ControlInvalid) as refusal:
        await ask(keeper, c.GenerateCredentials(token="reader", passwords=("password1",), secret="short"))
    assert refusal.value.detail == "value"


def _names() -> tuple[Any, ...]:
    return ("password1", "password2")


@pytest.mark.loop("asyncio")
async def test_the_limits_are_the_configurations(store: Store) -> None:
    keeper = keeper_of(store, connected_registries=1)
    await ask(keeper, registry("plant"))
    with pytest.raises(errors.ControlConflict, match="allowed: 1 at most"):
        await ask(keeper, registry("works"))


@pytest.mark.loop("asyncio")
async def test_a_failing_disk_is_no_unknown_resource(store: Store) -> None:
    keeper = keeper_of(store)
    store.close()
    with pytest.raises(Exception, match="closed") as refusal:
        await ask(keeper, registry("plant"))
    assert not isinstance(refusal.value, errors.ControlUnknown)


class Dying:
    """A keeper that never answers, for a test to end."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def control(self, command: bytes) -> bytes:
        self.asked.append(command)
        await asyncio.Event().wait()
        return b""


async def _die_over(path: Path, port: RemoteKeeper, command: c.Command) -> asyncio.Task[c.CommandResult]:
    """Ask a keeper that dies over it; the answer is still to come."""
    keeper = Dying()
    async with served(path, keeper):
        call = asyncio.create_task(ask(port, command))
        while not keeper.asked:
            await asyncio.sleep(0.001)
    return call


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_deletion_that_a_keeper_died_over_is_asked_again(
    store: Store, tmp_path: Path, is_done: bool
) -> None:
    path, command = tmp_path / "socket", c.DeleteRegistry(name="plant", cleanup=True)
    keeper = keeper_of(store)
    await ask(keeper, registry("plant"))
    async with worker(path, store) as port:
        call = await _die_over(path, port, command)
        if is_done:
            await ask(keeper, command)
        async with served(path, keeper):
            assert (await call).changed
    assert store.documents.of_kind("connected-registry") == []


@pytest.mark.parametrize(
    "command",
    [
        update_registry(name="plant", log_level="Debug", if_match="*"),
        c.CreateToken(name="reader", scope_map="_repositories_pull", only_new=True),
    ],
)
async def test_a_condition_is_put_to_one_keeper_only(
    store: Store, tmp_path: Path, command: c.Command
) -> None:
    path = tmp_path / "socket"
    keeper = keeper_of(store)
    await ask(keeper, registry("plant"))
    async with worker(path, store) as port:
        call = await _die_over(path, port, command)
        async with served(path, keeper):
            with pytest.raises(errors.KeeperAway):
                await call
