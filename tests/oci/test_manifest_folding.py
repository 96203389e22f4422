"""A key that Go's decoder takes for a known one is refused, whichever letter is spelled otherwise: compared with Go
itself over all of Unicode, and with the letters that it gave when this was written."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import pytest
from holdfast.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    ManifestUnreadable,
    folded,
    parse,
)
from support.programs import program, run

DIGEST = f"sha256:{'a' * 64}"
#: every code point that Go takes for a letter of a key, besides the letter itself
TAKEN = dict(zip(ascii_uppercase, ascii_lowercase, strict=True)) | {"\u017f": "s", "\u212a": "k"}
DESCRIPTOR: dict[str, Any] = {
    "mediaType": "application/x",
    "artifactType": "application/y",
    "digest": DIGEST,
    "size": 1,
    "urls": [],
    "annotations": {},
    "data": "",
    "platform": {
        "os": "linux",
        "os.version": "1",
        "os.features": [],
        "architecture": "arm",
        "variant": "v7",
        "features": [],
    },
}
ASKING = """
package main

import (
	"encoding/json"
	"fmt"
	"unicode"
)

func main() {
	var letters struct {
%s
	}
	for c := rune(0); c <= unicode.MaxRune; c++ {
		if 0xd800 <= c && c < 0xe000 {
			continue
		}
		key, _ := json.Marshal(string(c))
		if err := json.Unmarshal([]byte("{"+string(key)+":"+fmt.Sprint(c+1)+"}"), &letters); err != nil {
			panic(err)
		}
%s
	}
}
"""


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """A Content-Type and a whole manifest of that kind, with every key that is known."""
    plain = {"schemaVersion": 2, "artifactType": "application/z", "subject": DESCRIPTOR, "annotations": {}}
    for kind in (OCI_MANIFEST, DOCKER_MANIFEST):
        yield kind, plain | {"mediaType": kind, "config": DESCRIPTOR, "layers": [DESCRIPTOR]}
    for kind in (OCI_INDEX, DOCKER_LIST):
        yield kind, plain | {"mediaType": kind, "manifests": [DESCRIPTOR]}


def objects(document: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Where the objects are whose keys clients read."""
    yield ()
    for name in ("subject", "config", "layers", "manifests"):
        if name in document:
            yield (name,)
            yield (name, "platform")


def object_at(document: dict[str, Any], where: tuple[str, ...]) -> dict[str, Any]:
    """The object at a place; of a list, its first entry."""
    place = document
    for step in where:
        place = place[step][0] if isinstance(place[step], list) else place[step]
    return place


def spellings(name: str) -> Iterator[str]:
    """A key with one letter spelled as Go takes it too."""
    for at, letter in enumerate(name):
        for other, meant in TAKEN.items():
            if meant == letter.lower() and other != letter:
                yield name[:at] + other + name[at + 1 :]
        if letter.isupper():
            yield name[:at] + letter.lower() + name[at + 1 :]


def rebuilt(document: dict[str, Any], where: tuple[str, ...], name: str, other: str, keep: bool) -> bytes:
    """The document with a key of the object at `where` spelled otherwise, beside the right one when `keep`."""
    copy = json.loads(json.dumps(document))
    place = object_at(copy, where)
    place[other] = place[name] if keep else place.pop(name)
    return json.dumps(copy).encode()


def test_case_fault_10_a_key_that_go_takes_for_a_known_one_is_refused() -> None:
    tried = 0
    for kind, document in documents():
        assert parse(json.dumps(document).encode(), kind).media_type == kind
        for where in objects(document):
            for name, keep in product(object_at(document, where), (False, True)):
                for other in spellings(name):
                    tried += 1
                    with pytest.raises(ManifestUnreadable, match=f"write {name}"):
                        parse(rebuilt(document, where, name, other, keep), kind)
    assert tried > 2000


@pytest.mark.parametrize(
    "body",
    [
        f'{{"schemaVersion":2,"config":{{"digest":"{DIGEST}","size":1}},"layers":[],"layer\u017f":[]}}',
        f'{{"schemaVersion":2,"config":{{"digest":"{DIGEST}","size":1}},"layers":[],"layer\\u017f":[]}}',
        f'{{"schemaVersion":2,"config":{{"digest":"{DIGEST}","size":1}},"layers":[],"\u017fubject":null}}',
        f'{{"schemaVersion":2,"config":{{"digest":"{DIGEST}","size":1}},"layers":[],"manife\u017ft\u017f":[]}}',
        f'{{"schemaVersion":2,"config":{{"digest":"{DIGEST}","size":1}},"layers":[],"f\u017fLayers":[]}}',
    ],
)
def test_case_fault_10_the_keys_of_the_report(body: str) -> None:
    with pytest.raises(ManifestUnreadable, match="is read as"):
        parse(body.encode(), OCI_MANIFEST)


def test_case_fault_10_names_that_are_free_stay_free() -> None:
    """Annotations are names of the author's own, and unknown keys may be spelled as they like."""
    free = {"\u017fize": "1", "Size": "2", "size": "3"}
    body = {
        "schemaVersion": 2,
        "config": {"digest": DIGEST, "size": 1, "annotations": free},
        "layers": [],
        "annotations": free,
        "own": {"Layer\u017f": 1, "layers": 2},
        "own\u212aey": 1,
        "lay-ers": 1,
    }
    assert parse(json.dumps(body).encode(), OCI_MANIFEST).annotations == free


def test_case_fault_10_the_folding_is_gos_over_all_of_unicode(tmp_path: Path) -> None:
    """Each code point is a key of an object that Go decodes into a struct with a field for each letter and the dot;
    the field that took it is printed."""
    names = [*ascii_lowercase, "."]
    fields = "\n".join(f'\t\tF{number} rune `json:"{name}"`' for number, name in enumerate(names))
    asked = "\n".join(
        f"\t\tif letters.F{number} == c+1 {{\n\t\t\tfmt.Println(c, {ord(name)})\n\t\t}}"
        for number, name in enumerate(names)
    )
    source = tmp_path / "main.go"
    source.write_text(ASKING % (fields, asked))
    go = program("go")
    said = run(go, "run", source, env={"GO111MODULE": "off"})
    by_go = {
        int(code): int(letter) for code, _, letter in (line.partition(" ") for line in said.splitlines())
    }
    by_us = {code: ord(folded(chr(code))) for code in range(sys.maxunicode + 1) if folded(chr(code)) in names}
    assert by_us == by_go
    assert {chr(code): chr(name) for code, name in by_go.items() if code != name} == TAKEN
