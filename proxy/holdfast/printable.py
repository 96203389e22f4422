"""Text that came from elsewhere, as it may reach a terminal or a log.

Control characters (C0, DEL, C1) drive a terminal; those of direction (Unicode UAX 9) and without width make one name
look like another.
"""

from __future__ import annotations

import re

_BEYOND = "\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
_CONTROL = re.compile(f"[\x00-\x1f{_BEYOND}]")
_CONTROL_IN_JSON = re.compile(f"[{_BEYOND}]")


def printable(text: str) -> str:
    """The text with such characters spelled out."""
    return _CONTROL.sub(_spelled, text)


def printable_json(text: str) -> str:
    """The same of JSON, which says the same as before: it spells C0 characters out by itself, and has the others in
    strings alone."""
    return text if text.isascii() and "\x7f" not in text else _CONTROL_IN_JSON.sub(_spelled, text)


def _spelled(hit: re.Match[str]) -> str:
    return f"\\u{ord(hit[0]):04x}"
