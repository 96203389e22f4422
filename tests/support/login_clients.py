"""Clients that log in: how each of them pushes an image and pulls it into an empty place, by name and password."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from holdfast.testing.sample import Sample
from support.clients import CONTAINERD, everything, same_layout
from support.programs import Program, program, run, run_bytes
from support.push_clients import policy, storage, write_layout


class Client(NamedTuple):
    """One program with a login, in a directory of its own."""

    address: str
    place: Path
    name: str
    secret: str

    @property
    def file(self) -> Path:
        """Where it keeps its login."""
        return self.place / self.name / "config.json"

    def login(self, tool: str, *command: str, **env: str) -> None:
        """`tool … -u NAME -p SECRET ADDRESS`."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        run(program(tool), *command, "-u", self.name, "-p", self.secret, self.address, env=env)


Verb = Callable[[Client, str, Sample], None]


def skopeo_push(client: Client, name: str, sample: Sample) -> None:
    client.login("skopeo", "login", "--tls-verify=false", "--authfile", str(client.file))
    layout = write_layout(client.place / "in", sample)
    flags = ("--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false")
    target = f"docker://{client.address}/{name}:latest"
    run(program("skopeo"), *flags, "--authfile", client.file, f"oci:{layout}:latest", target)


def skopeo_pull(client: Client, name: str, sample: Sample) -> None:
    client.login("skopeo", "login", "--tls-verify=false", "--authfile", str(client.file))
    source, auth = f"docker://{client.address}/{name}:latest", ("--authfile", str(client.file))
    flags = ("--insecure-policy", "copy", "--all", "--src-tls-verify=false")
    run(program("skopeo"), *flags, *auth, source, f"oci:{client.place}/out:latest")
    same_layout(client.place / "out", sample)
    listed = run(program("skopeo"), "list-tags", "--tls-verify=false", *auth, source.rpartition(":")[0])
    assert '"latest"' in listed


def crane_push(client: Client, name: str, sample: Sample) -> None:
    env = {"DOCKER_CONFIG": str(client.file.parent)}
    client.login("crane", "auth", "login", **env)
    layout = write_layout(client.place / "in", sample)
    run(program("crane"), "push", "--insecure", layout, f"{client.address}/{name}:latest", env=env)


def crane_pull(client: Client, name: str, sample: Sample) -> None:
    env, image = {"DOCKER_CONFIG": str(client.file.parent)}, f"{client.address}/{name}"
    client.login("crane", "auth", "login", **env)
    run(
        program("crane"),
        "pull",
        "--insecure",
        "--format=oci",
        f"{image}:latest",
        client.place / "out",
        env=env,
    )
    same_layout(client.place / "out", sample)
    assert run(program("crane"), "ls", "--insecure", image, env=env).split() == ["latest"]


def oras_push(client: Client, name: str, sample: Sample) -> None:
    client.login("oras", "login", "--plain-http", "--registry-config", str(client.file))
    layout, target = write_layout(client.place / "in", sample), f"{client.address}/{name}:latest"
    flags = (
        "--from-oci-layout",
        f"{layout}:latest",
        "--to-plain-http",
        "--to-registry-config",
        str(client.file),
    )
    run(program("oras"), "copy", *flags, target)


def oras_pull(client: Client, name: str, sample: Sample) -> None:
    client.login("oras", "login", "--plain-http", "--registry-config", str(client.file))
    source = f"{client.address}/{name}:latest"
    flags = ("--from-plain-http", "--from-registry-config", str(client.file))
    run(program("oras"), "copy", *flags, source, "--to-oci-layout", f"{client.place}/out:latest")
    same_layout(client.place / "out", sample)
    listing = ("repo", "tags", "--plain-http", "--registry-config", str(client.file))
    assert run(program("oras"), *listing, f"{client.address}/{name}").split() == ["latest"]


def podman(client: Client) -> tuple[str, ...]:
    engine = (
        "--tmpdir",
        f"{client.place}/tmpdir",
        "--cgroup-manager",
        "cgroupfs",
        "--events-backend",
        "file",
    )
    return (program("podman"), *storage(client.place), *engine)


def podman_push(client: Client, name: str, sample: Sample) -> None:
    client.login("podman", "login", "--tls-verify=false", "--authfile", str(client.file))
    layout, command = write_layout(client.place / "in", sample), podman(client)
    image = run(*command, "pull", "--quiet", *policy(client.place), f"oci:{layout}:latest").strip()
    flags = ("--quiet", "--tls-verify=false", "--authfile", str(client.file), *policy(client.place))
    run(*command, "push", *flags, image, f"docker://{client.address}/{name}:latest")


def podman_pull(client: Client, name: str, sample: Sample) -> None:
    client.login("podman", "login", "--tls-verify=false", "--authfile", str(client.file))
    flags = ("--quiet", "--tls-verify=false", "--authfile", str(client.file), *policy(client.place))
    image = run(*podman(client), "pull", *flags, f"docker://{client.address}/{name}:latest").strip()
    assert image


def containerd(client: Client, work: Callable[[tuple[str, ...]], None]) -> None:
    client.place.mkdir(parents=True, exist_ok=True)
    (client.place / "config.toml").write_text(CONTAINERD.format(place=client.place))
    ctr = (program("ctr"), "--address", f"{client.place}/sock")
    command = [program("containerd"), "--config", f"{client.place}/config.toml"]
    with Program(command, client.place / "log") as daemon:
        daemon.wait_for("containerd successfully booted")
        work(ctr)
        assert daemon.stop() == 0


def containerd_push(client: Client, name: str, sample: Sample) -> None:
    layout, archive = write_layout(client.place / "in", sample), client.place / "in.tar"
    with tarfile.open(archive, "w") as packed:
        for path in sorted(layout.iterdir()):
            packed.add(path, path.name)
    login = ("--plain-http", "--user", f"{client.name}:{client.secret}")

    def work(ctr: tuple[str, ...]) -> None:
        run(*ctr, "images", "import", "--all-platforms", "--no-unpack", "--base-name", "in", archive)
        push = (*ctr, "images", "push", *login, f"{client.address}/{name}:latest", "in:latest")
        try:
            run(*push)
        except AssertionError as error:  # containerd 1.6 at times cuts the stream between itself and ctr
            if "code = Internal desc = unexpected EOF" not in str(error):
                raise
            run(*push)

    containerd(client, work)


def containerd_pull(client: Client, name: str, sample: Sample) -> None:
    login = ("--plain-http", "--user", f"{client.name}:{client.secret}")

    def work(ctr: tuple[str, ...]) -> None:
        image = f"{client.address}/{name}:latest"
        run(*ctr, "content", "fetch", "--all-platforms", *login, image)
        for digest, body in everything(sample).items():
            assert run_bytes(*ctr, "content", "get", digest) == body, digest

    containerd(client, work)


CHART = "apiVersion: v2\nname: chart\nversion: 1.2.3\n"


def helm(client: Client) -> dict[str, str]:
    client.place.mkdir(parents=True, exist_ok=True)
    env = {f"HELM_{kind}_HOME": f"{client.place}/{kind}" for kind in ("CACHE", "CONFIG", "DATA")}
    env["HELM_REGISTRY_CONFIG"] = str(client.file)
    client.login("helm", "registry", "login", "--plain-http", **env)
    return env


def helm_push(client: Client, name: str, sample: Sample) -> None:
    env = helm(client)
    (client.place / "chart").mkdir()
    (client.place / "chart" / "Chart.yaml").write_text(CHART)
    run(program("helm"), "package", client.place / "chart", "--destination", client.place, env=env)
    chart = client.place / "chart-1.2.3.tgz"
    run(program("helm"), "push", chart, f"oci://{client.address}/{name}", "--plain-http", env=env)


def helm_pull(client: Client, name: str, sample: Sample) -> None:
    env = helm(client)
    source = (f"oci://{client.address}/{name}/chart", "--version", "1.2.3")
    run(program("helm"), "pull", *source, "--plain-http", "--destination", client.place, env=env)
    with tarfile.open(client.place / "chart-1.2.3.tgz") as archive:
        content = archive.extractfile("chart/Chart.yaml")
        assert content is not None
        assert b"version: 1.2.3" in content.read()


#: how a client pushes, and how it pulls
CLIENTS: dict[str, tuple[Verb, Verb]] = {
    "skopeo": (skopeo_push, skopeo_pull),
    "podman": (podman_push, podman_pull),
    "crane": (crane_push, crane_pull),
    "oras": (oras_push, oras_pull),
    "containerd": (containerd_push, containerd_pull),
    "helm": (helm_push, helm_pull),
}
