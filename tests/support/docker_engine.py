"""dockerd of its own: a real one, in a directory, on a Unix socket, with no network but the machine's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from support.programs import Program, program, run

FLAGS = (
    "--bridge=none",
    "--iptables=false",
    "--ip6tables=false",
    "--storage-driver=vfs",
    "--userland-proxy=false",
)


class DockerEngine:
    """A daemon in `place`, whose path is to be short, and its command line. `flags` as `--registry-mirror=URL`.
    Registries on 127.0.0.0/8 may speak http to it."""

    def __init__(self, place: Path, *flags: str) -> None:
        self._place = place
        self.config = place / "config"
        self.config.mkdir(parents=True)
        self._host = f"unix://{place}/sock"
        folders = (f"--data-root={place}/data", f"--exec-root={place}/exec", f"--pidfile={place}/pid")
        command = (program("dockerd"), "-H", self._host, *folders, *FLAGS, *flags)
        self._program = Program(command, place / "log")
        self._program.wait_for("API listen on")

    def docker(self, *words: str) -> str:
        """One command of docker; what it says. Raises AssertionError for one that fails."""
        return run(program("docker"), "--config", self.config, "-H", self._host, *words)

    def logins(self) -> dict[str, Any]:
        """What the client keeps of logins, by registry."""
        found: dict[str, Any] = json.loads((self.config / "config.json").read_text())["auths"]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._program.stop() == 0
