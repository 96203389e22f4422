"""A short form of the comparison: every server gave right answers, and nobody's speed is looked at."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from benchmarks import bench_herd, bench_hits, bench_idle, bench_loris
from benchmarks.case import HOLDFAST, NGINX, Case, Effort, Figure, Verdict
from benchmarks.client import Question, ask
from benchmarks.content import KB, build, put_store
from benchmarks.load import LoadFailed
from benchmarks.machine import Machine, installed
from benchmarks.peers import Server, certificate
from benchmarks.report import Answer, Report, verdict_text

SHORT = Effort(rounds=1, seconds=0.02, quick=True)
MACHINE = Machine("today", "abc", 2, "a processor", 8.0, "6.1", 0.5, {"holdfast": "1"})


def test_every_server_answers_every_row_of_hits(tmp_path: Path) -> None:
    programs = ("nginx", "docker-registry", "registry")
    if missing := [name for name in programs if not shutil.which(installed(name))]:
        pytest.skip(f"{', '.join(missing)} not here: tools/packages bench")
    *cases, page = bench_hits.run(tmp_path, SHORT)
    assert [case.name for case in cases] == [row.name for row in bench_hits.ROWS]
    for row, case in zip(bench_hits.ROWS, cases, strict=True):
        assert tuple(figure.subject for figure in case.figures) == row.setting.subjects
        assert all(
            len(figure.values) == len(figure.costs) == len(figure.p99s) == 1 for figure in case.figures
        )
        assert all(value > 0 for figure in case.figures for value in figure.values)
        assert len(case.verdicts) == (2 if row.cost else 1)
    assert page.name == "tags list, a page of 100 of 2,000"


def test_no_two_rows_of_hits_have_one_name() -> None:
    names = [row.name for row in bench_hits.ROWS]
    assert len(set(names)) == len(names)


def test_a_crowd_gets_the_right_bytes_with_one_get(tmp_path: Path) -> None:
    missed, hit = bench_herd.crowd(tmp_path, SHORT)
    assert [verdict.measured for case in (missed, hit) for verdict in case.verdicts[-1:]] == [1, 0]
    assert missed.notes == hit.notes == ("All 20 bodies were right, byte by byte.",)


@pytest.mark.parametrize("secured", [False, True])
def test_idle_connections_stay_and_new_requests_are_answered(tmp_path: Path, secured: bool) -> None:
    content = build(tmp_path / "content", [10 * KB])
    put_store(content, tmp_path / "store")
    tls = certificate(tmp_path / "tls") if secured else None
    case = bench_idle.connected(tmp_path, content, SHORT, tls, 1e9)
    assert case.name == f"200 idle connections, {'TLS' if secured else 'plain'}, 2 workers"


def test_slow_clients_are_ended_and_others_answered(tmp_path: Path) -> None:
    (case,) = bench_loris.run(tmp_path, SHORT)
    gone = case.verdicts[1]
    assert gone.words == "until all are gone"
    assert gone.measured < bench_loris.PATIENCE_SECONDS, "that long it waits in vain"


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that says the same to everybody."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


BODY = b"0123456789" * 30_000


def test_the_client_counts_right_answers(tmp_path: Path) -> None:
    (file := tmp_path / "body").write_bytes(BODY)
    with answering(200, BODY) as url:
        run = ask(url, [Question("/a", len(BODY)), Question("/b", len(BODY))], 3, 0.0, depth=2, body=file)
    assert (run.requests, run.bytes) == (6, 6 * len(BODY))


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (404, BODY, "no such answer"),
        (200, BODY[:-1] + b"x", "wrong bytes"),
        (200, BODY + b"x", "more bytes|no such answer"),
    ],
)
def test_the_client_refuses_wrong_answers(tmp_path: Path, status: int, body: bytes, complaint: str) -> None:
    (file := tmp_path / "body").write_bytes(BODY)
    with answering(status, body) as url, pytest.raises(LoadFailed, match=complaint):
        ask(url, [Question("/a", len(BODY))], 1, 0.0, depth=2, body=file)


@pytest.mark.parametrize(("status", "body"), [(404, b"right"), (200, b"wrong"), (200, b"right and more")])
def test_a_server_with_wrong_answers_is_not_measured(tmp_path: Path, status: int, body: bytes) -> None:
    (file := tmp_path / "body").write_bytes(b"right")
    with answering(status, body) as url, pytest.raises(LoadFailed, match="wrong"):
        bench_hits.check(cast("Server", Served(url)), Question("/a", 5), file)


class Served:
    """A server that is known by its address alone."""

    def __init__(self, url: str) -> None:
        self.url = url


CASE = Case(
    "a row",
    (Figure(HOLDFAST, "requests/s", (30.0,), (2e-6,), (1e-3,)), Figure(NGINX, "requests/s", (40.0,))),
    (Verdict("of nginx's requests/s", 0.75, 1.5, at_least=True),),
    ("a note",),
)


def test_answers_survive_being_written(tmp_path: Path) -> None:
    report = Report(
        {"hits": Answer(MACHINE, "make bench", (CASE,)), "idle": Answer(MACHINE, "make bench", failed="x")}
    )
    report.write(tmp_path)
    assert Report.read(tmp_path) == report
    assert Report.read(tmp_path / "nowhere") == Report()


def test_the_table_says_what_was_measured_when() -> None:
    later = replace(MACHINE, date="tomorrow")
    table = Report(
        {"hits": Answer(MACHINE, "make bench", (CASE,)), "idle": Answer(later, "make bench")}
    ).table()
    assert "hits: `make bench`, today" in table
    assert "idle: `make bench`, tomorrow" in table
    assert "| a row | 30 requests/s, 2 µs, p99 1 ms | 40 requests/s | " in table


@pytest.mark.parametrize(
    ("measured", "at_least", "words"),
    [
        (0.75, True, "0.75× of it | ≥ 1.5× | **missed** by 50%"),
        (1.5, True, "1.50× of it | ≥ 1.5× | met"),
        (3.0, False, "3.00× of it | ≤ 1.5× | **missed** by 100%"),
    ],
)
def test_a_verdict_says_by_how_much_it_is_missed(measured: float, at_least: bool, words: str) -> None:
    assert verdict_text(Verdict("of it", measured, 1.5, at_least)) == words
