"""Steering a scripted parent from outside: JSON over HTTP under /_control/, and the command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.testing.content import Generated, Held
from holdfast.testing.fault import Fault
from holdfast.testing.sample import LAYER_BYTES, Sample, build_sample
from holdfast.testing.scripted_wire import Answer, Recorded

if TYPE_CHECKING:
    from holdfast.testing.scripted_parent import ScriptedParent

SETTINGS = ("latency", "offline", "ranges", "referrers_api", "page_size", "ratelimit", "etags")


class ScriptedControl:
    """GET stats · POST script (a Fault, or a list) · reset · expire · settings · blob · sample.

    `stats`     {"requests": {"GET /v2/…": n}, "bytes": {digest: n}, "connections": n, "taken": [n a fault]}
    `settings`  any of SETTINGS, `rate` (bytes a second), and `door` ({"scheme": "bearer", …})
    `blob`      {"name", "size", "seed"} → {"digest"}
    `sample`    {"name", "tags", "layer_bytes"} → {"index", "images", "layers", "artifact"}
    `reset`     counts and script; `expire` every token given out
    """

    def __init__(self, parent: ScriptedParent) -> None:
        self._parent = parent

    def serve(self, request: Recorded) -> Answer:
        """Answer a control request; 400 with the reason when it cannot be understood."""
        verb = request.path.removeprefix("/_control/")
        calls: dict[str, Callable[[Any], object]] = {
            "stats": lambda _: self.stats(),
            "script": self._script,
            "reset": self._reset,
            "expire": lambda _: self._parent.door.expire(),
            "settings": self._settings,
            "blob": self._blob,
            "sample": self._sample,
        }
        try:
            result = calls[verb](json.loads(request.body or b"{}"))
        except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
            return Answer(400, {}, Held(json.dumps({"error": repr(error)}).encode()))
        return Answer(200, {"Content-Type": "application/json"}, Held(json.dumps(result or {}).encode()))

    def stats(self) -> dict[str, object]:
        """Everything counted so far."""
        parent = self._parent
        return {
            "requests": {f"{method} {path}": times for (method, path), times in parent.requests.items()},
            "bytes": dict(parent.bytes_sent),
            "connections": parent.connections_made,
            "taken": [fault.taken for fault in parent.faults],
        }

    def _script(self, wanted: Any) -> None:
        faults = msgspec.convert(wanted if isinstance(wanted, list) else [wanted], list[Fault])
        self._parent.faults.extend(faults)

    def _reset(self, _: Any) -> None:
        self._parent.reset_counts()
        self._parent.faults.clear()

    def _settings(self, wanted: dict[str, Any]) -> None:
        for name, value in wanted.items():
            if name == "rate":
                self._parent.pace.rate = float(value)
            elif name == "door":
                for key, setting in value.items():
                    setattr(self._parent.door, key, setting)
            elif name in SETTINGS:
                setattr(self._parent, name, value)
            else:
                raise ValueError(f"no setting {name}; there are {', '.join(SETTINGS)}, rate and door")

    def _blob(self, wanted: dict[str, Any]) -> dict[str, str]:
        content = Generated(int(wanted["size"]), str(wanted.get("seed", "holdfast")))
        return {"digest": self._parent.add_blob(wanted["name"], content)}

    def _sample(self, wanted: dict[str, Any]) -> dict[str, object]:
        small, large = wanted.get("layer_bytes", LAYER_BYTES)
        sample = build_sample(wanted["name"], layer_bytes=(small, large))
        first, *others = wanted.get("tags", ["latest"])
        for tag in others:
            self._parent.add_sample(wanted["name"], tag, sample)
        return describe(self._parent, wanted["name"], first, sample)


def describe(
    parent: ScriptedParent, name: str, tag: str = "latest", sample: Sample | None = None
) -> dict[str, object]:
    """Put a sample image (built when not given) into a repository and return its digests."""
    sample = parent.add_sample(name, tag, sample)
    return {
        "index": sample.index,
        "images": sample.images,
        "layers": sample.layers,
        "artifact": sample.artifact,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripted_parent", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--sample", action="append", default=[], metavar="NAME[:TAG]")
    parser.add_argument("--blob", action="append", default=[], metavar="NAME=SIZE[:SEED]")
    parser.add_argument(
        "--held", action="store_true", help="compute blobs beforehand and keep them in memory"
    )
    parser.add_argument("--rate", type=float, default=0.0, help="bytes a second over all connections")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--tls-cert", default="")
    parser.add_argument("--tls-key", default="")
    parser.add_argument("--script", default="", help="faults, JSON")
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> None:
    from holdfast.testing.scripted_parent import ScriptedParent

    tls = None
    if options.tls_cert:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.tls_cert, options.tls_key or None)
    parent = ScriptedParent(host=options.host, port=options.port, tls=tls, rate=options.rate)
    parent.latency = options.latency
    if options.script:
        parent.faults.extend(msgspec.json.decode(options.script, type=list[Fault]))
    hello = _fill(parent, options)
    await parent.start()
    print(json.dumps({"url": parent.url, "port": parent.port, **hello}), flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await parent.stop()


def _fill(parent: ScriptedParent, options: argparse.Namespace) -> dict[str, object]:
    samples, blobs = {}, {}
    for wanted in options.sample:
        name, _, tag = wanted.partition(":")
        samples[wanted] = describe(parent, name, tag or "latest")
    for wanted in options.blob:
        name, _, rest = wanted.partition("=")
        size, _, seed = rest.partition(":")
        content = Generated(int(size), seed or "holdfast")
        blobs[wanted] = parent.add_blob(name, content.read(0, content.size) if options.held else content)
    return {"samples": samples, "blobs": blobs}


def main() -> None:
    """Run until SIGTERM or SIGINT. The first line on standard output is JSON."""
    asyncio.run(_run(_arguments()))
