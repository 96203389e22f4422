"""`holdfast sync`: what a person reads of a run and of a plan."""

from support.command_line import command, logged_in

STATUS = {
    "schedule": "0 22 * * *",
    "window": "PT6H",
    "windowOpen": True,
    "opens": None,
    "closes": "2027-01-16T04:00:00Z",
    "running": "Scheduled",
    "asked": "",
    "lastSyncTime": None,
    "lookedAt": 7,
    "upToDate": 4,
    "progress": {
        "imagesDone": 1,
        "images": 3,
        "bytesDone": 1024,
        "bytes": 3 * 1024 * 1024,
        "rate": 2048.0,
        "secondsLeft": 90.0,
        "retrying": 0,
        "failed": 1,
        "parked": 0,
    },
    "troubles": [
        {
            "image": "demo:bad",
            "kind": "wrong",
            "reason": "the bytes are others",
            "attempts": 2,
            "since": "2027-01-15T22:00:00Z",
            "nextTry": "2027-01-15T23:00:00Z",
        }
    ],
    "words": ["demo:v1: it was deleted here, and stays so"],
}
PLAN = {
    "ready": False,
    "lookedAt": 7,
    "upToDate": 6,
    "images": [{"image": "demo:v1", "bytes": 2048, "absent": 0}],
    "removals": [
        {
            "name": "old/app",
            "fate": "wait",
            "since": "2027-01-15T22:00:00Z",
            "at": "2027-01-16T22:00:00Z",
            "words": "",
        },
        {"name": "demo:v0", "fate": "wait", "since": "2027-01-15T22:00:00Z", "at": None, "words": ""},
    ],
    "bytes": 2048,
    "absent": 0,
    "rate": 0.0,
    "window": 3600.0,
    "fits": None,
    "verdict": "whether it fits is not known: no rate was measured yet",
    "words": [],
}


def test_status_says_how_far_it_is_and_what_failed(admin):
    admin.on("GET", "sync", STATUS)
    done = command("sync", "status", env=logged_in(admin))
    assert done.code == 0
    for words in (
        "running (Scheduled)",
        "1 of 3",
        "2.0 KiB/s, 90 s left",
        "demo:bad: the bytes are others",
        "never",
    ):
        assert words in done.out


def test_watch_ends_with_the_run(admin):
    admin.on("GET", "sync", STATUS)
    admin.on("GET", "sync", {**STATUS, "running": "", "progress": None})
    done = command("sync", "status", "--watch", env=logged_in(admin))
    assert done.code == 0
    assert "idle" in done.out
    assert command("sync", "status", "--watch", "-o", "json", env=logged_in(admin)).code == 2


def test_a_plan_is_waited_for(admin):
    admin.on("GET", "sync/plan", PLAN)
    admin.on("GET", "sync/plan", {**PLAN, "ready": True})
    done = command("sync", "plan", env=logged_in(admin))
    assert done.code == 0
    assert "1 images, 2.0 KiB" in done.out
    assert "demo:v1  2.0 KiB" in done.out
    assert "old/app  2027-01-16T22:00:00Z" in done.out
    assert "demo:v0  not yet" in done.out
    assert len(admin.asked) == 2


def test_run_is_a_post_and_a_refusal_is_told(admin):
    admin.on("POST", "sync/run", STATUS)
    assert command("sync", "run", "-o", "json", env=logged_in(admin)).document == STATUS
    admin.on("GET", "sync", {"errors": [{"code": "DENIED", "message": "not by itself"}]}, 409)
    refused = command("sync", "status", env=logged_in(admin))
    assert refused.code == 2
    assert "not by itself" in refused.err
