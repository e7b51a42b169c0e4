"""The scripts that prepare a dev container's session and run its commands, in a real bash."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from profiles.devcontainer.lifecycle import Hook
from profiles.devcontainer.session_scripts import (
    DONE,
    STATE,
    hook_mark,
    hook_script,
    is_due,
    read_marks,
    setup_script,
)
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Inside:
    """A home, a system and a repository, as a session has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        text = script.replace(STATE, str(self.folder / "state")).replace("/srv", str(self.folder / "work"))
        env = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "IMAGE": "of the image"}
        return subprocess.run(
            ["/bin/bash", "-s"], input=text, capture_output=True, text=True, timeout=DEADLINE_S, env=env, check=False
        )

    def prepare(self, environment: Mapping[str, str | None] | None = None) -> dict[str, str]:
        done = self.run(setup_script("/srv/repo", ["/srv/cache dir"], environment or {}, ["a.b", "c.d"]))
        assert done.returncode == 0, done.stderr
        return read_marks(done.stdout)

    def hook(self, *lines: tuple[str, str], key: str = "postCreateCommand", run: str = "1.0") -> tuple[int, str]:
        hook = Hook(key, "", lines)
        done = self.run(hook_script(hook, "/srv/repo", hook_mark(hook), run))
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    return Inside(tmp_path)


def test_preparation_makes_directories_settings_and_no_secret_for_others(inside: Inside) -> None:
    assert inside.prepare({"A": "it's ${containerEnv:IMAGE} $(id)", "IMAGE": None}) == {}
    assert (inside.folder / "work/cache dir").is_dir()
    settings = inside.home / ".config/berth"
    assert (settings / "vscode-extensions").read_text() == "a.b\nc.d\n"
    assert (settings / "environment.sh").stat().st_mode & 0o777 == 0o600
    done = inside.run('. "$HOME/.config/berth/environment.sh"; echo "$A|${IMAGE-none}"')
    assert done.stdout == "it's of the image $(id)|none\n"
    inside.prepare({})
    assert (settings / "environment.sh").read_text() == ""


def test_command_runs_in_the_repository_and_leaves_its_mark(inside: Inside) -> None:
    inside.prepare()
    code, output = inside.hook(("", 'pwd; echo "$0" | wc -l; cat'))
    assert (code, output.splitlines()) == (0, [str(inside.folder / "work/repo"), "1"])
    assert inside.prepare() == {"postCreateCommand.own": "1.0"}


def test_failing_command_leaves_no_mark(inside: Inside) -> None:
    inside.prepare()
    assert inside.hook(("", "echo no; exit 7; echo never")) == (7, "no\n")
    assert inside.prepare() == {}


def test_commands_of_one_hook_run_at_the_same_time_and_all_must_succeed(inside: Inside) -> None:
    inside.prepare()
    meet = "mkfifo a b 2>/dev/null || :"
    assert inside.hook(("", meet))[0] == 0
    assert inside.hook(("one", "echo x >a; read y <b"), ("two", "read y <a; echo x >b"))[0] == 0
    code, output = inside.hook(("good", "true"), ("it's bad", "exit 9"), key="onCreateCommand")
    assert (code, output) == (9, "it's bad failed with exit code 9\n")
    assert set(inside.prepare()) == {"postCreateCommand.own"}


@pytest.mark.parametrize(
    ("key", "marks", "due"),
    [
        ("onCreateCommand", {}, True),
        ("onCreateCommand", {"onCreateCommand.own": "0.0"}, False),
        ("postStartCommand", {"postStartCommand.own": "0.0"}, True),
        ("postStartCommand", {"postStartCommand.own": "1.0"}, False),
        ("postAttachCommand", {"postAttachCommand.own": "1.0"}, True),
    ],
)
def test_when_a_command_is_due(key: str, marks: dict[str, str], due: bool) -> None:
    assert is_due(Hook(key, "", (("", "true"),)), marks, "1.0") is due


def test_marks_of_features_are_their_own_and_other_output_is_none() -> None:
    own, feature = Hook("onCreateCommand", "", ()), Hook("onCreateCommand", "registry.example.org/a/b", ())
    assert hook_mark(own) != hook_mark(feature)
    assert read_marks(f"welcome\n{DONE}a.own 1.0\n{DONE}copied \n") == {"a.own": "1.0", "copied": ""}
