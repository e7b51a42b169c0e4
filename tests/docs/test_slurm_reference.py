"""The reference pages on Slurm say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from slurm.state import JobState

REFERENCE = Path(__file__).parents[2] / "docs/reference"


def rows(page: str, heading: str = "") -> list[list[str]]:
    """The cells of the first table after the heading."""
    text = (REFERENCE / page).read_text()
    table = text[text.index(heading) :].split("|---", 1)[1]
    lines = table.split("\n\n", 1)[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_state_with_its_code_and_meaning() -> None:
    described = {row[0].strip("`"): row for row in rows("slurm-states.md")}
    assert list(described) == list(JobState)
    for state in JobState:
        _, code, _, meaning, _ = described[state]
        means = [
            word for word, holds in [("waits", state.waits), ("runs", state.runs), ("ended", state.ended)] if holds
        ]
        assert meaning == ", ".join(means + ["failed"] * state.failed)
        assert not code or JobState.parse(code) is state


def test_the_links_of_our_pages_lead_somewhere() -> None:
    pages = [REFERENCE / "slurm-states.md", REFERENCE / "sbatch-options.md", REFERENCE.parent / "howto/pyslurm.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
