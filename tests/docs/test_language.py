"""Names and English of the source follow CONTRIBUTING.md: one name for one thing, plain sentences, no archaic words."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.docs.generate import ROOT
from tests.docs.words import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOMS = sorted(
    {
        str(path.parent.relative_to(ROOT))
        for package in ("broker", "profiles", "slurm", "tui")
        for path in (ROOT / package).rglob("*.py")
    }
)
"""All folders with modules, each without its subfolders."""

TEST_ROOMS = sorted({str(path.parent.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")})
"""The same of the tests, whose docstrings are checked; their strings are often those of users and of Slurm."""

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_RELATIVE = re.compile(
    r"((after|at|by|for|from|in|of|on|since|through|to|until|with) )?"
    r"(how|that which|what|whatever|when|where|wherever|whether|which|who|whoever|whom|whose)\b",
    re.IGNORECASE,
)

_FRAMEWORK = frozenset({"main", "upgrade", "downgrade"})
"""Names that a framework or an entry point demands in more than one module: programs and Alembic's migrations."""

_PARTICIPLE = re.compile(
    r"\w+(ed|ing)|begun|bound|bought|broken|brought|built|caught|chosen|done|drawn|felt|forgotten|found|frozen|given"
    r"|gone|grown|had|heard|held|hidden|kept|known|laid|led|left|lent|lost|made|meant|met|paid|proven|said|seen|sent"
    r"|shown|sold|spent|spoken|stolen|taken|taught|thought|thrown|told|torn|understood|unknown|unseen|won|worn|written"
)
"""Participles, without those that are also verbs in their basic form, such as `read` and `cut`."""

_ADJECTIVE = re.compile(
    r"\w+[ai]ble|absolute|ambiguous|bare|busy|canonical|current|distinct|due|free|fresh|idle|latest|natural|new|newest"
    r"|normal|plain|ready|real|same|similar|unclear|unread|valid|whole"
)

_PREPOSITION = re.compile(r"after|at|before|below|by|for|from|in|into|of|on|since|to|until|with|without")

_OTHER_WORD = re.compile(
    r"bring|embed|enable|exceed|executable|feed|finding|heading|mapping|need|proceed|setting|speed|string|table|variable"
)
"""Verbs and nouns that end as participles and adjectives do."""

_TEST_PROGRAMS = ("slurm/lab", "slurm/vm")
"""Rooms of the tests' own programs, whose functions may be named as the tests name theirs."""

_REGISTERS = re.compile(r"\b(command|group|verb|get|put|post|patch|delete|api_route)\b")
"""Decorators that register a function under another name: click's commands, routes, verbs of the launcher."""


class Source(NamedTuple):
    """A module: its path below the root, its text and its syntax tree."""

    name: str
    text: str
    tree: ast.Module


@cache
def sources(room: str) -> list[Source]:
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / room).glob("*.py"))}
    return [Source(str(path.relative_to(ROOT)), text, ast.parse(text)) for path, text in texts.items()]


def is_public(node: ast.AST) -> bool:
    return isinstance(node, _Definition) and not node.name.startswith("_")


def documented(tree: ast.Module) -> Iterator[ast.Module | _Definition]:
    """Yield the module and all its classes and functions."""
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Module | _Definition))


def is_predicate(node: ast.Module | _Definition) -> bool:
    if isinstance(node, ast.Module | ast.ClassDef):
        return False
    return node.returns is not None and ast.unparse(node.returns) == "bool"


def is_bare_participle(name: str) -> bool:
    """Whether the name of a function is a participle or an adjective alone, or a participle with a preposition.

    A participle with a noun names a value: `failed_operation`.
    """
    first, *others = name.strip("_").split("_")
    if _OTHER_WORD.fullmatch(first):
        return False
    if not others:
        return bool(_PARTICIPLE.fullmatch(first) or _ADJECTIVE.fullmatch(first))
    return len(others) == 1 and bool(_PARTICIPLE.fullmatch(first) and _PREPOSITION.fullmatch(others[0]))


def is_property(node: _Definition) -> bool:
    return any(re.search(r"property$|\.setter$", ast.unparse(each)) for each in node.decorator_list)


def begins_with_relative_clause(node: ast.Module | _Definition) -> bool:
    match = _RELATIVE.match(ast.get_docstring(node) or "")
    return match is not None and not (is_predicate(node) and match[0].lower() == "whether")


def texts(source: Source) -> Iterator[tuple[int, str]]:
    """Yield the lines and texts of all strings of more than one word, and of all comments.

    White space is collapsed: a phrase may be wrapped.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, " ".join(node.value.split())
    yield from comments(source.text)


def docstrings(source: Source) -> Iterator[tuple[int, str]]:
    """Yield the lines and texts of all docstrings, those of attributes too; white space is collapsed."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, " ".join(node.value.value.split())


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines and texts of comments; lines of comments that follow each other are one text."""
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            words = token.string.removeprefix("#").strip()
            whole_line = not token.line[: token.start[1]].strip()
            if whole_line and comments and comments[-1][0] + 1 == token.start[0]:
                words = f"{comments[-1][1]} {words}"
                comments.pop()
            comments.append((token.start[0], words))
    yield from comments


def is_registered(node: _Definition) -> bool:
    return any(_REGISTERS.search(ast.unparse(each).partition("(")[0]) for each in node.decorator_list)


@pytest.mark.parametrize("room", [*ROOMS, *TEST_ROOMS])
def test_no_docstring_starts_with_a_relative_clause(room: str) -> None:
    hits = [
        f"{source.name}:{getattr(node, 'lineno', 1)}: {(ast.get_docstring(node) or '').splitlines()[0]}"
        for source in sources(room)
        for node in documented(source.tree)
        if begins_with_relative_clause(node)
    ]
    assert not hits


@pytest.mark.parametrize("room", ROOMS)
def test_messages_docstrings_and_comments_use_plain_words(room: str) -> None:
    hits = [
        f"{source.name}:{line}: {match[0]}"
        for source in sources(room)
        for line, text in texts(source)
        for match in WORDS.finditer(text)
    ]
    assert not hits


@pytest.mark.parametrize("room", TEST_ROOMS)
def test_docstrings_of_tests_use_plain_words(room: str) -> None:
    hits = [
        f"{source.name}:{line}: {match[0]}"
        for source in sources(room)
        for line, text in docstrings(source)
        for match in WORDS.finditer(text)
    ]
    assert not hits


def test_a_public_name_exists_once() -> None:
    definitions: dict[str, list[str]] = defaultdict(list)
    for room in ROOMS:
        for source in sources(room):
            for node in source.tree.body:
                if isinstance(node, _Definition) and is_public(node) and not is_registered(node):
                    definitions[node.name].append(source.name)
    assert not {name: where for name, where in definitions.items() if len(where) > 1 and name not in _FRAMEWORK}


@pytest.mark.parametrize("room", [room for room in ROOMS if not room.startswith(_TEST_PROGRAMS)])
def test_no_function_is_named_by_a_participle(room: str) -> None:
    hits = [
        f"{source.name}:{node.lineno}: {node.name}"
        for source in sources(room)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_bare_participle(node.name)
        if not is_property(node) and not is_registered(node)
    ]
    assert not hits, "name what the function does or returns: `find_script`, `is_due`, `finished_jobs`"


def test_a_bare_participle_is_recognised() -> None:
    bad = ["_found", "asking", "saved_at", "seen_by", "_visible", "due", "_interrupted"]
    good = ["find", "failed_operation", "_string", "read", "shut_down", "finished_jobs", "open_session", "bring_up"]
    assert [name for name in bad + good if is_bare_participle(name)] == bad


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


def test_words_are_found_in_wrapped_texts_and_comments() -> None:
    code = 'x = """It carries\n    on here."""\n# A job goes\n# on as before.\n'
    matches = [match[0] for _, text in texts(Source("", code, ast.parse(code))) for match in WORDS.finditer(text)]
    assert matches == ["carries on", "goes on"]


def test_every_room_is_checked() -> None:
    assert {"broker/controller/reconcile", "broker/gateway", "profiles/commit", "slurm/lab"} <= set(ROOMS)


def test_whether_is_for_predicates_only() -> None:
    code = 'def f() -> {}:\n    """Whether it is so."""'
    judged = [begins_with_relative_clause(ast.parse(code.format(kind)).body[0]) for kind in ("bool", "str")]  # type: ignore[arg-type]
    assert judged == [False, True]
