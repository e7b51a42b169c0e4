"""The page of a session: long texts continue below their beginning."""

from __future__ import annotations

import io

from rich.console import Console

from tui.look import ScreenStyles
from tui.widgets.session_detail import session_content


def test_long_hash_continues_in_its_column() -> None:
    console = Console(file=io.StringIO(), width=40, color_system=None)
    rows = [("profile", f"base@1 (sha256:{'0123456789' * 4})"), ("id", "01dev")]
    with console.capture() as captured:
        console.print(session_content("dev", rows, ScreenStyles(None)))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert lines[0] == "dev"
    assert lines[1].startswith("profile    base@1")
    assert lines[-1] == "id         01dev"
    assert len(lines) > 3
    assert all(line.startswith(" " * 11) and line[11] != " " for line in lines[2:-1])
    assert "".join(line[11:] for line in lines[1:-1]).replace(" ", "") == rows[0][1].replace(" ", "")
