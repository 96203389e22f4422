"""The Warning header of answers that the parent did not confirm."""

from __future__ import annotations

# distribution-spec, "Warnings": 299, agent "-", a quoted string, no date, 4096 bytes for all together
_TEXT_LENGTH = 1000


def warning(why: str, age: int) -> str:
    """`299 - "…"`: what is served, how old it is (seconds), and why nobody confirmed it."""
    text = f"served from this node, last confirmed {age} s ago: {why}"
    plain = "".join(c if " " <= c <= "~" else "?" for c in text[:_TEXT_LENGTH])
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{escaped}"'
