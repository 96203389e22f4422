"""A piece of work in a process of its own, killed before one of its steps on files, at each of them in turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

#: of what Python tells before it does it (sys.addaudithook); one of 512 empty directories of blobs is like another
CODE = """
import os, signal, sys
sys.path[:0] = {path!r}
{imports}
taken, fatal = 0, int(sys.argv[1])
def step():
    global taken
    taken += 1
    if taken == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
def seen(event, args):
    if event in ("os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"):
        step()
    elif event == "os.mkdir" and "/blobs/" not in str(args[0]):
        step()
    elif event == "open" and args[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
        step()
def before(call):
    def told(*args, **kwargs):
        step()
        return call(*args, **kwargs)
    return told
os.fsync, os.fdatasync = before(os.fsync), before(os.fdatasync)
sys.addaudithook(seen)
{work}
"""
#: no piece of work that is tested so has as many
MOST = 400


def kills(imports: str, work: str, *arguments: object) -> Iterator[int]:
    """Run `work` again and again, killed before its first step, its second and so on, until it comes to its end; the
    number of the step after each kill. `work` finds the arguments in sys.argv[2:]."""
    code = CODE.format(path=[p for p in sys.path if p], imports=imports, work=work)
    for number in range(1, MOST):
        command = [sys.executable, "-c", code, str(number), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        assert done.returncode == -signal.SIGKILL, done.stderr
        yield number
    raise AssertionError(f"it took over {MOST} steps; {os.getpid()} gave up")
