"""`slurm.lab exec`: the environment of the command."""

from __future__ import annotations

import pytest

from slurm.lab import cli, terminal


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
