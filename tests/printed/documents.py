"""The commands of the documentation: the lines of its shell blocks, and the code in its sentences.

A block with prompts (`$ `, `# ` as root, `alice@login$ `) has commands after the prompts and output between them. In a
block without prompts, each line that begins with a program of PROGRAMS is a command.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "docs/tutorial", "docs/howto", "docs/reference")
PAGES = [ROOT / "README.md", *sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))]
"""All pages except the decisions and the changelog, which may name commands of the past."""

PROGRAMS = (
    "berth",
    "make",
    "sudo",
    "ssh",
    "scp",
    "rsync",
    "sftp",
    "tar",
    "eval",
    "mkdir",
    "git",
    "squeue",
    "sbatch",
    "for",
    "printf",
)
_BLOCK = re.compile(r"^( *)```(console|bash|)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^(?:\w[\w@-]*)?[$] |^# ")
_COMMAND = re.compile(rf"(?:{'|'.join(PROGRAMS)}) (?![(])")
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Line:
    """A line of a shell block, without its prompt; the prompt tells who types it and where."""

    page: Path
    number: int
    prompt: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def shell_lines(page: Path) -> Iterator[Line]:
    """Yield every command line of the page's shell blocks, in their order."""
    text = page.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(3)) + 1
        lines = textwrap.dedent(block[3]).splitlines()
        prompts = [_prompt(line, console=block[2] == "console") for line in lines]
        for number, (line, prompt) in enumerate(zip(lines, prompts, strict=True), first):
            if prompt or (not any(prompts) and _COMMAND.match(line)):
                yield Line(page, number, prompt.strip(), line.removeprefix(prompt))


def inline_code(page: Path) -> Iterator[tuple[str, str]]:
    """Yield place and text of each code span outside of the blocks."""
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^ *```.*?^ *```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    for span in _INLINE.finditer(prose):
        yield f"{page.relative_to(ROOT)}:{prose.count(chr(10), 0, span.start()) + 1}", span[1]


def _prompt(line: str, *, console: bool) -> str:
    found = _PROMPT.match(line)
    return found[0] if found and (console or found[0] != "# ") else ""
