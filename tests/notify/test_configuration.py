"""`[[webhook]]`: what is refused, and that no refusal tells a secret."""

from __future__ import annotations

from typing import Any

import pytest
from holdfast.config import ConfigInvalid
from holdfast.config_file import from_table

CANARY = "canary-5e1f"
URL = "https://hooks.example/services/x"


def refused(*hooks: Any) -> str:
    """Why the hooks cannot be."""
    with pytest.raises(ConfigInvalid) as refusal:
        from_table({"webhook": hooks[0] if len(hooks) == 1 and isinstance(hooks[0], str) else list(hooks)})
    return str(refusal.value)


def test_a_webhook_needs_a_name_and_a_url_and_nothing_else() -> None:
    (hook,) = from_table({"webhook": [{"name": "ci", "url": URL}]}).webhook
    assert hook.patterns == ("*:*",)
    assert hook.keep == 172800
    assert hook.format == "eventgrid"
    assert refused({"name": "ci"}) == "webhook[0].url: missing; it must be given"
    assert refused({"url": URL}) == "webhook[0].name: missing; it must be given"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"url": f"http://hooks.example/{CANARY}"}, "webhook[0].url: found http; allowed: https, or http with"),
    ({"url": f"ftp://hooks.example/{CANARY}"}, "webhook[0].url: found something else; allowed: https://host"),
    ({"url": f"https://u:{CANARY}@hooks.example/"}, "webhook[0].url: found a user name in the URL"),
    ({"url": f"https://hooks.example/#{CANARY}"}, "webhook[0].url: found something else"),
    ({"url": f"https://hooks.example:99999/{CANARY}"}, "webhook[0].url: found something else"),
    ({"url": [CANARY]}, "webhook[0].url: found ***; allowed: text in quotes: https://"),
    ({"secret": [CANARY]}, "webhook[0].secret: found ***; allowed: text in quotes"),
    ({"secret": CANARY, "secret_env": "X"}, "webhook[0].secret: found several; allowed: one of"),
    ({"headers": [f"Authorization {CANARY}"]}, "webhook[0].headers: found a line that is no header"),
    ({"headers": [f"A: {CANARY}\r\nB: c"]}, "webhook[0].headers: found a line that is no header"),
    ({"headers": [f"Content-Length: {CANARY}"]}, "webhook[0].headers: found Content-Length, which this node"),
    ({"headers": [["X", CANARY]]}, "webhook[0].headers[0]: found ***; allowed: text in quotes"),
    ({"headers": {"Authorization": CANARY}}, "webhook[0].headers: found ***; allowed: a list of texts"),
    ({"patterns": []}, 'webhook[0].patterns: found none; give the events to send, such as "*:*"'),
    (
        {"patterns": ["team/app"]},
        "webhook[0].patterns: found 'team/app'; allowed: name[:tag][@digest]:action",
    ),
    ({"patterns": ["a:pull"]}, "webhook[0].patterns: found 'a:pull'"),
    ({"name": "CI hook"}, "webhook[0].name: found 'CI hook'"),
    ({"keep": 0}, "webhook[0].keep: found 0; allowed: "),
    ({"timeout": 1000}, "webhook[0].timeout: found 1000; allowed: "),
    ({"format": "xml"}, 'webhook[0].format: found \'xml\'; allowed: "eventgrid" or "acr"'),
    ({"ca": "/nowhere.pem"}, "webhook[0].ca: found '/nowhere.pem'; allowed: a readable file"),
    ({"retries": 3}, "webhook[0].retries: unknown key; allowed here: ca, direct, format, headers"),
]


@pytest.mark.parametrize(("keys", "words"), WRONG)
def test_what_cannot_be_is_refused_in_words_without_its_secrets(keys: dict[str, Any], words: str) -> None:
    message = refused({"name": "ci", "url": URL, **keys})
    assert words in message
    assert CANARY not in message


def test_two_of_a_name_are_refused() -> None:
    hook = {"name": "ci", "url": URL}
    assert refused(hook, hook) == "webhook[0].name: found 'ci' twice; every webhook needs a name of its own"


@pytest.mark.parametrize("hooks", [f"https://hooks.example/{CANARY}", [f"https://hooks.example/{CANARY}"]])
def test_a_webhook_that_is_no_table_is_refused_without_its_url(hooks: Any) -> None:
    with pytest.raises(ConfigInvalid) as refusal:
        from_table({"webhook": hooks})
    assert CANARY not in str(refusal.value)
