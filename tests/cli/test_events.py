"""`holdfast events`: pages, following, and what it prints; `holdfast webhook ping` and its exit code."""

import json

import pytest
from holdfast.cli.verbs import events as verb
from support.command_line import command, logged_in


def event(number, **properties):
    row = {
        "time": "2026-11-27T06:00:00.000Z",
        "action": "push",
        "kind": "tag",
        "repository": "a",
        "tag": "v1",
    }
    return {"name": str(number), "properties": {**row, "origin": "local", **properties}}


def page(*rows, cursor, more=False):
    return {"value": list(rows), "nextLink": "/more" if more else None, "log": "ab", "cursor": cursor}


def test_the_last_events_are_shown_as_a_table(admin):
    rows = event(1), event(2, connectedRegistry="plantA"), event(3, tag="", digest="sha256:0")
    admin.on("GET", "events", page(*rows, cursor=3))
    said = command("events", "--last", "3", env=logged_in(admin))
    assert said.code == 0, said
    assert admin.last.query == {"$top": "3"}
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[0] == ["NUMBER", "TIME", "(UTC)", "ACTION", "KIND", "WHAT", "WHERE"]
    assert lines[1] == ["1", "2026-11-27T06:00:00Z", "push", "tag", "a:v1", "local"]
    assert (lines[2][-1], lines[3][-2]) == ("plantA", "a@sha256:0")


def test_after_a_number_every_page_is_read(admin):
    admin.on("GET", "events", page(event(8), cursor=8, more=True))
    admin.on("GET", "events", page(event(9), cursor=11))
    said = command(
        "events", "--after", "7", "--of", "plantA", "--repository", "a", "-o", "json", env=logged_in(admin)
    )
    assert [row["name"] for row in json.loads(said.out)] == ["8", "9"]
    wanted = {"registry": "plantA", "repository": "a"}
    assert [asked.query for asked in admin.asked] == [{**wanted, "after": "7"}, {**wanted, "after": "8"}]


@pytest.mark.parametrize("output", ["table", "json"])
def test_following_prints_a_line_for_each_event_until_the_node_ends(admin, monkeypatch, output):
    monkeypatch.setattr(verb, "FOLLOW_SECONDS", 0.0)
    admin.on("GET", "events", page(event(1), cursor=1))
    admin.on("GET", "events", page(cursor=1))
    admin.on("GET", "events", page(event(2), event(3), cursor=3))
    admin.on("GET", "events", {"errors": [{"code": "UNAVAILABLE", "message": "gone"}]}, 503)
    said = command("events", "--follow", "-o", output, env=logged_in(admin))
    assert said.code == 1
    lines = said.out.splitlines()
    names = [json.loads(line)["name"] if output == "json" else line.split()[0] for line in lines]
    assert names == ["1", "2", "3"]
    assert [asked.query.get("after") for asked in admin.asked] == [None, "1", "1", "3"]


@pytest.mark.parametrize(("taken", "code"), [(True, 0), (False, 1)])
def test_a_ping_that_is_not_taken_ends_with_1(admin, taken, code):
    admin.on("POST", "webhooks/ci/ping", {"name": "ci", "taken": taken, "answer": "answered 204"})
    said = command("webhook", "ping", "ci", env=logged_in(admin))
    assert said.code == code
    assert "answered 204" in said.out
