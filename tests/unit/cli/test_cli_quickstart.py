"""`berth quickstart`: the steps, the questions, and the script that it prints without a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.cli.commands import quickstart
from broker.schema.login import UserCertificateView
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import run
from tests.fakes.controller import view

if TYPE_CHECKING:
    from tests.fakes.controller import ScriptedController

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5o0mKIvqRkL7qs1Y8k2NVLI4sYrM0QZQ0dKz8UgQ0b alice@laptop\n"

NEW_KEY = "~/.ssh/id_ed25519.pub.new"


@pytest.fixture
def home(controller: ScriptedController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new user's home: a key, bash, and a store with the profile base. `berth start` is recorded in `started`."""
    assert controller.sessions == {}
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519.pub").write_text(KEY)
    publish(tmp_path, "base")
    program = tmp_path / "bin/berth"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1" != start ] || {{ echo "$@" >>{tmp_path}/started; exit $(cat {tmp_path}/code); }}\n'
        f'exec {sys.executable} -m broker.cli "$@"\n'
    )
    program.chmod(0o755)
    (tmp_path / "code").write_text("0")
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("SHELL", "/bin/bash")
    return tmp_path


def publish(home: Path, name: str) -> None:
    """Put an image into the store, as far as its description goes."""
    folder = home / "store" / name / "1"
    folder.mkdir(parents=True)
    recipe = {"name": name, "version": "1", "base": "debian:sid"}
    numbers = {"size": 4096, "created": 1.0, "offset": 4096}
    described = {"name": name, "version": "1", "digest": f"sha256:{'0' * 64}", "labels": {}, "profile": recipe}
    (folder / "image.json").write_text(json.dumps({**described, **numbers}))
    (folder / "image.sif").write_bytes(bytes(4096))


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "is_terminal", lambda _: True)


def files(home: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_a_new_user_agrees_to_everything(
    home: Path, controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(monkeypatch)
    result = run("quickstart", input="y\ny\ny\ny\n")
    assert result.exit_code == 0, result.stderr
    assert "alice@laptop" in {key.comment for key in controller.keys.values()}
    assert (home / ".bashrc").read_text() == 'eval "$(berth completion bash)"\n'
    assert "berth" in (home / ".ssh/config").read_text()
    assert (home / "started").read_text() == "start dev --profile base\n"
    assert "next: `ssh dev.berth` logs in" in result.stderr
    assert result.stderr.startswith("checking which steps are done\n1/4 ")


def test_each_question_shows_the_commands_and_what_they_change(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch)
    before = files(home)
    result = run("quickstart", input="n\nn\nn\nn\n")
    assert result.exit_code == 0
    assert files(home) == before
    for command in ("key add ~/.ssh/id_ed25519.pub", "ssh-config --install", "start dev --profile base"):
        assert f"    $ berth {command}\n    changes: " in result.stderr
    assert result.stderr.count("skipped; nothing was changed") == 4
    assert "next: `berth ssh dev` logs in" in result.stderr, "without the ssh configuration, its names are unknown"


def test_wrong_answers_are_asked_again_with_the_remedy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch)
    publish(home, "other")
    result = run("quickstart", input="maybe\nN\nNO\nn\nx\nother\n yes \n")
    assert result.exit_code == 0
    for answer, remedy in (("maybe", "type y or n; Enter alone means yes"), ("x", "type one of base, other")):
        assert f"berth: '{answer}' is not an answer to this question\n  hint: {remedy}\n" in result.stderr
    assert "Error" not in result.stderr
    assert (home / "started").read_text() == "start dev --profile other\n"


def test_an_interruption_at_a_question_changes_nothing_more(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch)
    before = files(home)
    assert run("quickstart", input="").exit_code != 0
    assert files(home) == before


def test_without_a_terminal_it_prints_a_script_and_changes_nothing(home: Path, controller: ScriptedController) -> None:
    before = files(home)
    result = run("quickstart", input="y\ny\ny\ny\n")
    assert result.exit_code == 0
    assert files(home) == before
    assert {method for method, _, _ in controller.asked} == {"GET"}
    done = subprocess.run(
        ["/bin/sh", "-eu"],
        input=result.stdout.encode(),
        env={**run_environment(home), "PATH": f"{home}/bin:/usr/bin:/bin"},
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert controller.keys
    assert (home / "started").exists()
    assert (home / ".bashrc").exists()


def run_environment(home: Path) -> dict[str, str]:
    """The variables with which a user's shell finds the scripted controller."""
    source = str(Path(__file__).parents[3])
    return {"HOME": str(home), "BERTH_CONFIG": str(home / "config.yaml"), "PYTHONPATH": source}


def test_steps_that_are_done_are_skipped(
    home: Path, controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("key", "add", str(home / ".ssh/id_ed25519.pub"))
    run("ssh-config", "--install")
    (home / ".bashrc").write_text('eval "$(berth completion bash)"\n')
    controller.sessions["dev"] = view("dev")
    on_terminal(monkeypatch)
    result = run("quickstart")
    assert result.exit_code == 0
    assert result.stderr.count("already done") == 4
    assert "Run this?" not in result.stderr


def test_a_command_that_fails_ends_with_its_name_and_the_way_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch)
    (home / "code").write_text("4")
    result = run("quickstart", input="n\nn\nn\ny\n")
    assert result.exit_code == 1
    assert "`berth start dev --profile base` ended with exit code 4" in result.stderr
    assert "run `berth quickstart` again" in result.stderr


def test_the_user_chooses_among_several_profiles(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(home, "triton-xpu")
    on_terminal(monkeypatch)
    assert run("quickstart", input="n\nn\nn\ntriton-xpu\ny\n").exit_code == 0
    assert (home / "started").read_text() == "start dev --profile triton-xpu\n"


@pytest.mark.parametrize(
    ("key", "command"),
    [
        (None, "ssh-keygen -t ed25519 -f ~/.ssh/id_ed25519"),
        ("id_ed25519", f"ssh-keygen -y -f ~/.ssh/id_ed25519 > {NEW_KEY} && mv {NEW_KEY} ~/.ssh/id_ed25519.pub"),
    ],
)
def test_a_missing_public_key_is_made_first(home: Path, key: str | None, command: str) -> None:
    (home / ".ssh/id_ed25519.pub").unlink()
    if key:
        (home / ".ssh" / key).write_text("private")
    lines = run("quickstart").stdout.splitlines()
    assert lines[lines.index(command) + 1] == "berth key add ~/.ssh/id_ed25519.pub"


def test_a_site_with_certificates_asks_for_a_login(home: Path, controller: ScriptedController) -> None:
    assert home
    controller.site = controller.site.model_copy(update={"login_with": "certificates"})
    assert "\nberth login\n" in run("quickstart").stdout
    now = time.time()
    controller.certificates = [
        UserCertificateView(
            fingerprint="SHA256:x", comment="", serial=1, issued_at=now, valid_before=now + 3600, revoked_at=None
        )
    ]
    assert "\nberth login\n" not in run("quickstart").stdout


def test_without_a_profile_it_says_whom_to_ask(home: Path) -> None:
    (home / "store/base/1/image.json").unlink()
    (home / "store/base/1/image.sif").unlink()
    (home / "store/base/1").rmdir()
    result = run("quickstart")
    assert "no profile is published; ask your site's profile team" in result.stdout
    assert "berth start" not in result.stdout


@pytest.mark.parametrize(
    ("shell", "line"), [("zsh", ">> ~/.zshrc"), ("fish", "berth.fish"), ("tcsh", "bash, zsh and fish")]
)
def test_completion_follows_the_users_shell(home: Path, shell: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert line in run("quickstart").stdout


def test_json_has_the_steps_and_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch)
    before = files(home)
    steps = json.loads(run("quickstart", "--json").stdout)["steps"]
    assert [step["name"] for step in steps] == ["key", "completion", "ssh", "session"]
    assert steps[3]["commands"] == ["berth start dev --profile base"]
    assert files(home) == before
