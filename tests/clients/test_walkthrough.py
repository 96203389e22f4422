"""docs/connected-registry.md does what it says: its shell blocks are run as they stand, by real programs.

The page names its addresses in variables that it defines at its top; here they have free ports, and the image is one
that is made on the spot, because there is no other registry to take one from.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import pytest
from holdfast.testing.sample import build_sample
from support.programs import TOOLS, program
from support.push_clients import write_layout
from support.walkthrough import Shell, logs, matches, steps

PAGE = Path(__file__).resolve().parents[2] / "docs" / "connected-registry.md"
#: variable → the address that the page uses
ADDRESSES = {"ROOT": "127.0.0.1:5000", "PLANT": "127.0.0.1:5001", "LINE": "127.0.0.1:5002"}


def free_addresses() -> dict[str, str]:
    """As many addresses as the page uses, all different."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in ADDRESSES]
    found = {
        name: f"127.0.0.1:{server.getsockname()[1]}" for name, server in zip(ADDRESSES, taken, strict=True)
    }
    for server in taken:
        server.close()
    return found


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    program("skopeo")
    addresses = free_addresses()
    image = write_layout(tmp_path / "image", build_sample("app/web"))
    env = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(TOOLS), os.environ["PATH"]]),
        "HOME": str(tmp_path / "home"),
        "IMAGE": f"oci:{image}:latest",
        **addresses,
    }
    page = PAGE.read_text()
    for name, address in ADDRESSES.items():
        assert f"{name}=${{{name}:-{address}}}" in page, "the page defines its addresses itself"
        page = page.replace(address, addresses[name])
    place = tmp_path / "place"
    place.mkdir()
    with Shell(place, env) as shell:
        for step in steps(page):
            failures, printed = shell.run(step.script)
            told = f"{PAGE.name}:{step.line}\n{step.script}\nprinted:\n{printed}\n"
            assert failures == step.fails, told + "\n".join(logs(place))
            if step.shown is not None:
                assert matches(step.shown, printed), f"{told}\nthe page shows:\n{step.shown}"


def test_the_page_has_every_step_of_an_administrator() -> None:
    found = steps(PAGE.read_text())
    text = "\n".join(step.script for step in found)
    for verb in ("create", "get-settings", "update", "list", "show", "permissions update", "delete"):
        assert f"holdfast connected-registry {verb}" in text, verb
    for words in (
        "skopeo login",
        "token credential generate",
        "--password2",
        "--expiration",
        "--status disabled",
        "--cleanup",
    ):
        assert words in text, words
    refused = [step.shown for step in found if step.fails and step.shown]
    assert any("This operation is not allowed on this registry." in shown for shown in refused)
    assert re.search(r"delete -n \w+ --yes$", text, re.MULTILINE), "one without --cleanup"


MATCHES = [
    ("a b\n", "a   b  \n", True),
    ("a b\n", "a b\nc\n", False),
    ("a b\nc\n", "a b\n", False),
    ("a … b\n", "a x y b\n", True),
    ("a … b\n", "a x y\n", False),
    ("…\nz\n", "x\ny\nz\n", True),
    ("…\nz\n", "x\ny\n", False),
    ("a.b\n", "axb\n", False),
]


@pytest.mark.parametrize(("shown", "printed", "right"), MATCHES)
def test_what_is_shown_is_compared(shown: str, printed: str, right: bool) -> None:
    assert matches(shown, printed) is right


def test_a_step_that_fails_is_noticed(tmp_path: Path) -> None:
    with Shell(tmp_path, dict(os.environ)) as shell:
        assert shell.run("echo one; word=two\n") == (0, "one\n")
        assert shell.run("false\necho $word; cat\n") == (1, "two\n")
        assert shell.run("if false; then :; fi\n")[0] == 0
        with pytest.raises(AssertionError, match="no end"):
            shell.run("sleep 30\n", limit=0.5)
