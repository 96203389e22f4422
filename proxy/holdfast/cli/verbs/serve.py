"""`holdfast serve`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from holdfast_core.errors import StoreError, StoreRefused, Unwritable

from holdfast.admin import auth
from holdfast.cli.exit_codes import FAILED, refuse
from holdfast.cli.output import amount
from holdfast.clock import SystemClock
from holdfast.config import ConfigInvalid, Configuration
from holdfast.config_file import load, secret_problems
from holdfast.gateway.connection_string import ConnectionStringInvalid, parse
from holdfast.gateway.environment import crosses_network_in_clear, is_here, joined
from holdfast.http.egress import EgressInvalid
from holdfast.log import configure, log
from holdfast.process.listening import Listening, node_listeners, refuse_open_admin
from holdfast.process.process_group import Group
from holdfast.process.shutdown import end_with, hold_reload
from holdfast.storage.budget import disk_contradictions
from holdfast.storage.data_volume import refuse_unmounted, with_present_store, with_store
from holdfast.storage.least_budget import refuse_below_what_stays


def run(file: Path | None, flags: Mapping[str, Any]) -> None:
    """Serve until SIGTERM; exits the process."""
    hold_reload()
    os.umask(0o077)  # before anything is made: what a node writes is its user's alone

    def read() -> Configuration:
        return checked(file, overrides(flags), os.environ)

    def reread(before: Configuration) -> Configuration:
        warn_of_doors(renewed := read())
        refuse_below_what_stays(renewed, before)
        return with_store(renewed, config.store.uuid)

    try:
        config = read()
        configure(config.log_level, "supervisor" if config.workers else "node", config.log_format)
        warn_of_doors(config)
        group = Group(Path(config.data))
        group.take_over()
        listening = prepare(config, group)
        config = with_present_store(config)
        if config.workers == 0:
            sys.exit(serve_alone(config, group, listening))
        sys.exit(serve_group(config, group, listening, reread))
    except (ConfigInvalid, StoreRefused, Unwritable) as error:
        refuse(str(error))


def checked(file: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str]) -> Configuration:
    """The configuration that a node is started with, with all that can be known to be wrong without a store and without
    its address, which a node may be serving from. Raises ConfigInvalid."""
    config = join(load(file, flags, environ), environ)
    if "gateway" in flags and not (flags.get("parent") or config.gateway.connection_string):
        named = ", ".join(f"--parent-{key}" for key in flags["gateway"])
        raise ConfigInvalid(
            f"{named}: found no parent that it is about; name one by --parent or a connection string, or put"
            f" {', '.join(flags['gateway'])} into its [[parent]] table"
        )
    check_certificate(config)
    refuse_unmounted(config)
    check_budget(config)
    refuse_open_admin(config)
    return config


def check_budget(config: Configuration) -> None:
    """Refuse a budget that the disk of the data directory, or of what it will be made in, cannot have. Raises
    ConfigInvalid."""
    place = Path(config.data).absolute()
    while not place.exists():
        place = place.parent
    status = os.statvfs(place)
    for problem in disk_contradictions(config.store, status.f_frsize * status.f_blocks):
        raise ConfigInvalid(problem)


def join(config: Configuration, environ: Mapping[str, str]) -> Configuration:
    """The configuration as the child that its connection string makes of it. Raises ConfigInvalid."""
    try:
        return joined(config, environ)
    except ConnectionStringInvalid as error:
        raise ConfigInvalid(f"connection string: {error}") from None
    except EgressInvalid as error:
        raise ConfigInvalid(str(error)) from None


def warn_of_doors(config: Configuration) -> None:
    """Logs one line for each secret that cannot be read (the store is served without it), one when any client may push
    or delete, one for each parent whose certificate is not checked (S8), and one when the sync password crosses the
    network in clear."""
    for problem in secret_problems(config, os.environ):
        log.warning("secret not readable", problem=problem)
    for parent in config.parent:
        if parent.insecure and not is_here(parent.url):
            log.warning(
                "parent not verified",
                parent=parent.url,
                note="insecure = true: http and any certificate are taken",
            )
    if crosses_network_in_clear(config):
        log.warning(
            "sync password in the clear", parent=config.parent[0].url, note="ParentEndpointProtocol=http"
        )
    if config.anonymous == "push" and config.store_mode != "ReadOnly":
        log.warning(
            "strangers may push", listen=config.listen, note="anonymous = push: no login is asked for"
        )


def overrides(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as configuration keys; flags that were not given are absent."""
    table = {
        name: flags[name]
        for name in ("listen", "data", "workers", "on_miss", "mode", "anonymous")
        if flags[name] is not None
    }
    if flags.get("admin_listen") is not None:
        table["admin"] = {"listen": flags["admin_listen"]}
    if flags["tls_cert"] or flags["tls_key"]:
        table["tls"] = {"cert": flags["tls_cert"] or "", "key": flags["tls_key"] or ""}
    settings = {key: flags[f"parent_{key}"] for key in ("insecure", "ca", "proxy")}
    settings = {key: value for key, value in settings.items() if value}
    if settings:  # of the parent that a connection string names, if there is one
        table["gateway"] = settings
    if flags["parents"]:
        table["parent"] = [parent(text, settings) for text in flags["parents"]]
    return table


def parent(text: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`URL` or `NAME=URL`."""
    name, equals, url = text.partition("=")
    if not equals or "://" in name:
        name, url = "", text
    return {"name": name, "url": url, **settings}


def prepare(config: Configuration, group: Group) -> Listening:
    """Sockets, store and operator; nothing is written before all else was tried: a start that is refused makes no
    store and spends no password. Raises ConfigInvalid, StoreRefused, Unwritable."""
    if group.old_workers:  # the old workers have a store and an operator, and serve clients meanwhile
        prepare_store(config)
        prepare_operator(config)
        return node_listeners(config, joins=True)
    listening = node_listeners(config)
    if config.admin.listen:
        with suppress(FileNotFoundError):
            auth.read(Path(config.data))
    prepare_store(config)
    prepare_operator(config)
    return listening


def prepare_operator(config: Configuration) -> None:
    """Make the operator's credentials before any process that reads them, and print them once. Raises
    ConfigInvalid for credentials that are no secret."""
    if not config.admin.listen:
        return
    operator, made = auth.ensure(Path(config.data))
    if made:
        where = f"(also in {Path(config.data) / auth.FILE})"
        sentence = f"the operator is {operator.username}, with the password {operator.password} {where}"
        click.echo(f"holdfast: {sentence}", err=True)


def prepare_store(config: Configuration) -> None:
    """Create or recover the store in a process of its own, so that a refusal is the command's answer.

    Raises StoreRefused. Forked before any loop or thread exists; nothing of LMDB stays in this process. It has the
    group's lock as well, so it ends when this process does: a lock without a node would keep the next one out.
    """
    reader, writer = os.pipe()
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        end_with(parent)
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
    from holdfast_core.filesystem.store_identity import require_store
    from holdfast_core.store import Store

    from holdfast.gateway.identity import refuse_other
    from holdfast.login.access_token import ensure_key

    try:
        if config.store.uuid:
            require_store(Path(config.data), config.store.uuid)
        _compact(Path(config.data))
        store = Store.create_or_open(
            config.data,
            write=True,
            inline_bytes=config.inline_bytes,
            or_read=True,
            uuid=config.store.uuid,
        )
        try:
            refuse_other(store, parse(text).registry if (text := config.gateway.connection_string) else "")
        finally:
            store.close()
        ensure_key(Path(config.data))
    except (StoreRefused, Unwritable, OSError) as error:
        os.write(writer, str(error).encode())
    return 0


def _compact(data: Path) -> None:
    """Compact an index that is long for what it holds, while no process has it open. A start goes on without that."""
    from holdfast_core.recovery.compact import compact_if_due

    try:
        report = compact_if_due(data)
    except StoreError as error:
        click.echo(f"holdfast: the index was not compacted: {error}", err=True)
        return
    if report is not None:
        lengths = f"{amount(report.before)}, now {amount(report.after)}"
        click.echo(f"holdfast: the index was compacted: {lengths}", err=True)


def check_certificate(config: Configuration) -> None:
    """Refuse a pair that could not serve. Raises ConfigInvalid."""
    if not config.tls.cert:
        return
    from holdfast.server.tls import ServerCertificate

    ServerCertificate(config.tls, config.login.client_ca)


def serve_group(config: Configuration, group: Group, listening: Listening, read: Any) -> int:
    """Supervisor, keeper and workers."""
    from holdfast.process.supervisor import Supervisor, announce

    async def main() -> int:
        supervisor = Supervisor(config, SystemClock(), group, listening, read)
        announce(listening, config)
        return await supervisor.run()

    return asyncio.run(main())


def serve_alone(config: Configuration, group: Group, listening: Listening) -> int:
    """Everything in this process."""
    from holdfast.process.single import run as run_alone

    return run_alone(config, group, listening)
