"""Starts a program on a machine that misbehaves: another boot, death at a chosen write.

    launch.py --data PATH [--boot FILE] [--trap DIR] -- COMMAND …

`--boot` puts the file in the place of the kernel's boot id, for this program and its children only (a mount
namespace of its own), so that a file system that was cut and mounted again is met as after a start of the
machine. `--trap` follows every thread and process of the command, counts the calls that change a file below
`--data` (all threads together, which strace's `when` cannot), and kills the process that makes the n-th one before
the kernel runs it: see `Trap`.

Linux on x86-64, root. Standard library alone: it starts before every node.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import struct
import sys
from pathlib import Path

#: what changes a file or makes a change last (x86-64 numbers)
CALLS = {
    "write": 1,
    "pwrite64": 18,
    "writev": 20,
    "msync": 26,
    "sendfile": 40,
    "fsync": 74,
    "fdatasync": 75,
    "truncate": 76,
    "ftruncate": 77,
    "rename": 82,
    "mkdir": 83,
    "rmdir": 84,
    "link": 86,
    "unlink": 87,
    "symlink": 88,
    "mkdirat": 258,
    "unlinkat": 263,
    "renameat": 264,
    "linkat": 265,
    "splice": 275,
    "sync_file_range": 277,
    "fallocate": 285,
    "pwritev": 296,
    "syncfs": 306,
    "renameat2": 316,
    "copy_file_range": 326,
    "pwritev2": 328,
}
OPENAT = 257  # counted when it makes or cuts a file
CREATES = os.O_CREAT | os.O_TRUNC
NAMES = {number: name for name, number in CALLS.items()} | {OPENAT: "openat"}
#: calls whose first argument is a path, and those that take a directory descriptor and a path
BY_PATH = {"truncate", "rename", "mkdir", "rmdir", "link", "unlink"}
BY_DIRECTORY = {"openat", "mkdirat", "unlinkat", "renameat", "linkat", "renameat2"}
BY_OUTPUT = {"splice": 2, "copy_file_range": 2}  # descriptor that is written to, when it is not the first

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long

# --- a filter in the kernel (seccomp(2)) -------------------------------------------------------------------

ARCH_X86_64 = 0xC000003E
ALLOW, TRACE = 0x7FFF0000, 0x7FF00000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
AT_NUMBER, AT_ARCH, AT_FLAGS = 0, 4, 32


def watched() -> list[tuple[int, int, int, int]]:
    """A program that stops at CALLS, and at openat when it makes or cuts a file."""
    numbers = list(CALLS.values())
    last = len(numbers) + 1  # jumps count instructions to skip; ALLOW stands first behind the comparisons
    head = [(LOAD, 0, 0, AT_ARCH), (EQUAL, 1, 0, ARCH_X86_64), (RETURN, 0, 0, ALLOW), (LOAD, 0, 0, AT_NUMBER)]
    tests = [(EQUAL, last - at + 3, 0, number) for at, number in enumerate(numbers)]
    opens = [(EQUAL, 1, 0, OPENAT), (RETURN, 0, 0, ALLOW), (LOAD, 0, 0, AT_FLAGS), (ANY_BIT, 1, 0, CREATES)]
    return [*head, *tests, *opens, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, TRACE)]


def install(program: list[tuple[int, int, int, int]]) -> None:
    """From here on, for this process and all it starts."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    held = ctypes.create_string_buffer(code)
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(held))
    no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    check(libc.prctl(no_new_privileges, 1, 0, 0, 0))
    check(libc.prctl(set_seccomp, mode_filter, ctypes.c_char_p(head)))


def check(result: int) -> int:
    """Raises OSError for a call that failed."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


# --- another boot ------------------------------------------------------------------------------------------


def boot_anew(file: str, data: str) -> None:
    """This process and its children read their boot id from `file`. Disks that hold no `data` are given back:
    this process must not keep what somebody else unmounts."""
    new_mounts, recursive_private, bind, detach = 0x20000, 0x44000, 0x1000, 2
    check(libc.unshare(new_mounts))
    check(libc.mount(b"none", b"/", None, recursive_private, None))
    check(libc.mount(os.fsencode(file), b"/proc/sys/kernel/random/boot_id", None, bind, None))
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, point = line.split()[:2]
        if device.startswith("/dev/loop") and not Path(data).is_relative_to(point):
            libc.umount2(os.fsencode(point), detach)  # one that is gone by now is as good


# --- death at a chosen write -------------------------------------------------------------------------------

SEIZE, CONTINUE, SYSCALL_INFO = 0x4206, 7, 0x420E
#: follow clones, forks, vforks and execs; stop at the filter's calls; kill all when this process ends
OPTIONS = 0x2 | 0x4 | 0x8 | 0x10 | 0x80 | 0x100000
EVENT_SECCOMP, WAIT_ALL = 7, 0x40000000
PATH_BYTES = 4096


class Trap:
    """The tracer. `place/order` holds n; SIGUSR1, or an order that is there before the command starts, arms:
    counting begins at 1, and the n-th call is fatal (n = 0: none is). `place/calls` gets a line `armed` and then
    one a counted call: number, name, path."""

    def __init__(self, place: str, below: str) -> None:
        self._place, self._below = Path(place), os.path.realpath(below)
        self._fatal = self._count = -1
        self._said = (self._place / "calls").open("a", buffering=1)
        self._child = 0

    def run(self, command: list[str]) -> int:
        """Start the command and follow it to its end; its exit code."""
        ready, go = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(go)
            os.read(ready, 1)
            install(watched())
            os.execvp(command[0], command)
        os.close(ready)
        check(libc.ptrace(SEIZE, self._child, None, OPTIONS))
        signal.signal(signal.SIGUSR1, self._arm)
        if (self._place / "order").exists():
            self._arm()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: os.kill(self._child, number))
        os.close(go)
        return self._follow()

    def _arm(self, *_: object) -> None:
        self._fatal, self._count = int((self._place / "order").read_text()), 0
        self._said.write("armed\n")

    def _follow(self) -> int:
        while True:
            thread, status = os.waitpid(-1, WAIT_ALL)
            if not os.WIFSTOPPED(status):
                if thread == self._child:
                    self._said.write("ended\n")
                    return os.waitstatus_to_exitcode(status)
                continue
            event, number = status >> 16, os.WSTOPSIG(status)
            if event == EVENT_SECCOMP and self._count >= 0:
                self._meet(thread)
            libc.ptrace(CONTINUE, thread, None, None if event else number)

    def _meet(self, thread: int) -> None:
        """A thread is about to make a call; count it when it concerns us, and kill when it is the one."""
        info = ctypes.create_string_buffer(96)
        if libc.ptrace(SYSCALL_INFO, thread, ctypes.c_void_p(len(info)), info) == -1:
            return  # it was killed meanwhile
        number, *arguments = struct.unpack_from("7Q", info, 24)
        path = target(thread, NAMES[number], arguments)
        if path != self._below and not path.startswith(self._below + "/"):
            return
        self._count += 1
        self._said.write(f"{self._count} {NAMES[number]} {path[len(self._below) + 1 :]}\n")
        if self._count == self._fatal:
            os.kill(thread, signal.SIGKILL)


def target(thread: int, name: str, arguments: list[int]) -> str:
    """The path that a call changes; "" when it cannot be told (a socket, a path that is not there)."""
    if name in BY_PATH:
        return string(thread, arguments[0])
    if name in BY_DIRECTORY:
        path = string(thread, arguments[1])
        directory = ctypes.c_int32(arguments[0]).value
        at = f"/proc/{thread}/cwd" if directory == -100 else f"/proc/{thread}/fd/{directory}"
        return path if path.startswith("/") else os.path.join(link(at), path)
    return link(f"/proc/{thread}/fd/{ctypes.c_int32(arguments[BY_OUTPUT.get(name, 0)]).value}")


def link(path: str) -> str:
    """Where a link of /proc leads."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def string(thread: int, address: int) -> str:
    """The string at an address of another process."""
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        page = -address % PATH_BYTES or PATH_BYTES  # what lies behind the page may not be there
        found = memory.read(page)
        if b"\0" not in found:
            found += memory.read(PATH_BYTES)
    return os.fsdecode(found.partition(b"\0")[0])


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="launch.py", description=__doc__)
    parser.add_argument("--boot", default="")
    parser.add_argument("--trap", default="")
    parser.add_argument("--data", required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if options.boot:
        boot_anew(options.boot, options.data)
    if options.trap:
        return Trap(options.trap, options.data).run(options.command)
    return os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    sys.exit(main())
