"""The supervisor: opens the sockets, starts the others, restarts what dies, drains on SIGTERM.

It holds every listening socket itself, one per worker (SO_REUSEPORT), so that no queue of connections
dies with its worker: the next worker inherits it. It reads no request and opens no
store; there is little in it that could fail. A child that dies young is started again after a delay that doubles.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any

from holdfast.admin import address_file
from holdfast.admin.address_file import is_secure
from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.gateway.identity import role
from holdfast.log import log, say
from holdfast.process import inheritance
from holdfast.process.listening import Listening, bound, forget_keeper, keeper_listener
from holdfast.process.process_group import GRACE_SECONDS, Group, unborn
from holdfast.process.shutdown import DRAIN, ShutdownEscalation, first, take_reload

#: After a life of this length (seconds) a child is started again at once.
HEALTHY_SECONDS = 5.0
#: The first and the longest delay before a start (seconds).
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.05, 5.0


class Slot:
    """One child: its role and sockets, and its present process. SIGHUP replaces the process and counts `generation`."""

    def __init__(
        self, role: str, number: int, listener: socket.socket, admin: socket.socket | None = None
    ) -> None:
        self.role, self.number, self.listener, self.admin = role, number, listener, admin
        self.generation = 0
        #: set when the present generation has its first process
        self.started = asyncio.Event()
        self.delay = RestartDelay()


class Supervisor:
    """Runs one node. `reread` returns a new configuration, beside the one in force, or raises, for SIGHUP."""

    def __init__(
        self,
        config: Configuration,
        clock: Clock,
        group: Group,
        listening: Listening,
        reread: Callable[[Configuration], Configuration],
    ) -> None:
        self.config, self.clock, self.group, self.reread = config, clock, group, reread
        self.listening = listening
        self.lifeline_read, self.lifeline_write = os.pipe()
        self.config_fd = inheritance.configuration_descriptor(bound(config, self.listening))
        self.keeper_socket, self.keeper_path = keeper_listener(Path(config.data))
        self.keeper = Slot("keeper", 0, self.keeper_socket)
        pairs = enumerate(zip_longest(self.listening.clients, self.listening.admin))
        self.workers = [Slot("worker", n, client, admin) for n, (client, admin) in pairs]
        #: every living child with its slot; after SIGHUP a slot has two for as long as the old one drains
        self.living: dict[asyncio.subprocess.Process, Slot] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.reloading = asyncio.Lock()
        self.ending, self.insistence = asyncio.Event(), ShutdownEscalation()

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end)
        take_reload(self._asked_to_reload)
        for slot in (self.keeper, *self.workers):
            self._begin(self._fill(slot, slot.generation))
        self._begin(self._end_old_workers())
        await self.ending.wait()
        await self._drain()
        return 0

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _fill(self, slot: Slot, generation: int) -> None:
        """Keep a process in a slot until the node ends or SIGHUP puts another generation there."""
        while self._is_wanted(slot, generation):
            slot.delay.started(self.clock.monotonic())
            process = await self._started(slot)
            if process is not None and self._is_wanted(slot, generation):
                slot.started.set()
            elif process is not None:
                process.send_signal(DRAIN)
            code = await self._ended(process)
            if not self._is_wanted(slot, generation):
                return
            if code == inheritance.INDEX_LONG:
                await self._compact()
            else:
                delay = slot.delay.after_death(self.clock.monotonic())
                log.error("child died", child=slot.role, number=slot.number, code=code, restart_in=delay)
                await self.clock.sleep(delay)

    async def _compact(self) -> None:
        """Between two keepers: the index is written again, and every worker replaced by one that reads the new file.
        Who has the former one takes no new request by the time somebody writes."""
        async with self.reloading:
            process = await self._started(Slot(inheritance.COMPACTION, 0, self.keeper_socket))
            if process is not None and await self._ended(process) != inheritance.UNCHANGED:
                for slot in self.workers:
                    await self._replace(slot)

    async def _end_old_workers(self) -> None:
        """Those of a supervisor that died go once the new ones were started, on the same address."""
        for slot in self.workers:
            await first(slot.started, self.ending)
        await self.group.end_workers(self.config.limits.drain_timeout + GRACE_SECONDS)

    def _is_wanted(self, slot: Slot, generation: int) -> bool:
        return slot.generation == generation and not self.ending.is_set()

    async def _started(self, slot: Slot) -> asyncio.subprocess.Process | None:
        """A new process for a slot; None when the machine has none to give."""
        gift = inheritance.Inheritance(
            role=slot.role,
            number=slot.number,
            config=self.config_fd,
            listener=slot.listener.fileno(),
            lifeline=self.lifeline_read,
            admin=slot.admin.fileno() if slot.admin else -1,
            unborn=unborn(Path(self.config.data)),
            keeper=self.keeper_path,
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *inheritance.command(), env=inheritance.environment(gift), pass_fds=gift.descriptors()
            )
        except (OSError, ValueError) as error:
            log.error("child not started", child=slot.role, number=slot.number, reason=str(error))
            return None
        finally:
            if gift.unborn >= 0:
                os.close(gift.unborn)
        self.living[process] = slot
        log.info("child started", child=slot.role, number=slot.number, child_pid=process.pid)
        return process

    async def _ended(self, process: asyncio.subprocess.Process | None) -> int | None:
        if process is None:
            return None
        code = await process.wait()
        del self.living[process]
        return code

    def _asked_to_end(self) -> None:
        if self.insistence.is_second(self.clock.monotonic()):
            log.warning("node ending at once")
            for process in self.living:
                process.kill()
        self.ending.set()

    def _asked_to_reload(self) -> None:
        self._begin(self._reload())

    async def _reload(self) -> None:
        """SIGHUP: a new configuration by new processes on the same sockets, or the reason why not."""
        async with self.reloading:
            try:
                config = self.reread(self.config)
                self._refuse_fixed(config)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, the node goes on
                log.error("configuration refused", reason=str(error))
                return
            self.config = config
            os.close(self.config_fd)
            self.config_fd = inheritance.configuration_descriptor(bound(config, self.listening))
            await self._replace(self.keeper)
            for slot in self.workers:
                await self._replace(slot)
            log.info("configuration reloaded")

    async def _replace(self, slot: Slot) -> None:
        """Another process for a slot. The store has one writer, so the old keeper ends before the new one
        starts; a new worker starts before the old one drains."""
        if self.ending.is_set():
            return
        old = [process for process, filled in self.living.items() if filled is slot]
        slot.generation += 1
        slot.started.clear()
        if slot.role == "keeper":
            await self._end_all(old, GRACE_SECONDS)
        self._begin(self._fill(slot, slot.generation))
        await first(slot.started, self.ending)
        for process in old:
            if process.returncode is None:
                process.send_signal(DRAIN)

    def _refuse_fixed(self, config: Configuration) -> None:
        for name in ("listen", "data", "workers", "admin.listen"):
            read = attrgetter(name)
            if read(config) != read(self.config):
                raise ValueError(f"{name}: cannot change while serving; restart to change it")
        address = self.listening.admin_address
        if address and is_secure(address[0], config) != is_secure(address[0], self.config):
            raise ValueError(
                "tls.cert: the admin API listens beyond this machine; restart to change its scheme"
            )

    async def _drain(self) -> None:
        """Workers finish what they are sending, then the keeper parks its fills; a compaction ends where it is. New
        clients are refused at once, so that they turn to another registry: a connection that is taken now would get no
        answer."""
        self.listening.close()
        log.info("node draining", limit=self.config.limits.drain_timeout)
        await self._end_all(self._processes("worker"), self.config.limits.drain_timeout + GRACE_SECONDS)
        await self._end_all(self._processes("keeper"), GRACE_SECONDS)
        await self._end_all(self._processes(inheritance.COMPACTION), GRACE_SECONDS)
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.close()
        log.info("node ended")

    def _processes(self, role: str) -> list[asyncio.subprocess.Process]:
        return [process for process, slot in self.living.items() if slot.role == role]

    async def _end_all(self, processes: list[asyncio.subprocess.Process], limit: float) -> None:
        for process in processes:
            if process.returncode is None:
                process.send_signal(DRAIN)
        if processes:
            await asyncio.wait([asyncio.ensure_future(p.wait()) for p in processes], timeout=limit)
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def close(self) -> None:
        """Close what is left and forget the group."""
        self.keeper_socket.close()
        forget_keeper(self.keeper_path, Path(self.config.data))
        for fd in (self.lifeline_read, self.lifeline_write, self.config_fd):
            os.close(fd)
        address_file.remove(Path(self.config.data))
        self.group.close()


def announce(listening: Listening, config: Configuration) -> None:
    """Lines on stdout: where the node listens and what it is; where the operator finds it, which is also written down
    for the command line beside the data."""
    host, port = listening.address
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if config.tls.cert else "http"
    say(f"holdfast: serving on {scheme}://{shown}:{port} ({role(config)})")
    if admin := listening.admin_address:
        url = address_file.url_of(admin, config)
        say(f"holdfast: admin on {url}")
        _write_place(config, url)


def _write_place(config: Configuration, url: str) -> None:
    """On a full disk the node goes on without: only a convenience is lost."""
    try:
        address_file.write(Path(config.data), url)
    except OSError as error:
        log.warning("admin.json not written", reason=str(error))


class RestartDelay:
    """The delay before a child is started again: it doubles while the child dies young, and is reset by a life of
    `HEALTHY_SECONDS`. Pure."""

    def __init__(self) -> None:
        self._delay = 0.0
        self._started_at = 0.0

    def started(self, now: float) -> None:
        """The child was started at `now` (monotonic seconds)."""
        self._started_at = now

    def after_death(self, now: float) -> float:
        """Seconds to wait before the next start."""
        if now - self._started_at >= HEALTHY_SECONDS:
            self._delay = 0.0
        else:
            self._delay = min(LONGEST_DELAY_SECONDS, max(FIRST_DELAY_SECONDS, self._delay * 2))
        return self._delay
