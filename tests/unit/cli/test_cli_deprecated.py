"""Commands that use a deprecated version say so on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.schema.sessions import SessionState
from profiles.image.channels_file import CHANNELS_FILE, Channels, VersionState
from profiles.image.store import Store
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import ScriptedController, operation, ready, view
from tests.fakes.core import publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from profiles.image.store import Image

NOTE = "base@1 is deprecated since 1970-01-0"


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        yield running


@pytest.fixture
def image(controller: ScriptedController, tmp_path: Path) -> Image:
    """base@1, which is deprecated, and a stopped session from it."""
    image = publish(Store(tmp_path / "store"))
    states = {"1": VersionState("deprecated", 86400.0, "old libc", "2")}
    (image.directory.parent / CHANNELS_FILE).write_text(Channels({}, states).text())
    controller.sessions["dev"] = view("dev", digest=image.digest)
    return image


def test_start_says_it_and_keeps_its_answer(controller: ScriptedController, image: Image) -> None:
    controller.sessions["dev"] = ready("dev", digest=image.digest)
    result = run("start", "dev", "--no-wait")
    assert NOTE in result.stderr
    assert "old libc; use base@2 instead" in result.stderr
    assert NOTE not in run("start", "dev", "--no-wait", "--json").stdout


def test_start_from_another_image_of_that_name_says_nothing(controller: ScriptedController, image: Image) -> None:
    controller.sessions["dev"] = ready("dev", digest="sha256:other")
    assert image.version == "1"
    result = run("start", "dev", "--no-wait")
    assert (result.exit_code, "deprecated" in result.stderr) == (0, False)


@pytest.mark.parametrize("text", ["{", '{"format": 1, "versions": {"1": {}}}', "[" * 10_000])
def test_damaged_channels_do_not_disturb_a_start(controller: ScriptedController, image: Image, text: str) -> None:
    controller.sessions["dev"] = ready("dev", digest=image.digest)
    (image.directory.parent / CHANNELS_FILE).write_text(text)
    result = run("start", "dev", "--no-wait")
    assert (result.exit_code, "deprecated" in result.stderr) == (0, False)


def test_clone_to_a_profile_says_it(controller: ScriptedController, image: Image) -> None:
    making = view("trial", SessionState.CHANGING, operation=operation("clone"), digest=image.digest)
    controller.script["trial"] += [making, view("trial", operation=operation("clone", "done"), digest=image.digest)]
    result = run("clone", "dev", "trial", "--profile", "base@1")
    assert result.exit_code == 0
    assert NOTE in result.stderr


def test_switch_says_it_before_it_asks(controller: ScriptedController, image: Image) -> None:
    assert controller.sessions["dev"].digest == image.digest
    result = run("switch", "dev", "base@1", "--yes", "--no-wait")
    assert NOTE in result.stderr
