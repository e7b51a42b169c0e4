"""Wrap the prose of Markdown pages; code blocks, tables, headings and URLs stay as they are.

`make docs` wraps every page. Run as `python -m tests.docs.wrap FILE…` for single files.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

WIDTH = 100
_FENCE = re.compile(r"^ *(```|~~~)")
_VERBATIM = re.compile(r"^ *(\||#|<|---+$|> )")
_ITEM = re.compile(r"^( *)([-*+]|\d+\.) +(?=\S)")
_UNBREAKABLE = re.compile(r"``.+?``|`[^`]+`|\]\([^)\s]*\)|\S")
_MARKER = re.compile(r"^([-*+>|]|#+|\d+\.)$")
"""A word that begins a list, a quotation, a heading or a table when it is the first of a line."""


def wrap(text: str) -> str:
    """Return the page with no line of prose above `WIDTH` columns, unless one word alone is longer."""
    out: list[str] = []
    block: list[str] = []
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if fence or mark or not line.strip() or _VERBATIM.match(line):
            out += _filled(block)
            block = []
            out.append(line.rstrip() if not fence else line)
            if mark:
                fence = "" if fence else mark[1]
        elif _ITEM.match(line):
            out += _filled(block)
            block = [line]
        else:
            block.append(line)
    return "\n".join([*out, *_filled(block)]) + "\n"


def words(text: str) -> list[str]:
    """Return the pieces between which a line may end: a code span and the target of a link stay whole."""
    pieces = [""]
    position = 0
    while position < len(text):
        if text[position].isspace():
            pieces.append("")
            position += 1
            continue
        found = _UNBREAKABLE.match(text, position)
        assert found
        pieces[-1] += found[0]
        position = found.end()
    return [piece for piece in pieces if piece]


def _filled(block: list[str]) -> list[str]:
    if not block:
        return []
    item = _ITEM.match(block[0])
    indent = item[0] if item else re.match(r" *", block[0])[0]  # type: ignore[index]
    pieces = words(" ".join([block[0][len(indent) :], *block[1:]]))
    lines = [indent + pieces[0]]
    for piece in pieces[1:]:
        if len(lines[-1]) + 1 + len(piece) <= WIDTH or _MARKER.match(piece):
            lines[-1] += " " + piece
        else:
            lines.append(" " * len(indent) + piece)
    return lines


def main(names: list[str]) -> None:
    """Wrap the files in place."""
    for path in map(Path, names):
        path.write_text(wrap(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
