"""`holdfast gc`, `usage`, `pin`, `prefetch` and `repository`: what a person reads, and what is asked of the node."""

from __future__ import annotations

from typing import Any

from support.command_line import RecordedAdmin, command, logged_in

REPORT: dict[str, Any] = {
    "dryRun": False,
    "trigger": "Ordered",
    "began": "2027-01-15T08:00:00Z",
    "seconds": 1.25,
    "lookedAt": 12,
    "digests": 5,
    "bytes": 3 << 20,
    "repositories": [{"name": "app/web", "digests": 5, "bytes": 3 << 20}],
    "failure": "",
}
STATUS: dict[str, Any] = {
    "enabled": True,
    "schedule": "0 0 * * *",
    "nextRun": "2027-01-16T00:00:00Z",
    "running": False,
    "report": REPORT,
}
OUTSIDE = {
    "fills": 0,
    "uploads": 0,
    "quarantine": 0,
    "journal": 4096,
    "index": 8192,
    "replacedIndexes": 0,
    "reserve": 0,
}
USAGE: dict[str, Any] = {
    "freeBytes": 1 << 30,
    "files": 3,
    "bytes": 5 << 20,
    "ownBytes": 3 << 20,
    "sharedBytes": 1 << 20,
    "unlinkedBytes": 1 << 20,
    "inlines": 2,
    "inlineBytes": 600,
    "outside": OUTSIDE,
    "parents": [
        {"name": "", "repositories": 2, "manifests": 3, "blobs": 4, "bytes": 4 << 20, "ownBytes": 4 << 20}
    ],
}


def test_gc_waits_for_the_end_and_says_what_went(admin: RecordedAdmin) -> None:
    admin.on("POST", "collection/run", {**STATUS, "running": True})
    admin.on("GET", "collection", STATUS)
    done = command("gc", env=logged_in(admin))
    assert done.code == 0
    assert [(one.method, one.path, one.query) for one in admin.asked] == [
        ("POST", "/api/v1/collection/run", {}),
        ("GET", "/api/v1/collection", {}),
    ]
    assert done.out.splitlines() == [
        "SCHEDULE      0 0 * * *, next 2027-01-16T00:00:00Z",
        "LAST          2027-01-15T08:00:00Z (Ordered, 1.2 s)",
        "COLLECTED     5 of 12 without a name, 3.0 MiB of the disk",
        "REPOSITORIES  app/web  5, 3.0 MiB",
    ]


def test_a_dry_run_asks_for_one_and_for_its_report(admin: RecordedAdmin) -> None:
    dry = {**STATUS, "report": {**REPORT, "dryRun": True}}
    admin.on("POST", "collection/run", {**dry, "running": True})
    admin.on("GET", "collection", dry)
    done = command("gc", "--dry-run", env=logged_in(admin))
    assert [one.query for one in admin.asked] == [{"dryRun": "true"}, {"dryRun": "true"}]
    assert "WOULD GO      5 of 12 without a name, 3.0 MiB of the disk" in done.out.splitlines()
    assert "COLLECTED" not in done.out


def test_the_last_one_is_shown_without_another(admin: RecordedAdmin) -> None:
    admin.on("GET", "collection", {**STATUS, "enabled": False, "nextRun": None, "report": None})
    done = command("gc", "--last", env=logged_in(admin))
    assert done.out.splitlines() == ["SCHEDULE  off", "LAST      never"]
    assert command("gc", "--last", "--dry-run", env=logged_in(admin)).code == 2


def test_a_collection_that_failed_is_exit_code_1(admin: RecordedAdmin) -> None:
    failed = {**REPORT, "failure": "the disk takes no writes"}
    admin.on("POST", "collection/run", {**STATUS, "report": failed})
    done = command("gc", env=logged_in(admin))
    assert done.code == 1
    assert "the disk takes no writes" in done.out


def test_usage_of_a_node(admin: RecordedAdmin) -> None:
    rows = [
        {"name": name, "manifests": 1, "blobs": 1, "bytes": size, "ownBytes": size, "sharedBytes": 0}
        for name, size in (("small", 1024), ("large", 2 << 20))
    ]
    admin.on("GET", "usage", USAGE)
    admin.on("GET", "usage/repositories", {"value": rows, "nextLink": None})
    done = command("usage", env=logged_in(admin))
    assert done.code == 0
    lines = [line.split("  ")[-1] for line in done.out.splitlines()]
    assert "CONTENT              5.0 MiB in 3 files" in done.out.splitlines()
    assert "  TO BE SWEPT        1.0 MiB" in done.out.splitlines()
    assert "INDEX                8.0 KiB, with 2 small blobs and manifests, 600 B" in done.out.splitlines()
    assert lines[-2:] == ["2.0 MiB, 2.0 MiB of it alone", "1.0 KiB, 1.0 KiB of it alone"]
    assert command("usage", "-o", "json", env=logged_in(admin)).document == {**USAGE, "repositories": rows}


def test_usage_of_a_repository(admin: RecordedAdmin) -> None:
    row = {"tag": "v1", "digest": "sha256:aa", "bytes": 4096, "freedDigests": 2, "freedBytes": 1024}
    admin.on("GET", "usage/tags", {"repository": "app/web", "value": [row], "nextLink": None})
    done = command("usage", "app/web", env=logged_in(admin))
    assert admin.last.query == {"repository": "app/web", "$top": "1000"}
    assert done.out.splitlines() == [
        "TAG  IMAGE    DELETE FREES  DIGEST",
        "v1   4.0 KiB  1.0 KiB       sha256:aa",
    ]


PIN: dict[str, Any] = {
    "image": "app/web:v1",
    "until": "2027-02-01T00:00:00Z",
    "withReferrers": True,
    "pinned": "2027-01-15T08:00:00Z",
    "held": False,
    "over": False,
}


def test_pins_are_made_shown_and_ended(admin: RecordedAdmin) -> None:
    admin.on("POST", "pins", {"value": [PIN], "nextLink": None})
    done = command(
        "pin", "app/web:v1", "--until", "2027-02-01T00:00:00Z", "--with-referrers", env=logged_in(admin)
    )
    assert admin.last.body == {
        "image": "app/web:v1",
        "withReferrers": True,
        "until": "2027-02-01T00:00:00Z",
    }
    assert done.out.splitlines() == [
        "IMAGE       UNTIL (UTC)           REFERRERS  HERE     PINNED (UTC)",
        "app/web:v1  2027-02-01T00:00:00Z  kept       not yet  2027-01-15T08:00:00Z",
    ]
    admin.on("GET", "pins", {"value": [{**PIN, "until": None}, {**PIN, "over": True}], "nextLink": None})
    listed = command("pins", env=logged_in(admin)).out.splitlines()
    assert [line.split("  ")[1].strip() for line in listed[1:]] == ["for good", "2027-02-01T00:00:00Z (over)"]
    admin.on("DELETE", "pins", {"value": [], "nextLink": None})
    done = command("unpin", "app/web:v1", env=logged_in(admin))
    assert admin.last.query == {"image": "app/web:v1"}
    assert (done.code, done.out, done.err) == (0, "", "holdfast: nothing is pinned\n")


def prefetched(state: str, done: int, reason: str = "") -> dict[str, Any]:
    return {
        "image": "app/web:v1",
        "state": state,
        "reason": reason,
        "bytes": 2048,
        "bytesDone": done,
        "began": "2027-01-15T08:00:00Z",
    }


def test_prefetch_pins_first_and_waits_for_the_end(admin: RecordedAdmin) -> None:
    admin.on("POST", "pins", {"value": [PIN], "nextLink": None})
    admin.on("POST", "prefetch", {"value": [prefetched("Waiting", 0)], "nextLink": None})
    admin.on("GET", "prefetch", {"value": [prefetched("Running", 1024)], "nextLink": None})
    admin.on("GET", "prefetch", {"value": [prefetched("Done", 2048)], "nextLink": None})
    done = command("prefetch", "app/web:v1", "app/web:v1", "--pin", env=logged_in(admin))
    assert [one.method + " " + one.path for one in admin.asked] == [
        *["POST /api/v1/pins"] * 2,
        "POST /api/v1/prefetch",
        *["GET /api/v1/prefetch"] * 2,
    ]
    assert admin.asked[2].body == {"images": ["app/web:v1"]}
    assert done.out.splitlines()[1] == "app/web:v1  Done   2.0 KiB of 2.0 KiB"
    assert done.code == 0


def test_a_prefetch_that_failed_is_exit_code_1_and_says_why(admin: RecordedAdmin) -> None:
    failed = prefetched("Failed", 0, "the parent answered 404")
    admin.on("POST", "prefetch", {"value": [failed], "nextLink": None})
    done = command("prefetch", "app/web:v1", env=logged_in(admin))
    assert done.code == 1
    assert "the parent answered 404" in done.out
    assert command("prefetch", "app/web:v1", "--until", "x", env=logged_in(admin)).code == 2


def test_a_repository_is_deleted_part_by_part_after_a_question(admin: RecordedAdmin) -> None:
    part = {"name": "app/old", "deleted": 1000, "gone": False}
    admin.on("DELETE", "repositories", part)
    admin.on("DELETE", "repositories", {**part, "deleted": 5, "gone": True})
    assert command("repository", "delete", "app/old", env=logged_in(admin)).code == 2
    assert admin.asked == []
    done = command("repository", "delete", "app/old", "-y", env=logged_in(admin))
    assert [one.query for one in admin.asked] == [{"repository": "app/old"}] * 2
    assert done.out.splitlines() == ["REPOSITORY  app/old", "DELETED     1005 manifests and tags"]


def test_what_was_deleted_is_shown_and_restored(admin: RecordedAdmin) -> None:
    row = {
        "image": "app/web@sha256:aa",
        "digest": "sha256:aa",
        "tags": ["latest", "v1"],
        "deleted": "2027-01-15T08:00:00Z",
        "until": "2027-01-22T08:00:00Z",
        "bytes": 2048,
    }
    admin.on("GET", "deleted", {"value": [row], "nextLink": None})
    assert command("deleted", env=logged_in(admin)).out.splitlines() == [
        "IMAGE              TAGS        DELETED (UTC)         KEPT UNTIL (UTC)      FREES",
        "app/web@sha256:aa  latest, v1  2027-01-15T08:00:00Z  2027-01-22T08:00:00Z  2.0 KiB",
    ]
    admin.on("POST", "deleted", {"digest": "sha256:aa", "tags": ["v1"], "taken": ["latest"]})
    done = command("undelete", "app/web@sha256:aa", env=logged_in(admin))
    assert admin.last.body == {"image": "app/web@sha256:aa"}
    assert done.out.splitlines() == [
        "RESTORED         sha256:aa",
        "TAGS             v1",
        "TAKEN BY OTHERS  latest",
    ]
    admin.on("POST", "deleted", {"digest": "sha256:aa", "tags": ["v2"], "taken": []})
    command("undelete", "app/web@sha256:aa", "--tag", "v2", env=logged_in(admin))
    assert admin.last.body == {"image": "app/web@sha256:aa", "tags": ["v2"]}
