"""The printed commands as shell lines that can be run, with values in place of placeholders.

They come from the same collector as those of tests/docs/test_printed_commands.py. The tutorial is left out here:
tests/lab/test_tutorial.py runs it as a whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from tests.printed.documents import PAGES, inline_code, shell_lines
from tests.printed.parse import PLACEHOLDERS, berth_commands, parse_command, parse_error
from tests.printed.sources import printed_commands

if TYPE_CHECKING:
    from collections.abc import Iterator

TUTORIAL = "first-session.md"
HELP = ("--help",)
"""The path of every command line with `--help` or `--version`, for which the parser reads no further."""
OPENSSH = ("ssh", "scp", "sftp", "rsync")
"""Programs of a laptop, which are run with a session's ssh name."""

_NAMES = "|".join(sorted(map(re.escape, PLACEHOLDERS), key=len, reverse=True))
_PLACEHOLDER = re.compile(rf"(?<![\w./$=-])({_NAMES})(?![\w.])")
_BEHIND_SSH = re.compile(r"^ssh LOGIN (?=berth )")
_SESSION_NAME = re.compile(r"\bdev\.berth\b")
_DRAWING = "─"


@dataclass(frozen=True)
class Runnable:
    """One shell line, and the first command of Berth in it."""

    text: str
    place: str
    prompt: str = ""
    path: tuple[str, ...] = ()
    """The command's words below `berth`; empty if the line has no command of Berth."""
    values: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def is_topic(self) -> bool:
        """Whether it only names a command that runs another program, as in a sentence about `berth exec`."""
        words = self.values.get("words")
        return words is not None and set(words) <= {"--env"} and not self.values.get("name") and " -- " not in self.text

    @property
    def form(self) -> tuple[Any, ...]:
        """The command with its options, without their values: commands of one form run the same code."""
        if not self.path or self.path == HELP:
            return (self.text,)
        options = re.findall(r"(?<= )--?\w[\w-]*", self.text)
        return (self.path, *sorted({word for word in options if word}), len(self.text.split()))


@cache
def runnable_commands() -> tuple[Runnable, ...]:
    """Return every complete command once: of shell blocks first, then of messages, then of sentences.

    The home must have the files that commands name: `make_files` of tests/printed/parse.py.
    """
    found: dict[str, Runnable] = {}
    for each in (*_of_blocks(), *_of_messages(), *_of_sentences()):
        if each.path == ("help",) or not each.is_topic:
            found.setdefault(each.text, each)
    return tuple(found.values())


def _of_blocks() -> Iterator[Runnable]:
    for page in PAGES:
        for line in shell_lines(page):
            if page.name != TUTORIAL and _DRAWING not in line.text:
                yield from _runnable(re.sub(r"\s+# .*", "", line.text), line.place, line.prompt)


def _of_messages() -> Iterator[Runnable]:
    for printed in printed_commands():
        if printed.complete:
            yield from _runnable(printed.text, printed.place)


def _of_sentences() -> Iterator[Runnable]:
    for page in PAGES:
        for place, code in inline_code(page):
            program = code.split()[0]
            if program == "berth" or _BEHIND_SSH.match(code):
                yield from _runnable(code, place)
            elif program in OPENSSH and _SESSION_NAME.search(code):
                yield Runnable(code, place)


def _runnable(code: str, place: str, prompt: str = "") -> Iterator[Runnable]:
    """Yield the code as a line, unless it is an incomplete mention of a command."""
    commands = list(berth_commands(code))
    if any(parse_error(words) for words in commands):
        return
    text = _filled(_BEHIND_SSH.sub("", code))
    if not commands:
        yield Runnable(text, place, prompt)
        return
    try:
        parsed = parse_command(commands[0])
    except click.exceptions.Exit:
        yield Runnable(text, place, prompt, HELP)
        return
    yield Runnable(text, place, prompt, parsed.path, parsed.values)


def _filled(code: str) -> str:
    """Return the code with values in place of its placeholders; `SHA256:…` is one of its own."""
    text = re.sub(r"^berth (help )?COMMAND\b", r"berth \1start", code).replace("SHA256:…", PLACEHOLDERS["FINGERPRINT"])
    return _PLACEHOLDER.sub(lambda found: PLACEHOLDERS[found[1]], text)
