"""Tables in the documents that are printed from the code are what the code prints."""

from pathlib import Path

from holdfast.cli.keys import markdown
from holdfast.sync import direction, offline

ROOT = Path(__file__).resolve().parents[2]


def test_operate_lists_every_key_as_the_code_does():
    text = (ROOT / "docs" / "operate.md").read_text()
    table = text.partition("<!-- keys -->\n")[2].partition("\n<!-- /keys -->")[0]
    assert table == markdown(), "run `holdfast config keys` and put its output into docs/operate.md"


def test_the_front_page_shows_the_figures_as_they_were_measured():
    text = (ROOT / "README.md").read_text()
    shown = text.partition("<!-- figures -->\n")[2].partition("<!-- /figures -->")[0]
    table = (ROOT / "benchmarks" / "results" / "table.md").read_text()
    assert table.strip() in shown, "put benchmarks/results/table.md between the figure marks of README.md"


def test_sync_shows_the_direction_matrix_of_the_code():
    text = (ROOT / "docs" / "sync.md").read_text()
    table = text.partition("<!-- directions -->\n")[2].partition("\n<!-- /directions -->")[0]
    assert table == direction.markdown(), (
        "put the output of holdfast.sync.direction.markdown() into docs/sync.md"
    )


def test_sync_shows_the_states_of_a_parent_as_the_code_has_them():
    text = (ROOT / "docs" / "sync.md").read_text()
    table = text.partition("<!-- states -->\n")[2].partition("\n<!-- /states -->")[0]
    assert table == offline.markdown(), "put the output of holdfast.sync.offline.markdown() into docs/sync.md"
