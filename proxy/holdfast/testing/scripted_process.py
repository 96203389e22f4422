"""A scripted parent in a process of its own, so that real clients and benchmarks can be put in front of it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from holdfast.testing.fault import ScriptedFault


class ScriptedProcess:
    """A handle on the process. `hello` is its first line: `url`, `port`, `samples`, `blobs`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.hello: dict[str, Any] = json.loads(process.stdout.readline())
        self.url: str = self.hello["url"]

    def control(self, verb: str, order: object = None) -> Any:
        """POST to /_control/<verb> (GET for stats); raises urllib.error.HTTPError when it is refused."""
        body = None if verb == "stats" else msgspec.json.encode(order if order is not None else {})
        with urllib.request.urlopen(f"{self.url}/_control/{verb}", body, timeout=60) as answer:
            return json.load(answer)

    def script(self, *faults: ScriptedFault) -> None:
        """Add faults."""
        self.control("script", list(faults))

    def stats(self) -> Any:
        """See `ScriptedControl`."""
        return self.control("stats")


@contextmanager
def scripted_process(*arguments: str) -> Iterator[ScriptedProcess]:
    """Start `python -m holdfast.testing.scripted_parent` with these arguments; end it afterwards."""
    command = [sys.executable, "-m", "holdfast.testing.scripted_parent", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield ScriptedProcess(process)
    finally:
        process.terminate()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
