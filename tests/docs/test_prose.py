"""The prose of the pages: its width, its words, the size of table cells and of the README."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

import pytest

from tests.docs.generate import PROSE, ROOT, pages
from tests.docs.words import WORDS
from tests.docs.wrap import WIDTH, wrap
from tests.site import picture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CELL_CHARACTERS = 300
"""A longer text is a section and not a cell of a table."""

SCREENS_LINES = 90
"""Two screens of a terminal, with some room: the README's limit."""

_CODE = re.compile(r"^ *```.*?^ *```$|``.+?``|`[^`]+`", re.MULTILINE | re.DOTALL)
_CODE_BLOCK = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_CELLS = re.compile(r"(?<!\\)\|")


def cells(text: str) -> Iterator[str]:
    """Yield the cells of all tables of a page."""
    for line in _CODE_BLOCK.sub("", text).splitlines():
        if line.lstrip().startswith("|"):
            yield from (cell.strip() for cell in _CELLS.split(line.strip().strip("|")))


def long_lines(text: str) -> list[str]:
    """Return the lines that `wrap` would make shorter: tables, code, headings and single words are exempt."""
    wrapped = set(wrap(text).splitlines())
    return [line for line in text.splitlines() if len(line) > WIDTH and line not in wrapped]


def words_not_to_use(text: str) -> list[str]:
    """Return the words of the list in a page, without its code, each with the text around it."""
    prose = " ".join(_CODE.sub("`…`", text).split())
    return [prose[max(0, found.start() - 40) : found.end() + 40] for found in WORDS.finditer(prose)]


@pytest.mark.parametrize("page", sorted({*PROSE} - {*pages()}), ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_plain_words(page: Path) -> None:
    """Generated pages have the words of the source."""
    assert words_not_to_use(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Nobody is told.", 2),
        ("The session goes\non.", 1),
        ("It is to be had.", 1),
        ("The exit code is to be added.", 1),
        ("Work has to be copied before it is to be read.", 0),
        ("`berth set` prints `nobody`.", 0),
        ("```\nthe job goes on\n```", 0),
        ("A category on its own.", 0),
    ],
)
def test_a_word_of_the_list_is_recognised(text: str, count: int) -> None:
    assert len(words_not_to_use(text)) == count


@pytest.mark.parametrize("page", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_cells_of_tables_are_short(page: Path) -> None:
    assert [cell[:60] for cell in cells(page.read_text(encoding="utf-8")) if len(cell) > CELL_CHARACTERS] == []


def test_a_long_cell_is_recognised() -> None:
    table = f"| a | b |\n|---|---|\n| {'x' * 301} | `y\\|z` |\n\n```\n| {'z' * 301} |\n```\n"
    assert [cell for cell in cells(table) if len(cell) > CELL_CHARACTERS] == ["x" * 301]


@pytest.mark.parametrize("page", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_wrapped(page: Path) -> None:
    assert long_lines(page.read_text(encoding="utf-8")) == [], "run `make docs`"


@pytest.mark.parametrize(
    ("text", "too_long"),
    [
        ("a " * 60, True),
        ("- " + "a " * 60, True),
        ("| " + "a " * 60 + "|", False),
        ("```\n" + "a " * 60 + "\n```", False),
        ("`" + "a " * 60 + "`", False),
        ("[text](https://example.org/" + "a" * 100 + ")", False),
    ],
)
def test_a_long_line_is_recognised(text: str, too_long: bool) -> None:
    assert bool(long_lines(text)) is too_long


def test_wrapping_changes_no_word() -> None:
    for page in PROSE:
        text = page.read_text(encoding="utf-8")
        assert wrap(text).split() == text.split(), page.name
        assert wrap(wrap(text)) == wrap(text), page.name


def test_readme_has_two_screens_at_most() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= SCREENS_LINES


def test_the_picture_shows_its_scripts_commands() -> None:
    """A change of the script needs a new picture: `make picture`."""
    lines = html.unescape(re.sub(r"<[^>]+>", "", picture.PICTURE.read_text(encoding="utf-8"))).splitlines()
    assert [line for line in lines if line.startswith((picture.LOGIN, picture.LAPTOP))] == [
        prompt + command for prompt, command in picture.STEPS
    ]
