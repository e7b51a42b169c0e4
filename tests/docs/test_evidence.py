"""Names in the pages exist: tests, files, constants, failpoints, and every decision in the index."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from slurm.state import JobState
from tests.docs.generate import PROSE, ROOT

if TYPE_CHECKING:
    from pathlib import Path

TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
REFERENCE = re.compile(r"`((?:tests/[\w/]+/)?test_\w+\.py|…)((?:::\w+)*)`")
FILE = re.compile(r"`((?:broker|profiles|slurm|tests)/[\w/.-]+\.(?!h`)\w+)`")
CONSTANT = re.compile(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)`")
NOT_OURS = {*JobState, "LOST", "PATH"}
"""Words in capital letters that are no constants."""

LONG_PART_CHARACTERS = 16
"""A shorter part of a log line occurs by chance, or holds a variable word."""


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "least"), [("security.md", 50), ("behaviour.md", 5)])
def test_every_test_that_a_page_names_exists(page: str, least: int) -> None:
    found = REFERENCE.findall(text_of(page))
    assert len(found) > least
    file = ""
    for name, inside in found:
        file = file if name == "…" else name  # an ellipsis stands for the file that was named last
        texts = [each.read_text(encoding="utf-8") for each in TESTS if str(each).endswith(f"/{file}")]
        assert texts, file
        defined = [re.compile(rf"(def|class) {part}\b") for part in inside.split("::")[1:]]
        assert any(all(each.search(text) for each in defined) for text in texts), f"{file}{inside}"


@pytest.mark.parametrize("page", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    assert [file for file in FILE.findall(page.read_text(encoding="utf-8")) if not (ROOT / file).exists()] == []


def test_every_constant_that_behaviour_names_is_in_its_file() -> None:
    """In one of the files that the same paragraph or row names, or in any if it names none."""
    sources = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in _sources()}
    found = 0
    for part in re.split(r"\n(?=\|)|\n\n", text_of("behaviour.md")):
        files = FILE.findall(part) or list(sources)
        for name in set(CONSTANT.findall(part)) - NOT_OURS:
            found += 1
            definition = re.compile(rf"^ *(readonly )?([A-Z_]+, )*{name}\b[^\n]*[=:]", re.MULTILINE)
            assert any(definition.search(sources.get(file, "")) for file in files), f"{name} in {files[:3]}"
    assert found > 40


def test_log_lines_that_operators_look_for_exist() -> None:
    """Their longer parts, between variable ones, are in the source."""
    source = "\n".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text(encoding="utf-8")) for file in _sources())
    table = text_of("howto/operate.md").split("| line | meaning |")[1].split("\n\n")[0]
    lines = [line for row in table.splitlines()[2:] for line in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert len(lines) > 10
    parts = [part.strip(" :,") for line in lines for part in line.split("…")]
    assert [part for part in parts if len(part) >= LONG_PART_CHARACTERS and part not in source] == []


def _sources() -> list[Path]:
    return [file for kind in ("*.py", "*.sh") for file in (ROOT / "broker").rglob(kind)] + [
        *(ROOT / "profiles").rglob("*.py"),
        *(ROOT / "slurm").rglob("*.py"),
    ]


def test_every_failpoint_is_in_behaviour() -> None:
    sources = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "broker").rglob("*.py"))
    labels = re.findall(r'failpoint\("([\w.-]+)"\)', sources)
    assert labels
    text = text_of("behaviour.md")
    assert [label for label in labels if f"`{label}`" not in text] == []


def test_every_failpoint_is_armed_in_a_test() -> None:
    sources = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "broker").rglob("*.py"))
    labels = set(re.findall(r'failpoint\("([\w.-]+)"\)', sources))
    tests = "\n".join(file.read_text(encoding="utf-8") for file in TESTS)
    assert [label for label in sorted(labels) if f'"{label}"' not in tests] == []


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "adr"
    index = " ".join(text_of("adr/README.md").split())
    for file in sorted(folder.glob("[0-9]*.md")):
        title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        assert f"- [{title}]({file.name})" in index, file.name
