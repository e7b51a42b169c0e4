"""Print results to stdout and messages to stderr. Every write of a command is made here.

Control characters of untrusted text are escaped. A terminal's encoding, a full disk and a closed pipe never cause an
internal error.
"""

# ruff: noqa: PLC0415 - most commands print no JSON and no table, and `broker.cli.short_commands` has no use for click

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from typing import IO, TYPE_CHECKING, Any

from broker.errors import BerthError, ExitCode
from broker.format import escape_controls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import BaseModel

_ENCODING_ERRORS = "berth-plain"
_PLAIN = str.maketrans({"…": "...", "→": "->", "•": "*", "·": "*", "“": '"', "”": '"'})
_DEFAULT_COLUMNS = 80
"""The width if there is no terminal."""
_STREAMS = ("stdin", "stdout", "stderr")


class OutputError(BerthError):
    """The result cannot be written, for example because the disk is full."""

    reason = "output"


def prepare_streams() -> None:
    r"""Make the standard streams take any text.

    A character that the encoding does not have is replaced: `…` by `...`, others by their code such as `\u2713`. A
    closed stream is opened on /dev/null, so that no other file gets its number.
    """
    codecs.register_error(_ENCODING_ERRORS, _replace_characters)
    for number, name in enumerate(_STREAMS):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _open_null(number))
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ENCODING_ERRORS)


def _open_null(number: int) -> IO[str]:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    os.set_inheritable(number, True)
    return open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)


def _replace_characters(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def write(text: str, *, err: bool = False) -> None:
    """Write text as it is, and flush. Messages that cannot be written are dropped.

    Raises OutputError if a result cannot be written, and ends the command if the reader of a pipe has left.
    """
    _write(sys.stderr if err else sys.stdout, text, err=err)


def write_bytes(content: bytes) -> None:
    """Write another program's output to stdout; errors as in `write`."""
    _write(sys.stdout.buffer, content)


def _write(stream: IO[Any], content: str | bytes, *, err: bool = False) -> None:
    try:
        stream.write(content)
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: the stream is closed
        _drop(sys.stderr if err else sys.stdout)
        if err:
            return
        if isinstance(error, ValueError) or error.errno == errno.EPIPE:
            import click

            raise click.exceptions.Exit(ExitCode.FAILED) from error
        raise output_error(error) from error


def output_error(error: OSError) -> OutputError:
    """Return the user's error for a failed write to stdout, and drop what was not written."""
    _drop(sys.stdout)
    message = f"cannot write the result: {error.strerror or error}"
    return OutputError(message, hint="free disk space, or write to another file")


def _drop(stream: IO[str]) -> None:
    """Send the stream's unwritten text to /dev/null: Python would fail again when it ends."""
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def is_terminal(stream: IO[str]) -> bool:
    """Whether a user sees or types at the stream."""
    with contextlib.suppress(ValueError):
        return stream.isatty()
    return False


def terminal_columns() -> int:
    """Return the width of the terminal, as shutil.get_terminal_size does, whose module takes long to import."""
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ is not None else 1).columns
        except (OSError, ValueError):
            columns = 0
    return columns if columns > 0 else _DEFAULT_COLUMNS


def print_line(text: str) -> None:
    """Print a line of a result."""
    write(f"{escape_controls(text)}\n")


def print_note(text: str) -> None:
    """Print a message on stderr."""
    write(f"{escape_controls(text)}\n", err=True)


def print_json(value: BaseModel | Mapping[str, object] | Sequence[object]) -> None:
    """Print a result as indented JSON in ASCII, which also escapes control characters."""
    import json

    plain = value if isinstance(value, (dict, list)) else value.model_dump(mode="json")  # type: ignore[union-attr]
    write(f"{json.dumps(plain, indent=2)}\n")


def print_json_line(value: Mapping[str, object]) -> None:
    """Print a result as JSON in one line of ASCII."""
    import json

    write(f"{json.dumps(value)}\n")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, shrink: int | None = None) -> None:
    """Print a table, as `table_lines` makes it."""
    write("".join(f"{line}\n" for line in table_lines(headings, rows, shrink=shrink)))


def table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]], *, shrink: int | None = None) -> list[str]:
    """Return aligned columns, two blanks apart. There are headings even without rows, for scripts.

    On a terminal, the column `shrink` is shortened until the table fits, and then whole lines are.
    """
    cells = [[escape_controls(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    room = None
    if shrink is not None and is_terminal(sys.stdout):
        room = terminal_columns()
        excess = sum(widths) + 2 * (len(widths) - 1) - room
        widths[shrink] = min(widths[shrink], max(len(headings[shrink]), widths[shrink] - excess))
        for row in cells:
            row[shrink] = shorten(row[shrink], widths[shrink])
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return lines if room is None else [shorten(line, room) for line in lines]


def shorten(text: str, width: int, *, tail: str = "") -> str:
    """Return the text in at most `width` characters; `…` marks a cut. The ending `tail` is kept if there is room."""
    if len(text) <= width:
        return text
    end = tail if text.endswith(tail) and len(tail) < width // 2 + 1 else ""
    return f"{text[: max(width - 1 - len(end), 0)]}…{end}"
