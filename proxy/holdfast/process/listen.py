"""Listening sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from holdfast.config_file import ConfigInvalid, listen_address

#: Connections that may wait in the kernel for a worker; the kernel's own cap (somaxconn) applies.
BACKLOG = 4096


def listeners(listen: str, count: int) -> list[socket.socket]:
    """`count` sockets on one address (SO_REUSEPORT: the kernel spreads connections over them).

    Port 0 picks one port for all. Raises ConfigInvalid when the address cannot be had.
    """
    host, port = listen_address(listen)
    _refuse_shared(host, port, listen)
    sockets: list[socket.socket] = []
    for _ in range(count):
        listener = _listener(host, port, listen)
        port = listener.getsockname()[1]
        sockets.append(listener)
    return sockets


def _refuse_shared(host: str, port: int, listen: str) -> None:
    """SO_REUSEPORT would join another node's port in silence; a plain bind finds out first."""
    if port:
        _bound(host, port, listen, shared=False).close()


def _listener(host: str, port: int, listen: str) -> socket.socket:
    listener = _bound(host, port, listen, shared=True)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _bound(host: str, port: int, listen: str, *, shared: bool) -> socket.socket:
    family, kind, protocol, _, address = _resolve(host, port, listen)
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigInvalid(f"listen: found {listen!r}; cannot be bound: {error.strerror}") from None
    return bound


def _resolve(host: str, port: int, listen: str) -> tuple[int, int, int, str, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigInvalid(f"listen: found {listen!r}; the host is not known: {error.strerror}") from None
    found.sort(key=lambda row: row[0] != socket.AF_INET)  # "localhost" means 127.0.0.1 to most clients
    return found[0]  # type: ignore[return-value]


#: A Unix socket's path must fit into 108 bytes (unix(7)).
LONGEST_PATH_BYTES = 100


def keeper_path(data: Path) -> str:
    """Where the keeper of a data directory listens. A path that is too long for a Unix socket is reached
    through a descriptor of the directory, which stays open for the life of the process."""
    path = str(data / "keeper.sock")
    if len(os.fsencode(path)) <= LONGEST_PATH_BYTES:
        return path
    return f"/proc/self/fd/{os.open(data, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}/keeper.sock"


def keeper_listener(data: Path) -> socket.socket:
    """The keeper's socket, for this user only. The caller holds the group's lock, so an old one is dead."""
    path = keeper_path(data)
    (data / "keeper.sock").unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(128)
    return listener
