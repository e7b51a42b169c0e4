"""`berth` run in this process against a scripted controller, with a home of its own."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner

from broker.cli.app import berth
from broker.client import http
from tests.fakes.controller import ScriptedController

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest
    from click.testing import Result


@contextlib.contextmanager
def command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    """Point `berth` at a scripted controller and an empty home below `tmp_path`."""
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "BERTH_DEBUG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with ScriptedController() as controller:
        config = tmp_path / "config.yaml"
        config.write_text(
            f"runtime_dir: {controller.directory}\nprofiles:\n  stores: [{tmp_path / 'store'}]\n"
            f"storage: {{root: '{tmp_path}/shared/{{user}}'}}\n",
            encoding="utf-8",
        )
        monkeypatch.setenv("BERTH_CONFIG", str(config))
        yield controller


def run(*words: str, input: str | bytes | None = None) -> Result:  # noqa: A002 - as CliRunner calls it
    """Run one command line to its end, as if in a process of its own."""
    http.changes.clear()
    return CliRunner().invoke(berth, words, input=input)
