"""`holdfast demo`: pull through a node, take its parent away, pull again, keep serving."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path

from rich.console import Console

from holdfast.cli.exit_codes import FAILED, refuse
from holdfast.clock import Clock, SystemClock
from holdfast.config import listen_address
from holdfast.demo import lines, show
from holdfast.demo.child import ChildFailed, DemoNode
from holdfast.demo.pull import Puller, PullFailed
from holdfast.demo.seed import seed
from holdfast.testing.link import RelayLink
from holdfast.testing.sample import build_sample

#: The embedded root's name in image names; nothing on the internet answers to it (RFC 6761 section 6.5).
ROOT_NAME = "root.example"
SAMPLE_IMAGE, PARENT_IMAGE = "library/sample:latest", "library/alpine:latest"
#: Two layers: one that the store keeps in its index, one that becomes a file (bytes).
LAYER_BYTES = (10_000, 8_000_000)


def run(parent: str | None, parent_insecure: bool, image: str | None, listen: str) -> None:
    """Show it; ends with Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell starts background jobs deaf to it
        signal.signal(number, signal.default_int_handler)
    name, _, tag = (image or (PARENT_IMAGE if parent else SAMPLE_IMAGE)).partition(":")
    require_free(listen)
    console = Console(highlight=False)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-demo-")))
        show_ = Demonstration(stack, directory, console, SystemClock(), (name, tag or "latest"), listen)
        try:
            show_.before_parent(parent, parent_insecure) if parent else show_.before_root()
        except (ChildFailed, PullFailed, OSError, HTTPException) as error:
            refuse(str(error), FAILED)
        except KeyboardInterrupt:
            console.print("\nended; everything it stored is gone with it")


def require_free(listen: str) -> None:
    """Exit 2 with a sentence when the address is taken."""
    try:
        host, port = listen_address(listen)
        with socket.create_server((host, port)):
            return
    except ValueError as error:
        refuse(f"--listen: found {listen!r}; {error}")
    except OSError as error:
        refuse(
            f"{listen} cannot be used: {os.strerror(error.errno or 0)}. If another registry runs there (Debian's"
            " docker-registry package starts one on port 5000), stop it, or choose another port:"
            " make run LISTEN=localhost:5001"
        )


class Demonstration:
    """What is running, and the pulls so far."""

    def __init__(
        self,
        stack: ExitStack,
        directory: Path,
        console: Console,
        clock: Clock,
        image: tuple[str, str],
        listen: str,
    ) -> None:
        self._stack, self._directory, self._console, self._clock = stack, directory, console, clock
        self._image, self._listen = image, listen
        self._rounds: list[show.PullRound] = []

    def before_root(self) -> None:
        """In front of an embedded root, over a link that counts."""
        name, tag = self._image
        with self._console.status("seeding a root registry"):
            sample = build_sample(name, layer_bytes=LAYER_BYTES)
            seed(self._directory / "root" / "data", name, tag, sample, self._clock.now())
            root = self._stack.enter_context(DemoNode(self._directory / "root", "--listen", "127.0.0.1:0"))
            link = self._stack.enter_context(RelayLink(*root.address))
            node = self._node("--parent", f"{ROOT_NAME}={link.url}", "--parent-insecure")
        held = f"holds {name}:{tag}"
        show.places(
            self._console, [("root", root.url, held), ("node", self._shown(node), "in front of it, empty")]
        )
        self._pull(node, "the node is empty", link)
        self._pull(node, "pulled again", link)
        root.stop()
        self._pull(node, "the root is stopped", link)
        self._close(node, ROOT_NAME, f"https://{ROOT_NAME}")

    def before_parent(self, parent: str, insecure: bool) -> None:
        """In front of a real parent, which cannot be stopped: the node is set offline instead."""
        flags = ("--parent", parent, *(("--parent-insecure",) if insecure else ()))
        node = self._node(*flags)
        show.places(
            self._console, [("parent", parent, ""), ("node", self._shown(node), "in front of it, empty")]
        )
        self._pull(node, "the node is empty")
        self._pull(node, "pulled again")
        node.stop()
        node = self._node(*flags, "--on-miss", "strict")
        self._pull(node, "set offline")
        node.stop()
        self._close(self._node(*flags), lines.origin_of(parent), parent)

    def _node(self, *flags: str) -> DemoNode:
        return self._stack.enter_context(DemoNode(self._directory / "node", "--listen", self._listen, *flags))

    def _shown(self, node: DemoNode) -> str:
        """The node's URL as the user wrote its host; Docker trusts `localhost` without TLS."""
        return f"http://{self._listen.rpartition(':')[0]}:{node.address[1]}"

    def _pull(self, node: DemoNode, title: str, link: RelayLink | None = None) -> None:
        before = (len(link.heads), link.down) if link else (0, 0)
        puller = Puller(node.url, self._clock)
        try:
            with self._console.status(title):
                objects = puller.pull(*self._image)
        finally:
            puller.close()
        crossed = (len(link.heads) - before[0], link.down - before[1]) if link else (None, None)
        self._rounds.append(show.PullRound(title, objects, *crossed))
        show.round_line(self._console, len(self._rounds), self._rounds[-1])

    def _close(self, node: DemoNode, origin: str, server: str) -> None:
        console, (name, tag), url = self._console, self._image, self._shown(node)
        console.print(show.compared(self._rounds))
        console.print(show.written(lines.client_lines(url, origin, server)))
        console.print(f"\nServing [bold]{url}[/] until Ctrl-C. Without any of those lines:")
        console.print(f"  docker pull {url.removeprefix('http://')}/{name}:{tag}", style="cyan")
        console.print(f"Its store is temporary: {self._directory}", style="dim")
        node.wait()
        raise ChildFailed(f"the node ended: {node.last_words()}")
