"""The commands of docs/quickstart.md, "Site mode", as they stand there: what a reader types is what is tested."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/quickstart.md"

_STEP = re.compile(r"^(\d+)\. \*\*", re.MULTILINE)
_BLOCK = re.compile(r"^( *)```(console|yaml)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def block(step: int, kind: str = "console") -> str:
    """Return the code block of a numbered step, without its indentation. AssertionError if there is no such block."""
    section = PAGE.read_text().split("\n## Site mode\n")[1].split("\n## ")[0]
    parts = _STEP.split(section)
    steps = {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}
    found = [match[3] for match in _BLOCK.finditer(steps[step]) if match[2] == kind]
    assert len(found) == 1, f"step {step} of {PAGE.name} has {len(found)} blocks of the kind {kind}"
    return textwrap.dedent(found[0])


def commands(step: int) -> list[str]:
    """Return the command lines of a step, without prompts."""
    lines = block(step).splitlines()
    assert all(line.startswith(("# ", "$ ")) for line in lines), lines
    return [line[2:] for line in lines]
