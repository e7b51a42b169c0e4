"""The options of sbatch that a session may use, and their forms on a command line.

The session's script, name, comment, log and requeueing are the broker's own; every option that requests resources goes
to the real `sbatch`. The tables hold every option of sbatch(1) 26.05, and those of older releases. The root launcher
imports this module, so it stays small and within the standard library.
"""

from __future__ import annotations

import difflib
import re
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_OPTIONS = 64
MAX_VALUE_CHARACTERS = 1024
"""Characters in one value; Slurm refuses strings of more than 1,024 in most of its fields."""


class OptionError(ValueError):
    """An option cannot be used. The message names it, the reason, and the option that was probably meant."""


class Takes(Enum):
    """The value that follows an option's name."""

    NOTHING = "flag"
    VALUE = "value"
    PERHAPS = "optional value"  # as getopt_long(3) has it: only in the same word


class Option(NamedTuple):
    """One option: its long name, its letter or an empty string, and its kind of value."""

    name: str
    letter: str
    takes: Takes


def _options(takes: Takes, words: str) -> dict[str, Option]:
    split = (word.partition("/") for word in words.split())
    return {name: Option(name, letter, takes) for name, _, letter in split}


ALLOWED: dict[str, Option] = (
    _options(
        Takes.VALUE,
        """
        account/A acctg-freq batch bb begin/b constraint/C core-spec/S cores-per-socket cpu-freq
        cpus-per-gpu cpus-per-task/c deadline delay-boot distribution/m exclude/x extra extra-node-info/B
        gpu-bind gpu-freq gpus/G gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint licenses/L
        mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mem-update mincpus network
        nodelist/w ntasks/n ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
        ntasks-per-tres partition/p power prefer priority qos/q reservation resources segment
        sockets-per-node switches thread-spec threads-per-core time/t time-min tmp tres-bind tres-per-task
        wckey
        """,
    )
    | _options(
        Takes.NOTHING,
        """
        consolidate-segments contiguous hold/H overcommit/O oversubscribe/s reboot spread-job spread-segments
        stepmgr
        """,
    )
    | _options(Takes.PERHAPS, "exclusive nice no-kill/k oom-kill-step resv-ports")
)
"""By long name."""

ALIASES = {"tasks-per-node": "ntasks-per-node"}

_REFUSED_TOGETHER = {
    "a session's log is kept in its own folder": "error/e= input/i= open-mode= output/o=",
    "the session's id is kept there": "comment= job-name/J=",
    "the broker decides what follows when a job ends": "no-requeue requeue? signal=",
    "two jobs of one session must never run at once": "array/a= dependency/d= kill-on-invalid-dep=",
    "the environment comes from the profile": "export= export-file= get-user-env?",
    "the profile is the container": "container= container-id= container-type=",
    "the session's script is always the same": "chdir/D= external ignore-pbs wrap=",
    "a session runs as its owner": "context= gid= uid=",
    "a session runs on one node": "nodes/N= use-min-nodes wait-all-nodes=",
    "a session lives on this cluster": "cluster= cluster-constraint= clusters/M=",
    "the limits would be those of the broker's own process": "propagate?",
    "the broker itself reads what sbatch says": "autocomplete= parsable quiet/Q test-only verbose/v wait/W",
    "it starts nothing": "help/h usage version/V",
    "a file could change between two starts: give what it says as an option": "bbf= nodefile/F=",
    "it would name a profile of the accounting plugin, not the session's": "profile=",
}
"""By reason: name, letter, and `=` for a value that must follow, `?` for one that may."""

_TAKES = {"=": Takes.VALUE, "?": Takes.PERHAPS}


def _refused_options() -> Iterator[tuple[Option, str]]:
    for reason, words in _REFUSED_TOGETHER.items():
        for word in words.split():
            name, _, letter = word.rstrip("=?").partition("/")
            yield Option(name, letter, _TAKES.get(word[-1], Takes.NOTHING)), reason


REFUSED: dict[str, str] = {option.name: reason for option, reason in _refused_options()}
"""The reason why sessions may not use an option of sbatch, by long name."""

OPTIONS: dict[str, Option] = ALLOWED | {option.name: option for option, _ in _refused_options()}
"""Every option of sbatch by long name, allowed or not."""

LETTERS: dict[str, str] = {option.letter: option.name for option in OPTIONS.values() if option.letter}
"""Long name by letter, allowed or not."""

_ALTERNATIVES = (
    frozenset({"mem", "mem-per-cpu", "mem-per-gpu"}),
    frozenset({"gres", "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task"}),
    frozenset({"core-spec", "thread-spec"}),
    frozenset({"exclusive", "oversubscribe"}),
)
"""Options that request the same thing in different ways. sbatch refuses two of one set, or adds them up."""

_CANONICAL = re.compile(r"--([a-z][a-z-]*)(?:=(.*))?", re.DOTALL)


def parse_options(words: Sequence[str]) -> list[str]:
    """Return the words of a user as canonical `--name=value` and `--flag` words, the last of each name.

    Accepts the forms of getopt_long(3): `--name value`, `--name=value`, `-n 4`, `-n4`, flags in one word (`-Os`) and
    unambiguous abbreviations of long names. Raises OptionError.
    """
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            name = _long_name(name)
            attached = value if equals else None
        elif word.startswith("-") and word not in {"-", "--"}:
            name = _name_of_letter(word[1])
            attached = word[2:] or None
            if attached is not None and allowed_option(name).takes is Takes.NOTHING:
                rest.insert(0, f"-{attached}")
                attached = None
        else:
            raise OptionError(f"`{_make_printable(word)}` is not an option of sbatch: options begin with - or --")
        if attached is None and allowed_option(name).takes is Takes.VALUE:
            if not rest:
                raise OptionError(f"--{name} needs a value")
            attached = rest.pop(0)
        found.pop(name, None)
        found[name] = f"--{name}" if attached is None else f"--{name}={attached}"
    options = list(found.values())
    check_options(options)
    return options


def check_options(options: Sequence[str]) -> None:
    """Raise OptionError unless each word is a canonical, allowed option with a value of printable ASCII."""
    if len(options) > MAX_OPTIONS:
        raise OptionError(f"more than {MAX_OPTIONS} options")
    for word in options:
        match = _CANONICAL.fullmatch(word)
        if not match:
            raise OptionError(f"`{_make_printable(word)}` is not of the form --name or --name=value")
        name, value = match[1], match[2]
        _check_value(allowed_option(name), value)


def merge_options(defaults: Iterable[str], own: Iterable[str]) -> list[str]:
    """Merge canonical options into canonical defaults. Each replaces the default of its name, and the alternatives to
    it.

    For example, a user's `--mem-per-cpu` removes a default `--mem`: sbatch refuses both together.
    """
    mine = {_name(word): word for word in own}
    replaced = set(mine).union(*(rivals for rivals in _ALTERNATIVES if rivals & mine.keys()))
    return [word for word in defaults if _name(word) not in replaced] + list(mine.values())


def _name(canonical: str) -> str:
    return canonical.partition("=")[0].removeprefix("--")


def _check_value(option: Option, value: str | None) -> None:
    if value is None:
        if option.takes is Takes.VALUE:
            raise OptionError(f"--{option.name} needs a value")
        return
    if option.takes is Takes.NOTHING:
        raise OptionError(f"--{option.name} takes no value")
    if not value:
        raise OptionError(f"--{option.name} needs a value")
    if len(value) > MAX_VALUE_CHARACTERS:
        raise OptionError(f"--{option.name}: the value is longer than {MAX_VALUE_CHARACTERS} characters")
    if not (value.isascii() and value.isprintable()):
        raise OptionError(
            f"--{option.name}: the value `{_make_printable(value)}` has characters that are not printable ASCII"
        )


def allowed_option(name: str) -> Option:
    """Return the option with this long name; OptionError unless sessions may use it."""
    if name in ALLOWED:
        return ALLOWED[name]
    if name in REFUSED:
        raise OptionError(f"--{name} cannot be used for a session: {REFUSED[name]}")
    close = difflib.get_close_matches(name, ALLOWED, n=1)
    hint = f"; did you mean --{close[0]}?" if close else ""
    raise OptionError(f"--{_make_printable(name)} is not an option of sbatch{hint}")


def _long_name(given: str) -> str:
    """Complete an abbreviation as getopt_long(3) does. A name without a match is returned unchanged."""
    known = [*ALLOWED, *REFUSED, *ALIASES]
    matches = [given] if given in known else sorted(name for name in known if given and name.startswith(given))
    if len(matches) > 1:
        raise OptionError(f"--{_make_printable(given)} is ambiguous: " + ", ".join(f"--{name}" for name in matches))
    name = matches[0] if matches else given
    return ALIASES.get(name, name)


def _name_of_letter(letter: str) -> str:
    if letter not in LETTERS:
        raise OptionError(f"-{_make_printable(letter)} is not an option of sbatch")
    return LETTERS[letter]


def _make_printable(text: str) -> str:
    """Make untrusted text fit for a message: short, and without control characters."""
    return ascii(text[:60])[1:-1]
