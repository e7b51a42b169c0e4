"""`slurm.lab exec` and `down`: the environment of a command, and a first word at once."""

from __future__ import annotations

import pytest

from slurm.lab import cli, lifecycle, terminal


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (["--tty"], {"LANG": "C.UTF-8"}),
        (["--tty", "--env", "LANG=C"], {"LANG": "C"}),
    ],
)
def test_command_with_a_terminal_gets_a_locale(
    monkeypatch: pytest.MonkeyPatch, words: list[str], env: dict[str, str]
) -> None:
    asked = list[object]()

    def exec_argv(*_: object, **options: object) -> list[str]:
        asked.append(options["env"])
        return ["true"]

    monkeypatch.setattr(cli, "exec_argv", exec_argv)
    monkeypatch.setattr(terminal, "run_on_terminal", lambda *_: 0)
    assert cli.main(["exec", "login", *words, "--", "true"]) == 0
    assert asked == [env]


def test_end_of_a_lab_is_announced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = list[str]()
    monkeypatch.setattr(lifecycle, "take_down", lambda *_, **__: said.append(capsys.readouterr().err))
    monkeypatch.setattr(cli, "check_root", lambda: None)
    assert cli.main(["down", "--name", "lab"]) == 0
    assert said == ["taking lab lab down\n"]
