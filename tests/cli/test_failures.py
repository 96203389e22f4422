"""Exit codes and sentences when the node says no, says nothing, or is something else."""

import socket
import threading

import pytest
from support.command_line import command, logged_in

SHOW = ("connected-registry", "show", "-n", "plant")
PLANT = "connectedRegistries/plant"


def errors(*messages, code="DENIED"):
    return {"errors": [{"code": code, "message": message, "detail": "name"} for message in messages]}


STATUSES = [
    (400, errors("name: found 'x'; allowed: 5 to 40 characters"), 2, "holdfast: name: found 'x'; allowed"),
    (
        409,
        errors("plant is there already", "and its token too"),
        2,
        "plant is there already\nand its token too",
    ),
    (404, errors("no connected registry is named plant"), 2, "no connected registry is named plant"),
    (412, errors("it was changed meanwhile"), 2, "it was changed meanwhile"),
    (401, errors("login needed"), 2, "does not accept the name and password from HOLDFAST_USERNAME"),
    (429, errors("too many failed logins; wait 30 s"), 2, "too many failed logins"),
    (500, errors("the disk is full"), 1, "the disk is full"),
    (503, errors("the keeper does not answer"), 1, "the keeper does not answer"),
    (404, b"<html>nginx</html>", 1, "not as an admin API does"),
    (200, b"<html>welcome</html>", 1, "no JSON object"),
    (200, b"[1]", 1, "no JSON object"),
    (500, {"errors": "?"}, 1, "not as an admin API does"),
    (500, {"errors": [None]}, 1, "not as an admin API does"),
]


@pytest.mark.parametrize(("status", "document", "code", "said"), STATUSES)
def test_an_answer_becomes_a_sentence_and_a_code(admin, status, document, code, said):
    admin.on("GET", PLANT, document, status)
    done = command(*SHOW, env=logged_in(admin))
    assert (done.code, said in done.err, done.out) == (code, True, ""), done
    assert "Traceback" not in done.err


def test_the_clients_address_is_told_from_the_admins(admin):
    admin.on("GET", "tokens", errors("no such endpoint", code="UNSUPPORTED"), 404)
    done = command("token", "list", env=logged_in(admin))
    assert (done.code, "has no admin API" in done.err) == (2, True), done


def test_a_verb_that_an_older_node_lacks_is_told_from_what_is_absent(admin):
    """Both are 404; the path of the one is not served, however long it is."""
    admin.on("GET", PLANT, errors("no such endpoint", code="UNSUPPORTED"), 404)
    done = command(*SHOW, env=logged_in(admin))
    assert (done.code, "or that of an older version, without /api/v1/" in done.err) == (2, True), done
    admin.on("GET", "usage", errors("app/web: not here", code="NAME_UNKNOWN"), 404)
    done = command("usage", env=logged_in(admin))
    assert (done.code, "app/web: not here" in done.err, "admin API" in done.err) == (2, True, False), done


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    env = {
        "HOLDFAST_REGISTRY": f"http://127.0.0.1:{port}",
        "HOLDFAST_USERNAME": "x",
        "HOLDFAST_PASSWORD": "y",
    }
    done = command(*SHOW, env=env)
    assert done.code == 1
    assert done.err.startswith(f"holdfast: http://127.0.0.1:{port} cannot be reached: Connection refused")
    assert "HOLDFAST_USERNAME and HOLDFAST_PASSWORD" in done.err


def test_a_connection_that_ends_in_the_middle():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def cut():
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

        thread = threading.Thread(target=cut)
        thread.start()
        env = {
            "HOLDFAST_REGISTRY": f"http://127.0.0.1:{server.getsockname()[1]}",
            "HOLDFAST_USERNAME": "x",
            "HOLDFAST_PASSWORD": "y",
        }
        done = command(*SHOW, env=env)
        thread.join()
    assert (done.code, "cannot be reached" in done.err) == (1, True), done


def test_what_a_node_says_cannot_write_on_the_terminal(admin):
    admin.on("GET", PLANT, errors("no \x1b[2Jplant\x07"), 404)
    done = command(*SHOW, env=logged_in(admin))
    assert done.err == "holdfast: no \\u001b[2Jplant\\u0007\n"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("serv",), "'serve'"),
        (("tokn", "list"), "'token'"),
        (("token", "lst"), "'list'"),
        (("config", "chek"), "'check'"),
        (("connected-registry", "get-setings"), "'get-settings'"),
        (("token", "list", "--registri", "x"), "'--registry'"),
        (("serve", "--lissten", "x"), "'--listen'"),
        (("connected-registry", "create", "--repositry", "a", "b"), "'--repository'"),
    ],
)
def test_case_trust_27_the_command_or_flag_that_was_meant_is_named(words, meant):
    done = command(*words)
    assert done.code == 2
    assert meant in done.err.rpartition("id you mean")[2], done.err
