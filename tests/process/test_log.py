"""Log lines: what stands in them came from elsewhere, and they are read on terminals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys

import pytest
from holdfast import log


@pytest.mark.parametrize(
    "name", ["plain", "\x1b[31m\n", "\x9b31m", "app\u202egpj", "a\u200bb", "\x7f", "ä", "\u2066x\u2069"]
)
def test_case_trust_25_a_line_drives_no_terminal_and_says_the_same(name: str) -> None:
    line = log._encoded({"event": "pulled", "repository": name}).decode()
    assert json.loads(line) == {"event": "pulled", "repository": name}
    assert not set("\x1b\n\x9b\u202e\u200b\x7f\u2066\u2069") & set(line)


SAYS = """
import sys
from holdfast import log
log.configure("info", "keeper", sys.argv[1])
log.log.warning("certificate refused", file="/a b\\x1b[31m", error="", tries=3)
log.access_log.write([log.AccessLine("10.0.0.1", "GET", "/v2/", 200, 0, 2, 0.5, True, agent="\\x9b31m", user="phil")])
try:
    1 / 0
except ZeroDivisionError:
    log.log.exception("it broke")
"""


def said(form: str, *, terminal: bool, **environ: str) -> list[str]:
    """What a process writes to stderr, a terminal or a pipe."""
    reader, writer = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, "-c", SAYS, form]
    subprocess.run(command, stderr=writer, check=True, env={**os.environ, "TERM": "xterm", **environ})
    os.close(writer)
    with open(reader, "rb", buffering=0) as stream:
        found = b""
        with contextlib.suppress(OSError):  # EIO: the other side of a terminal is closed
            while block := stream.read(4096):
                found += block
    return found.decode().splitlines()


WORDS = re.compile(
    r'\d\d:\d\d:\d\d (\x1b\[33m)?warning(\x1b\[0m)? certificate refused  file="/a b\\u001b\[31m"  error=""  tries=3'
    r"(\x1b\[2m)?  \[keeper \d+\](\x1b\[0m)?"
)


@pytest.mark.parametrize(
    ("form", "terminal", "environ", "in_words", "coloured"),
    [
        ("auto", True, {"NO_COLOR": ""}, True, True),
        ("auto", True, {"NO_COLOR": "1"}, True, False),
        ("auto", True, {"NO_COLOR": "", "TERM": "dumb"}, True, False),
        ("auto", False, {"NO_COLOR": ""}, False, False),
        ("text", False, {"NO_COLOR": ""}, True, False),
        ("json", True, {"NO_COLOR": ""}, False, False),
    ],
)
def test_case_trust_27_words_for_a_person_and_json_for_a_program(
    form: str, terminal: bool, environ: dict[str, str], in_words: bool, coloured: bool
) -> None:
    lines = said(form, terminal=terminal, **environ)
    text = "\n".join(lines)
    assert ("\x1b[33m" in text) == coloured
    assert "\x9b" not in text
    if not in_words:
        first, second, third = (json.loads(line) for line in lines)
        assert (first["event"], first["level"], first["role"]) == ("certificate refused", "warning", "keeper")
        assert second.items() >= {"event": "request answered", "level": "info", "user": "phil"}.items()
        assert (second["agent"], second["client"], "ns" in second) == ("\x9b31m", "10.0.0.1", False)
        assert second["timestamp"].endswith("Z")
        assert "ZeroDivisionError" in third["exception"]
        return
    assert WORDS.fullmatch(lines[0]), lines[0]
    assert "request answered  client=10.0.0.1  method=GET  path=/v2/  status=200" in lines[1]
    assert lines[-1].startswith("ZeroDivisionError")


def test_lines_that_are_written_together_are_whole_for_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(log, "write_stderr", lambda text: written.append(text + b"\n"))
    log.log.set_level("info")
    line = log.AccessLine("10.0.0.1", "GET", "/v2/" + "a" * 500, 200, 0, 2, 0.5, True)
    log._together("worker")([line] * 100)
    assert len(written) < 25
    assert all(len(block) <= select.PIPE_BUF for block in written)
    assert len([json.loads(one) for one in b"".join(written).splitlines()]) == 100


def test_case_trust_27_a_value_cannot_pass_for_another_key() -> None:
    """A client writes its User-Agent as it likes."""
    event = {"event": "request answered", "agent": 'x"  user="admin', "ns": "a\\", "host": 'b\\"  c'}
    line = log.TextLines(coloured=False)(event).decode()
    assert line.endswith(r'''request answered  agent="x\"  user=\"admin"  ns=a\  host="b\\\"  c"''')
