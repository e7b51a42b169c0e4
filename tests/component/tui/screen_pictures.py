"""Pictures of screens as text and styles, compared with those in a folder beside the tests.

They have every cell's character and style, as an SVG would, and can be read in a diff. Textual's own SVG names a font
on another host. `BERTH_SNAPSHOTS=write` in the environment writes them. Read the difference before you commit it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from tui.core.palette import AA_CONTRAST, contrast
from tui.core.settings import TuiSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import pytest

SIZES = {"80x24": (80, 24), "120x40": (120, 40), "250x60": (250, 60)}
LOOKS = ("dark", "light", "no-color")


def compare_picture(
    path: Path,
    take: Callable[[TuiSettings], tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Take a screen's text and styles in each look, and compare them with the file."""
    pictures = {}
    for look in LOOKS:
        if look == "no-color":
            monkeypatch.setenv("NO_COLOR", "1")
        pictures[look] = take(TuiSettings(theme="light" if look == "light" else "dark"))
    texts = {text for text, _ in pictures.values()}
    assert len(texts) == 1, "a text depends on colours"
    content = "\n\n".join([texts.pop(), *(f"== {look} ==\n{styles}" for look, (_, styles) in pictures.items())]) + "\n"
    if os.environ.get("BERTH_SNAPSHOTS") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    assert content == path.read_text(encoding="utf-8")


def assert_no_picture_is_left_over(folder: Path, screens: Iterable[str]) -> None:
    assert {path.stem for path in folder.iterdir()} == {f"{screen}-{size}" for screen in screens for size in SIZES}


def assert_contrast(path: Path, *, blanks: bool = False) -> None:
    """Every text of a picture has AA contrast. `blanks`: a text in the colour of its background is one."""
    pairs = set(re.findall(r"^\w: (#\w{6}) on (#\w{6})", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(pairs) >= 2
    assert {pair for pair in pairs if contrast(*pair) < AA_CONTRAST and not (blanks and pair[0] == pair[1])} == set()
