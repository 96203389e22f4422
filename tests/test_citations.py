"""What code and documents cite exists: documents, sections, headings, rows, and public specifications."""

from __future__ import annotations

import pytest
from support.citations import Cited, documents, everything, specifications, wrong
from support.source import ROOT, Source

KNOWN = documents()
LISTED = specifications((ROOT / "docs" / "references.md").read_text())


def test_every_citation_leads_somewhere() -> None:
    files = everything()
    assert len(files) > 500
    assert [problem for source in files for problem in wrong(source, KNOWN, LISTED)] == []


def test_the_table_of_specifications_is_read() -> None:
    assert {"distribution-spec", "image-spec", "RFC 9110"} <= LISTED.keys()
    assert "13.1.1" in LISTED["RFC 9110"]
    assert {"end-7a", "referrers tag schema"} <= LISTED["distribution-spec"]


WRONG = [
    "# references.md 9.9",
    "# references.md 1.1, 9.9 and 1.2",
    "# as references.md\n    # 9.9 says",
    "# oci-spec 4.3",
    "# connected-registry 1.2",
    "# connected-registry C1",
    "# design 7",
    "# design §5",
    "# the spec wants it (rule 65)",
    "# found by issue 10",
    "# peers.md",
    "# docs/nowhere.md",
    '# docs/format.md, "No such heading"',
    "# [there](docs/format.md#no-such-heading)",
    "# reliability.md P99",
    "# distribution-spec end-99",
    "# distribution-spec 1.13",
    '# distribution-spec, "Making coffee"',
    "# image-spec, coffee.md",
    "# see nowhere.py",
    "# RFC 2324",
    "# RFC 9110, 99.1",
    "# RFC 9110 13.1.1, 99.1",
]


@pytest.mark.parametrize("text", WRONG)
def test_a_planted_citation_that_leads_nowhere_is_found(text: str) -> None:
    assert len(wrong(Source("proxy/holdfast/a.py", text), KNOWN, LISTED)) == 1


def test_every_row_of_a_range_is_looked_for() -> None:
    rows = {"reliability.md": Cited(rows={"P1", "P2", "P4"})}
    found = wrong(Source("a.py", "# reliability.md P1 to P5, P9"), rows, LISTED)
    assert found == [f"a.py: reliability.md: no row {row}" for row in ("P3", "P5", "P9")]


RIGHT = [
    "# references.md 1.1, 1.17 and 2.4: a fact; docs/references.md, 2.4",
    "# references.md\n# 2.4",
    '# docs/format.md, "Write order"; design.md, "The store"; design.md, "What damage is"',
    "# security.md S1, S2 and S3 to S5; reliability.md P1-P19",
    '# distribution-spec end-4a to end-6, end-11; distribution-spec, "Referrers\n# tag schema"',
    '# image-spec, descriptor.md, "Digests"; RFC 9110 13.1.1, 13.1.2; RFC 6761 section 6.5; RFC 3339',
    "# a store of format 2, 431 times; see planner.py",
]


@pytest.mark.parametrize("text", RIGHT)
def test_a_citation_of_what_exists_is_let_through(text: str) -> None:
    assert wrong(Source("proxy/holdfast/a.py", text), KNOWN, LISTED) == []


@pytest.mark.parametrize("text", ["[there](#no-such-heading)", "(§9)\n\n## 8. Serving\n"])
def test_a_document_that_cites_what_it_lacks_is_found(text: str) -> None:
    assert len(wrong(Source("docs/a.md", text), KNOWN, LISTED)) == 1
