"""Which node is asked, with which password; and the file of `holdfast login`."""

import base64
import json
from contextlib import ExitStack

import pytest
from holdfast.cli import login
from holdfast.cli.admin_client import AdminEndpoint, AdminRefused, normal_url
from support.command_line import PASSWORD, USERNAME, command, logged_in, recorded_admin

LIST = ("token", "list")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, also the current directory."""
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def who(admin):
    """Name and password of the last request."""
    scheme, _, encoded = admin.last.headers["authorization"].partition(" ")
    assert scheme == "Basic"
    return tuple(base64.b64decode(encoded).decode().split(":", 1))


def node(place, url, password=PASSWORD):
    """A data directory as a serving node leaves it."""
    place.mkdir(parents=True)
    (place / "operator.json").write_text(json.dumps({"username": "boss", "password": password}))
    if url:
        (place / "admin.json").write_text(json.dumps({"url": url}))
    return place


def kept(home):
    return home / ".config" / "holdfast" / "credentials.json"


def log_in(admin, home, name=USERNAME, password=PASSWORD):
    admin.on("GET", "connectedRegistries", {"value": []})
    done = command(
        "login", admin.url, "-u", name, "--password-stdin", env={"HOME": str(home)}, stdin=password + "\n"
    )
    assert done.code == 0, done
    return done


def test_login_tries_the_password_and_keeps_it_for_its_owner_alone(admin, home):
    done = log_in(admin, home)
    assert who(admin) == (USERNAME, PASSWORD)
    assert admin.last.query == {"$top": "1"}
    assert PASSWORD not in done.out + done.err
    assert (kept(home).stat().st_mode & 0o777, kept(home).parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert json.loads(kept(home).read_text()) == {
        "registries": {admin.url: {"username": USERNAME, "password": PASSWORD}},
        "current": admin.url,
    }
    assert [file.name for file in kept(home).parent.iterdir()] == ["credentials.json"]


def test_a_password_that_is_refused_is_not_kept(admin, home):
    admin.on("GET", "connectedRegistries", {"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}, 401)
    done = command("login", admin.url, "--password-stdin", env={"HOME": str(home)}, stdin="wrong\n")
    assert (done.code, "does not accept the name and password" in done.err) == (2, True), done
    assert not kept(home).exists()


@pytest.mark.parametrize("flags", [(), ("--password-stdin",)])
def test_without_a_password_it_says_how_to_give_one(admin, home, flags):
    done = command("login", admin.url, *flags, env={"HOME": str(home)}, stdin="")
    assert (done.code, "--password-stdin" in done.err, admin.asked) == (2, True, [])


def test_a_password_in_an_argument_is_taken_and_warned_about(admin, home):
    admin.on("GET", "connectedRegistries", {"value": []})
    done = command("login", admin.url, "-p", PASSWORD, env={"HOME": str(home)})
    assert (done.code, who(admin)) == (0, ("operator", PASSWORD))
    assert "others on this machine can see" in done.err
    both = command("login", admin.url, "-p", "x", "--password-stdin", env={"HOME": str(home)})
    assert both.code == 2


def test_logout_forgets(admin, home):
    log_in(admin, home)
    assert command("logout", env={"HOME": str(home)}).code == 0
    assert json.loads(kept(home).read_text()) == {"registries": {}, "current": ""}
    again = command("logout", env={"HOME": str(home)})
    assert (again.code, again.err) == (2, "holdfast: not logged in\n")


def test_the_file_lies_where_xdg_says(admin, home, tmp_path):
    admin.on("GET", "connectedRegistries", {"value": []})
    env = {"HOME": str(home), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert command("login", admin.url, "--password-stdin", env=env, stdin=PASSWORD).code == 0
    assert (tmp_path / "xdg" / "holdfast" / "credentials.json").exists()
    assert not kept(home).exists()


def test_a_file_that_others_can_read_is_refused(admin, home):
    log_in(admin, home)
    kept(home).chmod(0o640)
    done = command(*LIST, env={"HOME": str(home)})
    assert (done.code, f"chmod 600 {kept(home)}" in done.err) == (2, True), done
    assert len(admin.asked) == 1


def test_a_damaged_file_is_named(admin, home):
    log_in(admin, home)
    kept(home).write_text("{")
    done = command(*LIST, env={"HOME": str(home)})
    assert (done.code, str(kept(home)) in done.err) == (2, True), done


def test_the_order_of_places(home):
    """Each place is given a node of its own; the first in the order that says where is asked, with its own password."""
    with ExitStack() as stack:
        places = [stack.enter_context(recorded_admin()) for _ in range(6)]
        flag, data, env, env_data, file, here = places
        for place in places:
            place.on("GET", "tokens", {"value": []})
        log_in(flag, home, "by-file-flag", "password-file-flag")
        log_in(file, home, "by-file", "password-file")
        node(home / "holdfast-data", here.url, "password-here")
        everywhere = {
            "HOME": str(home),
            "HOLDFAST_REGISTRY": env.url,
            "HOLDFAST_USERNAME": "by-env",
            "HOLDFAST_PASSWORD": "password-env",
            "HOLDFAST_DATA": str(node(home / "env-data", env_data.url, "password-env-data")),
        }
        flags = ("--data", str(node(home / "data", data.url, "password-data")))

        def asks(place, arguments, drop=()):
            done = command(*LIST, *arguments, env={k: v for k, v in everywhere.items() if k not in drop})
            assert done.code == 0, done
            return [len([a for a in p.asked if a.path.endswith("tokens")]) for p in places], who(place)

        # --registry, whose password is not the one of another registry in the environment
        assert asks(flag, ("--registry", flag.url)) == (
            [1, 0, 0, 0, 0, 0],
            ("by-file-flag", "password-file-flag"),
        )
        assert asks(flag, ("--registry", flag.url, *flags)) == (
            [2, 0, 0, 0, 0, 0],
            ("boss", "password-data"),
        )
        assert asks(data, flags) == ([2, 1, 0, 0, 0, 0], ("boss", "password-data"))
        assert asks(env, ()) == ([2, 1, 1, 0, 0, 0], ("by-env", "password-env"))
        gone = ["HOLDFAST_REGISTRY"]
        assert asks(env_data, (), gone) == ([2, 1, 1, 1, 0, 0], ("boss", "password-env-data"))
        gone.append("HOLDFAST_DATA")
        assert asks(file, (), gone) == ([2, 1, 1, 1, 1, 0], ("by-file", "password-file"))
        kept(home).unlink()
        assert asks(here, (), gone) == ([2, 1, 1, 1, 1, 1], ("boss", "password-here"))


def test_the_environment_has_the_password_for_a_registry_named_by_flag(admin, home):
    admin.on("GET", "tokens", {"value": []})
    env = {"HOME": str(home), "HOLDFAST_USERNAME": "by-env", "HOLDFAST_PASSWORD": "password-env"}
    assert command(*LIST, "-r", admin.url, env=env).code == 0
    assert who(admin) == ("by-env", "password-env")


def test_the_file_has_the_password_for_a_registry_named_by_the_environment(admin, home):
    log_in(admin, home)
    admin.on("GET", "tokens", {"value": []})
    assert command(*LIST, env={"HOME": str(home), "HOLDFAST_REGISTRY": admin.url}).code == 0
    assert who(admin) == (USERNAME, PASSWORD)


MISSING = [
    ((), {}, "which node?"),
    (("-r", "http://127.0.0.1:1"), {}, "no password for http://127.0.0.1:1: run holdfast login"),
    ((), {"HOLDFAST_REGISTRY": "http://127.0.0.1:1"}, "HOLDFAST_USERNAME and HOLDFAST_PASSWORD must be set"),
    (
        (),
        {"HOLDFAST_REGISTRY": "http://127.0.0.1:1", "HOLDFAST_USERNAME": "x"},
        "HOLDFAST_PASSWORD must be set",
    ),
    (("--data", "nothing"), {}, "nothing/operator.json is not there"),
]


@pytest.mark.parametrize(("flags", "env", "said"), MISSING)
def test_what_is_missing_is_said(home, flags, env, said):
    done = command(*LIST, *flags, env={"HOME": str(home), **env})
    assert (done.code, said in done.err) == (2, True), done


def test_a_node_that_does_not_run_is_told_apart(home):
    stopped = node(home / "stopped", "")
    done = command(*LIST, "--data", str(stopped), env={"HOME": str(home)})
    assert (done.code, "the node does not run" in done.err) == (2, True), done
    killed = node(home / "killed", "http://127.0.0.1:1")
    done = command(*LIST, "--data", str(killed), env={"HOME": str(home)})
    assert (done.code, "Does the node run?" in done.err) == (1, True), done
    (killed / "admin.json").write_text("[]")
    done = command(*LIST, "--data", str(killed), env={"HOME": str(home)})
    assert (done.code, "admin.json cannot be read" in done.err) == (2, True), done


def test_an_operator_file_of_another_user_is_explained(home, monkeypatch):
    """The tests run as root, who reads everything; so the refusal of the system is played."""
    place = node(home / "data", "http://127.0.0.1:1")

    def read_text(self, *_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", read_text)
    with pytest.raises(login.LoginMissing, match="node's own user"):
        login.local(place)


ADDRESSES = {
    "localhost:5001": "http://localhost:5001",
    "127.0.0.1:5001": "http://127.0.0.1:5001",
    "[::1]:5001": "http://[::1]:5001",
    "http://LOCALHOST:5001/": "http://localhost:5001",
    "root.example:5001": "https://root.example:5001",
    "https://Root.Example": "https://root.example",
}


@pytest.mark.parametrize(("typed", "url"), ADDRESSES.items())
def test_an_address_as_people_type_it(typed, url):
    assert normal_url(typed) == url


WRONG = [
    "http://root.example:5001",
    "http://10.0.0.5",
    "ftp://localhost",
    "http://",
    "http://localhost:99999",
    "http://localhost/api",
    "http://localhost?x=1",
    "https://me:secret-word@localhost",
]


@pytest.mark.parametrize("typed", WRONG)
def test_an_address_that_is_refused(typed):
    with pytest.raises(AdminRefused, match="registry: found") as caught:
        normal_url(typed)
    assert "secret-word" not in str(caught.value)


def test_a_proxy_is_not_asked_for_this_machine(admin, home):
    admin.on("GET", "tokens", {"value": []})
    env = {**logged_in(admin), "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    assert command(*LIST, env=env).code == 0


def test_a_password_is_not_in_the_words_of_an_endpoint():
    assert "secret-word" not in repr(AdminEndpoint("http://localhost", "x", "secret-word", "test"))
