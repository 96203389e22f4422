"""The operator's credentials: made once, read strictly, nobody else's to read, no secret that everybody knows."""

import base64
import json
import os
import stat

import pytest
from holdfast.admin import auth
from holdfast.admin.auth import Operator, ensure, is_example, read, weakness
from holdfast.config import ConfigInvalid


def write(data, mode=0o600, **kept):
    file = data / "operator.json"
    file.write_text(json.dumps(kept))
    file.chmod(mode)


def header(text, scheme="Basic"):
    return f"{scheme} {base64.b64encode(text.encode()).decode()}"


def test_the_first_start_makes_them_and_the_next_reads_them(tmp_path):
    first, made = ensure(tmp_path)
    again, made_again = ensure(tmp_path)
    assert (made, made_again) == (True, False)
    assert first == again
    assert len(base64.urlsafe_b64decode(first.password + "=")) == 32
    assert not [name for name in os.listdir(tmp_path) if name != "operator.json"]


def test_every_node_has_its_own(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert ensure(tmp_path / "a")[0].password != ensure(tmp_path / "b")[0].password


def test_s36_the_secret_is_its_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        ensure(tmp_path)
    finally:
        os.umask(before)
    status = (tmp_path / "operator.json").stat()
    assert stat.S_IMODE(status.st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o777])
def test_s36_a_secret_that_others_read_is_refused(tmp_path, mode):
    write(tmp_path, mode, username="operator", password="k3-Vh7rWq0pLm2x")
    with pytest.raises(ConfigInvalid, match=f"found mode {mode:04o}; allowed: 0600"):
        read(tmp_path)


KNOWN = [
    "password", "passwordpassword", "changemechangeme", "ChangeMe-123456", "admin-password", "holdfast-secret",
    "operator", "operator1234", "Passw0rd-Passw0rd", "p@ssw0rd1234", "secret_secret", "123456789012", "aaaaaaaaaaaaaa",
    "qwertyuiopasdf", "abcdefghijkl", "test-test-test", "your-password-here", "supersecretpassword",
    "Harbor-12345-harbor",
    "correct horse battery staple", "replace-me-please", "0123456789abcdef", "example-example",
]  # fmt: skip


@pytest.mark.parametrize("password", KNOWN)
def test_s31_an_example_secret_is_refused(tmp_path, password):
    write(tmp_path, username="operator", password=password)
    with pytest.raises(ConfigInvalid) as refused:
        read(tmp_path)
    assert "allowed:" in str(refused.value)
    told = str(refused.value).replace(str(tmp_path / "operator.json: password"), "")
    assert password not in told


@pytest.mark.parametrize("password", ["", "short", "k3-Vh7rWq0p", "x" * 1025])
def test_s31_a_short_an_empty_and_an_endless_secret_are_refused(tmp_path, password):
    write(tmp_path, username="operator", password=password)
    with pytest.raises(ConfigInvalid, match=f"found {len(password)} characters; allowed: 12 to 1024"):
        read(tmp_path)


@pytest.mark.parametrize("username", ["", "a:b", "x" * 257])
def test_a_name_that_basic_cannot_carry_is_refused(username):
    assert "username" in weakness(username, "k3-Vh7rWq0pLm2x")


@pytest.mark.parametrize(
    "password",
    ["k3-Vh7rWq0pLm2x", "vermilion otter sails north", "TqR9x2LmVb7Kd0Pz", "admin-zebra-lantern-91"],
)
def test_a_secret_of_ones_own_is_taken(tmp_path, password):
    assert not is_example(password)
    write(tmp_path, username="ada", password=password)
    assert read(tmp_path) == Operator("ada", password)


def test_no_generated_secret_is_taken_for_an_example(tmp_path):
    for number in range(200):
        place = tmp_path / str(number)
        place.mkdir()
        made = auth.secrets.token_urlsafe(auth.SECRET_BYTES)
        assert not weakness("operator", made)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"username": "a"}', '{"username": 1, "password": "k3-Vh7rWq0pLm2x"}',
                '{"username": "a", "password": "k3-Vh7rWq0pLm2x", "more": 1}']
)  # fmt: skip
def test_a_file_of_another_form_is_refused(tmp_path, content):
    (tmp_path / "operator.json").write_text(content)
    (tmp_path / "operator.json").chmod(0o600)
    with pytest.raises(ConfigInvalid, match="remove it, and the next start makes another"):
        read(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path)


def test_a_directory_that_cannot_be_written_is_a_sentence(tmp_path):
    with pytest.raises(ConfigInvalid, match="cannot be"):
        ensure(tmp_path / "none")


def test_a_left_over_file_of_a_crash_is_no_way_round(tmp_path):
    (tmp_path / ".operator.json.new").symlink_to(tmp_path / "elsewhere")
    ensure(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


ADA = Operator("ada", "k3-Vh7rWq0pLm2x")
WRONG = [
    None,
    "",
    "Basic",
    "Basic ",
    "Basic !!!",
    "Basic " + base64.b64encode(b"\xff\xfe").decode(),
    header("ada:"),
    header("ada:k3-Vh7rWq0pLm2"),
    header("ada:k3-Vh7rWq0pLm2xx"),
    header("ADA:k3-Vh7rWq0pLm2x"),
    header("ada"),
    header(":k3-Vh7rWq0pLm2x"),
    header("ada:k3-Vh7rWq0pLm2x", "Bearer"),
    header("ada:k3-Vh7rWq0pLm2x") + "A" * 8200,
    "k3-Vh7rWq0pLm2x",
]


@pytest.mark.parametrize("said", WRONG)
def test_wrong_credentials(said):
    assert not ADA.matches(said)


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_right_credentials(scheme):
    assert ADA.matches(header("ada:k3-Vh7rWq0pLm2x", scheme))


def test_a_password_with_colons_and_other_alphabets():
    ada = Operator("ada", "k3:Vh7:rWq0pßLm2x")
    assert ada.matches(header("ada:k3:Vh7:rWq0pßLm2x"))


def test_s35_its_text_tells_no_password():
    assert ADA.password not in f"{ADA} {ADA!r} {[ADA]}"
