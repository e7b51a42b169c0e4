"""Modules are as short as CONTRIBUTING.md demands, those of tests too."""

from __future__ import annotations

import re

from tests.docs.generate import ROOT

FOLDERS = ("broker", "profiles", "slurm", "tui", "tests")


def test_no_module_is_longer_than_contributing_allows() -> None:
    allowed = re.search(r"Above (\d+), split it", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert allowed is not None
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    assert all(any(name.startswith(f"{folder}/") for name in lines) for folder in FOLDERS)
    assert {name: length for name, length in lines.items() if length > int(allowed[1])} == {}
