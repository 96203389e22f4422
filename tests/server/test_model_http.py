"""A registry over HTTP against dictionaries (`support.model`): any sequence of what clients, time and restarts do.

After every step, whatever it was (the numbers are those of references.md 4.1): the status and the code are the model's,
never 5xx (I1, I8); a refused request left every record and every file as it was (I4); all that can be asked for
in the repository that the step was about, and every few steps in every other, is as the model has it (I5, I10),
bytes as they were pushed, under the digest that they hash to (I2, I3); sessions stand where they were said to
stand, and only open ones have files (I6, I9). All of it is asked over one connection that lives as long as its
node, the questions of a comparison in one segment, so an answer that is out of turn is the wrong answer (I7). At
the end the store is sound.

    HOLDFAST_MODEL_EXAMPLES=1000    that many new sequences, instead of the same few in every run
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from holdfast.endpoint import manifest_push
from holdfast.endpoint.manifest_push import RequestedManifest
from holdfast.push.session import Claim
from holdfast_core import Uploads
from holdfast_core.blob_files.upload_files import Staging
from holdfast_core.changes import client_changes, locks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.model import CONFIG, INDEX, LAYER, SIGNATURE, digest_of
from support.steps import STEPS, STOCK, Steps

MORE = os.environ.get("HOLDFAST_MODEL_EXAMPLES")
LENGTH = 80 if MORE else 40
Step = tuple[str, dict[str, Any]]

steps = st.sampled_from([name for name, (weight, _) in STEPS.items() for _ in range(weight)]).flatmap(
    lambda name: st.tuples(st.just(name), STEPS[name][1])
)


def live(stock: dict[str, Any], sequence: list[Step]) -> set[tuple[str, int]]:
    """A registry from its beginning to its end; what `Steps.seen` says."""
    registry = Steps()
    try:
        registry.take("stock", stock)
        for name, given in sequence:
            registry.take(name, given)
        registry.look_everywhere()
        registry.stop()
        assert registry.is_sound()
        return registry.seen
    finally:
        registry.discard()


def test_case_29_41_42_43_any_sequence_leaves_what_the_model_has() -> None:
    seen: set[tuple[str, int]] = set()

    @settings(
        max_examples=int(MORE or 16),
        derandomize=not MORE,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(stock=STOCK, sequence=st.lists(steps, min_size=LENGTH // 2, max_size=LENGTH))
    def lives(stock: dict[str, Any], sequence: list[Step]) -> None:
        seen.update(live(stock, sequence))

    lives()
    assert {name for name, _ in seen} >= {*STEPS}, "a step was never taken; raise its weight"
    assert {status for _, status in seen} >= {200, 201, 202, 204, 400, 404, 405, 412, 416}


# --- that it can fail ----------------------------------------------------------------------------------------


def nothing(*_: Any, **__: Any) -> None:
    """What a forgotten call does."""


def no_changes(*_: Any, **__: Any) -> list[Any]:
    """The same of one that says what is to be changed."""
    return []


def first_tag_only(digest: Any, tags: tuple[str, ...], listed: tuple[str, ...]) -> RequestedManifest:
    return RequestedManifest(digest, tags[:1], listed)


#: what goes wrong -> what does it, and steps by which that is seen
A = {"repository": "a"}
HERE = {"pick": 0, "through": None}
BROKEN: dict[str, tuple[tuple[Any, str, Any], list[Step]]] = {
    "a deleted blob stays": (
        (client_changes, "unlink", no_changes),
        [("delete", A | {"noun": "blob", "pick": 0})],
    ),
    "a deleted tag stays": (
        (client_changes, "_tag_gone", no_changes),
        [("delete", A | {"noun": "tag", "pick": 0})],
    ),
    "a blob is mounted from where it is not": (
        (client_changes, "mountable", lambda *_: True),
        [("mount", {"repository": "b", "digest": digest_of(LAYER), "source": "c/d"})],
    ),
    "a referrer is not listed": (
        (client_changes, "referrer", no_changes),
        [("push_manifest", A | {"document": SIGNATURE, "reference": "V1"})],
    ),
    "one of two tags is lost": (
        (manifest_push, "RequestedManifest", first_tag_only),
        [("push_manifest", A | {"document": INDEX, "reference": "sha512", "listed": ["v1", "V1"]})],
    ),
    "nobody looks at locks": (
        (locks, "require", nothing),
        [
            ("set_lock", A | {"pick": 0, "changed": {"writeEnabled": False}}),
            ("push_in_one", A | {"body": CONFIG, "said": "sha256"}),
        ],
    ),
    "a chunk may begin one byte late": (
        (Claim, "fits", lambda claim, size: claim.start in (None, size, size + 1)),
        [("patch", HERE | {"chunk": LAYER, "kind": "ahead"})],
    ),
    "refused bytes stay in the session": (
        (Staging, "roll_back", nothing),
        [
            ("patch", HERE | {"chunk": LAYER}),
            ("put", HERE | {"chunk": CONFIG, "said": "another"}),
        ],
    ),
    "a session that was closed leaves its file": (
        (Staging, "remove", nothing),
        [("patch", HERE | {"chunk": CONFIG}), ("put", HERE | {"chunk": b"", "said": "sha256"})],
    ),
    "a cancelled session goes on": ((Uploads, "remove", nothing), [("cancel", HERE)]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_registry_that_does_it_wrong_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, sequence = BROKEN[name]
    stock = {"blobs": [("a", LAYER, "sha256")], "manifests": [("a", INDEX, "v1")], "sessions": ["a"]}
    live(stock, sequence)
    monkeypatch.setattr(*fault)
    with pytest.raises(AssertionError):
        live(stock, sequence)
