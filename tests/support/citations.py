"""What code and documents cite: documents of this repository by number, heading or row, and public specifications.

The forms are those of docs/references.md. A text is looked at with its lines joined, because a citation may stand
across the end of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from support.source import ROOT, Source, sources

LINE_END = re.compile(r"\n[ \t]*(?:#:?)?[ \t]*")
NUMBER = re.compile(r"\d+(?:\.\d+)*")
HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)
NUMBERED = re.compile(r"(\d+(?:\.\d+)*)\.? +(.+)")
#: a paragraph that begins with its subject in bold or italics is cited by it, as a heading is
BOLD = re.compile(r"^(?:- )?(?:\*\*|\*)([^*\n]+?)[.:]?(?:\*\*|\*)", re.MULTILINE)
ROW = re.compile(r"^\| *([A-Z]?\d+) *\|", re.MULTILINE)

#: `name.md` and what of it is cited: "a heading", #an-anchor, 2.4 or P6, in lists and ranges
DOCUMENT = re.compile(
    r"(?<![\w./:-])(?P<before>image-spec, )?(?P<path>(?:[\w.:-]*/)*)(?P<name>[\w-]+\.md)\b"
    r'(?:, "(?P<heading>[^"]+)"|#(?P<anchor>[\w-]+)'
    r"|,? (?P<numbers>\d+(?:\.\d+)*(?:(?:,| and| to) \d+\.\d+)*)(?![\w.]*\w)"
    r"|,? (?P<rows>[A-Z]\d+(?:(?:,| and| to|-) ?[A-Z]?\d+)*))?"
)
OWN_ANCHOR = re.compile(r"\]\(#([\w-]+)\)")
RFC = re.compile(r"RFC ?(\d+)(?:,? (?:section )?(\d+(?:\.\d+)*)((?:(?:,| and) \d+\.\d+(?:\.\d+)*)*))?")
SPECIFICATION = re.compile(
    r"(distribution-spec|image-spec),?(?: (end-\d+[ab]?(?:(?:,| to| and) end-\d+[ab]?)*)"
    r'| (?:[\w-]+\.md, )?"([^"]+)")'
)
#: what nobody can look up: a number without its document, or documents that are in no repository
NOWHERE = re.compile(
    r"\b(?:(?:connected-registry|design|reliability|peers|deltas|style|security|references|distribution-spec|image-spec)"
    r"(?:,? ?§ ?| )[A-Z]?\d+(?:\.\d+)*\b|(?:rules?|issues?) \d+\b|oci-spec\b)|§"
)
#: these two have wrong ones on purpose
PLANTED = ("tests/support/citations.py", "tests/test_citations.py")
#: comments and docstrings, and the files of the source that they name
COMMENT = re.compile(r'"""[\s\S]*?"""|#[^\n]*')
FILE = re.compile(r"\b[a-z_]\w*\.pyx?\b")
SOURCE_FILES = {
    f.name for folder in ("core", "proxy", "tests", "benchmarks") for f in (ROOT / folder).rglob("*.py*")
}


@dataclass
class Cited:
    """What a document has that may be cited."""

    headings: set[str] = field(default_factory=set)
    anchors: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)


def anchor(heading: str) -> str:
    """The address of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def contents(text: str) -> Cited:
    """What of a Markdown text may be cited."""
    cited = Cited(rows=set(ROW.findall(text)))
    for heading in HEADING.findall(text):
        cited.anchors.add(anchor(heading))
        numbered = NUMBERED.fullmatch(heading)
        if numbered:
            cited.numbers.add(numbered[1])
        cited.headings.add((numbered[2] if numbered else heading).lower())
    cited.headings |= {bold.lower() for bold in BOLD.findall(text)}
    return cited


def documents() -> dict[str, Cited]:
    """Every document of the repository that is cited by its name."""
    places = (ROOT, ROOT / "docs", ROOT / "benchmarks" / "results")
    return {f.name: contents(f.read_text()) for place in places for f in sorted(place.glob("*.md"))}


def specifications(references: str) -> dict[str, set[str]]:
    """Document to the sections that the table of docs/references.md lists, in lower case."""
    table = references.partition("<!-- specifications -->")[2].partition("<!-- /specifications -->")[0]
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.strip().splitlines()[2:]
    ]
    return {name: {s.strip(' "').lower() for s in re.split("[,;]", cited)} for name, _, cited in rows}


def expanded(text: str) -> Iterator[str]:
    """P1 to P3 as P1, P2, P3; a list as it stands."""
    previous = ""
    for joint, item in re.findall(r"(,| and| to|-|^) ?([A-Z]?\d+)", text):
        if joint.strip() in ("to", "-"):
            letter, first = re.sub(r"\d", "", previous), int(re.sub(r"\D", "", previous))
            yield from (f"{letter}{n}" for n in range(first + 1, int(re.sub(r"\D", "", item)) + 1))
        else:
            yield item
        previous = item


def missing(match: re.Match[str], cited: Cited) -> Iterator[str]:
    """What of one citation is not in its document."""
    heading, numbers, rows = match["heading"], match["numbers"], match["rows"]
    if heading and heading.lower() not in cited.headings:
        yield f'no heading "{heading}"'
    if match["anchor"] and match["anchor"] not in cited.anchors:
        yield f"no heading #{match['anchor']}"
    yield from (f"no section {n}" for n in NUMBER.findall(numbers or "") if n not in cited.numbers)
    yield from (f"no row {row}" for row in expanded(rows or "") if row not in cited.rows)


def own(text: str, known: Mapping[str, Cited]) -> Iterator[str]:
    """What is wrong with citations of this repository's documents."""
    for match in DOCUMENT.finditer(text):
        if match["before"] or "://" in match["path"]:
            continue
        if match["name"] not in known:
            yield f"{match['name']}: no such document"
            continue
        yield from (f"{match['name']}: {problem}" for problem in missing(match, known[match["name"]]))


def public(text: str, listed: Mapping[str, set[str]]) -> Iterator[str]:
    """What is wrong with citations of public specifications."""
    for number, first, more in RFC.findall(text):
        name = f"RFC {number}"
        if name not in listed:
            yield f"{name}: not listed in docs/references.md"
        else:
            yield from (
                f"{name}: {s} is not listed" for s in NUMBER.findall(first + more) if s not in listed[name]
            )
    for name, endpoints, heading in SPECIFICATION.findall(text):
        sections = re.findall(r"end-\d+[ab]?", endpoints) or [heading.lower()]
        yield from (f"{name}: {s} is not listed" for s in sections if s not in listed[name])
    for name, file in re.findall(r"(image-spec), ([\w-]+)\.md", text):
        if file not in listed[name]:
            yield f"{name}: {file} is not listed"


def wrong(source: Source, known: Mapping[str, Cited], listed: Mapping[str, set[str]]) -> list[str]:
    """The citations of one file that lead nowhere."""
    text = LINE_END.sub(" ", source.text)
    problems = [*own(text, known), *public(text, listed)]
    if source.path.endswith(".md"):
        here = contents(source.text)
        problems += [f"no heading #{a}" for a in OWN_ANCHOR.findall(text) if a not in here.anchors]
        problems += [f"no section {n}" for n in re.findall(r"§ ?(\d+)", text) if n not in here.numbers]
    else:
        if source.path.startswith(("core/", "proxy/")):
            comments = " ".join(COMMENT.findall(source.text))
            problems += [
                f"{name}: no such file" for name in FILE.findall(comments) if name not in SOURCE_FILES
            ]
        problems += [f"{found}: cites what nobody can look up" for found in NOWHERE.findall(text)]
    return [f"{source.path}: {problem}" for problem in problems]


def everything() -> list[Source]:
    """Every file whose citations must lead somewhere."""
    code = sources("core", "proxy", "tests", "benchmarks", "tools", endings=(".py", ".pyx", ".pxd", ".pyi"))
    prose = [
        Source(f.relative_to(ROOT).as_posix(), f.read_text()) for f in sorted((ROOT / "docs").glob("*.md"))
    ]
    front = [Source(name, (ROOT / name).read_text()) for name in ("README.md", "Makefile")]
    return [f for f in (*code, *prose, *front) if f.path not in PLANTED]
