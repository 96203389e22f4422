"""Several parents behind one node: each is asked with its own login alone, and a blob is one blob whichever
way a client names its parent."""

from __future__ import annotations

import asyncio
import base64
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.sample import Sample, build_sample
from holdfast.testing.scripted_parent import ScriptedParent
from support.certificates import make_pair
from support.node import Node
from support.transfer import fetch

pytestmark = pytest.mark.loop("asyncio")

#: the same name at every parent, with other content at each
NAME = "library/app"
STATIC, FILE, VARIABLE, HELPER = PARENTS = ("static.test", "file.test", "variable.test", "helper.test")
SCHEMES = {STATIC: "basic", FILE: "bearer", VARIABLE: "bearer", HELPER: "basic"}


def user(name: str) -> str:
    return f"user-of-{name}"


def password(name: str) -> str:
    return f"password-of-{name}"


def make_authority(folder: Path) -> ssl.SSLContext:
    """A pair in `folder`; the context of a server with it."""
    make_pair(folder, "parent", authority=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def row(parent: ScriptedParent, name: str, credentials: str, *keys: str) -> str:
    """A parent's table of the configuration."""
    head = ["[[parent]]", f'name = "{name}"', f'url = "{parent.url}"', *keys]
    return "\n".join([*head, "[parent.credentials]", credentials, ""])


def configuration(parents: dict[str, ScriptedParent], place: Path, dead: str) -> str:
    """Every form of credentials, TLS under an authority of its own, and a dead mirror."""
    secret, helper = place / "password", place / "helper"
    secret.write_text(password(FILE) + "\n")
    said = f'{{"ServerURL":"any","Username":"{user(HELPER)}","Secret":"{password(HELPER)}"}}'
    helper.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{said}'\n")
    helper.chmod(0o700)
    login = {name: f'username = "{user(name)}"\n' for name in PARENTS}
    plain = "insecure = true"
    return "\n".join(
        (
            row(parents[STATIC], STATIC, login[STATIC] + f'password = "{password(STATIC)}"', plain),
            row(parents[FILE], FILE, login[FILE] + f'password_file = "{secret}"', plain),
            row(
                parents[VARIABLE],
                VARIABLE,
                login[VARIABLE] + 'password_env = "HOLDFAST_TEST_PASSWORD"',
                f'ca = "{place / "cert.pem"}"',
            ),
            row(parents[HELPER], HELPER, f'exec = ["{helper}"]', plain, f'mirrors = ["{dead}"]'),
        )
    )


def logins(parent: ScriptedParent) -> set[str]:
    """Every user:password that a parent saw, by Basic or in a token request's form."""
    found = set()
    for request in parent.log:
        scheme, _, value = (request.header("authorization") or "").partition(" ")
        if scheme == "Basic":
            found.add(base64.b64decode(value).decode())
        form = request.form()
        if "password" in form:
            found.add(f"{form['username']}:{form['password']}")
    return found


def everything(parent: ScriptedParent) -> str:
    """All that a parent was sent, with what Basic hides spelled out."""
    return repr([(r.path, r.query, r.headers, r.body) for r in parent.log]) + repr(logins(parent))


def pull(node: Node, name: str, sample: Sample, *, by_prefix: bool) -> None:
    """A manifest and a blob of one parent, every byte checked."""
    root, query = (f"/v2/{name}/{NAME}", "") if by_prefix else (f"/v2/{NAME}", f"?ns={name}")
    layer = sample.layers["amd64"][1]
    manifest = fetch(node.url, f"{root}/manifests/latest{query}")
    (index,) = [body for digest, _, body in sample.manifests if digest == sample.index]
    assert (name, manifest.status, manifest.body) == (name, 200, index)
    blob = fetch(node.url, f"{root}/blobs/{layer}{query}")
    assert (name, blob.status, blob.body == sample.blobs[layer]) == (name, 200, True)


def pull_all(place: Path, text: str, samples: dict[str, Sample]) -> None:
    """From each parent both ways; which way comes first differs."""
    with Node(place / "node", configuration=text) as node:
        for number, name in enumerate(PARENTS):
            for by_prefix in (number % 2 == 0, number % 2 == 1):
                pull(node, name, samples[name], by_prefix=by_prefix)


def bodies(parent: ScriptedParent, kind: str) -> int:
    """GETs of a kind that came with a login or a token; one without is only told to bring it."""
    asked = [r for r in parent.log if r.method == "GET" and f"/{kind}/" in r.path]
    return len([r for r in asked if r.header("authorization")])


async def test_each_parent_sees_its_own_login_alone_and_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_TEST_PASSWORD", password(VARIABLE))
    tls = make_authority(tmp_path)
    samples = {name: build_sample(name) for name in PARENTS}
    async with AsyncExitStack() as stack:
        parents = {}
        for name in PARENTS:
            parent = ScriptedParent(tls=tls if name == VARIABLE else None)
            parent.door.scheme = SCHEMES[name]
            parent.door.username, parent.door.password = user(name), password(name)
            parent.add_sample(NAME, sample=samples[name])
            parents[name] = await stack.enter_async_context(parent)
        dead = await stack.enter_async_context(ScriptedParent())
        dead.script(ScriptedFault(times=-1, drop=True, reset=True))
        text = configuration(parents, tmp_path, dead.url)
        await asyncio.to_thread(pull_all, tmp_path, text, samples)
        for name, parent in parents.items():
            check(name, parent, samples[name])
        assert dead.log
        assert not any(request.header("authorization") for request in dead.log)
        assert not any(password(name) in everything(dead) for name in PARENTS)


def check(name: str, parent: ScriptedParent, sample: Sample) -> None:
    """What one parent saw: its own login and no other's, and each thing once."""
    assert logins(parent) == {f"{user(name)}:{password(name)}"}
    seen = everything(parent)
    for other in set(PARENTS) - {name}:
        assert user(other) not in seen
        assert password(other) not in seen
    layer = sample.layers["amd64"][1]
    (index,) = [body for digest, _, body in sample.manifests if digest == sample.index]
    assert (bodies(parent, "manifests"), bodies(parent, "blobs")) == (1, 1)
    assert parent.bytes_sent == {sample.index: len(index), layer: len(sample.blobs[layer])}
