"""The man pages of the commands, from the same help as docs/reference/cli.md; only berth-sbatch(1) is hand-written."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from broker.cli.command_table import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import click

BY_HAND = "berth sbatch"
"""The command whose page has more than its help."""
_MAIN = "berth"


def pages(root: Path, contexts: Sequence[tuple[str, click.Context]]) -> dict[Path, str]:
    """Return the page of each command, and of `berth` itself. A group's page has the commands below it."""
    found = {}
    codes = _exit_codes((root / "docs/reference/exit-codes.md").read_text(encoding="utf-8"))
    for name, context in contexts:
        if name != BY_HAND and name.count(" ") < 2:
            below = [pair for pair in contexts if pair[0].startswith(f"{name} ") and name != _MAIN]
            path = root / "docs" / "man" / f"{name.replace(' ', '-')}.1"
            found[path] = "\n".join([*_page(name, context, below), *_end(name, codes), ""])
    return found


def _page(name: str, context: click.Context, below: Sequence[tuple[str, click.Context]]) -> Iterator[str]:
    summary, text = _help(context.command)
    title = name.replace(" ", "-")
    yield f'.TH {title.upper()} 1 "" "Berth" "User Commands"'
    yield ".SH NAME"
    yield f"{_escape(title)} \\- {_escape(summary.rstrip('.')[0].lower() + summary.rstrip('.')[1:])}"
    yield ".SH SYNOPSIS"
    yield from _synopsis(name, context)
    yield ".SH DESCRIPTION"
    yield from text or [f"{_escape(summary)}"]
    yield from _options(context, ".SH OPTIONS")
    if name == _MAIN:
        yield from _command_list()
    for full, inner in below:
        summary, text = _help(inner.command)
        yield f".SH {_escape(full.upper())}"
        yield from _synopsis(full, inner)
        yield ".PP"
        yield from [_escape(summary), *([".PP"] if text else []), *text]
        yield from _options(inner, ".PP")


def _synopsis(name: str, context: click.Context) -> Iterator[str]:
    yield f".B {_escape(name)}"
    yield _escape(" ".join(context.command.collect_usage_pieces(context)))


def _help(command: click.Command) -> tuple[str, list[str]]:
    """Return the first line of a command's help, and the lines of the page for the rest."""
    summary, *paragraphs = re.split(r"\n\n+", inspect.cleandoc(command.help or "").partition("\f")[0])
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += [".PP"] if lines else []
        if paragraph.startswith("\b"):
            lines += [".nf", *map(_escape, paragraph.splitlines()[1:]), ".fi"]
        else:
            lines += [_escape(line) for line in paragraph.splitlines()]
    return " ".join(summary.split()), lines


def _options(context: click.Context, heading: str) -> Iterator[str]:
    options = [param for param in context.command.get_params(context) if param.param_type_name == "option"]
    records = [record for option in options if (record := option.get_help_record(context))]
    if records:
        yield heading
    for names, text in records:
        yield ".TP"
        yield f".B {_escape(names)}"
        yield _escape(text)


def _command_list() -> Iterator[str]:
    yield ".SH COMMANDS"
    for title, group in GROUPS.items():
        yield f".SS {_escape(title)}"
        for name, entry in group.items():
            yield ".TP"
            yield f".BR {_escape(f'berth-{name}')} (1)"
            yield _escape(entry.summary)


def _exit_codes(page: str) -> list[tuple[str, str]]:
    """Return the codes and their meanings, of the table of all exit codes."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if re.match(r"\| \d", line)]
    return [(code, meaning) for code, _, _, meaning, _ in rows]


def _end(name: str, codes: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield ".SH EXIT STATUS"
    if name == _MAIN:
        for code, meaning in codes:
            yield from (".TP", f".B {code}", _escape(meaning))
    else:
        yield "That of"
        yield ".BR berth (1)."
    yield ".SH SEE ALSO"
    yield ".BR ssh (1), sbatch (1)" if name == _MAIN else ".BR berth (1)"


def _escape(text: str) -> str:
    """Return a line of plain text for roff: code in bold, and no character that begins a request."""
    line = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha").replace("~", "\\(ti")
    )
    line = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", line)
    return f"\\&{line}" if line.startswith((".", " ")) else line
