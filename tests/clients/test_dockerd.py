"""dockerd itself: with a login, and as the client of a mirror, to which it sends no credentials."""

from __future__ import annotations

import base64
from pathlib import Path

from holdfast.demo.seed import seed
from holdfast.testing.sample import build_sample
from support.clients import dockerd
from support.docker_engine import DockerEngine
from support.login import ALL
from support.node import Node
from support.programs import program, run, wait_until
from support.transfer import fetch
from support.tree import QUICK, Operator, child, troubles

NAME = "library/sample"


def test_it_pulls_by_its_address_cold_and_with_the_parent_dead(tmp_path: Path, short_path: Path) -> None:
    """A connected registry that wants a login from everybody else; its file names the addresses of its machines."""
    sample = build_sample(NAME)
    (tmp_path / "root").mkdir()
    seed(tmp_path / "root" / "data", NAME, "latest", sample, 1.0)
    with Node(tmp_path / "root", configuration=QUICK, workers=1) as root:
        operator = Operator(root)
        operator.registry("plant", "library/*")
        near = f'{QUICK}[login]\nclient_addresses = ["127.0.0.0/8"]\n'
        with child(tmp_path / "plant", operator.string("plant", root), configuration=near) as plant:
            wait_until(lambda: troubles(plant) == "", "the plant is connected")
            dockerd(plant.address, short_path / "cold", NAME, sample)
            assert fetch(plant.url, f"/v2/{NAME}/blobs/uploads/", "POST").status == 405
            assert fetch(root.url, "/v2/").status == 401  # nobody is near to the root
            root.program.kill()
            plant.restart()
            dockerd(plant.address, short_path / "dead", NAME, sample)


def test_case_trust_3_a_login_outlives_every_token(tmp_path: Path, short_path: Path) -> None:
    """What docker keeps of a login is the password, and not a token that ends in three hours: it pushes and pulls after
    all tokens that were given became void, and podman and skopeo read the same file."""
    sample = build_sample(NAME)
    (tmp_path / "root").mkdir()
    seed(tmp_path / "root" / "data", NAME, "latest", sample, 1.0)
    with Node(tmp_path / "root", configuration=QUICK, workers=1) as root:
        secret = Operator(root).token("clerk", "library/*", *ALL)
        image = f"{root.address}/{NAME}"
        with DockerEngine(short_path / "d") as engine:
            engine.docker("login", "-u", "clerk", "-p", secret, root.address)
            kept = engine.logins()[root.address]
            assert base64.b64decode(kept["auth"]).decode() == f"clerk:{secret}"
            assert "identitytoken" not in kept
            root.stop()
            (root.data / "token-key.pem").unlink()  # as if all of them had run out
            root.start()
            engine.docker("pull", "--quiet", f"{image}:latest")
            engine.docker("tag", f"{image}:latest", f"{image}:again")
            engine.docker("push", f"{image}:again")
            file = engine.config / "config.json"
            source = f"docker://{image}:again"
            run(program("skopeo"), "inspect", "--tls-verify=false", "--authfile", file, source)
            podman = (program("podman"), "login", "--tls-verify=false", "--authfile", file)
            assert run(*podman, "--get-login", root.address).strip() == "clerk"
