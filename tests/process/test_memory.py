"""What was free once is given back."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from holdfast.clock import SystemClock
from holdfast.config import Configuration
from holdfast.errors import ParentBroken
from holdfast.process.assembly import compose
from holdfast.testing.fault import ScriptedFault
from support.fills import MIB, run, site

#: 64 blocks as bodies are received into, freed in the middle of others that stay
FLOOD = """
import re
from pathlib import Path
from holdfast.process.memory import give_back
from holdfast.http.block import Block

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def touched():
    block = Block(2 << 20)
    memoryview(block).cast("B")[:] = bytes(2 << 20)
    return block

del (first := [touched()])[:]  # from here on the allocator keeps blocks of this size
before = resident()
blocks = [(touched(), Block(4096)) for _ in range(64)]
kept = [small for _, small in blocks]
blocks.clear()
left = resident() - before
give_back()
print(left, resident() - before)
"""


def test_case_trust_24_what_a_flood_held_is_given_back() -> None:
    """The allocator would keep it for good."""
    done = subprocess.run([sys.executable, "-c", FLOOD], capture_output=True, text=True, check=True)
    left, after = map(int, done.stdout.split())
    assert left > 64 << 20
    assert after < 16 << 20


@pytest.mark.parametrize("what", ["tags", "manifest"])
def test_case_trust_24_a_failure_keeps_nothing_of_what_was_read(tmp_path: Path, what: str) -> None:
    """Lists and manifests of megabytes that cannot be used are gone with the answer, and wait for no collector."""

    async def main() -> None:
        async with site(tmp_path) as node:
            body = json.dumps({"tags": [f"t{number}" for number in range(300_000)], "schemaVersion": "x"})
            node.parent.script(ScriptedFault(status=200, body=body, times=-1))
            keeper = compose(Configuration(), node.store, SystemClock(), {"": node.client}, node.fills)
            before = tracemalloc.get_traced_memory()[0]
            for number in range(6):
                with pytest.raises(ParentBroken):
                    await (
                        keeper.tags(f"r{number}") if what == "tags" else keeper.manifest(f"r{number}", "v1")
                    )
            await asyncio.sleep(0.5)  # the parent's side of it ends, too
            assert tracemalloc.get_traced_memory()[0] - before < 4 * MIB

    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        run(main())
    finally:
        tracemalloc.stop()
        gc.enable()
