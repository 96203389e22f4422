"""The OpenAPI document is made of the table that answers, and the answers are held to it by schemathesis."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast.admin.openapi import document
from holdfast.admin.table import OPERATIONS, ROUTES
from support.node import Node
from support.transfer import fetch

#: requests of each operation, at most
EXAMPLES = 15

DOCUMENT = json.loads(msgspec.json.encode(document(OPERATIONS)))


def test_it_is_deterministic_and_whole() -> None:
    assert document(OPERATIONS) == document(OPERATIONS)
    described = {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(f"/api/v1/{one.path}", one.method.lower()) for one in OPERATIONS}
    assert sum(len(methods) for methods in ROUTES.values()) == len(OPERATIONS)
    assert len({one.id for one in OPERATIONS}) == len(OPERATIONS)


def test_every_operation_wants_the_operator() -> None:
    assert DOCUMENT["security"] == [{"operator": []}]
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            assert "security" not in operation
            assert {"400", "401", "429", "503"} <= set(operation["responses"])


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(found := value.get("$ref"), str):
            yield found
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def test_every_reference_leads_somewhere_and_every_body_is_closed() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert {name.rpartition("/")[2] for name in references(DOCUMENT)} == set(schemas)
    for name, schema in schemas.items():
        if name != "OpenApi":
            assert schema["additionalProperties"] is False, name
            assert schema["description"], name


CHECKED = """
[checks.positive_data_acceptance]
# rules that no schema can say (a schedule that never comes round, two fields of which one is to be given) are 400,
# a condition that does not hold is 412
expected-statuses = ["2xx", "400", "404", "409", "412"]

[phases.coverage]
# a GET with a body is refused before anybody looks where it leads
unexpected-methods = ["POST", "PUT", "PATCH", "DELETE", "TRACE"]
"""


@pytest.mark.parametrize("phases", ["examples,coverage", "fuzzing,stateful"])
def test_schemathesis_finds_no_answer_that_the_document_does_not_promise(tmp_path: Path, phases: str) -> None:
    """Every check, over every operation of a served root, with what the schema allows and with what it does not."""
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(CHECKED)
    # it tries every operation without and with a wrong password, from one address
    with Node(tmp_path, configuration="[login]\nfailures = 100_000\n", workers=1) as node:
        kept = json.loads((node.data / "operator.json").read_text())
        url = json.loads((node.data / "admin.json").read_text())["url"]
        command = (
            *(Path(sys.executable).with_name("schemathesis"), "--config-file", settings, "run"),
            *(f"{url}/api/v1/openapi.json", "--auth", f"{kept['username']}:{kept['password']}"),
            *("--checks", "all", "--phases", phases, "--max-examples", str(EXAMPLES), "--seed", "1"),
            *("--no-color", "--generation-database", "none"),
        )
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
        many = len(OPERATIONS) - 1  # all but that by which the document was fetched
        assert re.search(rf"Selected: +{many}/{many}\n +Tested: +{many}\n", done.stdout), done.stdout
        assert '"level":"error"' not in node.program.output()
        assert fetch(url, "/readyz").status == 200
