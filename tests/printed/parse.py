"""Parse a printed command with the program's own commands, without running it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from broker.cli.app import berth
from broker.cli.context import Invocation
from broker.cli.resources import ResourceCommand, parse_resources, split_names
from broker.errors import BerthError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLACEHOLDERS = {
    "NAME": "dev",
    "NAME:": "dev:",
    "OWNER.NAME": "alice.dev",
    "USER": "bob",
    "NEW": "trial",
    "OTHER": "trial",
    "SNAPSHOT": "3",
    "N": "3",
    "P": "base",
    "PROFILE": "base",
    "VERSION": "1",
    "PROFILE@VERSION": "base@2",
    "NAME@VERSION": "base@2",
    "JOBID": "1042",
    "COMMAND": "true",
    "LOGIN": "login",
    "FILE": "mine.yaml",
    "FILE.pub": "key.pub",
    "YOU": "alice",
    "IDE": "vscode",
    "SERVICE": "terminal",
    "KIND": "host",
    "FINGERPRINT": "SHA256:x",
}
"""Words in capitals that a reader replaces."""


@dataclass(frozen=True)
class ParsedCommand:
    """The command's words below `berth`, and the values of its arguments and options by click's names."""

    path: tuple[str, ...]
    values: dict[str, Any]


FILES = ("train.sh", "job.sh", "mine.yaml", "key.pub", ".ssh/id_ed25519.pub", ".config/berth/config.yaml")
"""Files that commands name, below the home that is also the current folder."""


def berth_commands(line: str) -> Iterator[list[str]]:
    """Yield the words after `berth` of each command of Berth in a shell line, also behind ssh and in `$(…)`."""
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from berth_commands(inner)
    lexer = shlex.shlex(re.sub(r"\$\([^()]*\)", "x", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for token in [*lexer, ";"]:
        if re.fullmatch(r"[<>&]*[<>][<>&]*", token):
            redirected = True
        elif redirected:
            redirected = False
        elif re.fullmatch(r"[;|&()]+", token):
            yield from _own(words)
            words = []
        else:
            words.append(token)


def _own(words: list[str]) -> Iterator[list[str]]:
    rest = [word for word in words if not re.fullmatch(r"\w+=.*", word)] if words else []
    if not rest:
        return
    if rest[0] == "berth" or rest[0].endswith("/bin/berth"):
        yield rest[1:]
    elif rest[0] in {"ssh", "ProxyCommand", "exec", "python3"} and "berth" in rest:
        yield rest[rest.index("berth") + 1 :]


def parse_error(words: list[str], *, complete: bool = True) -> str:
    """Return why the program would refuse the command line; empty if it takes it.

    An incomplete mention such as `berth start` or `berth stop --at` needs only known commands and options.
    """
    try:
        parse_command(words)
    except click.exceptions.Exit:
        return ""
    except (click.MissingParameter, click.exceptions.NoArgsIsHelpError) as error:
        return str(error) if complete else ""
    except click.BadOptionUsage as error:
        return str(error) if complete or "requires an argument" not in str(error) else ""
    except click.UsageError as error:
        return error.format_message()
    except BerthError as error:
        return error.message
    return ""


def parse_command(words: list[str]) -> ParsedCommand:
    """Return the command with its values; an error of click, or a BerthError, if the program would refuse it."""
    if words[:1] == ["COMMAND"]:
        words = ["start", *words[1:]]
    return _parse([_replace(word) for word in words if word != "…"])


def _replace(word: str) -> str:
    """Return the word with a value in place of a placeholder."""
    return PLACEHOLDERS.get(word) or os.path.expanduser(word.replace("…", "x"))  # noqa: PTH111 - a word, as a shell does


def _parse(words: list[str]) -> ParsedCommand:
    path: list[str] = []
    with contextlib.ExitStack() as opened:
        opened.enter_context(contextlib.redirect_stdout(io.StringIO()))  # of --help
        context = opened.enter_context(berth.make_context("berth", list(words), obj=Invocation()))
        while isinstance(context.command, click.Group):
            rest = [*context._protected_args, *context.args]
            if not rest:
                raise click.MissingParameter("a command", context, param_type="argument")
            name, command, rest = context.command.resolve_command(context, rest)
            assert command is not None
            path.append(command.name or "")
            context = opened.enter_context(command.make_context(name, rest, parent=context))
    taken = context.params
    if isinstance(context.command, ResourceCommand):
        parse_resources(
            taken["resources"] if "resources" in taken else split_names(taken["words"], context)[1], hint=""
        )
    if taken.get("every") is False and not taken.get("names", taken.get("words")):
        raise click.MissingParameter("the session's name", context, param_type="argument")
    return ParsedCommand(tuple(path), taken)


def make_files(folder: Path) -> None:
    """Create the files that the commands name."""
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
