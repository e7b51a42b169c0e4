"""Logins to registries from the files of other programs, and the answers to challenges."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from profiles.errors import RegistryRefusedError, TransferError
from profiles.oci.registry_login import find_login, login_files, names_helper
from profiles.oci.registry_token import Challenge, parse_token


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, data: Any, mode: int = 0o600) -> Path:  # noqa: ANN401 - any JSON
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    path.chmod(mode)
    return path


def test_files_are_those_of_podman_and_docker_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": "/home/alice", "XDG_RUNTIME_DIR": "/run/user/1"})
    assert login_files() == [
        Path("/run/user/1/containers/auth.json"),
        Path("/home/alice/.config/containers/auth.json"),
        Path("/home/alice/.docker/config.json"),
    ]
    monkeypatch.setattr(os, "environ", {"HOME": "/h", "REGISTRY_AUTH_FILE": "/a", "DOCKER_CONFIG": "/d"})
    assert login_files() == [Path("/a"), Path("/h/.config/containers/auth.json"), Path("/d/config.json")]


def test_first_file_with_the_registry_and_longest_name_count(tmp_path: Path) -> None:
    first = write(tmp_path / "1", {"auths": {"other.example": auth("x", "x"), "r.example/team": auth("team", "t")}})
    entries = {"r.example": auth("alice", "a:b"), "https://old.example/v1/": auth("bob", "b")}
    second = write(tmp_path / "2", {"auths": entries})
    files = [tmp_path / "missing", first, second]
    found = find_login("r.example", "team/small", files)
    assert found is not None
    assert (found.user, found.password, found.file) == ("team", "t", first)
    other = find_login("r.example", "else", files)
    assert other is not None
    assert (other.user, other.password) == ("alice", "a:b")
    old = find_login("old.example", "x", files)
    assert old is not None
    assert old.user == "bob"
    assert find_login("no.example", "x", files) is None
    assert "a:b" not in repr(other)


def test_file_that_others_can_read_is_refused_only_if_it_has_the_login(tmp_path: Path) -> None:
    file = write(tmp_path / "1", {"auths": {"r.example": auth("alice", "a")}}, 0o644)
    with pytest.raises(RegistryRefusedError, match="other users can read the logins") as caught:
        find_login("r.example", "x", [file])
    assert "chmod 600" in caught.value.hint
    assert find_login("other.example", "x", [file]) is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        {"auths": {"r.example": {"auth": "%%%"}}},
        {"auths": {"r.example": {"auth": base64.b64encode(b"nobody").decode()}}},
        {"auths": {"r.example": {"auth": base64.b64encode(b"a:b\r\nX-Evil: 1").decode()}}},
        {"auths": {"r.example": {"auth": 7}}},
        {"auths": {"r.example": {"identitytoken": "x"}}},
        '{"auths": {}}' + " " * 2**20,
    ],
    ids=["no json", "nested", "no base64", "no password", "a header", "a number", "a token", "too large"],
)
def test_damaged_file_is_named(tmp_path: Path, content: Any) -> None:  # noqa: ANN401 - any JSON
    file = write(tmp_path / "auth.json", content)
    with pytest.raises(RegistryRefusedError, match=r"auth\.json"):
        find_login("r.example", "x", [file])


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "auth.json")
    with pytest.raises(RegistryRefusedError, match="named pipe"):
        find_login("r.example", "x", [tmp_path / "auth.json"])


def test_program_of_a_file_is_named_and_not_run(tmp_path: Path) -> None:
    file = write(tmp_path / "1", {"credHelpers": {"r.example": f"../../{tmp_path}/evil"}})
    assert names_helper("r.example", [file])
    assert not names_helper("other.example", [file])
    assert names_helper("any.example", [write(tmp_path / "2", {"credsStore": "secretservice"})])
    assert find_login("r.example", "x", [file]) is None


def test_challenge_has_realm_and_service() -> None:
    header = 'Bearer realm="https://auth.example/token?a=b",service="r.example",scope="repository:x:pull"'
    found = Challenge.parse(['Basic realm="x"', header])
    assert found.is_bearer
    url = found.token_url("repository:team/small:pull")
    assert url == "https://auth.example/token?a=b&service=r.example&scope=repository%3Ateam%2Fsmall%3Apull"
    assert not Challenge.parse(['basic realm="x"']).is_bearer


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Negotiate",
        "Bearer realm=https://a.example",
        'Bearer realm="https://a.example"; service="x"',
        'Bearer realm="https://a.example",realm="https://b.example"',
        'Bearer realm="https://a.example\\"",service="x"',
        'Bearer service="x"',
        'Bearer realm="ftp://a.example/"',
        'Bearer realm="https://user:pw@a.example/"',
        'Bearer realm="https://[/"',
        'Bearer realm="//a.example/"',
        f'Bearer realm="https://a.example/{"x" * 5000}"',
    ],
)
def test_other_challenge_is_refused(header: str) -> None:
    with pytest.raises(TransferError):
        Challenge.parse([header]).token_url("repository:x:pull")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a b"}', b'{"token": "a\\r\\nX: y"}']
)
def test_token_that_cannot_be_sent_is_refused(content: bytes) -> None:
    with pytest.raises(TransferError):
        parse_token(content)


def test_token_has_one_of_two_names() -> None:
    assert parse_token(b'{"token": "abc.def"}') == "abc.def"
    assert parse_token(b'{"access_token": "abc"}') == "abc"
