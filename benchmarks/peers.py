"""The servers of the comparison, each started on a free port of this machine with its best settings.

docker-registry and distribution: file system driver, descriptors cached in memory, every core they want.
nginx: one worker, open files cached; sendfile and tcp_nopush off for small bodies, on for large ones; its log buffered.
The ceiling: one thread that knows its answers (`native/ceiling.c`). None writes an access log unless it is told to.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.client import Question, program
from benchmarks.load import LoadFailed, fetch, head_of
from benchmarks.machine import ROOT, group, installed, processor_seconds

START_SECONDS = 60.0
END_SECONDS = 15.0
POLL_SECONDS = 0.02
HOLDFAST_COMMAND = ROOT / ".venv/bin/holdfast"


class PeerFailed(RuntimeError):
    """A server did not start, or is not installed. Says why."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A self-signed certificate for localhost: P-256, the common choice."""

    cert: Path
    key: Path


def certificate(place: Path) -> Certificate:
    """Made anew in a directory."""
    place.mkdir(parents=True, exist_ok=True)
    made = Certificate(place / "cert.pem", place / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-keyout", made.key, "-out", made.cert], check=True, capture_output=True
    )
    return made


@dataclass
class Server:
    """A running server. As a context it is ended, with all its processes, at the end."""

    place: Path
    url: str = ""
    process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Self:
        self.place.mkdir(parents=True, exist_ok=True)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it listens. Raises PeerFailed."""
        raise NotImplementedError

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what is left after END_SECONDS."""
        if not hasattr(self, "process"):
            return
        if self.process.stdout:
            self.process.stdout.close()
        if self.process.poll() is not None:
            return
        members = group(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            for member in members:
                _kill(member)
            self.process.wait()

    def processor_seconds(self) -> float:
        """What all its processes have used so far."""
        return processor_seconds(group(self.process.pid))

    def spawn(
        self,
        command: Sequence[str | Path],
        *,
        output: int | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start the program; its complaints go to a file."""
        with (self.place / "stderr").open("wb") as complaints:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=complaints,
                text=True,
                env={**os.environ, **(environ or {})},
            )

    def complaint(self) -> str:
        """The end of what it wrote to standard error."""
        return (self.place / "stderr").read_text(errors="replace")[-2000:]

    def await_port(self, port: int) -> None:
        """Wait until something listens. Raises PeerFailed."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(POLL_SECONDS)
            else:
                return
        raise PeerFailed(f"{type(self).__name__} does not listen: {self.complaint()}")


@dataclass
class Holdfast(Server):
    """`holdfast serve` on a data directory; with a parent, a node before it. `configuration` is TOML.

    The sockets listen before any worker runs, so `start` waits for /readyz; `at_once` does not.
    """

    data: Path = Path()
    log: bool = False
    workers: int = 1
    parent: str = ""
    tls: Certificate | None = None
    anonymous: str = ""
    at_once: bool = False
    configuration: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> None:
        if not HOLDFAST_COMMAND.exists():
            raise PeerFailed("holdfast is not built: make build")
        config = self.place / "holdfast.toml"
        config.write_text(f'log_level = "{"info" if self.log else "warning"}"\n')
        command: list[str | Path] = [
            HOLDFAST_COMMAND,
            "serve",
            "--config",
            config,
            "--listen",
            "127.0.0.1:0",
            "--data",
            self.data,
        ]
        command += ["--workers", str(self.workers)]
        command += ["--parent", self.parent, "--parent-insecure"] if self.parent else []
        command += ["--tls-cert", self.tls.cert, "--tls-key", self.tls.key] if self.tls else []
        command += ["--anonymous", self.anonymous] if self.anonymous else []
        if self.configuration:
            (file := self.place / "holdfast.toml").write_text(self.configuration)
            command += ["--config", file]
        self.spawn(command, output=subprocess.PIPE, environ=self.environ)
        assert self.process.stdout is not None
        found = re.search(r"https?://\S+", self.process.stdout.readline())
        if found is None:
            raise PeerFailed(f"holdfast did not start: {self.complaint()}")
        self.url = found[0]
        if not self.at_once:
            self.await_ready()

    def await_ready(self) -> None:
        """Wait until it says that it is. Raises PeerFailed."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                fetch(self.url, "/readyz")
            except (OSError, LoadFailed):
                time.sleep(POLL_SECONDS)
            else:
                return
        raise PeerFailed(f"holdfast is not ready: {self.complaint()}")


REGISTRY_CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: {quiet}}}}}
storage:
  cache: {{blobdescriptor: inmemory}}
  filesystem: {{rootdirectory: "{data}"}}
http:
  addr: 127.0.0.1:{port}
{extra}
"""


@dataclass
class Registry(Server):
    """Debian's docker-registry (distribution 2.8), or `program`; with `parent`, as its pull-through cache."""

    data: Path = Path()
    log: bool = False
    parent: str = ""
    tls: Certificate | None = None
    program: str = "docker-registry"

    def start(self) -> None:
        program = installed(self.program)
        if not Path(program).exists():
            raise PeerFailed(f"{self.program} is not installed: tools/packages bench")
        port, extra = free_port(), ""
        if self.tls:
            extra += f'  tls: {{certificate: "{self.tls.cert}", key: "{self.tls.key}"}}\n'
        if self.parent:
            extra += f"proxy: {{remoteurl: {self.parent}}}\n"
        config = self.place / "config.yml"
        config.write_text(
            REGISTRY_CONFIG.format(data=self.data, port=port, extra=extra, quiet=str(not self.log).lower())
        )
        self.spawn([program, "serve", config], output=subprocess.DEVNULL)
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{port}"
        self.await_port(port)


NGINX_CONFIG = """
{user}
worker_processes 1;
daemon off;
pid {place}/pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log {log};
    sendfile {large};
    tcp_nopush {large};
    keepalive_requests 1000000000;
    open_file_cache max=10000 inactive=600s;
    open_file_cache_min_uses 1;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    ssl_protocols TLSv1.2 TLSv1.3;
    types {{ }}
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{port}{tls};
        root {data};
        location ~ /manifests/ {{ default_type application/vnd.oci.image.manifest.v1+json; }}
    }}
}}
"""


@dataclass
class Nginx(Server):
    """nginx over static files, set up for small bodies or for large ones."""

    data: Path = Path()
    log: bool = False
    large: bool = True
    tls: Certificate | None = None

    def start(self) -> None:
        program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        if program is None:
            raise PeerFailed("nginx is not installed")
        port = free_port()
        tls = (
            f" ssl;\nssl_certificate {self.tls.cert};\nssl_certificate_key {self.tls.key}" if self.tls else ""
        )
        user = "user root;" if os.geteuid() == 0 else ""
        config = self.place / "nginx.conf"
        log = f"{self.place}/access combined buffer=64k flush=1s" if self.log else "off"
        config.write_text(
            NGINX_CONFIG.format(
                place=self.place,
                data=self.data,
                port=port,
                tls=tls,
                user=user,
                log=log,
                large="on" if self.large else "off",
            )
        )
        self.spawn([program, "-p", self.place, "-c", config], output=subprocess.DEVNULL)
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{port}"
        self.await_port(port)


@dataclass
class Ceiling(Server):
    """A loop in C that gives the answers of `model`, a running server, to these questions."""

    model: Server | None = None
    questions: Iterable[Question] = ()
    bodies: Mapping[str, Path] = field(default_factory=dict)

    def start(self) -> None:
        assert self.model is not None
        with (self.place / "answers").open("wb") as answers:
            for question in {question.line: question for question in self.questions}.values():
                head = head_of(self.model.url, question.text)
                body = "-" if question.method == "HEAD" else self.bodies[question.target]
                answers.write(f"{question.line}\t{len(head)} {body}\n".encode() + head)
        self.spawn([program("ceiling"), str(port := free_port()), self.place / "answers"])
        self.url = f"http://127.0.0.1:{port}"
        self.await_port(port)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
