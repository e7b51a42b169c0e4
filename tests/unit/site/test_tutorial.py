"""The tutorial's page: each picture shows the commands before it, and every command has a place to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.site import tutorial
from tests.site.deploy import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path


def test_each_picture_shows_the_commands_since_the_one_before() -> None:
    pictures = tutorial.read_pictures()
    assert len(pictures) >= 6
    assert all(picture.commands and picture.title for picture in pictures)
    places = {command.place for picture in pictures for command in picture.commands}
    assert places == {"login", "laptop", "session"}


def test_each_picture_is_there_and_shows_these_commands() -> None:
    """A changed page needs `make picture`."""
    for picture in tutorial.read_pictures():
        drawn = picture.file.read_text(encoding="utf-8").replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")
        for command in picture.commands:
            assert command.line[:60] in drawn, f"{picture.file.name} lacks {command.line!r}: run `make picture`"


def test_the_program_that_the_tutorial_copies_is_there() -> None:
    (copy,) = [each for picture in tutorial.read_pictures() for each in picture.commands if each.place == "laptop"]
    assert (CHECKOUT / copy.line.split()[-2]).is_file()


def test_a_command_without_a_prompt_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\nberth list\n```\n")
    monkeypatch.setattr(tutorial, "PAGE", page)
    with pytest.raises(AssertionError, match="has no prompt"):
        tutorial.read_pictures()


def test_commands_that_no_picture_shows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\nlogin$ berth list\n```\n")
    monkeypatch.setattr(tutorial, "PAGE", page)
    with pytest.raises(AssertionError, match="no picture shows"):
        tutorial.read_pictures()
