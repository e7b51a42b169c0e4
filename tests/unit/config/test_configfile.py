"""The quick look at the configuration agrees with the checked one, or leaves the answer to it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from broker.config import file as configfile
from broker.config.settings import load_config
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        monkeypatch.setenv("BERTH_CONFIG", str(file))
        return file

    return write


PLAIN = ["", "mode: site", "runtime_dir: /run/other", "mode: site\nruntime_dir: /run/x  # a comment\n"]
NESTED = "# Site\nslurm:\n  options: ['--mem=1G']\n\nruntime_dir: /run/x\nssh: {domain: berth}\n"
ODD = [
    "---\nruntime_dir: /run/x",
    "runtime_dir: '/run/x'",
    "runtime_dir:\n  /run/x",
    "runtime_dir: /run/x\n  y",
    "runtime_dir: /run/x#y",
    "{runtime_dir: /run/x}",
    "runtime_dir: /run/x\nruntime_dir: /run/y",
    "ssh: {\ndomain:\nberth}",
    'storage:\n  binds: [\n"/run/x:ro"]',
    "? runtime_dir\n: /run/x",
    "&name runtime_dir: /run/x",
    "slurm:\n  options:\n  - --mem=1G\nruntime_dir: /run/x",
]
"""Correct YAML that a look at single lines might misread."""


@pytest.mark.parametrize("text", [*PLAIN, NESTED, *ODD])
def test_a_site_is_read_alike(written: Callable[[str], Path], text: str) -> None:
    written(text)
    assert configfile.site_socket() == load_config().api_socket


@pytest.mark.parametrize("text", [*PLAIN, NESTED])
def test_a_plain_site_is_read_without_yaml(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    written(text)
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert configfile.site_socket() is not None


@pytest.mark.parametrize("text", ["", "ssh: {answer_timeout: 20}", "ssh: {answer_timeout: 2.5, domain: berth}"])
def test_time_for_an_answer_is_read_alike(written: Callable[[str], Path], text: str) -> None:
    written(text)
    assert configfile.connect_settings() == (load_config().api_socket, load_config().ssh.answer_timeout)


@pytest.mark.parametrize("value", ["0.5", "301", "soon", ".nan", ".inf", "[]"])
def test_impossible_time_for_an_answer_is_refused(written: Callable[[str], Path], value: str) -> None:
    written(f"ssh: {{answer_timeout: {value}}}")
    assert configfile.connect_settings() is None
    with pytest.raises(InvalidInputError, match=r"ssh\.answer_timeout"):
        load_config()


@pytest.mark.parametrize("text", ["mode: personal", "mode: other", "runtime_dir: 7", "runtime_dir: ~/run"])
def test_all_else_is_left_to_the_checked_one(written: Callable[[str], Path], text: str) -> None:
    written(text)
    assert configfile.site_socket() is None


@pytest.mark.parametrize("text", ["a: [", "- a"])
def test_what_is_no_configuration_is_refused(written: Callable[[str], Path], text: str) -> None:
    file = written(text)
    with pytest.raises(InvalidInputError, match=str(file)):
        configfile.site_socket()


def test_no_file_means_personal_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BERTH_CONFIG", raising=False)
    monkeypatch.setattr(configfile, "SITE_CONFIG", tmp_path / "none.yaml")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert configfile.site_socket() is None
    assert load_config().runtime_dir == tmp_path / "berth"
