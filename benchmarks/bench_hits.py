"""How fast is what is held served, beside nginx, both registries and a ceiling?

Each row asks all its servers the same requests with the same client, in turns. One worker of Holdfast and of nginx, one
thread of the ceiling, every core for the registries. A client on the same machine takes its share of every figure, so
each row has two ratios: requests a second, and the processor time of the server, all its processes together, for each
request. Where the client used a core whole, it was the limit, and the second ratio is the one to read.

Two workers share two cores with their client here. So for that row the client sends 16 requests at once on each
connection, which costs it a tenth of what a worker pays; the note says what it used.
"""

from __future__ import annotations

import json
import random
import ssl
import statistics
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from holdfast.testing.sample import OCI_MANIFEST
from holdfast_core.digest import Digest
from holdfast_core.store import Store

from benchmarks.bench_login import Asked, put_tokens, token
from benchmarks.case import (
    CEILING,
    DISTRIBUTION,
    HOLDFAST,
    NGINX,
    REGISTRY,
    Case,
    Effort,
    Figure,
    Verdict,
    alternate,
    ratio,
)
from benchmarks.client import Question, Run, ask
from benchmarks.content import KB, MB, NAME, TAG, Content, build, put_files, put_registry, put_store
from benchmarks.load import PATIENCE_SECONDS, LoadFailed, split
from benchmarks.machine import TICKS, cores
from benchmarks.peers import Ceiling, Holdfast, Nginx, Registry, Server, certificate

ONE_WORKER = "holdfast, 1 worker"
#: a client that used so much of a core was the limit
CLIENT_LIMIT = 0.95
RANGES, CHECKED, PAGE = 1000, 3, 100


@dataclass(frozen=True, slots=True)
class Setting:
    """How the servers of a row are set up. `large`: nginx with sendfile and tcp_nopush."""

    large: bool = False
    token: bool = False
    log: bool = False
    tls: bool = False
    every_core: bool = False

    @property
    def subjects(self) -> tuple[str, ...]:
        """Who is asked: peers that can be set up so."""
        if self.every_core:
            return (HOLDFAST, ONE_WORKER, DISTRIBUTION)
        if self.token:
            return (HOLDFAST, NGINX, CEILING)
        if self.log or self.tls:
            return (HOLDFAST, NGINX, DISTRIBUTION, REGISTRY)
        return (HOLDFAST, NGINX, CEILING, DISTRIBUTION, REGISTRY)


@dataclass(frozen=True, slots=True)
class Row:
    """One question to all servers of a setting. `asked` names the requests (`Material.questions`); `rate` is the least
    share of the peer's rate that is aimed at, `cost` the greatest share of its processor time (0: no aim)."""

    asked: str
    connections: int
    rate: float
    cost: float
    setting: Setting = Setting()
    peer: str = NGINX
    depth: int = 1
    unit: str = "requests/s"

    @property
    def name(self) -> str:
        """As the table calls it."""
        words = [self.asked, f"{self.connections} connection{'s' if self.connections > 1 else ''}"]
        words += ["with a token"] * self.setting.token + ["access log on"] * self.setting.log
        words += ["TLS"] * self.setting.tls
        words += [f"all cores, against {self.peer}"] * self.setting.every_core
        return ", ".join(words)


SMALL, LARGE, CORES = Setting(), Setting(large=True), Setting(every_core=True)
LOGGED, TOKEN = Setting(log=True), Setting(token=True)
TLS, TLS_LARGE = Setting(tls=True), Setting(tls=True, large=True)
MANIFESTS = tuple(
    f"manifest by {reference}, {method}" for reference in ("digest", "tag") for method in ("GET", "HEAD")
)
MANIFEST, WHOLE, RANGE = MANIFESTS[0], "512 MB blob", "1 MB ranges of 512 MB"

#: the table of the comparison; rows of one setting stand together
ROWS = (
    *(
        Row(name, number, 1.05 if number == 1 else 1.3, 1 / 1.05 if number == 1 else 1 / 1.3)
        for name in MANIFESTS
        for number in (1, 32, 256)
    ),
    *(Row(name, 8, 1.15, 1 / 1.15) for name in ("10 kB blob", "20 kB blob", "100 kB blob")),
    *(Row(name, 32, 1.25, 1 / 1.25, TOKEN) for name in (MANIFESTS[0], MANIFESTS[2])),
    *(Row(name, 32, 1.2, 1 / 1.2, LOGGED) for name in (MANIFESTS[0], MANIFESTS[2])),
    Row("1 MB blob", 8, 1.1, 0.95, LARGE, unit="bytes/s"),
    Row("64 MB blob", 1, 1.1, 0.95, LARGE, unit="bytes/s"),
    Row(RANGE, 8, 1.1, 0.95, LARGE, unit="bytes/s"),
    Row(MANIFEST, 32, 1.0, 1.0, TLS),
    Row("1 MB blob", 8, 1.05, 1 / 1.05, TLS_LARGE, unit="bytes/s"),
    Row("64 MB blob", 1, 1.1, 1 / 1.1, TLS_LARGE, unit="bytes/s"),
    Row(MANIFEST, 32, 15.0, 0.0, CORES, DISTRIBUTION),
    Row("1 MB blob", 8, 5.0, 0.0, CORES, DISTRIBUTION, unit="bytes/s"),
    Row(MANIFEST, 64, 1.7, 0.0, CORES, ONE_WORKER, depth=16),
)


@dataclass(frozen=True, slots=True)
class Material:
    """What is served: the requests by the name of what they ask for, and the file of each target."""

    questions: dict[str, list[Question]]
    bodies: dict[str, Path]
    authorization: str


def lay(place: Path, effort: Effort) -> Material:
    """Write the content in the form that each server starts with."""
    whole, large = effort.pick(512 * MB, 16 * MB), effort.pick(64 * MB, 8 * MB)
    content = build(place / "content", [10 * KB, 20 * KB, 100 * KB, MB, large, whole])
    put_store(content, place / HOLDFAST)
    put_store(Content(content.manifest, {MB: content.blobs[MB]}), place / ONE_WORKER)
    put_registry(content, place / "registry")
    put_files(content, place / "files")
    manifest = place / "files/v2" / NAME / "manifests" / TAG
    bodies = dict.fromkeys((content.manifest_target, content.tag_target), manifest)
    bodies |= {blob.target: blob.path for blob in content.blobs.values()}
    questions = {}
    for name in MANIFESTS:
        target = content.tag_target if "tag" in name else content.manifest_target
        got = name.endswith("GET")
        questions[name] = [Question(target, len(content.manifest) * got, "GET" if got else "HEAD")]
    names = ("10 kB blob", "20 kB blob", "100 kB blob", "1 MB blob", "64 MB blob", WHOLE)
    for name, (size, blob) in zip(names, content.blobs.items(), strict=True):
        questions[name] = [Question(blob.target, size)]
    chance = random.Random(1)
    starts = (chance.randrange(whole - MB) for _ in range(RANGES))
    target = content.blobs[whole].target
    questions[RANGE] = [Question(target, MB, headers=(f"Range: bytes={at}-{at + MB - 1}",)) for at in starts]
    return Material(questions, bodies, put_tokens(place / HOLDFAST, 1)[0])


@contextmanager
def running(
    place: Path, setting: Setting, material: Material
) -> Iterator[tuple[dict[str, Server], Material]]:
    """The servers of a setting, and the questions as they are put to them."""
    with TemporaryDirectory(dir=place) as scratch, ExitStack() as stack:
        own = Path(scratch)
        tls = certificate(own / "tls") if setting.tls else None
        holdfast = Holdfast(
            own / "holdfast",
            data=place / HOLDFAST,
            workers=cores() if setting.every_core else 1,
            anonymous="none" if setting.token else "",
            log=setting.log,
            tls=tls,
        )
        stack.enter_context(holdfast)
        asked = with_token(material, holdfast) if setting.token else material
        known = [one for name, all_of_it in asked.questions.items() if name != RANGE for one in all_of_it]
        registry = partial(Registry, data=place / "registry", log=setting.log, tls=tls)
        nginx = Nginx(own / "nginx", data=place / "files", log=setting.log, large=setting.large, tls=tls)
        peers: dict[str, Server] = {
            NGINX: nginx,
            CEILING: Ceiling(own / "ceiling", model=holdfast, questions=known, bodies=material.bodies),
            DISTRIBUTION: registry(own / "registry", program="registry"),
            REGISTRY: registry(own / "docker-registry"),
            ONE_WORKER: Holdfast(own / "second", data=place / ONE_WORKER, workers=1),
        }
        others = {name: stack.enter_context(peers[name]) for name in setting.subjects if name != HOLDFAST}
        yield {HOLDFAST: holdfast, **others}, asked


def with_token(material: Material, holdfast: Server) -> Material:
    """The same questions with a token of the node. Others get the line as well and need not look at it."""
    login = f"{holdfast.url}/acr/oauth2/token?scope=repository:{NAME}:pull"
    line = f"Authorization: Bearer {token(Asked(login, material.authorization))}"
    questions = {
        name: [replace(question, headers=(*question.headers, line)) for question in asked]
        for name, asked in material.questions.items()
    }
    return replace(material, questions=questions)


def check(server: Server, question: Question, body: Path) -> None:
    """Ask once and compare every byte. Raises LoadFailed."""
    host, port, secure = split(server.url)
    unverified = ssl._create_unverified_context() if secure else None
    connection = (
        HTTPSConnection(host, port, timeout=PATIENCE_SECONDS, context=unverified)
        if secure
        else HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    )
    headers = dict(line.split(": ", 1) for line in (f"Accept: {OCI_MANIFEST}", *question.headers))
    connection.request(question.method, question.target, headers=headers)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    begins = int(headers["Range"].split("=")[1].split("-")[0]) if "Range" in headers else 0
    with body.open("rb") as file:
        file.seek(begins)
        wanted = file.read(question.body)
    status = 206 if "Range" in headers else 200
    length = body.stat().st_size if question.method == "HEAD" else len(wanted)
    if answer.status != status or said != wanted or answer.headers["Content-Length"] != str(length):
        raise LoadFailed(f"{server.url}: {question.line}: {answer.status} with {len(said)} bytes, wrong")


def measure(row: Row, servers: dict[str, Server], material: Material, effort: Effort) -> Case:
    """One row."""
    questions, runs = material.questions[row.asked], dict[str, list[tuple[Run, float]]]()
    # what is cold is verified as it is read the first time: that is no hit yet
    whole = material.questions[WHOLE] if row.asked == RANGE else []
    for server in servers.values():
        for question in [*whole, *questions[:CHECKED]]:
            check(server, question, material.bodies[question.target])

    def one(subject: str) -> float:
        before = servers[subject].processor_seconds()
        run = ask(servers[subject].url, questions, row.connections, effort.seconds, depth=row.depth)
        spent = max(servers[subject].processor_seconds() - before, 1 / TICKS)
        count = run.bytes if row.unit == "bytes/s" else run.requests
        runs.setdefault(subject, []).append((run, spent / count))
        return count / run.seconds

    figures = tuple(
        replace(
            figure,
            costs=tuple(cost for _, cost in runs[figure.subject]),
            p99s=tuple(run.p99 for run, _ in runs[figure.subject]),
        )
        for figure in alternate(effort.rounds, {name: partial(one, name) for name in servers}, row.unit)
    )
    shares = {
        name: statistics.median(run.processor / run.seconds for run, _ in taken)
        for name, taken in runs.items()
    }
    return Case(row.name, figures, verdicts(row, figures), tuple(limited(shares, row)))


def verdicts(row: Row, figures: Sequence[Figure]) -> tuple[Verdict, ...]:
    """Both ratios to the peer, beside their aims."""
    own, peer = (next(f for f in figures if f.subject == name) for name in (HOLDFAST, row.peer))
    rate = Verdict(f"of {row.peer}'s {row.unit}", ratio(own, peer), row.rate, at_least=True)
    if not row.cost:
        return (rate,)
    spent = statistics.median(a / b for a, b in zip(own.costs, peer.costs, strict=True))
    return (rate, Verdict(f"of {row.peer}'s processor time", spent, row.cost, at_least=False))


def limited(shares: dict[str, float], row: Row) -> Iterator[str]:
    """What a reader has to know of the client."""
    busy = [name for name, share in shares.items() if share >= CLIENT_LIMIT]
    if busy:
        yield f"The client used a core whole beside {', '.join(busy)}: it was the limit."
    if row.depth > 1:
        used = ", ".join(f"{share:.2f} of a core beside {name}" for name, share in shares.items())
        yield f"{row.depth} requests at once on each connection; the client used {used}."


def tags_page(place: Path, effort: Effort) -> Case:
    """A page of a hundred, from anywhere in a long list."""
    tags = effort.pick(100_000, 2_000)
    store, digest = Store.create_or_open(place, write=True), Digest.of(b"{}")
    for future in [store.references.put_tag("many", f"v{n:06}", digest, now=0.0) for n in range(tags)]:
        future.result()
    store.close()
    chance = random.Random(1)
    starts = [chance.randrange(tags - PAGE - 1) for _ in range(RANGES)]
    bodies = [
        json.dumps(
            {"name": "many", "tags": [f"v{start + n:06}" for n in range(1, PAGE + 1)]}, separators=(",", ":")
        )
        for start in starts
    ]
    questions = [
        Question(f"/v2/many/tags/list?n={PAGE}&last=v{start:06}", len(body))
        for start, body in zip(starts, bodies, strict=True)
    ]
    with Holdfast(place.parent / "tags node", data=place, workers=1) as node:
        for question, body in zip(questions[:CHECKED], bodies, strict=False):
            with urllib.request.urlopen(node.url + question.target) as answer:
                if json.load(answer) != json.loads(body):
                    raise LoadFailed(f"{question.line}: another page than the one after it")
        runs = [ask(node.url, questions, 1, effort.seconds) for _ in range(effort.rounds)]
    figure = Figure(HOLDFAST, "s", tuple(run.p50 for run in runs), p99s=tuple(run.p99 for run in runs))
    verdict = Verdict("a page", figure.median, 0.5e-3, at_least=False, unit="s")
    return Case(f"tags list, a page of {PAGE} of {tags:,}", (figure,), (verdict,))


def run(place: Path, effort: Effort) -> list[Case]:
    """Every row."""
    material, cases = lay(place, effort), list[Case]()
    for setting, rows in groupby(ROWS, lambda row: row.setting):
        with running(place, setting, material) as (servers, asked):
            for row in rows:
                cases.append(measure(row, servers, asked, effort))
    return [*cases, tags_page(place / "tags", effort)]


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
