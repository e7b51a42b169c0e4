"""Names and English of the source follow CONTRIBUTING.md: one name for one thing, plain sentences, no archaic words."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.docs.generate import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOMS = (
    "broker",
    "broker/cli",
    "broker/cli/commands",
    "broker/client",
    "broker/config",
    "broker/schema",
    "broker/service",
    "broker/ssh",
)
"""Folders whose modules are checked, each without its subfolders."""

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_RELATIVE = re.compile(
    r"((after|at|by|for|from|in|of|on|since|through|to|until|with) )?"
    r"(how|that which|what|whatever|when|where|wherever|whether|which|who|whoever|whom|whose)\b",
    re.IGNORECASE,
)

WORDS = re.compile(
    r"\b(told|whoever|whomever|nobody|somebody|heirs?|deeds?|thereby|anew|makes no sense|(become|became) of"
    r"|(is|are|was|were|be) to be had|(go|goes|going|went) on|(carry|carries|carried|carrying)( \w+)? on)\b",
    re.IGNORECASE,
)
"""Words and phrases that messages and docstrings do not use."""

_FRAMEWORK = frozenset({"main", "upgrade", "downgrade"})
"""Names that a framework or an entry point demands in more than one module: programs and Alembic's migrations."""

_REGISTERS = re.compile(r"\b(command|group|verb|get|put|post|patch|delete|api_route)\b")
"""Decorators that register a function under another name: click's commands, routes, verbs of the launcher."""


class Source(NamedTuple):
    """A module, as its path below the root and its syntax tree."""

    name: str
    tree: ast.Module


@cache
def sources(room: str) -> list[Source]:
    paths = sorted((ROOT / room).glob("*.py"))
    return [Source(str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def is_public(node: ast.AST) -> bool:
    return isinstance(node, _Definition) and not node.name.startswith("_")


def documented(tree: ast.Module) -> Iterator[ast.Module | _Definition]:
    """Yield the module, its public classes and functions, and the public methods of its public classes."""
    yield tree
    for node in tree.body:
        if isinstance(node, _Definition) and is_public(node):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (each for each in node.body if isinstance(each, _Definition) and is_public(each))


def is_predicate(node: ast.Module | _Definition) -> bool:
    if isinstance(node, ast.Module | ast.ClassDef):
        return False
    return node.returns is not None and ast.unparse(node.returns) == "bool"


def begins_with_relative_clause(node: ast.Module | _Definition) -> bool:
    match = _RELATIVE.match(ast.get_docstring(node) or "")
    return match is not None and not (is_predicate(node) and match[0].lower() == "whether")


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the lines and texts of all strings of more than one word: messages, hints, help, log lines, docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


def is_registered(node: _Definition) -> bool:
    return any(_REGISTERS.search(ast.unparse(each).partition("(")[0]) for each in node.decorator_list)


@pytest.mark.parametrize("room", ROOMS)
def test_no_docstring_starts_with_a_relative_clause(room: str) -> None:
    found = [
        f"{source.name}:{getattr(node, 'lineno', 1)}: {(ast.get_docstring(node) or '').splitlines()[0]}"
        for source in sources(room)
        for node in documented(source.tree)
        if begins_with_relative_clause(node)
    ]
    assert not found


@pytest.mark.parametrize("room", ROOMS)
def test_messages_and_docstrings_use_plain_words(room: str) -> None:
    found = [
        f"{source.name}:{line}: {match[0]}"
        for source in sources(room)
        for line, text in texts(source.tree)
        for match in WORDS.finditer(text)
    ]
    assert not found


def test_a_public_name_exists_once() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for room in ROOMS:
        for source in sources(room):
            for node in source.tree.body:
                if isinstance(node, _Definition) and is_public(node) and not is_registered(node):
                    found[node.name].append(source.name)
    assert not {name: where for name, where in found.items() if len(where) > 1 and name not in _FRAMEWORK}


@pytest.mark.parametrize(
    ("code", "begins"),
    [
        ('"""What a session is."""', True),
        ('"""In which order locks are taken."""', True),
        ('"""A session."""', False),
        ('"""Return what was asked for."""', False),
    ],
)
def test_a_relative_clause_is_recognised(code: str, begins: bool) -> None:
    assert begins_with_relative_clause(ast.parse(code)) is begins


def test_whether_is_for_predicates_only() -> None:
    code = 'def f() -> {}:\n    """Whether it is so."""'
    judged = [begins_with_relative_clause(ast.parse(code.format(kind)).body[0]) for kind in ("bool", "str")]  # type: ignore[arg-type]
    assert judged == [False, True]
