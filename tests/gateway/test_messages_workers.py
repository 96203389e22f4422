"""A real root with two workers, asked for what changed at both of them, across a killed keeper and a restart."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from holdfast.gateway.protocol import Contents, Messages
from support.node import Node, restarted
from support.plain_push import push
from support.programs import wait_until
from support.transfer import Answer, fetch
from support.tree import QUICK, Operator, login

#: questions at once: the kernel gives them to both workers
ASKERS = 8
REPOSITORY, CANARY = "team/app", "secret-canary"


def test_every_worker_tells_what_any_of_them_took(tmp_path: Path) -> None:
    with Node(tmp_path / "root", "--anonymous", "push", configuration=QUICK, workers=2) as root:
        operator = Operator(root)
        operator.registry("plantA", REPOSITORY)
        sent = operator.string("plantA", root).split("SyncTokenPassword=")[1].split(";")[0]

        def ask(query: str, what: str = "messages") -> Answer:
            return fetch(root.url, f"/acr/gateway/v1/planta/{what}?{query}", headers=login("plantA", sent))

        def heard(query: str) -> Messages:
            return msgspec.json.decode(ask(query).body, type=Messages)

        wait_until(lambda: ask("").status == 200, "the log is begun")
        cursor = heard("").cursor
        with ThreadPoolExecutor(ASKERS) as askers:
            waiting = [askers.submit(heard, f"after={cursor}&wait=15") for _ in range(ASKERS)]
            push(root.url, CANARY, "v1", b"layer")
            digest = push(root.url, REPOSITORY, "v1", b"layer")
            found = [future.result() for future in waiting]
        assert len({one.cursor for one in found}) == 1
        told = [[(m.repository, m.tag, m.digest) for m in one.messages] for one in found]
        assert told == [[(REPOSITORY, "v1", digest)]] * ASKERS

        old = root.children("keeper")
        os.kill(old[0], signal.SIGKILL)
        wait_until(lambda: restarted(root, "keeper", old), "a new keeper")
        moved = push(root.url, REPOSITORY, "v1", b"another")
        after = heard(f"after={found[0].cursor}&wait=15")
        assert [(m.tag, m.digest) for m in after.messages] == [("v1", moved)]
        root.restart()
        push(root.url, REPOSITORY, "v2", b"another")
        assert [m.tag for m in heard(f"after={after.cursor}&wait=15").messages] == ["v2"]
        assert [m.tag for m in heard(f"after={cursor}").messages] == ["v1", "v1", "v2"]
        contents = msgspec.json.decode(ask("", "contents").body, type=Contents)
        assert {entry.repository for entry in contents.entries} == {REPOSITORY}
        assert [(entry.tag, entry.digest == digest) for entry in contents.entries][:2] == [
            ("", True),
            ("v1", False),
        ]
