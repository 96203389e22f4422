"""Restart delays, the group of a data directory, listening sockets."""

import asyncio
import errno
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from holdfast.config import ConfigInvalid
from holdfast.config_file import from_table
from holdfast.gateway.identity import role
from holdfast.keeper.misses.tag_cache import KEYS, NegativeCache
from holdfast.process import loop
from holdfast.process import process_group as group_module
from holdfast.process.inheritance import (
    VARIABLE,
    Inheritance,
    command,
    configuration_descriptor,
    environment,
    is_orphan,
)
from holdfast.process.listening import listeners
from holdfast.process.open_store import open_store, until_opened
from holdfast.process.process_group import (
    LOCK,
    ROLES,
    Group,
    GroupMember,
    Membership,
    members,
    opened,
    start_time,
)
from holdfast.process.shutdown import DRAIN, ShutdownEscalation, ordered
from holdfast.process.supervisor import LONGEST_DELAY_SECONDS, RestartDelay
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.scripted_process import scripted_process
from holdfast_core.errors import StoreRefused
from msgspec.structs import replace
from support import golden
from support.node import Node, parent_toml, restarted
from support.patience import PROGRAM_PATIENCE
from support.programs import wait_until
from support.transfer import fetch


def test_a_child_that_dies_young_waits_longer_each_time():
    delay = RestartDelay()
    waits = []
    for now in range(12):
        delay.started(now)
        waits.append(delay.after_death(now + 0.1))
    assert waits == sorted(waits)
    assert 0 < waits[0] < waits[-1] == LONGEST_DELAY_SECONDS


def test_a_child_that_lived_is_restarted_at_once():
    delay = RestartDelay()
    delay.started(0)
    delay.after_death(0.1)
    delay.started(1)
    assert delay.after_death(100) == 0


def test_case_trust_7_signals_that_come_together_are_one():
    insistence = ShutdownEscalation()
    assert [insistence.is_second(now) for now in (10.0, 10.0, 12.0)] == [False] * 3
    assert insistence.is_second(12.1)


async def sent(number, lifeline, *, closing=-1):
    """Whether a child ends by a signal; with `closing` its supervisor goes then."""
    ending = ordered(lifeline)
    os.kill(os.getpid(), number)
    await asyncio.sleep(0.05)
    before = ending.is_set()
    if closing >= 0:
        os.close(closing)
        await ending.wait()
    return before


def test_case_trust_7_a_child_leaves_sigterm_to_a_living_supervisor():
    """Its supervisor's word ends it at once; SIGTERM does once the supervisor is gone, before it or after it."""
    lifeline, other = os.pipe()
    assert asyncio.run(sent(DRAIN, lifeline))
    assert not asyncio.run(sent(signal.SIGTERM, lifeline, closing=other))
    assert asyncio.run(sent(signal.SIGTERM, lifeline))
    os.close(lifeline)


def test_one_supervisor_a_directory(tmp_path):
    group = Group(tmp_path)
    with pytest.raises(StoreRefused, match="another holdfast"):
        Group(tmp_path)
    group.close()
    Group(tmp_path).close()


JOINED = """
import os, sys, time
from pathlib import Path
from holdfast.process.process_group import join
join(Path(sys.argv[1]), sys.argv[2])
print("joined", flush=True)
time.sleep(60)
"""


@contextmanager
def joined(data, role, environ=None):
    """A process that joined the group of a directory; a child of a node, unless `environ` says otherwise."""
    child = subprocess.Popen(
        [sys.executable, "-c", JOINED, str(data), role],
        stdout=subprocess.PIPE,
        env=environ or {**os.environ, VARIABLE: "{}"},
    )
    try:
        assert child.stdout.readline() == b"joined\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_orphans_are_found_and_the_keeper_ends(tmp_path):
    with ExitStack() as children:
        roles = [*["worker"] * 5, "keeper", *["worker"] * 5]
        found = {role: set() for role in roles}
        for role in roles:
            found[role].add(children.enter_context(joined(tmp_path, role)))
        group = Group(tmp_path)
        (keeper,) = found["keeper"]
        assert {(m.pid, m.role) for m in group.orphans()} == {
            (child.pid, role) for role, every in found.items() for child in every
        }
        group.take_over()
        assert start_time(keeper.pid) is None, "it is gone when this returns"
        assert keeper.wait(PROGRAM_PATIENCE) == -signal.SIGKILL
        assert {m.pid for m in group.orphans()} == {child.pid for child in found["worker"]}
        asyncio.run(group.end_workers(PROGRAM_PATIENCE))
        assert {child.wait(PROGRAM_PATIENCE) for child in found["worker"]} == {-signal.SIGTERM}
        assert (group.orphans(), group.old_workers) == ([], [])
        group.close()


def test_members_are_found_in_whatever_order_they_came(tmp_path):
    """The kernel names one of many locks, and not the first."""
    wanted = [
        GroupMember(pid, started, role) for pid in (1, 7, 4_194_303) for started in (0, 9) for role in ROLES
    ]
    mixed = random.Random(1).sample(wanted, len(wanted))
    held = []
    for member in mixed:
        held.append(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
        mark = LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, member.offset, 1, 0)
        fcntl.fcntl(held[-1], fcntl.F_OFD_SETLK, mark)
    assert sorted(members(tmp_path)) == sorted(wanted)
    for descriptor in held:
        os.close(descriptor)
    assert members(tmp_path) == []


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (7, 1000), (1 << 40, 3), (1 << 40, 0)])
def test_locks_that_are_no_members_harm_nobody(tmp_path, place):
    """Whoever may read the directory may lock any part of it."""
    member = GroupMember(7, 9, "worker")
    with ExitStack() as held:
        for start, length in [(member.offset, 1), place]:
            descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
            held.callback(os.close, descriptor)
            mark = LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, start, length, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, mark)
        assert set(members(tmp_path)) <= {member}
        if place != (0, 0):  # it hides nothing that lies elsewhere
            assert set(members(tmp_path)) == {member}


def test_strangers_are_spared(tmp_path):
    """Whose lock lies there: a process that is no child of a node, one with the number of another, one that is no
    more, one of another directory."""
    (tmp_path / "other").mkdir()
    group = Group(tmp_path)
    with joined(tmp_path, "keeper") as child, joined(tmp_path / "other", "keeper"):
        (orphan,) = group.orphans()
        assert orphan == GroupMember(child.pid, start_time(child.pid), "keeper")
        assert opened(orphan._replace(started=orphan.started + 1)) is None
    assert (group.orphans(), opened(orphan)) == ([], None)
    bare = {name: value for name, value in os.environ.items() if name != VARIABLE}
    with joined(tmp_path, "keeper", bare) as stranger:
        assert [member.pid for member in members(tmp_path)] == [stranger.pid]
        assert group.orphans() == []
        group.take_over()
        assert stranger.poll() is None
    group.close()


def test_a_child_whose_supervisor_is_gone_ends(tmp_path):
    """It may have been started too late to be found by the next one."""
    lifeline, other = os.pipe()
    listener = socket.socket(socket.AF_UNIX)
    gift = Inheritance(role="keeper", number=0, config=-1, listener=listener.fileno(), lifeline=lifeline)
    assert not is_orphan(gift)
    os.close(other)
    config = configuration_descriptor(from_table({"data": str(tmp_path / "data")}))
    (tmp_path / "data").mkdir()
    gift = replace(gift, config=config)
    done = subprocess.run(
        command(), env=environment(gift), pass_fds=gift.descriptors(), timeout=PROGRAM_PATIENCE, check=False
    )
    assert (done.returncode, os.listdir(tmp_path / "data")) == (0, [])
    listener.close()
    os.close(lifeline)
    os.close(config)


def test_listeners_share_one_port():
    sockets = listeners("127.0.0.1:0", 3)
    assert len({s.getsockname() for s in sockets}) == 1
    for s in sockets:
        s.close()


def test_a_port_that_someone_serves_is_refused():
    (first,) = listeners("127.0.0.1:0", 1)
    with pytest.raises(ConfigInvalid, match="cannot be bound"):
        listeners(f"127.0.0.1:{first.getsockname()[1]}", 1)
    first.close()


def test_a_host_that_is_not_known():
    with pytest.raises(ConfigInvalid, match="not known"):
        listeners("host.invalid:0", 1)


def test_ipv6():
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    (only,) = listeners("[::1]:0", 1)
    assert only.family is socket.AF_INET6
    only.close()


def test_a_404_is_remembered_for_its_time_only():
    cache = NegativeCache(30)
    cache.add(("blob", "a"), now=100)
    assert cache.holds(("blob", "a"), 129.9)
    assert not cache.holds(("blob", "a"), 130)
    assert not cache.holds(("blob", "b"), 100)


def test_the_negative_cache_is_bounded():
    cache = NegativeCache(30)
    for number in range(KEYS + 5):
        cache.add((str(number),), now=0)
    assert not cache.holds(("4",), 0)
    assert cache.holds(("5",), 0)


def test_a_keeper_whose_sync_fails_ends_and_the_next_one_takes_over(tmp_path):
    """A second sync would succeed over lost data (measured), so the process must not try one."""
    with scripted_process("--sample", "library/sample:latest") as parent:
        configuration = parent_toml(parent.url)
        with Node(tmp_path, configuration=configuration, workers=1) as node:
            (keeper,) = node.children("keeper")
            inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,syncfs"]
            inject += ["-e", "inject=fdatasync,syncfs:error=EIO", "-p", str(keeper)]
            with subprocess.Popen(inject) as strace:
                wait_until(lambda: traced(keeper), "strace attached")
                refused = fetch(node.url, "/v2/library/sample/manifests/latest")
                assert refused.status == 200, "what cannot be kept passes through"
                wait_until(lambda: restarted(node, "keeper", [keeper]), "another keeper")
                strace.wait()
            wait_until(node.ready, "ready again")
            assert fetch(node.url, "/v2/library/sample/manifests/latest").status == 200
            assert any(e["event"] == "keeper failed" and "Input/output" in e["reason"] for e in node.events())


def traced(pid):
    """Whether a tracer is attached to every thread of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "root"),
        ({"mode": "ReadWrite"}, "root"),
        ({"mode": "Mirror"}, "root, ReadOnly"),
        ({"parent": [{"url": "https://a"}]}, "1 parent, ReadOnly"),
        (
            {"mode": "Registry", "parent": [{"url": "https://a"}, {"name": "b", "url": "https://b"}]},
            "2 parents, ReadWrite",
        ),
    ],
)
def test_a_node_says_what_it_is(table, said):
    assert role(from_table(table)) == said


def test_case_76_an_older_store_takes_pushes_in_every_worker(tmp_path):
    """A worker that is faster than the keeper waits until the store is brought up to date."""
    oldest = golden.ARCHIVE.with_name("store-format-1.tar.xz")
    tmp_path.joinpath("data").mkdir()
    golden.unpack(oldest, tmp_path).rename(tmp_path / "data")
    with Node(tmp_path, "--anonymous", "push", workers=3) as node:
        statuses = [fetch(node.url, "/v2/new/blobs/uploads/", method="POST").status for _ in range(12)]
    assert statuses == [202] * 12


def test_a_worker_does_not_serve_a_store_that_is_not_up_to_date(tmp_path):
    root = golden.unpack(golden.ARCHIVE.with_name("store-format-1.tar.xz"), tmp_path)
    config = from_table({"data": str(root)})
    with pytest.raises(StoreRefused, match="brought up to date"):
        open_store(config, write=False)
    open_store(config, write=True).close()
    open_store(config, write=False).close()


PREPARING = """
import os, sys
from pathlib import Path
from holdfast.cli.verbs import serve
from holdfast.config_file import from_table
from holdfast.process.process_group import Group

def prepare(config, writer):
    print(os.getpid(), flush=True)
    return len(sys.stdin.read())  # as long as the test likes

serve._prepare = prepare
group = Group(Path(sys.argv[1]))
serve.prepare_store(from_table({"data": sys.argv[1]}))
"""


def test_case_fault_9_a_start_that_is_killed_leaves_the_lock_to_the_next(tmp_path):
    """Also while a child of its own prepares the store."""
    start = subprocess.Popen(
        [sys.executable, "-c", PREPARING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with start:
        child = int(start.stdout.readline())
        with pytest.raises(StoreRefused, match="another holdfast"):
            Group(tmp_path)
        start.kill()
        start.wait()
        try:
            wait_until(lambda: start_time(child) is None, "what prepares the store to end")
            Group(tmp_path).close()
        finally:
            start.stdin.close()


def test_a_child_of_a_parent_that_is_dead_already_ends():
    orphan = (
        "import os; from holdfast.process.shutdown import end_with; end_with(os.getppid() + 1); print('on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", orphan], capture_output=True, timeout=PROGRAM_PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_child_that_joins_after_its_supervisor_died_opens_no_store(tmp_path, monkeypatch):
    """The next supervisor may have looked while nobody could be seen."""
    lifeline, other = os.pipe()
    os.close(other)
    membership = Membership(tmp_path, Inheritance("keeper", 0, -1, -1, lifeline))
    complaints = []

    async def wait_for_the_directory():
        def unreadable(data):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        async def told(why):
            complaints.append(why)
            monkeypatch.undo()

        monkeypatch.setattr(group_module, "_opened_directory", unreadable)
        config = from_table({"data": str(tmp_path)})
        return await until_opened(
            config, FakeClock(), asyncio.Event(), told, write=True, membership=membership
        )

    assert asyncio.run(wait_for_the_directory()) is None
    assert [f"{tmp_path}: Input/output error" in why for why in complaints] == [True]
    assert [member.pid for member in members(tmp_path)] == [os.getpid()]
    assert membership.hold(), "it is not looked at again"
    assert os.listdir(tmp_path) == []
    os.close(lifeline)


LOGGING = """
from holdfast import log
log.configure("info", "keeper")
log.log.warning("disk condition", condition="full")
log.say("holdfast: serving")
"""


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk():
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("sink", [full_disk, broken_pipe])
def test_case_fault_2_a_log_that_takes_no_lines_stops_nothing(sink):
    """It may lie on the disk that is full; who reads it may be dead."""
    output = sink()
    done = subprocess.run([sys.executable, "-c", LOGGING], stdout=output, stderr=output, check=False)
    os.close(output)
    assert done.returncode == 0


def test_case_trust_24_the_loop_waits_little_for_a_thread() -> None:
    """Documents of strangers are read on threads."""
    before = sys.getswitchinterval()

    async def microseconds() -> int:
        return round(sys.getswitchinterval() * 1e6)

    try:
        assert loop.run(microseconds()) <= 1000
    finally:
        sys.setswitchinterval(before)
