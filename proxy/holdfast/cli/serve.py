"""`holdfast serve`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from holdfast_core.errors import StoreRefused

from holdfast.cli.commands import FAILED, refuse
from holdfast.clock import SystemClock
from holdfast.config import Configuration
from holdfast.config_file import ConfigInvalid, load
from holdfast.process import log
from holdfast.process.group import Group


def run(file: Path | None, flags: Mapping[str, Any]) -> None:
    """Serve until SIGTERM; exits the process."""

    def read() -> Configuration:
        config = load(file, overrides(flags))
        check_certificate(config)
        return config

    def reread() -> Configuration:
        warn_of_strangers(config := read())
        return config

    try:
        config = read()
        log.configure(config.log_level, "supervisor" if config.workers else "node")
        warn_of_strangers(config)
        group = Group(Path(config.data))
        group.end_orphans()
        prepare_store(config)
        sys.exit(serve_alone(config, group) if config.workers == 0 else serve_group(config, group, reread))
    except (ConfigInvalid, StoreRefused) as error:
        refuse(str(error))


def warn_of_strangers(config: Configuration) -> None:
    """One line when anybody who reaches the address may change what is here."""
    if config.anonymous == "push" and config.store_mode != "ReadOnly":
        structlog.get_logger().warning(
            "strangers may push", listen=config.listen, note="anonymous = push: no login is asked for"
        )


def overrides(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as configuration keys; flags that were not given are absent."""
    table = {
        name: flags[name]
        for name in ("listen", "data", "workers", "on_miss", "mode", "anonymous")
        if flags[name] is not None
    }
    if flags["tls_cert"] or flags["tls_key"]:
        table["tls"] = {"cert": flags["tls_cert"] or "", "key": flags["tls_key"] or ""}
    if flags["parents"]:
        table["parent"] = [parent(text, flags["parent_insecure"]) for text in flags["parents"]]
    return table


def parent(text: str, insecure: bool) -> dict[str, Any]:
    """`URL` or `NAME=URL`."""
    name, equals, url = text.partition("=")
    if not equals or "://" in name:
        name, url = "", text
    return {"name": name, "url": url, "insecure": insecure}


def prepare_store(config: Configuration) -> None:
    """Create or recover the store in a process of its own, so that a refusal is the command's answer.

    Raises StoreRefused. Forked before any loop or thread exists; nothing of LMDB stays in this process.
    """
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os._exit(_prepare(config, writer))
    os.close(writer)
    with os.fdopen(reader) as pipe:
        complaint = pipe.read()
    _, status = os.waitpid(pid, 0)
    if complaint:
        raise StoreRefused(complaint)
    if status:
        refuse(f"{config.data}: the store could not be opened (status {status})", FAILED)


def _prepare(config: Configuration, writer: int) -> int:
    from holdfast_core.store import Store

    try:
        Store.create_or_open(config.data, write=True, inline_bytes=config.inline_bytes).close()
    except (StoreRefused, OSError) as error:
        os.write(writer, str(error).encode())
    return 0


def check_certificate(config: Configuration) -> None:
    """Refuse a pair that could not serve. Raises ConfigInvalid."""
    if not config.tls.cert:
        return
    from holdfast.tls import Certificate

    try:
        Certificate(config.tls)
    except OSError as error:  # ssl.SSLError is one
        files = f"{config.tls.cert!r} and {config.tls.key!r}"
        raise ConfigInvalid(f"tls.cert, tls.key: found {files}; the pair cannot serve: {error}") from None


def serve_group(config: Configuration, group: Group, read: Any) -> int:
    """Supervisor, keeper and workers."""
    from holdfast.process.supervisor import Supervisor, announce

    async def main() -> int:
        supervisor = Supervisor(config, SystemClock(), group, read)
        announce(supervisor.address, config)
        return await supervisor.run()

    return asyncio.run(main())


def serve_alone(config: Configuration, group: Group) -> int:
    """Everything in this process."""
    from holdfast.process.alone import run as run_alone

    return run_alone(config, group)
