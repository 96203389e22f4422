"""The table of packages in docs/design.md: in the order of the layers contracts, each as its own docstring begins.

PYTHONPATH=tests python -m support.layout    writes it
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from support.source import ROOT

DOCUMENT = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- layout -->\n", "<!-- /layout -->"
ROOTS = {"holdfast": ROOT / "proxy" / "holdfast", "holdfast_core": ROOT / "core" / "holdfast_core"}


def layers() -> Iterator[tuple[str, str]]:
    """(root package, layer), the highest first, the proxy's before the store's."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found = {c["containers"][0]: c["layers"] for c in contracts if c["type"] == "layers"}
    for root in ROOTS:
        yield from ((root, layer) for layer in found[root])


def file_of(root: str, layer: str) -> Path:
    """The file whose docstring says what a layer is."""
    package = ROOTS[root] / layer
    return next(
        p for p in (package / "__init__.py", *(package.with_suffix(s) for s in (".py", ".pyx"))) if p.exists()
    )


def first_sentence(text: str) -> str:
    """What the docstring of a module says first, in one line."""
    document = ast.get_docstring(ast.parse(text)) or ""
    sentence = re.match(r"(.+?[.])(?=\s|$)", document, re.DOTALL)
    return " ".join((sentence[1] if sentence else document).split()).rstrip(".")


def row(root: str, layer: str) -> str:
    """One line of the table."""
    file = file_of(root, layer)
    shown = f"{layer}/" if file.name == "__init__.py" else file.name
    return f"| `{'' if root == 'holdfast' else f'{root}/'}{shown}` | {first_sentence(file.read_text())} |"


def markdown() -> str:
    """The table of the document."""
    return (
        "\n".join(["| package | what is in it |", "|---|---|", *(row(*layer) for layer in layers())]) + "\n"
    )


def main() -> None:
    """Put the table of this moment into the document."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + markdown() + END + after)


if __name__ == "__main__":
    main()
