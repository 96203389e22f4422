"""The gate in front of the conformance program can fail: made-up results of every kind that must not pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support import conformance
from support.conformance import (
    DEV,
    STABLE,
    Demand,
    Outcome,
    allowed_skips,
    complaints,
    read_report,
    read_results,
    table,
)

RESULTS = """\
config:
  registry: 127.0.0.1:5000
  apis:
    push: true
  version: stable
apis:
  Blob push: Pass
  Blob upload cancel: Disabled
data:
  Image: Pass
  Sparse Manifests: Disabled
"""
REPORT = """\
Test results
OCI Conformance Test: Pass
  OCI Conformance Test/ping: Pass
  OCI Conformance Test/sha256 blobs: Pass
    OCI Conformance Test/sha256 blobs/post only: Pass
      OCI Conformance Test/sha256 blobs/post only/blob-post-only: Skip
       - registry does not support single POST

Configuration:
  version: stable
"""
SKIPPED = "OCI Conformance Test/sha256 blobs/post only/blob-post-only"
DEMAND = Demand("stable", 4, disabled=STABLE.disabled)


def outcome() -> Outcome:
    apis, data = read_results(RESULTS)
    return Outcome(0, "", read_report(REPORT), apis, data)


def test_a_good_run_passes() -> None:
    assert complaints(outcome(), DEMAND, [SKIPPED]) == []
    assert len(outcome().tests) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"exit_code": 1}, "exit code 1"),
        ({"tests": outcome().tests[1:]}, "3 tests ran, 4 are"),
        ({"tests": (*outcome().tests[1:], ("x", "FAIL"))}, "x: FAIL"),
        ({"tests": (*outcome().tests[1:], ("x", "Error"))}, "x: Error"),
        ({"tests": (*outcome().tests[1:], ("x", "Unknown"))}, "x: Unknown"),
        ({"tests": (*outcome().tests[1:], ("x", "Skip"))}, "x was skipped, which is not allowed"),
        ({"apis": {"Blob push": "FAIL"}}, "Blob push is FAIL"),
        ({"apis": {"Blob push": "Skip"}}, "Blob push is Skip"),
        ({"apis": {"Blob push": "Disabled"}}, "Blob push is Disabled"),
        ({"apis": {"Blob upload cancel": "Pass"}}, "Blob upload cancel is Pass"),
        ({"data": {"Image": "Error"}}, "Image is Error"),
    ],
)
def test_anything_else_does_not(change: dict[str, object], said: str) -> None:
    (complaint,) = complaints(dataclasses.replace(outcome(), **change), DEMAND, [SKIPPED])  # type: ignore[arg-type]
    assert said in complaint


def test_an_allowance_that_nothing_needs_is_a_complaint() -> None:
    assert complaints(outcome(), DEMAND, [SKIPPED, "y"]) == ["y is allowed to be skipped, and was not"]
    assert complaints(outcome(), DEV)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "config:\n  version: dev\n",
        RESULTS.partition("data:")[0],
        RESULTS.replace("Image: Pass", "Image: Fine"),
        RESULTS.replace("  Image: Pass", "    Image: Pass"),
        RESULTS.replace("Blob push: Pass", "Blob push:"),
    ],
)
def test_results_that_are_cut_or_strange_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"results\.yaml"):
        read_results(text)


def test_every_allowed_skip_has_its_reason() -> None:
    assert all(allowed_skips().values())
    assert table("\n## A\n\n| x | y |\n|---|---|\n| `b c` | d |\n\n## B\n", "A") == {"b c": "d"}
    with pytest.raises(ValueError, match="no section"):
        table("", "A")
    with pytest.raises(ValueError, match="no table"):
        table("\n## A\n\nnothing\n", "A")


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("exit 0", AssertionError, "no results file"),
        ('mkdir "$OCI_RESULTS_DIR"; : > "$OCI_RESULTS_DIR/results.yaml"', ValueError, "has no statuses"),
    ],
)
def test_results_of_an_earlier_run_are_not_taken_for_these(
    script: str, kind: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that ends well, writes nothing or nothing of worth, and finds good results where they belong."""
    stub = tmp_path / "stub"
    stub.write_text(f"#!/bin/sh\n{script}\n")
    stub.chmod(0o755)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results.yaml").write_text(RESULTS)
    monkeypatch.setattr(conformance, "program", lambda name: str(stub))
    with pytest.raises(kind, match=said):
        conformance.run("127.0.0.1:1", DEMAND, tmp_path)
