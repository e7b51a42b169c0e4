"""Parse sbatch's command line and the head of its script as sbatch does, to find Berth's own options.

The real sbatch does the work: nothing here checks a value or knows the meaning of an option. Sources: sbatch(1), and
getopt_long(3) with `+`, which stops at the first word that is no option. Standard library only.
"""

from __future__ import annotations

import contextlib
import re
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm.sbatch import ALIASES, OPTIONS, Option, OptionError, Takes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENV_OPTION = Option("env", "", Takes.VALUE)
"""Berth's main option; sbatch has none with this beginning."""
EXACT_OPTIONS = {"at": Option("at", "", Takes.VALUE), "json": Option("json", "", Takes.NOTHING)}
"""Berth's other options. They have no abbreviations, so that those of sbatch's options keep their meaning."""
BERTH_OPTIONS = (ENV_OPTION.name, *EXACT_OPTIONS)
"""The names of the options that sbatch does not get."""
COMPONENT_SEPARATOR = ":"
"""The word between the options of a heterogeneous job's components."""
COMPONENT_ENDS = frozenset({"hetjob", "packjob"})
"""The words of the line between components in a script."""


@dataclass(frozen=True, slots=True)
class GivenOption:
    """An option as it was given: the words from `first` to `last`, without the latter."""

    name: str
    value: str | None
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Options in their order, and the script with its arguments. Without a script it is `--wrap` or standard input."""

    words: tuple[str, ...]
    options: tuple[GivenOption, ...]
    script: tuple[str, ...]

    def value(self, name: str) -> str | None:
        """Return the last value of an option; None if it was not given."""
        return next((given.value for given in reversed(self.options) if given.name == name), None)

    def has(self, name: str) -> bool:
        return any(given.name == name for given in self.options)

    def without(self, *names: str) -> list[str]:
        """Return the words before the script, without those options."""
        gone = {at for given in self.options if given.name in names for at in range(given.first, given.last)}
        before = len(self.words) - len(self.script)
        return [word for at, word in enumerate(self.words[:before]) if at not in gone]


class CommandLineError(OptionError):
    """An option is unknown or ambiguous, or lacks its value. sbatch refuses it, unless a plugin has added it."""

    def __init__(self, message: str, line: CommandLine) -> None:
        super().__init__(message)
        self.line = line
        """The part that could be parsed. The rest, from the invalid word, stands in the script's place."""


def read_command_line(words: Sequence[str], options: Mapping[str, Option] = OPTIONS) -> CommandLine:
    """Parse the words of a command line with these `options`. CommandLineError."""
    known = {**options, ENV_OPTION.name: ENV_OPTION}
    letters = {option.letter: option for option in known.values() if option.letter}
    found: list[GivenOption] = []
    at = 0
    while at < len(words):
        word, first = words[at], at
        at += 1
        if word == COMPONENT_SEPARATOR:
            continue
        if word == "--":
            return CommandLine(tuple(words), tuple(found), tuple(words[at:]))
        if not word.startswith("-") or word == "-":
            return CommandLine(tuple(words), tuple(found), tuple(words[first:]))
        try:
            if word.startswith("--"):
                name, equals, attached = word[2:].partition("=")
                given = [(_find_long_option(name, known), attached if equals else None)]
            else:
                given = _split_short_options(word[1:], letters)
            for option, value in given:
                if value is None and option.takes is Takes.VALUE:
                    if at == len(words):
                        raise OptionError(f"--{option.name} needs a value")
                    value = words[at]  # noqa: PLW2901 - the value that follows
                    at += 1
                found.append(GivenOption(option.name, value, first, at))
        except OptionError as error:
            read = CommandLine(tuple(words), tuple(found), tuple(words[first:]))
            raise CommandLineError(str(error), read) from error
    return CommandLine(tuple(words), tuple(found), ())


def _find_long_option(given: str, known: Mapping[str, Option]) -> Option:
    """Return a long option by its name or an unambiguous abbreviation."""
    name = ALIASES.get(given, given)
    if name in known:
        return known[name]
    if name in EXACT_OPTIONS:
        return EXACT_OPTIONS[name]
    matches = {ALIASES.get(name, name) for name in [*known, *ALIASES] if given and name.startswith(given)}
    if len(matches) != 1:
        raise OptionError(f"--{given} is not an option of sbatch")
    return known[matches.pop()]


def _split_short_options(bunch: str, letters: Mapping[str, Option]) -> list[tuple[Option, str | None]]:
    """Return the options of one word such as `n4` or `HQ`."""
    found: list[tuple[Option, str | None]] = []
    while bunch:
        option, bunch = letters.get(bunch[0]), bunch[1:]
        if option is None:
            raise OptionError("an option letter is unknown to sbatch")
        if option.takes is Takes.NOTHING:
            found.append((option, None))
            continue
        found.append((option, bunch or None))
        break
    return found


_HELP_LINE = re.compile(r"^  (?:-(?P<letter>\w), |    )--(?P<name>[A-Za-z][\w-]*)(?P<value>\[?=)?", re.MULTILINE)


def parse_help(text: str) -> dict[str, Option]:
    """Return every option in the `--help` of a Slurm command, those of the site's plugins included."""
    takes = {"=": Takes.VALUE, "[=": Takes.PERHAPS, None: Takes.NOTHING}
    return {
        line["name"]: Option(line["name"], line["letter"] or "", takes[line["value"]])
        for line in _HELP_LINE.finditer(text)
    }


def script_head(script: bytes) -> list[bytes]:
    """Return the lines of a script in which sbatch looks for `#SBATCH`: all before the first command."""
    lines = []
    for line in script.split(b"\n"):
        if line.lstrip() and not line.lstrip().startswith(b"#"):
            break
        lines.append(line)
    return lines


def directive_words(directive: str, script: bytes) -> list[tuple[int, list[str]]]:
    """Return the words of each line of a script's head that begins with the directive, such as `#SBATCH`, by line
    number.

    The words are separated as sbatch does: at white space, with quotes and backslashes, until a word that begins with
    `#`. OptionError for a quote that does not end.
    """
    found = []
    for number, line in enumerate(script_head(script), 1):
        text = line.decode(errors="surrogateescape")
        if text.startswith(directive) and (words := _words(text[len(directive) :], number)):
            found.append((number, words))
    return found


def option_of_first_component(line: CommandLine, name: str) -> str | None:
    """Return the last value of an option, in a heterogeneous job for the component that runs the script."""
    inner = {at for given in line.options for at in range(given.first, given.last)}
    ends = (at for at, word in enumerate(line.words) if word == COMPONENT_SEPARATOR and at not in inner)
    end = next(ends, len(line.words))
    return next((given.value for given in reversed(line.options) if given.name == name and given.first < end), None)


def option_in_script(name: str, script: bytes) -> str | None:
    """Return the last value of an option in a script's `#SBATCH` lines, for its first component. None also for invalid
    lines.
    """
    found = None
    with contextlib.suppress(OptionError):  # which sbatch tells of
        for _, words in directive_words("#SBATCH", script):
            if words[0] in COMPONENT_ENDS:
                break
            given = read_command_line(words).value(name)
            found = given if given is not None else found
    return found


def _words(text: str, number: int) -> list[str]:
    words: list[str] = []
    word, quote, escaped, begun = "", "", False, False
    for char in text:
        if escaped:
            word, escaped = word + char, False
        elif char == "\\" and quote != "'":
            escaped = begun = True
        elif quote:
            word, quote = (word, "") if char == quote else (word + char, quote)
        elif char in "\"'":
            quote, begun = char, True
        elif char in string.whitespace:  # what isspace(3) knows, and not what Unicode knows
            if begun:
                words.append(word)
            word, begun = "", False
        elif char == "#" and not begun:
            break
        else:
            word, begun = word + char, True
    if quote:
        raise OptionError(f"line {number} of the script: a quote does not end")
    return [*words, word] if begun else words
