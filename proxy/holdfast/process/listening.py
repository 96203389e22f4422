"""Listening sockets."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from holdfast.admin.address_file import is_loopback
from holdfast.config import ConfigInvalid, Configuration, listen_address

#: Connections that may wait in the kernel for a worker; the kernel's own cap (somaxconn) applies.
BACKLOG = 4096


class Listening(NamedTuple):
    """The sockets of a process, or of a whole node: for clients, and for the operator (none where there is no admin
    API)."""

    clients: list[socket.socket]
    admin: list[socket.socket]

    @property
    def address(self) -> tuple[str, int]:
        """Where clients find it, with the port it got."""
        return _address(self.clients[0])

    @property
    def admin_address(self) -> tuple[str, int] | None:
        """Where the operator finds it; None when there is no admin API."""
        return _address(self.admin[0]) if self.admin else None

    def again(self) -> Listening:
        """The same sockets under other descriptors: while these are open, connections wait when those are closed."""
        return Listening([one.dup() for one in self.clients], [one.dup() for one in self.admin])

    def close(self) -> None:
        """Take no more connections."""
        for listener in (*self.clients, *self.admin):
            listener.close()


def _address(listener: socket.socket) -> tuple[str, int]:
    host, port = listener.getsockname()[:2]
    return host, port


def listeners(listen: str, count: int, key: str = "listen", *, joins: bool = False) -> list[socket.socket]:
    """`count` sockets on one address (SO_REUSEPORT: the kernel spreads connections over them).

    Port 0 picks one port for all. `joins`: workers of this node that are to end listen there as well. Raises
    ConfigInvalid, which names `key`, when the address cannot be had.
    """
    host, port = listen_address(listen)
    setting = f"{key}: found {listen!r}"
    if not joins:
        _refuse_shared(host, port, setting)
    sockets: list[socket.socket] = []
    for _ in range(count):
        listener = _listener(host, port, setting)
        port = listener.getsockname()[1]
        sockets.append(listener)
    return sockets


def bound(config: Configuration, listening: Listening) -> Configuration:
    """The configuration with the port that was picked where it says 0, for what names this node's address to others."""
    host, colon, port = config.listen.rpartition(":")
    if port != "0":
        return config
    return replace(config, listen=f"{host}{colon}{listening.address[1]}")


def node_listeners(config: Configuration, *, joins: bool = False) -> Listening:
    """Every socket of a node, one of each kind for a process, see `listeners`. Raises ConfigInvalid."""
    count = process_count(config)
    clients = listeners(config.listen, count, joins=joins)
    try:
        return Listening(clients, admin_listeners(config, count, joins=joins))
    except ConfigInvalid:
        Listening(clients, []).close()
        raise


def process_count(config: Configuration) -> int:
    """How many processes of a node take clients: one per core where `workers` is -1, and one where it is 0."""
    return config.workers if config.workers > 0 else len(os.sched_getaffinity(0)) if config.workers else 1


def admin_listeners(config: Configuration, count: int, *, joins: bool = False) -> list[socket.socket]:
    """The sockets of the admin API, none when the configuration wants none. Raises ConfigInvalid, also when it would
    take the operator's password in clear from another machine."""
    if not config.admin.listen:
        return []
    sockets = listeners(config.admin.listen, count, "admin.listen", joins=joins)
    try:
        _refuse_reached(config, sockets[0].getsockname()[0])
    except ConfigInvalid:
        Listening(sockets, []).close()
        raise
    return sockets


def refuse_open_admin(config: Configuration) -> None:
    """The same refusal without a socket, also beside a node that serves. Raises ConfigInvalid."""
    if config.admin.listen:
        host, port = listen_address(config.admin.listen)
        _refuse_reached(config, _resolve(host, port, f"admin.listen: found {config.admin.listen!r}")[4][0])


def _refuse_reached(config: Configuration, host: str) -> None:
    if is_loopback(host) or config.tls.cert:
        return
    raise ConfigInvalid(
        f"admin.listen: found {config.admin.listen!r}, which other machines reach; allowed without a certificate: an"
        " address of this machine alone (127.0.0.1:PORT), because the operator's password would cross the network in"
        " clear; give tls.cert and tls.key, or listen on 127.0.0.1"
    )


def _refuse_shared(host: str, port: int, setting: str) -> None:
    """SO_REUSEPORT would join another node's port in silence; a plain bind finds out first."""
    if port:
        _bound(host, port, setting, shared=False).close()


def _listener(host: str, port: int, setting: str) -> socket.socket:
    listener = _bound(host, port, setting, shared=True)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _bound(host: str, port: int, setting: str, *, shared: bool) -> socket.socket:
    family, kind, protocol, _, address = _resolve(host, port, setting)
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigInvalid(f"{setting}; cannot be bound: {error.strerror}") from None
    return bound


def _resolve(host: str, port: int, setting: str) -> tuple[int, int, int, str, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigInvalid(f"{setting}; the host is not known: {error.strerror}") from None
    found.sort(key=lambda row: row[0] != socket.AF_INET)  # "localhost" means 127.0.0.1 to most clients
    return found[0]  # type: ignore[return-value]


#: A Unix socket's path must fit into 108 bytes (unix(7)).
LONGEST_PATH_BYTES = 100
#: what a directory answers in which no socket can be made now
UNWRITABLE = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)


def keeper_listener(data: Path) -> tuple[socket.socket, str]:
    """The keeper's socket, for this user only, and where it is: in the data directory, or on a disk that takes no
    writes in a directory of its own. The caller holds the group's lock, so an old one is dead."""
    try:
        return _keeper_listener(data)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
    return _keeper_listener(Path(tempfile.mkdtemp(prefix="holdfast-")))


def _keeper_listener(place: Path) -> tuple[socket.socket, str]:
    (place / "keeper.sock").unlink(missing_ok=True)
    path = keeper_path(place)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(128)
    return listener, str(place / "keeper.sock")


def keeper_path(place: Path) -> str:
    """A path that is too long for a Unix socket is reached through a descriptor of the directory, which stays open for
    the life of the process."""
    path = str(place / "keeper.sock")
    if len(os.fsencode(path)) <= LONGEST_PATH_BYTES:
        return path
    return f"/proc/self/fd/{os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}/keeper.sock"


def forget_keeper(path: str, data: Path) -> None:
    """Remove the keeper's socket where it has a directory of its own."""
    if (place := Path(path).parent) != data:
        shutil.rmtree(place, ignore_errors=True)
