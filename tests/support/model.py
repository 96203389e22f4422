"""What a root registry is to its clients, as dictionaries: every change is a method that says what the answer must
be and, when that is a success, changes the dictionaries. Nothing of the product is used here.

Alphabets are tiny, so that the same bytes meet in several repositories, as blobs and as manifests, by both
algorithms.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
#: blobs up to this are in the index, longer ones in files (bytes)
INLINE_BYTES = 290

#: (status, OCI code); the code of a success is ""
Verdict = tuple[int, str]
CREATED, ACCEPTED, GONE = (201, ""), (202, ""), (204, "")
DENIED, CONDITION = (405, "DENIED"), (412, "DENIED")
NAME_UNKNOWN, MANIFEST_UNKNOWN, BLOB_UNKNOWN, UPLOAD_UNKNOWN = (
    (404, f"{noun}_UNKNOWN") for noun in ("NAME", "MANIFEST", "BLOB", "BLOB_UPLOAD")
)
MANIFEST_INVALID, DIGEST_INVALID, SIZE_INVALID, UPLOAD_INVALID, BLOBS_MISSING = (
    (400, code)
    for code in (
        "MANIFEST_INVALID",
        "DIGEST_INVALID",
        "SIZE_INVALID",
        "BLOB_UPLOAD_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
    )
)
OUT_OF_ORDER = (416, "BLOB_UPLOAD_INVALID")

ATTRIBUTES = ("readEnabled", "writeEnabled", "deleteEnabled", "listEnabled")


def digest_of(body: bytes, algorithm: str = "sha256") -> str:
    """As clients write it."""
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"


@dataclass(frozen=True, repr=False)
class Document:
    """A manifest, and what a registry is to find in it. `types`: the Content-Types that do not contradict it."""

    name: str
    body: bytes
    types: tuple[str, ...]
    blobs: tuple[str, ...] = ()
    subject: str = ""
    artifact_type: str = ""
    annotations: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.name


EMPTY, CONFIG = b"", b"{}"
#: longer than what is kept in the index
LAYER = b"layer " * 50


def _document(name: str, types: tuple[str, ...], **fields: Any) -> Document:
    body = json.dumps({"schemaVersion": 2, **fields}, separators=(",", ":")).encode()
    subject, config = fields.get("subject"), fields.get("config")
    blobs = [config["digest"], *(row["digest"] for row in fields["layers"])] if config else []
    artifact_type = fields.get("artifactType") or (config["mediaType"] if config else "")
    return Document(
        name,
        body,
        types,
        tuple(blobs),
        subject["digest"] if subject else "",
        artifact_type,
        fields.get("annotations", {}),
    )


def _descriptor(body: bytes, media_type: str, algorithm: str = "sha256") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(body, algorithm), "size": len(body)}


_CONFIG = _descriptor(CONFIG, "application/vnd.oci.empty.v1+json")
#: says no media type of its own, so that it may be pushed under two (references.md 4.2, case 43)
INDEX = _document("INDEX", (OCI_INDEX, DOCKER_LIST), manifests=[])
IMAGE = _document(
    "IMAGE",
    (OCI_MANIFEST,),
    mediaType=OCI_MANIFEST,
    config=_CONFIG,
    layers=[_descriptor(LAYER, "a/layer", "sha512")],
)
ARTIFACT = _document(
    "ARTIFACT",
    (OCI_MANIFEST,),
    artifactType="application/x",
    config=_CONFIG,
    layers=[],
    subject=_descriptor(INDEX.body, OCI_INDEX),
)
SIGNATURE = _document(
    "SIGNATURE",
    (OCI_INDEX,),
    mediaType=OCI_INDEX,
    manifests=[],
    subject=_descriptor(INDEX.body, OCI_INDEX),
    annotations={"é": ""},
)

DOCUMENTS = (INDEX, IMAGE, ARTIFACT, SIGNATURE)
BODIES = (EMPTY, CONFIG, LAYER, INDEX.body)
#: what sessions are fed with: whole bodies, and halves of one
CHUNKS = (*BODIES, LAYER[:150], LAYER[150:])
REPOSITORIES = ("a", "b", "c/d")
#: the last one is where clients without a referrers list keep one
TAGS = ("v1", "V1", digest_of(INDEX.body).replace(":", "-"))
ALGORITHMS = ("sha256", "sha512")
#: one that nothing here has
NOBODYS = digest_of(b"nobody's")
#: moves of a tag that are remembered
MOVES = 16


@dataclass
class Session:
    """An upload under way."""

    repository: str
    data: bytes = b""


Lockable = tuple[str, str]  # kind, and the name of a tag or manifest
REPOSITORY: Lockable = ("repository", "")


@dataclass
class Model:
    """What the registry should be."""

    known: set[str] = field(default_factory=set)
    blobs: set[tuple[str, str]] = field(default_factory=set)
    manifests: dict[tuple[str, str], str] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    moves: dict[tuple[str, str], list[str | None]] = field(default_factory=dict)
    locks: dict[tuple[str, Lockable], dict[str, bool]] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    #: bytes of every digest that anybody ever offered
    bodies: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for body in (*BODIES, *(document.body for document in DOCUMENTS)):
            self.offer(body)

    def offer(self, body: bytes) -> None:
        """Somebody may ask for it from now on."""
        self.bodies |= {digest_of(body, algorithm): body for algorithm in ALGORITHMS}

    # --- locks -------------------------------------------------------------------------------------------

    def lock(self, repository: str, target: Lockable) -> dict[str, bool]:
        """What is allowed on it."""
        return self.locks.get((repository, target), dict.fromkeys(ATTRIBUTES, True))

    def forbids(self, action: str, repository: str, *targets: Lockable) -> bool:
        """Whether the repository, or one of its objects, does not allow it."""
        every = (REPOSITORY, *targets)
        needed = ("delete", "write") if action == "delete" else (action,)
        return not all(self.lock(repository, target)[f"{one}Enabled"] for target in every for one in needed)

    def is_there(self, repository: str, target: Lockable) -> bool:
        """Whether there is something to be locked."""
        kind, name = target
        if kind == "repository":
            return repository in self.known
        return (repository, name) in (self.tags if kind == "tag" else self.manifests)

    def set_lock(self, repository: str, target: Lockable, changes: dict[str, bool]) -> Verdict:
        """PATCH of attributes."""
        if not self.is_there(repository, target):
            return NAME_UNKNOWN if target == REPOSITORY else MANIFEST_UNKNOWN
        self.locks[repository, target] = self.lock(repository, target) | changes
        return 200, ""

    # --- uploads -----------------------------------------------------------------------------------------

    def begin(self, id: str, repository: str) -> None:
        """A session was opened."""
        self.sessions[id] = Session(repository)

    def session(self, id: str, repository: str) -> Session | None:
        """The session, for those who ask in the repository where it was opened."""
        found = self.sessions.get(id)
        return found if found is not None and found.repository == repository else None

    def write(
        self, id: str, repository: str, chunk: bytes, span: tuple[int, int] | None, sized: bool
    ) -> Verdict | None:
        """What a PATCH or PUT is refused with because of its range; None: its bytes are taken. `sized`: with a
        Content-Length."""
        length = None if span is None else span[1] - span[0] + 1
        if length is not None and length < 1:
            return UPLOAD_INVALID
        if length is not None and sized and length != len(chunk):
            return SIZE_INVALID
        session = self.session(id, repository)
        if session is None:
            return UPLOAD_UNKNOWN
        if span is not None and span[0] != len(session.data):
            return OUT_OF_ORDER
        return None if length in (None, len(chunk)) else SIZE_INVALID

    def patch(
        self, id: str, repository: str, chunk: bytes, span: tuple[int, int] | None, sized: bool
    ) -> Verdict:
        """A chunk."""
        refused = self.write(id, repository, chunk, span, sized)
        if refused is None:
            self.sessions[id].data += chunk
        return refused or ACCEPTED

    def put(
        self, id: str, repository: str, chunk: bytes, span: tuple[int, int] | None, sized: bool, digest: str
    ) -> Verdict:
        """The closing PUT, with the last bytes."""
        if digest.partition(":")[0] not in ALGORITHMS:
            return DIGEST_INVALID
        refused = self.write(id, repository, chunk, span, sized)
        if refused == UPLOAD_UNKNOWN and sized and not chunk:
            return self.repeated(repository, digest)
        if refused is None:
            session = self.sessions[id]
            refused = self.push_blob(session.repository, session.data + chunk, digest)
        if refused == CREATED:
            del self.sessions[id]
        return refused

    def repeated(self, repository: str, digest: str) -> Verdict:
        """A closing PUT without a body whose session is gone: the answer to an earlier one may have been lost."""
        if self.forbids("read", repository):
            return DENIED
        return CREATED if (repository, digest) in self.blobs else UPLOAD_UNKNOWN

    def cancel(self, id: str, repository: str) -> Verdict:
        """DELETE of a session."""
        if self.session(id, repository) is None:
            return UPLOAD_UNKNOWN
        del self.sessions[id]
        return GONE

    # --- blobs -------------------------------------------------------------------------------------------

    def push_blob(self, repository: str, body: bytes, digest: str) -> Verdict:
        """All bytes of a blob are there."""
        self.offer(body)
        if not _is_of(digest, body):
            return DIGEST_INVALID
        if self.forbids("write", repository):
            return DENIED
        self._link_blob(repository, digest)
        return CREATED

    def _link_blob(self, repository: str, digest: str) -> None:
        self.known.add(repository)
        self.blobs.add((repository, digest))

    def mount(self, repository: str, digest: str, source: str | None) -> Verdict:
        """Into `repository`, from `source` (None: from anywhere). ACCEPTED: it cannot be had, a session begins."""
        if self.forbids("write", repository):
            return DENIED
        if source not in (None, *REPOSITORIES):
            return ACCEPTED
        sources = REPOSITORIES if source is None else (source,)
        if not any((s, digest) in self.blobs and not self.forbids("read", s) for s in sources):
            return ACCEPTED
        self._link_blob(repository, digest)
        return CREATED

    def read_blob(self, repository: str, digest: str) -> Verdict:
        """GET and HEAD."""
        if self.forbids("read", repository):
            return DENIED
        return (200, "") if (repository, digest) in self.blobs else BLOB_UNKNOWN

    def delete_blob(self, repository: str, digest: str) -> Verdict:
        """DELETE of a blob; manifests that name it stay."""
        if self.forbids("delete", repository):
            return DENIED
        if (repository, digest) not in self.blobs:
            return self._unknown(repository, BLOB_UNKNOWN)
        self.blobs.discard((repository, digest))
        return ACCEPTED

    def _unknown(self, repository: str, verdict: Verdict) -> Verdict:
        return verdict if repository in self.known else NAME_UNKNOWN

    # --- manifests and tags ------------------------------------------------------------------------------

    def push_manifest(
        self,
        repository: str,
        reference: str,
        listed: tuple[str, ...],
        document: Document,
        media_type: str,
        condition: str,
    ) -> Verdict:
        """PUT of a manifest. `condition`: "If-Match" or "If-None-Match" with `*`, or ""."""
        by_digest = ":" in reference
        digest = reference if by_digest else digest_of(document.body)
        tags = listed if by_digest else (reference,)
        refused = self._condition(repository, reference, condition) if condition else None
        refused = refused or self._content(repository, digest, document, media_type)
        if refused is not None:
            return refused
        if self.forbids("write", repository, ("manifest", digest), *(("tag", tag) for tag in tags)):
            return DENIED
        self.known.add(repository)
        self.manifests[repository, digest] = media_type
        for tag in dict.fromkeys(tags):
            if self.tags.get((repository, tag)) != digest:
                self.tags[repository, tag] = digest
                self._moved(repository, tag, digest)
        return CREATED

    def _condition(self, repository: str, reference: str, condition: str) -> Verdict | None:
        kind = "manifest" if ":" in reference else "tag"
        if self.forbids("read", repository, (kind, reference)):
            return DENIED
        there = self.is_there(repository, (kind, reference))
        return None if there == (condition == "If-Match") else CONDITION

    def _content(self, repository: str, digest: str, document: Document, media_type: str) -> Verdict | None:
        if not _is_of(digest, document.body):
            return DIGEST_INVALID
        if media_type not in document.types:
            return MANIFEST_INVALID
        verdicts = [self.read_blob(repository, blob) for blob in document.blobs]
        if DENIED in verdicts:
            return DENIED
        return BLOBS_MISSING if BLOB_UNKNOWN in verdicts else None

    def _moved(self, repository: str, tag: str, digest: str | None) -> None:
        moves = self.moves.get((repository, tag), [])
        self.moves[repository, tag] = [digest, *moves][:MOVES]

    def read_manifest(self, repository: str, reference: str) -> tuple[Verdict, str]:
        """GET and HEAD: the verdict, and the digest that answers."""
        digest, targets = reference, []
        if ":" not in reference:
            digest = self.tags.get((repository, reference), "")
            targets.append(("tag", reference))
        if digest:
            targets.append(("manifest", digest))
        if self.forbids("read", repository, *targets):
            return DENIED, ""
        return ((200, "") if (repository, digest) in self.manifests else MANIFEST_UNKNOWN), digest

    def delete_tag(self, repository: str, tag: str) -> Verdict:
        """The manifest stays."""
        if self.forbids("delete", repository, ("tag", tag)):
            return DENIED
        if (repository, tag) not in self.tags:
            return self._unknown(repository, MANIFEST_UNKNOWN)
        self._drop_tag(repository, tag)
        return ACCEPTED

    def _drop_tag(self, repository: str, tag: str) -> None:
        del self.tags[repository, tag]
        self.locks.pop((repository, ("tag", tag)), None)
        self._moved(repository, tag, None)

    def delete_manifest(self, repository: str, digest: str) -> Verdict:
        """With every tag that points to it."""
        tags = [tag for (r, tag), d in self.tags.items() if (r, d) == (repository, digest)]
        if self.forbids("delete", repository, ("manifest", digest), *(("tag", tag) for tag in tags)):
            return DENIED
        if (repository, digest) not in self.manifests:
            return self._unknown(repository, MANIFEST_UNKNOWN)
        for tag in tags:
            self._drop_tag(repository, tag)
        del self.manifests[repository, digest]
        self.locks.pop((repository, ("manifest", digest)), None)
        return ACCEPTED

    # --- lists -------------------------------------------------------------------------------------------

    def read_lists(self, repository: str) -> Verdict:
        """GET of tags, and with a known repository of referrers."""
        if self.forbids("read", repository):
            return DENIED
        return (200, "") if repository in self.known else NAME_UNKNOWN

    def read_history(self, repository: str, tag: str) -> Verdict:
        """GET of what a tag named before."""
        if self.forbids("read", repository, ("tag", tag)):
            return DENIED
        return (200, "") if self.moves.get((repository, tag)) else MANIFEST_UNKNOWN

    def listed_tags(self, repository: str) -> list[str]:
        """In byte order, without the hidden ones."""
        held = (tag for r, tag in self.tags if r == repository)
        return sorted(tag for tag in held if self.lock(repository, ("tag", tag))["listEnabled"])

    def repositories(self) -> list[str]:
        """The same of repositories, the emptied ones among them."""
        return sorted(name for name in self.known if self.lock(name, REPOSITORY)["listEnabled"])

    def referrers(self, repository: str, subject: str, artifact_type: str = "") -> list[dict[str, Any]]:
        """Descriptors, by digest."""
        by_body = {document.body: document for document in DOCUMENTS}
        rows = []
        for (name, digest), media_type in sorted(self.manifests.items()):
            document = by_body[self.bodies[digest]]
            hidden = not self.lock(repository, ("manifest", digest))["listEnabled"]
            if name != repository or document.subject != subject or hidden:
                continue
            if artifact_type in ("", document.artifact_type):
                rows.append(_row(digest, media_type, document))
        return rows


def _is_of(digest: str, body: bytes) -> bool:
    algorithm = digest.partition(":")[0]
    return algorithm in ALGORITHMS and digest_of(body, algorithm) == digest


def _row(digest: str, media_type: str, document: Document) -> dict[str, Any]:
    row = {"mediaType": media_type, "digest": digest, "size": len(document.body)}
    if document.artifact_type:
        row["artifactType"] = document.artifact_type
    if document.annotations:
        row["annotations"] = document.annotations
    return row
