"""What docs/operate.md says about webhooks is so: its example configures one, and its check of a signature works."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

from holdfast.config_file import from_table
from holdfast.notify.delivery_state import CONTENT_REFUSED, REFUSALS
from holdfast.resources.notification import SIGNATURE_HEADER, Event, body_of, signature

TEXT = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
SECTION = TEXT.partition("## Webhooks and events\n")[2].partition("\n## ")[0]


def block(language: str) -> str:
    """The one block of a language in the section."""
    (block,) = SECTION.split(f"```{language}\n")[1:]
    return block.partition("```")[0]


def test_the_example_is_a_configuration() -> None:
    (hook,) = from_table(tomllib.loads(block("toml").replace("…", "x"))).webhook
    assert hook.name == "ci"


def test_the_check_of_a_signature_lets_ours_through_and_nothing_else() -> None:
    scope: dict[str, Callable[[bytes, bytes, str], bool]] = {}
    exec(block("python"), scope)
    is_ours = scope["is_ours"]
    body = body_of(Event("1", 0.0, "push", "team/app", "sha256:0", "v1"), "plantA", "/")
    proof = signature(b"s3cret", body)
    assert is_ours(b"s3cret", body, proof)
    assert not is_ours(b"another", body, proof)
    assert not is_ours(b"s3cret", body + b" ", proof)
    assert not is_ours(b"s3cret", body, "")
    assert SIGNATURE_HEADER in SECTION


def test_the_shown_event_has_the_fields_of_one() -> None:
    shown = json.loads(block("json"))
    event = Event("1", 0.0, "push", "team/app", "sha256:0", "v1", "application/x", 524)
    sent = json.loads(body_of(event, "", "/"))
    assert shown.keys() == sent.keys()
    assert shown["data"].keys() == sent["data"].keys()
    assert shown["data"]["target"].keys() == sent["data"]["target"].keys()
    assert shown["topic"] == sent["topic"]


def test_the_statuses_by_which_an_event_is_refused_are_named() -> None:
    assert ", ".join(map(str, sorted(CONTENT_REFUSED)[:-1])) + f" or {max(CONTENT_REFUSED)}" in SECTION
    assert f"tries this event {REFUSALS} times, drops it" in SECTION
