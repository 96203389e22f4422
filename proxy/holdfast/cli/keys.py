"""The configuration's keys as documentation. `docs/operate.md` holds this output; a test compares them."""

from __future__ import annotations

from holdfast.config_file import key_table


def markdown() -> str:
    """Every key as a row of a Markdown table."""
    lines = ["| key | type | default | unit | meaning |", "|---|---|---|---|---|"]
    for key, kind, default, unit, meaning in key_table():
        cells = (f"`{key}`", kind, f"`{default}`" if default else "", unit, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
