"""What a child process is given by the supervisor: its role, its configuration, its descriptors.

Nothing secret travels in arguments or environment: the configuration comes through an inherited memfd.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from holdfast.config import Configuration
from holdfast.process.shutdown import is_closed

VARIABLE = "HOLDFAST_CHILD"
#: the role of a process between two keepers
COMPACTION = "compaction"
#: exit codes: of a keeper whose index is to be compacted; of a compaction that changed it, and of one that did not. By
#: any other the index may have been changed
INDEX_LONG, COMPACTED, UNCHANGED = 75, 0, 76
#: mallopt(3): glibc gives the top of its heap back whenever a piece of a body is freed, and faults it in again
#: for the next. Keeping 16 MiB took the keeper from 3.0 to 2.5 s of processor a GB filled.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(16 << 20), "MALLOC_MMAP_THRESHOLD_": str(4 << 20)}


class Inheritance(msgspec.Struct):
    """Descriptor numbers as the child sees them. -1 where the role has none.

    `listener` takes clients, or workers in the keeper; `admin` the operator. `lifeline` is the read end of a pipe
    that the supervisor holds open: end of file means it is gone. `unborn` is open until the child has joined its group.
    """

    role: str
    number: int
    config: int
    listener: int
    lifeline: int
    admin: int = -1
    unborn: int = -1
    #: where the keeper listens
    keeper: str = ""

    def descriptors(self) -> tuple[int, ...]:
        """What must stay open across exec."""
        every = (self.config, self.listener, self.lifeline, self.admin, self.unborn)
        return tuple(fd for fd in every if fd >= 0)


def configuration_descriptor(config: Configuration) -> int:
    """A memfd that holds the configuration, for children to read."""
    fd = os.memfd_create("holdfast-config", os.MFD_CLOEXEC)
    os.write(fd, msgspec.msgpack.encode(config))
    return fd


def read_configuration(fd: int) -> Configuration:
    """The configuration in a memfd; the offset is shared with siblings, so it is not moved."""
    size = os.fstat(fd).st_size
    return msgspec.msgpack.decode(os.pread(fd, size, 0), type=Configuration)


def environment(inheritance: Inheritance) -> dict[str, str]:
    """The child's environment. What the operator set for the allocator wins."""
    return {**ALLOCATOR, **os.environ, VARIABLE: msgspec.json.encode(inheritance).decode()}


def inheritance(environ: dict[str, str] | os._Environ[str] = os.environ) -> Inheritance:
    """What this process was given. Raises KeyError outside a child."""
    return msgspec.json.decode(environ[VARIABLE], type=Inheritance)


def is_orphan(inheritance: Inheritance) -> bool:
    """Whether the supervisor that gave it is gone."""
    return is_closed(inheritance.lifeline)


def command() -> Sequence[str]:
    """How to start a child with the interpreter this process runs on."""
    import sys

    return (sys.executable, "-m", "holdfast.process")
