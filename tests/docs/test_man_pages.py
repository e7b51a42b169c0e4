"""Every command has a man page, which the wheel installs, with its options and in correct roff."""

from __future__ import annotations

import re
import tomllib

import pytest

from broker.cli.command_table import COMMANDS
from tests.docs.generate import ROOT, commands

MANUAL = ROOT / "docs" / "man"
MACROS = {"TH", "SH", "SS", "B", "BI", "BR", "RB", "RI", "I", "IR", "IB", "PP", "TP", "nf", "fi"}


def test_every_command_has_a_page_and_every_page_a_command() -> None:
    expected = {"berth.1"} | {f"berth-{name}.1" for name in COMMANDS}
    assert {path.name for path in MANUAL.iterdir()} == expected


def test_the_wheel_installs_the_pages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {"docs/man": "share/man/man1"}


@pytest.mark.parametrize("page", sorted(MANUAL.iterdir()), ids=lambda path: path.name)
def test_pages_are_correct_roff(page: str) -> None:
    text = (MANUAL / page).read_text(encoding="utf-8")
    requests = re.findall(r"^[.']\s*(\S*)", text, re.MULTILINE)
    assert set(requests) <= MACROS
    assert requests.count("nf") == requests.count("fi")
    assert set(re.findall(r"\\(\(..|.)", text)) <= {"-", "&", "e", "f", "(aq", "(ha", "(ti"}
    assert requests[:2] == ["TH", "SH"]


def test_a_page_has_all_options_of_its_commands() -> None:
    for name, context in commands():
        words = name.split()[:2]
        page = (MANUAL / f"{'-'.join(words)}.1").read_text(encoding="utf-8").replace("\\-", "-")
        for param in context.command.params:
            if param.param_type_name == "option" and not getattr(param, "hidden", False):
                assert all(option in page for option in param.opts), name
