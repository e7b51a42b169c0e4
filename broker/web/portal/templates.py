"""The templates of all pages. Every value is escaped: for HTML, and its control characters as in a terminal."""

from __future__ import annotations

import re
import shlex
import time
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from broker.format import escape_controls, format_time

if TYPE_CHECKING:
    from collections.abc import Sequence

_CODE = re.compile(r"`([^`]+)`")


def render(template: str, **values: object) -> str:
    """Return a page. `now`, the present time, is added to the values."""
    return _ENVIRONMENT.get_template(template).render(now=time.time(), **values)


def _escape_controls(value: object) -> object:
    """Show what could imitate other text, such as characters that change the direction of writing."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return escape_controls(value, keep="\n\t")
    return "" if value is None else value


def _with_code(text: str) -> Markup:
    """Return the text with its commands, which are in backticks, as code."""
    escaped = str(escape(escape_controls(text)))
    return Markup(_CODE.sub(r"<code>\1</code>", escaped))  # noqa: S704 - see above


def _shell_line(words: Sequence[str]) -> str:
    return shlex.join(words)


def _sentence(text: str) -> str:
    """Return the text with a capital letter at its begin, unless that is the begin of a command."""
    return text[:1].upper() + text[1:]


def _heading(text: str) -> str:
    """Return a heading of a table of the command line, which is in capital letters, as one of a page."""
    return text.capitalize().replace("Gpu", "GPU").replace("gpu", "GPU").replace("Cpu", "CPU")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("broker.web.portal"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escape_controls,
    )
    environment.filters |= {
        "code": _with_code,
        "shell": _shell_line,
        "sentence": _sentence,
        "heading": _heading,
        "clock": format_time,
    }
    return environment


_ENVIRONMENT = _environment()
