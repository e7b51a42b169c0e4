"""The commands that the program itself prints: in its messages, hints and help texts."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.cli.command_table import COMMANDS
from tests.printed.documents import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDERS = ("broker", "profiles", "slurm", "tui")
SHELL = "broker/job"

FIELDS = {
    "key_file": "id_ed25519.pub",
    "shell": "bash",
    "name": "dev",
    "job": "1042",
    "job_id": "1042",
    "number": "3",
    "snapshot": "3",
    "snapshot_number": "3",
    "more": "--mem=32G",
    "options": "--mem=32G",
    "ide": "vscode",
    "service": "terminal",
    "unbuilt": "base",
    "words": "--mem=32G",
    "profile": "base",
    "target": "triton-xpu@4",
    "before": "3",
    "was": "thesis",
    "chosen": "base",
    "label": "base@2",
    "file": ".config/fish/completions/berth.fish",
}
"""Plausible values of the placeholders, by the last name in them; any other is a session's name."""

_WHOLE = re.compile(rf"berth (?:{'|'.join(COMMANDS)})\b.*", re.DOTALL)
_EXAMPLE = re.compile(r"^ +(berth [a-z].*?)(?:  .*)?$", re.MULTILINE)
_QUOTED = re.compile(r"\$\(quoted [^)]*\)")
"""The words of a command in the session's `sudo`."""
_AFTER_COLON = re.compile(rf": (berth (?:{'|'.join(COMMANDS)})\b[^`]*)$")


@dataclass(frozen=True)
class Printed:
    """A command in a literal of the program; a mention in a help text or docstring need not be complete."""

    place: str
    text: str
    complete: bool


def printed_commands() -> Iterator[Printed]:
    """Yield all commands of all sources."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from _of_module(path)
    for path in sorted((ROOT / SHELL).rglob("*")):
        if path.is_file() and path.suffix in {".sh", ""} and path.name != "__pycache__":
            yield from _of_script(path)


def commands_in(text: str) -> Iterator[str]:
    """Yield the commands in a message: in backquotes, as its whole text, or after its last colon."""
    for quoted in re.findall(r"`([^`]+)`", text):
        if re.search(r"(?:^| )berth ", quoted):
            yield quoted
    bare = re.sub(r"`[^`]*`", "", text)
    if whole := _WHOLE.fullmatch(bare.strip()):
        yield whole[0]
    elif after := _AFTER_COLON.search(bare):
        yield after[1]


def _of_module(path: Path) -> Iterator[Printed]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    mentions = _mentions(tree)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in inside or not (text := _text(node)):
            continue
        assert isinstance(node, ast.expr)
        for command in commands_in(text):
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            yield Printed(place, " ".join(command.split()), complete=id(node) not in mentions)
        if id(node) in mentions:
            for example in _EXAMPLE.findall(text):
                yield Printed(f"{path.relative_to(ROOT)}:{node.lineno}", example, complete=True)


def _text(node: ast.AST) -> str:
    """Return a literal's text with values in place of its fields; empty for any other node."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _value(ast.unparse(node.value))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{(\w+)\}", lambda field: _value(field[1]), node.value)
    return ""


def _value(expression: str) -> str:
    names = re.findall(r"\w+", expression)
    return next((FIELDS[name] for name in reversed(names) if name in FIELDS), "dev")


def _mentions(tree: ast.Module) -> set[int]:
    """Return the ids of docstrings, of the help texts of options, and of descriptions below a field."""
    found = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "help":
            found |= {id(part) for part in ast.walk(node.value)}
    return found


def _of_script(path: Path) -> Iterator[Printed]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        text = _QUOTED.sub(" apt-get install -y htop", line)
        text = re.sub(r"\$\{(\w+):-\}", r"$\1", text)
        text = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", text)
        text = re.sub(r"\$\{?(\w+)\}?", lambda field: _value(field[1]), text)
        for literal in re.findall(r'"([^"]*)"', text):
            for command in commands_in(literal.replace("\\`", "`")):
                yield Printed(f"{path.relative_to(ROOT)}:{number}", command, complete=True)
