"""The node to which a verb sends requests, and its password (`find`); and `holdfast login`, which stores both in a
file.

The first of these that names a node wins: `--registry`; `--data`; HOLDFAST_REGISTRY with HOLDFAST_USERNAME and
HOLDFAST_PASSWORD; HOLDFAST_DATA; the file of `holdfast login`; `holdfast-data` in the current directory, where `serve`
keeps its store by default. Only `--registry` may take its password from another place than its address:
from `--data`, from the environment (unless that names another registry), or from the file, if it knows that registry.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from holdfast.cli.admin_client import AdminClient, AdminEndpoint, AdminFailed, AdminRefused, normal_url
from holdfast.cli.exit_codes import FAILED, refuse

#: Where `serve` keeps its store by default.
DEFAULT_DATA = Path("holdfast-data")
_REGISTRY, _USERNAME, _PASSWORD, _DATA = (
    "HOLDFAST_REGISTRY",
    "HOLDFAST_USERNAME",
    "HOLDFAST_PASSWORD",
    "HOLDFAST_DATA",
)


class LoginMissing(Exception):
    """No node, or no password for it, is configured; the message has advice."""


def find(registry: str | None, data: Path | None) -> AdminEndpoint:
    """The node to ask. Raises LoginMissing or AdminRefused with a sentence for the operator."""
    environment = os.environ
    if registry:
        return _named(normal_url(registry), data, environment)
    if data:
        return local(data)
    if environment.get(_REGISTRY):
        return _from_environment(normal_url(environment[_REGISTRY]), environment)
    if environment.get(_DATA):
        return local(Path(environment[_DATA]))
    logins = Logins.read()
    if logins.current in logins.registries:
        return logins.endpoint(logins.current)
    if (DEFAULT_DATA / "admin.json").exists():
        return local(DEFAULT_DATA)
    raise LoginMissing(
        "which node? Say --registry URL (the admin address that it prints), --data DIR (its data directory, on this"
        f" machine), set {_REGISTRY}, or run: holdfast login URL"
    )


def _named(url: str, data: Path | None, environment: Mapping[str, str]) -> AdminEndpoint:
    if data:
        name, password = _operator(data)
        return AdminEndpoint(url, name, password, f"{data}/operator.json")
    meant = environment.get(_REGISTRY)
    if environment.get(_PASSWORD) and (not meant or normal_url(meant) == url):
        return _from_environment(url, environment)
    logins = Logins.read()
    if url in logins.registries:
        return logins.endpoint(url)
    raise LoginMissing(
        f"no password for {url}: run holdfast login {url}, set {_USERNAME} and {_PASSWORD}, or say --data DIR"
    )


def _from_environment(url: str, environment: Mapping[str, str]) -> AdminEndpoint:
    missing = [name for name in (_USERNAME, _PASSWORD) if not environment.get(name)]
    if missing == [_USERNAME, _PASSWORD] and url in (logins := Logins.read()).registries:
        return logins.endpoint(url)
    if missing:
        raise LoginMissing(f"{' and '.join(missing)} must be set to ask {url}, or run: holdfast login {url}")
    return AdminEndpoint(url, environment[_USERNAME], environment[_PASSWORD], f"{_USERNAME} and {_PASSWORD}")


def local(data: Path) -> AdminEndpoint:
    """The node whose store is in this directory. Raises LoginMissing."""
    name, password = _operator(data)
    try:
        url = normal_url(str(json.loads((data / "admin.json").read_text())["url"]))
    except FileNotFoundError:
        raise LoginMissing(
            f"{data}/admin.json is not there: the node does not run, or has no admin API"
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise LoginMissing(f"{data}/admin.json cannot be read: {error}") from None
    return AdminEndpoint(url, name, password, f"{data}/operator.json")


def _operator(data: Path) -> tuple[str, str]:
    file = data / "operator.json"
    try:
        document = json.loads(file.read_text())
        return str(document["username"]), str(document["password"])
    except FileNotFoundError:
        raise LoginMissing(f"{file} is not there: is {data} the data directory of a node?") from None
    except PermissionError:
        raise LoginMissing(f"{file} may be read by the node's own user only: run this as that user") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise LoginMissing(f"{file} cannot be read: {error}") from None


class Logins:
    """The file of `holdfast login`: a password for each registry, and which one was logged in to last.

    Mode 0600, in XDG_CONFIG_HOME/holdfast or ~/.config/holdfast; replaced as a whole."""

    def __init__(self, file: Path, registries: dict[str, Any], current: str) -> None:
        self.file, self.registries, self.current = file, registries, current

    @classmethod
    def read(cls) -> Logins:
        """What is in the file; nothing when there is none. Raises LoginMissing when others can read it, or it is
        damaged."""
        home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        file = Path(home) / "holdfast" / "credentials.json"
        try:
            with file.open() as opened:
                if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                    raise LoginMissing(f"{file} holds passwords and others can read it: chmod 600 {file}")
                document = json.load(opened)
            registries = {
                str(url): (str(one["username"]), str(one["password"]))
                for url, one in document["registries"].items()
            }
            return cls(file, registries, str(document.get("current", "")))
        except FileNotFoundError:
            return cls(file, {}, "")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise LoginMissing(f"{file} cannot be read ({error}): remove it and log in again") from None

    def endpoint(self, url: str) -> AdminEndpoint:
        """One of its registries."""
        name, password = self.registries[url]
        return AdminEndpoint(url, name, password, str(self.file))

    def write(self) -> None:
        """Replace the file. Raises OSError."""
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        table = {
            url: {"username": name, "password": password} for url, (name, password) in self.registries.items()
        }
        fresh = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            json.dump({"registries": table, "current": self.current}, opened, indent=2)
        fresh.replace(self.file)


def log_in(url: str | None, username: str | None, password: str | None, from_stdin: bool) -> None:
    """Try the password against the node; keep both when it is right. Exits 2 when it is not."""
    try:
        logins = Logins.read()
        address = normal_url(url or os.environ.get(_REGISTRY) or logins.current or _no_url())
    except (LoginMissing, AdminRefused) as error:
        refuse(str(error))
    endpoint = AdminEndpoint(address, *_credentials(username, password, from_stdin), "this login")
    try:
        AdminClient(endpoint).get("connectedRegistries", query={"$top": "1"})
    except AdminRefused as error:
        refuse(str(error))
    except AdminFailed as error:
        refuse(str(error), FAILED)
    logins.registries[address], logins.current = (endpoint.username, endpoint.password), address
    logins.write()
    click.echo(f"holdfast: logged in to {address} as {endpoint.username}; kept in {logins.file}", err=True)


def _no_url() -> str:
    raise LoginMissing("log in to what? Give the admin address that the node prints: holdfast login URL")


def _credentials(username: str | None, password: str | None, from_stdin: bool) -> tuple[str, str]:
    """Name and password from flags, from stdin, or typed at the terminal."""
    if password and from_stdin:
        refuse("--password and --password-stdin: one of them")
    if password:
        click.echo(
            "holdfast: others on this machine can see a password in an argument; use --password-stdin",
            err=True,
        )
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    there = sys.stdin.isatty()
    if not username:
        username = (
            click.prompt("Username", default="operator", err=True) if there and not from_stdin else "operator"
        )
    if not password:
        if not there or from_stdin:
            refuse("no password: say --password-stdin and write it there")
        password = click.prompt("Password", hide_input=True, err=True)
    return username, str(password)


def log_out(url: str | None) -> None:
    """Forget one registry, the current one without a name."""
    try:
        logins = Logins.read()
        address = normal_url(url) if url else logins.current
    except (LoginMissing, AdminRefused) as error:
        refuse(str(error))
    if logins.registries.pop(address, None) is None:
        refuse(f"not logged in{f' to {address}' if address else ''}")
    if logins.current == address:
        logins.current = next(iter(logins.registries), "")
    logins.write()
    click.echo(f"holdfast: logged out of {address}", err=True)
