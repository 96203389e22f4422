"""A real `holdfast serve`: started on a free port, stopped, killed, restarted, and asked about its processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from support.programs import Program, wait_until, whole_lines
from support.transfer import fetch

COMMAND = (sys.executable, "-m", "holdfast", "serve")


class Node:
    """A node whose store and log lie in `place`. `configuration` is TOML; flags override it."""

    def __init__(
        self,
        place: Path,
        *flags: str,
        configuration: str = "",
        workers: int = 2,
        env: Mapping[str, str] | None = None,
    ) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.data, self.log, self.file = place / "data", place / "node.log", place / "holdfast.toml"
        self.file.write_text(configuration)
        self._flags = (*flags, "--workers", str(workers), "--data", str(self.data))
        self.port, self._env = 0, env
        self.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        """host:port, as clients write it in an image's name."""
        return f"127.0.0.1:{self.port}"

    @property
    def listen(self) -> str:
        """host:port for `--listen`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, on the port it had before if it had one, and wait until it is ready."""
        command: Sequence[str] = (
            *COMMAND,
            "--config",
            str(self.file),
            "--listen",
            self.listen,
            *self._flags,
        )
        self.program = Program(command, self.log, self._env)
        self.port = int(self.program.wait_for(r"serving on https?://\S+?:(\d+)\b")[1])
        self.wait_ready()

    def ready(self) -> bool:
        """Whether every worker has its connection to the keeper, so that each answers for the node, and /readyz says
        yes."""
        connected: dict[int, bool] = {}
        for event in self.events():
            if event.get("event") in ("keeper connected", "keeper lost"):
                connected[event["pid"]] = event["event"] == "keeper connected"
        try:
            return (
                all(connected.get(worker) for worker in self.children("worker"))
                and fetch(self.url, "/readyz").status == 200
            )
        except OSError:
            return False

    def wait_ready(self) -> None:
        """Wait until the node is `ready`."""
        wait_until(self.ready, f"{self.url}/readyz, see {self.log}")

    def stop(self) -> int:
        """SIGTERM, drain, exit code."""
        return self.program.stop()

    def restart(self) -> None:
        """Stop and start."""
        assert self.stop() == 0
        self.start()

    def hang_up(self) -> None:
        """SIGHUP: read the configuration again."""
        self.program.signal(signal.SIGHUP)

    def events(self) -> list[dict[str, Any]]:
        """Log lines of this run."""
        lines = whole_lines(self.program.output()).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def children(self, role: str) -> list[int]:
        """Process ids of the living children with that role ("keeper", "worker"), as started last."""
        latest: dict[int, int] = {}
        for event in self.events():
            if event.get("event") == "child started" and event.get("child") == role:
                latest[event["number"]] = event["child_pid"]
        return [pid for _, pid in sorted(latest.items())]

    def text(self) -> str:
        """Everything it ever logged, all runs."""
        return self.log.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """In order, so that nothing is left behind; by force when it takes too long."""
        with suppress(subprocess.TimeoutExpired):
            self.program.stop(limit=10)


def parent_toml(url: str, name: str = "registry.example", **keys: object) -> str:
    """A configuration with one default parent; its tags are asked for again on every pull."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    table = [f'url = "{url}"', f'name = "{name}"', "default = true", "insecure = true", *lines]
    return "[tags]\nfloating_ttl = 0.0\n\n[[parent]]\n" + "\n".join(table) + "\n"


def restarted(node: Node, role: str, old: Sequence[int]) -> bool:
    """Whether children of a role are other processes than `old`."""
    new = node.children(role)
    return len(new) == len(old) and not set(new) & set(old)
