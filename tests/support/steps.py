"""What clients do to a registry, time and restarts among it, each with what the model says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from holdfast_core import Uploads
from hypothesis import strategies as st
from support.compared import OK, Compared, attributes, is_blob, judge
from support.model import (
    ACCEPTED,
    ALGORITHMS,
    ATTRIBUTES,
    BODIES,
    CHUNKS,
    CONFIG,
    CREATED,
    DENIED,
    DIGEST_INVALID,
    DOCKER_LIST,
    DOCUMENTS,
    IMAGE,
    INDEX,
    LAYER,
    MANIFEST_INVALID,
    MANIFEST_UNKNOWN,
    NAME_UNKNOWN,
    NOBODYS,
    OCI_INDEX,
    OCI_MANIFEST,
    OUT_OF_ORDER,
    REPOSITORIES,
    REPOSITORY,
    TAGS,
    UPLOAD_UNKNOWN,
    Document,
    Lockable,
    Verdict,
    digest_of,
)
from support.patience import until
from support.pushing import chunked, request
from support.serving import Answer

UNSUPPORTED, NO_METHOD = (400, "UNSUPPORTED"), (405, "UNSUPPORTED")
repositories = st.sampled_from(REPOSITORIES)
tags = st.sampled_from(TAGS)
bodies = st.sampled_from(BODIES)
chunks = st.sampled_from(CHUNKS)
documents = st.sampled_from(DOCUMENTS)
algorithms = st.sampled_from(ALGORITHMS)
#: which of those that there are
picks = st.integers(0, 7)
spans = st.sampled_from((*["", "right"] * 4, "ahead", "behind", "long", "short"))
#: what a body is pushed under: its digest by either algorithm, the digest of another, one of no known algorithm
digests_said = st.sampled_from((*ALGORITHMS * 3, "another", "md5"))
blob_digests = st.sampled_from([digest_of(body, a) for body in BODIES for a in ALGORITHMS])
manifest_digests = st.sampled_from(
    [digest_of(document.body, a) for document in DOCUMENTS for a in ALGORITHMS]
)
changes = st.sampled_from(
    (
        dict.fromkeys(ATTRIBUTES, True),
        {"writeEnabled": False, "readEnabled": True},
        {"deleteEnabled": False, "listEnabled": False},
        {"readEnabled": False},
    )
)


#: name of a step -> how often it is taken, and what it is given
STEPS: dict[str, tuple[int, st.SearchStrategy[dict[str, Any]]]] = {}


def step(
    weight: int, **given: st.SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A method of `Steps` that sequences are made of."""

    def register(method: Callable[..., None]) -> Callable[..., None]:
        STEPS[method.__name__] = weight, st.fixed_dictionaries(given)
        return method

    return register


#: what a registry begins with
STOCK = st.fixed_dictionaries(
    {
        "blobs": st.lists(st.tuples(repositories, bodies, algorithms), max_size=6),
        "manifests": st.lists(st.tuples(repositories, documents, tags), max_size=5),
        "sessions": st.lists(repositories, min_size=1, max_size=3),
        "locks": st.lists(st.tuples(repositories, changes), max_size=2),
    }
)


class Opened(NamedTuple):
    """A session that was opened, whatever became of it."""

    id: str
    repository: str


class Steps(Compared):
    """A registry, and the steps that change it."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[Opened] = []

    def stock(
        self,
        blobs: list[tuple[str, bytes, str]],
        manifests: list[tuple[str, Document, str]],
        sessions: list[str],
        locks: Sequence[tuple[str, dict[str, bool]]] = (),
    ) -> None:
        """Something is there to begin with, and under way; what images need, wherever there is one."""
        named = dict.fromkeys(repository for repository, _, _ in manifests)
        needed = [(r, *blob) for r in named for blob in ((CONFIG, "sha256"), (LAYER, "sha512"))]
        for repository in sessions:
            self.open_session(repository, "")
        for repository, body, algorithm in (*blobs, *needed):
            self.push_in_one(repository, body, algorithm)
        for repository, document, tag in manifests:
            self.push_manifest(repository, document, tag)
        for repository, changed in locks:
            self.set_lock(repository, 0, changed)

    # --- uploads -----------------------------------------------------------------------------------------

    def begun(self, answer: Answer, repository: str) -> None:
        """A new session, by the answer that began it."""
        location = urlsplit(answer.headers["location"]).path
        id = location.removeprefix(f"/v2/{repository}/blobs/uploads/")
        assert id not in {found.id for found in self.opened}
        self.opened.insert(0, Opened(id, repository))
        self.model.begin(id, repository)
        self.progressed(answer, id)

    def progressed(self, answer: Answer, id: str) -> None:
        """The answer says how far the session has come (I6)."""
        session = self.model.sessions[id]
        assert answer.headers["range"] == f"0-{max(len(session.data) - 1, 0)}"
        assert urlsplit(answer.headers["location"]).path == f"/v2/{session.repository}/blobs/uploads/{id}"

    def chosen(self, pick: int, through: str | None) -> Opened:
        """A session, one that ended among them, asked for in its own repository or through another."""
        live = [found for found in self.opened if found.id in self.model.sessions]
        ended = [found for found in self.opened if found.id not in self.model.sessions]
        every = live[:3] + ended[:1]  # `stock` opens one at least
        found = every[pick % len(every)]
        return found if through is None else Opened(found.id, through)

    def span(self, kind: str, id: str, chunk: bytes) -> tuple[int, int] | None:
        """First and last byte of a Content-Range of some kind."""
        session = self.model.sessions.get(id)
        start = len(session.data) if session else 0
        start += {"ahead": 1, "behind": -1 if start else 1}.get(kind, 0)
        end = start + len(chunk) - 1 + {"long": 1, "short": -1}.get(kind, 0)
        return (start, end) if kind else None

    @step(1, repository=repositories, algorithm=st.sampled_from(("", "sha256", "sha512", "md5")))
    def open_session(self, repository: str, algorithm: str) -> None:
        query = f"?digest-algorithm={algorithm}" if algorithm else ""
        verdict = DIGEST_INVALID if algorithm == "md5" else ACCEPTED
        verdict = DENIED if self.model.forbids("write", repository) else verdict
        answer = self.sent(verdict, "POST", request("POST", uploads(repository, query), b""))
        if verdict == ACCEPTED:
            self.begun(answer, repository)

    @step(1, repository=repositories, body=bodies, said=digests_said, sized=st.booleans())
    def push_in_one(self, repository: str, body: bytes, said: str, sized: bool = True) -> None:
        digest = digest_said(said, body)
        locked = self.model.forbids("write", repository)
        verdict = DENIED if locked else self.model.push_blob(repository, body, digest)
        target = uploads(repository, f"?digest={quote(digest)}")
        answer = self.sent(verdict, "POST", with_body("POST", target, body, sized))
        if verdict == CREATED:
            is_blob(answer, repository, digest)

    @step(
        3,
        pick=picks,
        through=st.sampled_from((*[None] * 9, *REPOSITORIES)),
        chunk=chunks,
        kind=spans,
        sized=st.booleans(),
    )
    def patch(self, pick: int, through: str | None, chunk: bytes, kind: str = "", sized: bool = True) -> None:
        id, repository = self.chosen(pick, through)
        span = self.span(kind, id, chunk)
        verdict = self.model.patch(id, repository, chunk, span, sized)
        raw = with_body("PATCH", uploads(repository, id), chunk, sized, span)
        answer = self.sent(verdict, "PATCH", raw)
        if verdict in (ACCEPTED, OUT_OF_ORDER):
            self.progressed(answer, id)

    @step(
        4,
        pick=picks,
        through=st.sampled_from((*[None] * 9, *REPOSITORIES)),
        chunk=st.just(b"") | chunks,
        kind=spans,
        sized=st.booleans(),
        said=st.sampled_from((*ALGORITHMS * 3, "another", "another", "md5", "")),
    )
    def put(
        self, pick: int, through: str | None, chunk: bytes, said: str, kind: str = "", sized: bool = True
    ) -> None:
        id, repository = self.chosen(pick, through)
        span, session = self.span(kind, id, chunk), self.model.sessions.get(id)
        digest = digest_said(said, (session.data if session else b"") + chunk)
        verdict = self.model.put(id, repository, chunk, span, sized, digest)
        query = f"?digest={quote(digest, safe='')}" if digest else ""
        raw = with_body("PUT", uploads(repository, id + query), chunk, sized, span)
        answer = self.sent(verdict, "PUT", raw)
        if verdict == CREATED:
            is_blob(answer, repository, digest)
        elif verdict == OUT_OF_ORDER:
            self.progressed(answer, id)

    @step(
        2,
        repository=repositories,
        pieces=st.lists(
            st.tuples(chunks, st.sampled_from(("", "right")), st.booleans()), min_size=1, max_size=3
        ),
        algorithm=algorithms,
        hint=st.sampled_from(("", *ALGORITHMS)),
    )
    def upload(
        self, repository: str, pieces: list[tuple[bytes, str, bool]], algorithm: str, hint: str
    ) -> None:
        """A session from its beginning to its end, by somebody who does it right."""
        self.open_session(repository, hint)
        *before, (last, kind, sized) = pieces
        for piece, how, with_length in before:
            self.patch(0, None, piece, how if piece else "", with_length)
        self.put(0, None, last, algorithm, kind if last else "", sized)

    @step(1, pick=picks, chunk=chunks.filter(bool), sized=st.booleans())
    def break_off(self, pick: int, chunk: bytes, sized: bool) -> None:
        """The connection is lost within the body: what came is kept (references.md 4.2, case 29)."""
        if not self.model.sessions:
            return
        id, session = list(self.model.sessions.items())[-1 - pick % len(self.model.sessions)]
        size, target = len(session.data) + len(chunk), uploads(session.repository, id)
        announced = b"%x\r\n" % (len(chunk) + 5) if not sized else b""
        head = {"Content_Length": str(len(chunk) + 5)} if sized else {"Transfer_Encoding": "chunked"}
        file = self.data / "uploads" / Uploads.name(id, session.repository)

        async def work() -> None:
            client = await self.node.connect()
            client.send(request("PATCH", target, None, **head), announced, chunk)
            client.close()
            await until(lambda: file.stat().st_size == size and not self.node.node.push._under_way)

        self.do(work())
        session.data += chunk

    @step(1, pick=picks, through=st.sampled_from((*[None] * 9, *REPOSITORIES)))
    def cancel(self, pick: int, through: str | None) -> None:
        id, repository = self.chosen(pick, through)
        verdict = self.model.cancel(id, repository)
        self.sent(verdict, "DELETE", request("DELETE", uploads(repository, id)))

    @step(
        3,
        repository=repositories,
        digest=blob_digests | st.sampled_from((NOBODYS, digest_of(IMAGE.body))),
        source=st.sampled_from((None, "", *REPOSITORIES, "Not A Name")),
    )
    def mount(self, repository: str, digest: str, source: str | None) -> None:
        verdict = self.model.mount(repository, digest, source or None)
        origin = "" if source is None else f"&from={quote(source, safe='')}"
        target = uploads(repository, f"?mount={quote(digest)}{origin}")
        answer = self.sent(verdict, "POST", request("POST", target, b""))
        if verdict == CREATED:
            is_blob(answer, repository, digest)
        elif verdict == ACCEPTED:
            self.begun(answer, repository)

    # --- manifests and tags --------------------------------------------------------------------------------

    @step(
        6,
        repository=repositories,
        document=documents,
        reference=tags | digests_said.filter(lambda said: said != "md5"),
        listed=st.lists(tags, max_size=2),
        kind=st.sampled_from((None, None, None, OCI_MANIFEST, OCI_INDEX, DOCKER_LIST)),
        condition=st.sampled_from(("", "", "", "If-Match", "If-None-Match")),
    )
    def push_manifest(
        self,
        repository: str,
        document: Document,
        reference: str,
        listed: Sequence[str] = (),
        kind: str | None = None,
        condition: str = "",
    ) -> None:
        kind = kind or document.types[0]
        names = tuple(listed) if reference not in TAGS else ()
        reference = reference if reference in TAGS else digest_said(reference, document.body)
        verdict = self.model.push_manifest(repository, reference, names, document, kind, condition)
        query = "?" + "&".join(f"tag={name}" for name in names) if names else ""
        target = f"/v2/{repository}/manifests/{reference}{query}"
        headers = {condition: "*"} if condition else {}
        answer = self.sent(
            verdict, "PUT", request("PUT", target, document.body, Content_Type=kind, **headers)
        )
        if verdict == CREATED:
            digest = reference if ":" in reference else digest_of(document.body)
            assert answer.headers["docker-content-digest"] == digest
            assert answer.headers["location"] == f"/v2/{repository}/manifests/{digest}"
            assert answer.headers.get("oci-subject", "") == document.subject

    @step(4, repository=repositories, noun=st.sampled_from(("blob", "manifest", "tag")), pick=picks)
    def delete(self, repository: str, noun: str, pick: int) -> None:
        """Something that is there, if anything is, or something that nobody has."""
        model = self.model
        held = {"blob": model.blobs, "manifest": model.manifests, "tag": model.tags}[noun]
        names = sorted(name for r, name in held if r == repository)
        name = [*names, "none" if noun == "tag" else NOBODYS][pick % (len(names) + 1)]
        verdict = {
            "blob": model.delete_blob,
            "manifest": model.delete_manifest,
            "tag": model.delete_tag,
        }[noun](repository, name)
        target = f"/v2/{repository}/{'blobs' if noun == 'blob' else 'manifests'}/{name}"
        self.sent(verdict, "DELETE", request("DELETE", target))

    @step(5, repository=repositories, pick=st.just(0) | picks, changed=changes)
    def set_lock(self, repository: str, pick: int, changed: dict[str, bool]) -> None:
        model = self.model
        tags = [("tag", tag) for r, tag in sorted(model.tags) if r == repository]
        manifests = [("manifest", digest) for r, digest in sorted(model.manifests) if r == repository]
        every: list[Lockable] = [REPOSITORY, *tags, *manifests, ("tag", "none")]
        on = every[pick % len(every)]
        verdict = model.set_lock(repository, on, changed)
        body = json.dumps(changed).encode()
        answer = self.sent(verdict, "PATCH", request("PATCH", attributes(repository, on), body))
        if verdict == OK:
            self.attributes_are(repository, on)(answer)

    # --- what changes nothing ------------------------------------------------------------------------------

    @step(1, repository=repositories, number=st.integers(0, 11))
    def say_nonsense(self, repository: str, number: int) -> None:
        known = repository in self.model.known
        digest = digest_of(INDEX.body)
        at, acr = f"/v2/{repository}/", f"/acr/v1/{repository}"
        asked: list[tuple[str, str, bytes | None, Verdict]] = [
            ("PUT", f"{at}manifests/sha256:zz", INDEX.body, DIGEST_INVALID),
            ("PUT", f"{at}manifests/{digest}?tag=v1&tag=-bad", INDEX.body, (400, "NAME_INVALID")),
            ("PUT", f"{at}manifests/v1?tag=V1", INDEX.body, UNSUPPORTED),
            ("PUT", f"{at}manifests/v1", INDEX.body[:-1], MANIFEST_INVALID),
            ("GET", f"{at}manifests/.bad", None, MANIFEST_UNKNOWN),
            ("POST", f"{at}blobs/uploads/?mount=sha256:1", b"", DIGEST_INVALID),
            ("PATCH", f"{at}blobs/uploads/none", b"bytes", UPLOAD_UNKNOWN),
            ("DELETE", f"{at}tags/list", None, NO_METHOD),
            ("PUT", f"{at}blobs/uploads/", b"bytes", NO_METHOD),
            ("GET", "/v2/Not/tags/list", None, (400, "NAME_INVALID")),
            ("GET", f"{at}tags/list?n=-1", None, UNSUPPORTED),
            ("PATCH", acr, b'{"readEnabled":0}', UNSUPPORTED if known else NAME_UNKNOWN),
        ]
        method, target, body, verdict = asked[number]
        self.sent(verdict, method, request(method, target, body))

    @step(1, pick=picks, through=st.sampled_from((*[None] * 9, *REPOSITORIES)))
    def ask_progress(self, pick: int, through: str | None) -> None:
        id, repository = self.chosen(pick, through)
        there = self.model.session(id, repository) is not None
        verdict = (204, "") if there else UPLOAD_UNKNOWN
        answer = self.sent(verdict, "GET", request("GET", uploads(repository, id)))
        if there:
            self.progressed(answer, id)

    @step(1, repository=repositories, reference=tags | manifest_digests | blob_digests, kind=st.booleans())
    def look_closely(self, repository: str, reference: str, kind: bool) -> None:
        """HEAD says what GET says; a range and a condition are of the same bytes."""
        noun = "manifests" if kind or ":" not in reference else "blobs"
        target = f"/v2/{repository}/{noun}/{reference}"
        plain = request("GET", target)
        part_only, if_changed = {"Range": "bytes=1-2"}, {"If_None_Match": "*"}
        got, head, part, same = self.ask_together(
            [
                ("GET", plain),
                ("HEAD", request("HEAD", target)),
                ("GET", request("GET", target, None, **part_only)),
                ("GET", request("GET", target, None, **if_changed)),
            ]
        )
        for answer in (got, head, part, same):
            assert answer.status < 500
        assert (head.status, head.body) == (got.status, b"")
        if got.status != 200:
            assert (part.status, same.status) == (got.status, got.status)
            return
        assert head.headers | {"date": ""} == got.headers | {"date": ""}
        assert (same.status, same.body) == (304, b"")
        wanted = got.body[1:3]
        assert (part.status, part.body if wanted else b"") == ((206, wanted) if wanted else (416, b""))

    @step(
        1,
        repository=repositories,
        size=st.sampled_from((None, "0", "1", "2", "99999999999999999999")),
        last=st.sampled_from(("", *TAGS, "W", "v10")),
    )
    def walk_tags(self, repository: str, size: str | None, last: str) -> None:
        """The pages of a list, one after the other."""
        verdict = self.model.read_lists(repository)
        rest = [tag for tag in self.model.listed_tags(repository) if tag > last]
        query = "&".join(f"{k}={v}" for k, v in (("n", size), ("last", last)) if v)
        target = f"/v2/{repository}/tags/list?{query}"
        while target:
            answer = self.ask("GET", request("GET", target))
            judge(answer, verdict)
            if verdict != OK:
                return
            page = rest[: int(size)] if size else rest
            assert json.loads(answer.body) == {"name": repository, "tags": page}
            rest = rest[len(page) :]
            target = answer.headers.get("link", "").removeprefix("<").removesuffix('>; rel="next"')
            assert bool(target) == bool(rest and size != "0")

    @step(1, repository=repositories, body=bodies, algorithm=algorithms, deleted=st.booleans())
    def push_look_and_delete(self, repository: str, body: bytes, algorithm: str, deleted: bool) -> None:
        """Without waiting for an answer in between."""
        digest, model = digest_of(body, algorithm), self.model
        at = f"/v2/{repository}/blobs/{digest}"
        post = request("POST", uploads(repository, f"?digest={digest}"), body)
        asked = [("POST", post), ("GET", request("GET", at)), ("DELETE", request("DELETE", at))]
        verdicts = [model.push_blob(repository, body, digest), model.read_blob(repository, digest)]
        if deleted:
            asked.append(("HEAD", request("HEAD", at)))
            verdicts += [model.delete_blob(repository, digest), model.read_blob(repository, digest)]
        answers = self.ask_together(asked if deleted else asked[:2])
        for (method, _), answer, verdict in zip(asked, answers, verdicts, strict=False):
            judge(answer, verdict, method)
        if verdicts[1] == OK:
            assert answers[1].body == body
        self.touched.add(repository)

    # --- time ----------------------------------------------------------------------------------------------

    @step(1, event=st.sampled_from(("sweep", "sweep", "expire", "restart", "rebuild")))
    def time_goes_by(self, event: str) -> None:
        if event in ("sweep", "expire"):
            self.sweep(event == "expire")
        else:
            self.restart(event == "rebuild")


# --- requests ------------------------------------------------------------------------------------------------


def uploads(repository: str, rest: str) -> str:
    return f"/v2/{repository}/blobs/uploads/{rest}"


def digest_said(said: str, body: bytes) -> str:
    if said in ("", "md5"):
        return "md5:" + "0" * 32 if said else ""
    return digest_of(INDEX.body) if said == "another" else digest_of(body, said)


def with_body(
    method: str, target: str, body: bytes, sized: bool, span: tuple[int, int] | None = None
) -> bytes:
    headers = {"Content_Range": f"{span[0]}-{span[1]}"} if span else {}
    if sized:
        return request(method, target, body, **headers)
    return chunked(method, target, [body[:1], body[1:]] if len(body) > 1 else [body][: len(body)], **headers)
