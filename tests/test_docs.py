"""Tables in documents that are printed from code are what the code prints, and the files that documents name exist."""

import re
from collections.abc import Iterator
from pathlib import Path

from holdfast import errors
from holdfast.cli.verbs.configuration import key_table_as_markdown
from holdfast.fill import phases
from holdfast.parent import availability
from holdfast.server import connection_state
from holdfast.sync import direction
from support import layout

ROOT = Path(__file__).resolve().parents[1]
#: where the documents begin a path: at the root, or in a package
PLACES = (
    ROOT,
    ROOT / "proxy",
    ROOT / "proxy" / "holdfast",
    ROOT / "core",
    ROOT / "core" / "holdfast_core",
    ROOT / "tests",
)
TERM = re.compile(r"^\| ([^|]+?) \| ([^|]+?) \| `([^`]+)` \|$", re.MULTILINE)
FILE = re.compile(r"`([\w./-]+\.pyx?)(?:::[^`]*)?`")


def lost(text: str) -> Iterator[str]:
    """Source files that a document names and that are not there."""
    return (name for name in FILE.findall(text) if not any((place / name).is_file() for place in PLACES))


def test_operate_lists_every_key_as_the_code_does() -> None:
    text = (ROOT / "docs" / "operate.md").read_text()
    table = text.partition("<!-- keys -->\n")[2].partition("\n<!-- /keys -->")[0]
    assert table == key_table_as_markdown(), (
        "run `holdfast config keys` and put its output into docs/operate.md"
    )


def test_the_front_page_shows_the_figures_as_they_were_measured() -> None:
    text = (ROOT / "README.md").read_text()
    shown = text.partition("<!-- figures -->\n")[2].partition("<!-- /figures -->")[0]
    table = (ROOT / "benchmarks" / "results" / "table.md").read_text()
    assert table.strip() in shown, "put benchmarks/results/table.md between the figure marks of README.md"


def test_sync_shows_the_direction_matrix_of_the_code() -> None:
    text = (ROOT / "docs" / "sync.md").read_text()
    table = text.partition("<!-- directions -->\n")[2].partition("\n<!-- /directions -->")[0]
    assert table == direction.markdown(), (
        "put the output of holdfast.sync.direction.markdown() into docs/sync.md"
    )


def test_design_shows_the_phases_of_a_fill_as_the_code_has_them() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    table = text.partition("<!-- fill phases -->\n")[2].partition("\n<!-- /fill phases -->")[0]
    assert table == phases.markdown(), "put the output of holdfast.fill.phases.markdown() into docs/design.md"


def test_sync_shows_the_states_of_a_parent_as_the_code_has_them() -> None:
    text = (ROOT / "docs" / "sync.md").read_text()
    table = text.partition("<!-- states -->\n")[2].partition("\n<!-- /states -->")[0]
    assert table == availability.markdown(), (
        "put the output of holdfast.parent.availability.markdown() into docs/sync.md"
    )


def test_design_shows_the_states_of_a_connection_as_the_code_has_them() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    table = text.partition("<!-- connection -->\n")[2].partition("\n<!-- /connection -->")[0]
    assert table == connection_state.markdown(), (
        "put the output of holdfast.server.connection_state.markdown() into docs/design.md"
    )


def test_design_lists_every_package_in_the_order_of_its_layers() -> None:
    text = layout.DOCUMENT.read_text()
    table = text.partition(layout.BEGIN)[2].partition(layout.END)[0]
    assert table == layout.markdown(), "run `PYTHONPATH=tests python -m support.layout`"


def test_every_layer_has_a_line_and_every_folder_is_a_layer() -> None:
    found = {(root, layer) for root, layer in layout.layers()}
    for root, folder in layout.ROOTS.items():
        packages = {(root, f.parent.name) for f in folder.glob("*/__init__.py")}
        assert packages <= found
    assert all(layout.first_sentence(layout.file_of(*layer).read_text()) for layer in found)


def test_every_source_file_that_a_document_names_exists() -> None:
    documents = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
    assert [(d.name, name) for d in documents for name in lost(d.read_text())] == []


def test_a_file_that_is_not_there_is_found() -> None:
    assert list(lost("`fill/fill.py`, `fill/nowhere.py`, `test_docs.py::test_x`")) == ["fill/nowhere.py"]


def test_the_glossary_has_each_term_once_in_order_with_its_module() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    rows = TERM.findall(text)
    terms = [term.lower() for term, _, _ in rows]
    assert len(rows) == sum(line.startswith("| ") for line in text.splitlines()) - 1
    assert terms == sorted(set(terms))
    assert [module for _, _, module in rows if list(lost(f"`{module}`"))] == []
    assert [term for term, meaning, _ in rows if not meaning.endswith(".")] == []


def test_contributing_names_files_that_exist_for_each_kind_of_change() -> None:
    table = (ROOT / "docs" / "contributing.md").read_text().partition("<!-- changes -->")[2]
    rows = [line.split(" | ") for line in table.partition("<!-- /changes -->")[0].splitlines() if "`" in line]
    assert len(rows) >= 13
    assert all(len(row) == 4 for row in rows)
    named = {name for row in rows for cell in row for name in re.findall(r"`([\w.-]+/[\w./-]*)`", cell)}
    assert [name for name in sorted(named) if not any((place / name).exists() for place in PLACES)] == []


def test_operate_lists_every_refusal_as_the_classes_declare_it() -> None:
    text = (ROOT / "docs" / "operate.md").read_text()
    table = text.partition("<!-- errors -->\n")[2].partition("\n<!-- /errors -->")[0]
    assert table == errors.markdown(), "put the output of holdfast.errors.markdown() into docs/operate.md"
