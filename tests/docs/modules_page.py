"""The page of all modules, made from the first sentences of their docstrings."""

from __future__ import annotations

import ast
import itertools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = ("broker", "profiles", "slurm", "tui")
LEFT_OUT = {"slurm/lab", "slurm/vm", "broker/controller/registry/migrations"}
"""Directories that are no part of the program, and the migrations, which Alembic loads by path."""
SHELL = "broker/job"
"""The parts of the scripts that run on a compute node; the first comment of each says what it is for."""

_HEAD = """\
# Modules

`make docs` generates this page from the program. The folders of `broker/` are its processes and, inside
the controller, the stages of a request: `api`, `sessions`, `reconcile`, then `credentials`,
`launcher_client` and `registry`. Imports go only down this list; import-linter checks it (`pyproject.toml`).
"""


def page(root: Path) -> str:
    """Return the page: one section for each package, one row for each module."""
    return "\n".join([_HEAD, *(_section(root, folder) for folder in _folders(root))])


def first_sentence(text: str) -> str:
    """Return the first sentence of a docstring on one line."""
    words = " ".join(text.split())
    found = re.match(r"(.+?[.?!])(?= [A-Z`*]|$)", words)
    return found[1] if found else words


def modules(root: Path) -> Iterator[Path]:
    """Yield every module of the program, but not the packages themselves."""
    for folder in _folders(root):
        yield from (path for path in sorted(folder.glob("*.py")) if path.stem not in {"__init__", "__main__"})


def docstring(path: Path) -> str:
    """Return a module's docstring; ValueError if it has none."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path} has no docstring")
    return text


def _folders(root: Path) -> list[Path]:
    found: list[Path] = []
    for package in PACKAGES:
        found += [path.parent for path in (root / package).rglob("__init__.py")]
    kept = [path for path in found if not any(str(path.relative_to(root)).startswith(each) for each in LEFT_OUT)]
    return sorted(kept, key=lambda path: path.relative_to(root).parts)


def _section(root: Path, folder: Path) -> str:
    name = str(folder.relative_to(root))
    rows: list[tuple[str, str]] = []
    if name == SHELL:
        about = first_sentence(docstring(folder / "__init__.py"))
        files = [*folder.glob("*.py"), *folder.rglob("*.sh"), folder / "inside/sudo"]
        rows = [
            (str(path.relative_to(folder)), first_sentence(docstring(path)) if path.suffix == ".py" else _comment(path))
            for path in sorted(files)
            if path.stem != "__init__"
        ]
    else:
        about = first_sentence(docstring(folder / "__init__.py")) if name != "broker" else "What all parts share."
        rows = [(path.stem, first_sentence(docstring(path))) for path in modules(root) if path.parent == folder]
    table = "".join(f"| `{module}` | {text.replace('|', '&#124;')} |\n" for module, text in rows)
    return f"## {name}\n\n{about}\n\n| module | what it is |\n|---|---|\n{table}"


def _comment(path: Path) -> str:
    """Return the first sentence of a shell part's first comment."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#!")]
    comment = [line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("# "), lines)]
    return first_sentence(" ".join(comment))
