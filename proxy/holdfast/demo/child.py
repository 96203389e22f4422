"""Nodes as child processes: started, awaited, stopped. Their logs are written to a file."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from threading import Event
from typing import Self
from urllib.parse import urlsplit

ANNOUNCED = re.compile(r"serving on (https?://\S+)")
#: a child that does not end after SIGTERM is killed after so long (s)
GRACE_SECONDS = 15.0
PAUSE_SECONDS = 0.02


class ChildFailed(Exception):
    """A child ended, or never served; the message has the last line of its log."""


class DemoNode:
    """One `holdfast serve` with its store in `place`. `url` is where it serves. Raises ChildFailed."""

    def __init__(self, directory: Path, *flags: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._log = directory / "log"
        command = [sys.executable, "-m", "holdfast", "serve", "--data", str(directory / "data"), *flags]
        # a session of its own: Ctrl-C reaches this process alone, which ends its children in order
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        self.url = self._announced()
        self._wait_ready()

    def _announced(self) -> str:
        assert self.process.stdout
        announcement = ANNOUNCED.search(self.process.stdout.readline().decode(errors="replace"))
        if not announcement:
            self.stop()
            raise ChildFailed(self.last_words())
        return announcement[1]

    def _wait_ready(self) -> None:
        """Wait until /readyz answers 200: the address is printed before the processes have started."""
        while not self._ready():
            if self.process.poll() is not None:
                raise ChildFailed(self.last_words())
            Event().wait(PAUSE_SECONDS)

    def _ready(self) -> bool:
        with closing(HTTPConnection(*self.address, timeout=GRACE_SECONDS)) as connection:
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == 200
            except OSError:
                return False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def last_words(self) -> str:
        """The end of its log."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a line in its log"

    def wait(self) -> int:
        """Until it ends by itself; its exit code."""
        return self.process.wait()

    def stop(self) -> None:
        """SIGTERM, then patience, then SIGKILL."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
