"""The sequences by which IDEs open a session, as the scripts in `ides/`, with two clients and by both ways in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.lab.ways import Way

IDES = Path(__file__).parent / "ides"


@pytest.fixture(scope="module")
def session(people: dict[str, User]) -> Iterator[str]:
    alice = people["alice"]
    alice.ok("start", "ides", "--profile", "base", "--mem=2G")
    yield "ides"
    alice.remove("ides")


def test_vscode_finds_its_server_again(way: Way) -> None:
    said = way.run((IDES / "vscode.sh").read_text())
    assert said.splitlines() == ["started", "from the server", "found", "from the server"]


def test_jetbrains_installs_and_reaches_its_backend(way: Way) -> None:
    said = way.run((IDES / "jetbrains.sh").read_text())
    assert said.splitlines() == [*map(str, range(1, 21)), "backend"]


def test_zed_talks_to_its_server(way: Way) -> None:
    said = way.run((IDES / "zed.sh").read_text())
    assert said.splitlines()[-1] == "answer to 1000"
