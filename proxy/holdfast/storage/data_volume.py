"""Whether the volume of the data directory is mounted, and which store is to be on it."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast_core.filesystem.store_identity import read_identity
from msgspec.structs import replace

from holdfast.config import ConfigInvalid, Configuration

#: proc_pid_mountinfo(5): the fifth field is the mount point, with blanks as octal escapes
MOUNTS, MOUNT_POINT = "/proc/self/mountinfo", 4


def refuse_unmounted(config: Configuration) -> None:
    """Refuse a data directory outside of `store.volume`, and one whose volume is not mounted. Raises ConfigInvalid."""
    if not config.store.volume:
        return
    volume, data = Path(config.store.volume).resolve(), Path(config.data).resolve()
    if not data.is_relative_to(volume):
        raise ConfigInvalid(
            f"store.volume: found {config.store.volume} beside data {config.data}; allowed: the directory in which the"
            " data directory lies, or itself"
        )
    if not is_mounted(volume):
        raise ConfigInvalid(
            f"store.volume: nothing is mounted on {volume}; the store would be made on the disk below it. Mount the"
            " volume, or take the key out"
        )


def is_mounted(path: Path) -> bool:
    """Whether something is mounted on this very directory, also a part of the same file system (a bind mount)."""
    if os.path.ismount(path):
        return True
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            points = [line.split(" ")[MOUNT_POINT] for line in file]
    except OSError:
        return False
    return _escaped(str(path)) in points


def _escaped(path: str) -> str:
    return "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\" else letter for letter in path)


def with_present_store(config: Configuration) -> Configuration:
    """The configuration with the uuid of the store that is in its data directory: processes that start later take no
    other, should the volume go meanwhile. Raises StoreRefused."""
    identity = read_identity(Path(config.data))
    return config if identity is None else with_store(config, identity.text)


def with_store(config: Configuration, uuid: str) -> Configuration:
    """The configuration of a node that has that store open. Raises ConfigInvalid when it names another."""
    if config.store.uuid not in ("", uuid):
        raise ConfigInvalid(
            f"store.uuid: found {config.store.uuid}; this node serves store {uuid}; restart to change it"
        )
    return replace(config, store=replace(config.store, uuid=uuid))
