"""JSON documents as YAML text (1.1 and 1.2 read it alike).

Block style for what has members, flow style for what is empty, and a string is plain only when no reader can take it
for anything else; every other string is quoted as JSON does, which YAML reads as it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from holdfast.printable import printable_json

#: Starts with a letter, so it is no number, date, "~" or indicator; has no ": " and no " #".
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)*")
_PATH = re.compile(r"(?:/[A-Za-z0-9_.-]+)+")
#: Words that some reader takes for a truth value, nothing, or a number.
_RESERVED = frozenset({"y", "n", "yes", "no", "true", "false", "on", "off", "null", "nan", "inf"})
#: What JSON lets through, and a terminal does, and YAML does not (production c-printable).
_HIDDEN = re.compile("[\ufffe\uffff\ud800-\udfff]")


def yaml(document: Any) -> str:
    """The document, with a newline at its end."""
    return "\n".join(_lines(document)) + "\n"


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, member in value.items():
            yield from _member(f"{_scalar(str(key))}:", member)
    elif isinstance(value, list | tuple) and value:
        for member in value:
            first, *rest = _lines(member)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield _scalar(value)


def _member(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict | list | tuple) and value:
        yield key
        yield from (f"  {line}" for line in _lines(value))
    else:
        yield f"{key} {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _plain(value):
        return value
    text = printable_json(json.dumps(value, ensure_ascii=False))
    return _HIDDEN.sub(lambda hit: f"\\u{ord(hit[0]):04x}", text)


def _plain(text: str) -> bool:
    """Whether a string may stand without quotes."""
    return text.lower() not in _RESERVED and bool(_PLAIN.fullmatch(text) or _PATH.fullmatch(text))
