"""A profile's environment as the shell lines that Apptainer sources when a container starts."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:(\w+)|\{(\w+)\}|(\$))", re.ASCII)

VENV = """case ":$PATH:" in
*:/opt/venv/bin:*) ;;
*) export PATH=/opt/venv/bin:"$PATH" ;;
esac
"""


def shell_lines(environment: Mapping[str, str], *, venv: bool) -> str:
    """Write the environment for sh(1), in the order given.

    `$NAME` and `${NAME}` in a value stand for what the variable is at that point, `$$` for one dollar sign; everything
    else stands for itself: no command is ever run.
    """
    lines = [f"export {name}={quote_value(value)}\n" for name, value in environment.items()]
    return (VENV if venv else "") + "".join(lines)


def quote_value(value: str) -> str:
    """Quote one value for sh(1), with its references left open."""
    parts = []
    at = 0
    for found in _REFERENCE.finditer(value):
        parts.append(_literal(value[at : found.start()]))
        name = found[1] or found[2]
        parts.append(f'"${{{name}-}}"' if name and not name[0].isdigit() else _literal(found[0].replace("$$", "$")))
        at = found.end()
    parts.append(_literal(value[at:]))
    return "".join(parts) or "''"


def _literal(text: str) -> str:
    return shlex.quote(text) if text else ""
