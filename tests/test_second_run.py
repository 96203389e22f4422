"""What `make test` runs once more, and what stays a failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.second_run import MOST, main

BROKEN_OFF, SKIPPED = 2, 64


def recorded(place: Path, tests: list[str]) -> None:
    record = place / ".pytest_cache/v/cache/lastfailed"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(dict.fromkeys(tests, True)))
    (place / "test_some.py").write_text("def test_good(): pass\n\ndef test_bad(): assert False\n")


@pytest.mark.parametrize(
    ("ended", "failed", "code"),
    [
        (1, ["test_some.py::test_good"], 0),
        (1, ["test_some.py::test_good", "test_some.py::test_bad"], 1),
        (1, ["test_some.py::test_gone"], 1),
        (1, ["test_some.py::test_good", *[f"test_some.py::test_{n}" for n in range(MOST)]], 1),
        (1, [], 1),
        (BROKEN_OFF, ["test_some.py::test_good"], BROKEN_OFF),
        (SKIPPED, ["test_some.py::test_good"], SKIPPED),
    ],
)
def test_only_what_passes_alone_is_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: int, failed: list[str], code: int
) -> None:
    recorded(tmp_path, failed)
    monkeypatch.chdir(tmp_path)
    assert main(ended) == code


def test_a_run_without_a_record_stays_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(1) == 1


def test_what_passed_alone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    recorded(tmp_path, ["test_some.py::test_good"])
    monkeypatch.chdir(tmp_path)
    main(1)
    assert "PASSED ALONE, FAILED BESIDE OTHERS: test_some.py::test_good" in capfd.readouterr().out
