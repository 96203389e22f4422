"""Log lines: what stands in them came from elsewhere, and they are read on terminals."""

from __future__ import annotations

import json

import pytest
from holdfast.process import log


@pytest.mark.parametrize(
    "name", ["plain", "\x1b[31m\n", "\x9b31m", "app\u202egpj", "a\u200bb", "\x7f", "ä", "\u2066x\u2069"]
)
def test_case_trust_25_a_line_drives_no_terminal_and_says_the_same(name: str) -> None:
    line = log._encoded({"event": "pulled", "repository": name}).decode()
    assert json.loads(line) == {"event": "pulled", "repository": name}
    assert not set("\x1b\n\x9b\u202e\u200b\x7f\u2066\u2069") & set(line)
