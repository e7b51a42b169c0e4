"""`berth open`: links that IDEs take, opened where there is a display and printed elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from broker.text.ide_links import LINKS
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import ScriptedController, view

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with command_line(monkeypatch, tmp_path) as running:
        running.sessions["dev"] = view()
        yield running


@pytest.mark.parametrize(
    ("ide", "link"),
    [
        ("vscode", "vscode://vscode-remote/ssh-remote+dev.berth/home/alice"),
        ("cursor", "cursor://vscode-remote/ssh-remote+dev.berth/home/alice"),
        ("zed", "zed://ssh/dev.berth/home/alice"),
        (
            "jetbrains",
            "jetbrains-gateway://connect#type=ssh&deploy=true&host=dev.berth&port=22&user=alice&projectPath=%2Fhome%2Falice",
        ),
    ],
)
def test_the_link_is_printed_where_there_is_no_display(controller: ScriptedController, ide: str, link: str) -> None:
    assert controller.sessions["dev"].owner == "alice"
    assert run("open", "dev", ide).stdout == link + "\n"
    assert json.loads(run("open", "dev", ide, "--json").stdout) == {"link": link}


@pytest.mark.usefixtures("controller")
@pytest.mark.parametrize("ide", LINKS)
def test_any_path_arrives_as_it_is(ide: str) -> None:
    path = "/home/alice/a b&c#d/ü"
    link = run("open", "dev", ide, "--path", path).stdout.strip()
    parts = urlsplit(link)
    if ide == "jetbrains":
        assert parse_qs(parts.fragment)["projectPath"] == [path]
    else:
        assert unquote(parts.path).endswith(path)
        assert (parts.query, parts.fragment) == ("", "")
    for bad in ("relative", "/with\nnewline"):
        assert run("open", "dev", ide, "--path", bad).exit_code == 2


@pytest.mark.usefixtures("controller")
def test_it_is_opened_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opener = tmp_path / "bin/xdg-open"
    opener.parent.mkdir()
    opener.write_text(
        f'#!/bin/sh\necho "$1" >{tmp_path}/opened\n[ ! -e {tmp_path}/broken ] || {{ echo no IDE >&2; exit 3; }}\n'
    )
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", f"{opener.parent}:/usr/bin:/bin")
    monkeypatch.setenv("DISPLAY", ":0")
    result = run("open", "dev", "zed")
    assert (result.stdout, result.stderr) == ("", "zed is opening dev\n")
    assert (tmp_path / "opened").read_text() == "zed://ssh/dev.berth/home/alice\n"
    assert run("open", "dev", "zed", "--print").stdout == "zed://ssh/dev.berth/home/alice\n"
    (tmp_path / "broken").touch()
    result = run("open", "dev", "zed")
    assert result.exit_code == 1
    assert "zed could not be opened: no IDE" in result.stderr


@pytest.mark.usefixtures("controller")
def test_of_sessions_that_are_there_and_ides_that_are_known() -> None:
    assert run("open", "none", "zed").exit_code == 3
    result = run("open", "dev", "ed")
    assert result.exit_code == 4
    assert "IDEs are vscode, cursor, jetbrains, zed\n" in result.stderr


def test_services_are_no_ides() -> None:
    wrong = run("open", "dev", "No_Name", "--local")
    assert wrong.exit_code == 2
    assert "'No_Name' is neither an IDE (vscode, " in wrong.stderr
    assert ") nor a valid name of a service: it " in wrong.stderr
    path = run("open", "dev", "web", "--local", "--path", "/x")
    assert path.exit_code == 2
    assert "--path is for IDEs, and web is a service\n  hint: omit --path, as in `berth open dev web`\n" in path.stderr
