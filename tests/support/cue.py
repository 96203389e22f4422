"""One more registry, installed as an ordinary Go module: the in-memory one that the `cue` command starts. It speaks
referrers, moves no tag, and says each manifest that it takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from support.programs import Program, program


class CueRegistry:
    """Running. `place` holds its log; `url` is for this machine."""

    def __init__(self, place: Path, listen: str = "127.0.0.1") -> None:
        place.mkdir(parents=True, exist_ok=True)
        command = [program("cue"), "mod", "registry", f"{listen}:0"]
        home = {"CUE_CONFIG_DIR": str(place), "CUE_CACHE_DIR": str(place), "HOME": str(place)}
        self._program = Program(command, place / "log", home)
        self.port = int(self._program.wait_for(r"listening on \S+:(\d+)\b")[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def taken(self) -> list[str]:
        """Tags in the order in which they came; empty for a manifest without one."""
        return re.findall(r"(?m)^tagged \S+?@(\S*)$", self._program.output())

    def stop(self) -> None:
        """It is gone, with all it held."""
        self._program.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
