"""Every lock of the program is taken on a descriptor that NFS accepts.

There flock(2) becomes a lock of fcntl(2) on the whole file ("NFS details" in flock(2)): a shared one takes a descriptor
that is open for reading, an exclusive one takes one for writing, and EBADF is the answer to any other.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
LOCKING = [
    path
    for folder in ("broker", "profiles", "slurm")
    for path in sorted((CHECKOUT / folder).rglob("*"))
    if path.suffix in {".py", ".sh"} and re.search(r"flock|lockf", path.read_text(encoding="utf-8"))
]
SOURCES = [path for path in LOCKING if path.suffix == ".py"]
SCRIPTS = [path for path in LOCKING if path.suffix == ".sh"]


def locks_in(tree: ast.AST) -> list[tuple[str, ast.AST]]:
    """Find each call of flock(2) or lockf(3): the last part of the name that it locks, and the function that calls."""
    functions = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {each for function in functions for each in ast.walk(function)}
    scopes = [(function, list(ast.walk(function))) for function in functions]
    scopes.append((tree, [each for each in ast.walk(tree) if each not in inner]))  # type: ignore[arg-type]
    return [
        (ast.unparse(call.args[0]).rpartition(".")[2], scope)
        for scope, nodes in scopes
        for call in nodes
        if isinstance(call, ast.Call) and ast.unparse(call.func) in {"fcntl.flock", "fcntl.lockf"}
    ]


def opened_in(tree: ast.AST) -> dict[str, list[str]]:
    """Return, for each variable, the expressions that it is set to."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and node.optional_vars is not None:
            found.setdefault(ast.unparse(node.optional_vars), []).append(ast.unparse(node.context_expr))
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                found.setdefault(ast.unparse(target), []).append(ast.unparse(node.value))
    return found


def is_for_both(expression: str) -> bool:
    """Whether this opens something for reading and writing."""
    mode = re.search(r"\bopen\(.*'([rwax]b?\+b?)'", expression)
    return mode is not None or "os.O_RDWR" in expression or expression.startswith("os.memfd_create(")


def wrong_python_locks(text: str) -> list[str]:
    tree = ast.parse(text)
    wrong = []
    for name, function in locks_in(tree):
        opened = opened_in(function).get(name)
        if opened is None:  # a parameter: what a caller has opened under the same name
            opened = [each for each in opened_in(tree).get(name, []) if "open(" in each or "memfd" in each]
        if not opened or not all(is_for_both(each) for each in opened):
            wrong.append(name)
    return wrong


def wrong_shell_locks(text: str) -> list[str]:
    """Return the locks whose descriptor was not opened with `<>`, or with `>` for an exclusive one."""
    wrong = []
    for options, name in re.findall(r"\bflock ((?:-\w+ )*(?:\"?\$\w+\"? )?)\"?\$(\w+)\"?", text):
        redirections = re.findall(rf"\{{{name}\}}(<>|>>|>|<)", text)
        good = {"<>"} if re.search(r"-\w*s", options) else {"<>", ">"}
        if not redirections or not set(redirections) <= good:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_python_locks_are_on_files_open_for_both(path: Path) -> None:
    assert wrong_python_locks(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_shell_locks_are_on_files_open_for_what_they_take(path: Path) -> None:
    assert wrong_shell_locks(path.read_text(encoding="utf-8")) == []


def test_the_locks_are_found_at_all() -> None:
    python = [name for path in SOURCES for name in locks_in(ast.parse(path.read_text(encoding="utf-8")))]
    shell = [path for path in SCRIPTS for _ in re.findall(r"\bflock -", path.read_text(encoding="utf-8"))]
    assert len(python) >= 12
    assert len(shell) >= 4


@pytest.mark.parametrize("opening", ["path.open('w')", "path.open()", "os.open(path, os.O_WRONLY)", "given"])
def test_python_lock_of_another_kind_is_found(opening: str) -> None:
    assert wrong_python_locks(f"lock = {opening}\nfcntl.flock(lock, fcntl.LOCK_SH)") == ["lock"]


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        ('exec {lock}>>"$f"\nflock -sn "$lock"', ["lock"]),
        ('exec {lock}>"$f"\nflock -s "$lock"', ["lock"]),
        ('exec {lock}<"$f"\nflock -n "$lock"', ["lock"]),
        ('exec {lock}>>"$f"\nflock -w "$3" "$lock"', ["lock"]),
        ('exec {lock}<>"$f"\nflock -sn "$lock"', []),
        ('exec {lock}>"$f" && flock "$lock"', []),
    ],
)
def test_shell_lock_of_another_kind_is_found(script: str, wrong: list[str]) -> None:
    assert wrong_shell_locks(script) == wrong
