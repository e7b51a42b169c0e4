"""The page of `berth --help`. It is made without click, whose import would take most of the command's time."""

from __future__ import annotations

from broker.cli.command_table import COMMANDS, GROUPS
from broker.cli.output import terminal_columns

DESCRIPTION = """\
Named, persistent environments on a Slurm cluster, reached by ssh.

`berth start dev --profile base` creates and starts one, `ssh dev.berth` connects to it, `berth stop dev` ends its
job and keeps its files. `--json` works before or after every command. `berth help COMMAND` explains a command.

`ls` and `ps` are short for list, `rm` for delete, and `status` for show.
"""
"""The paragraphs above the options."""
OPTIONS = {
    "--version": "Show the version and exit.",
    "--config FILE": "Read this configuration instead of $BERTH_CONFIG or /etc/berth/config.yaml.",
    "--json": "Print JSON on stdout, and a failure as a JSON object on stderr.",
    "-h, --help": "Show this message and exit.",
}
"""The options of `berth` itself; a test compares them with click's."""
_MIN_COLUMNS, _MAX_COLUMNS = 50, 80
"""Widths of click's pages: at most 80 columns, two of them empty, and at least 50 of text."""
_INDENT = "  "


def overview_page() -> str:
    """Return the page in the width that click's pages have on this terminal."""
    return overview(max(min(terminal_columns(), _MAX_COLUMNS) - 2, _MIN_COLUMNS))


def overview(width: int) -> str:
    """Return the page in lines of at most `width` characters, at least 50."""
    parts = ["Usage: berth [OPTIONS] COMMAND [ARGS]...\n"]
    parts += [
        "".join(f"{_INDENT}{line}\n" for line in _wrap(text, width - len(_INDENT)))
        for text in DESCRIPTION.split("\n\n")
    ]
    parts.append(_section("Options", OPTIONS, width))
    column = max(map(len, COMMANDS))
    for title, group in GROUPS.items():
        parts.append(_section(title, {name.ljust(column): entry.summary for name, entry in group.items()}, width))
    return "\n".join(parts)


def _section(title: str, rows: dict[str, str], width: int) -> str:
    column = max(map(len, rows)) + len(_INDENT)
    lines = [f"{title}:\n"]
    for name, text in rows.items():
        first, *others = _wrap(text, width - column - len(_INDENT))
        lines.append(f"{_INDENT}{name.ljust(column)}{first}\n")
        lines += [f"{_INDENT}{' ' * column}{line}\n" for line in others]
    return "".join(lines)


def _wrap(text: str, width: int) -> list[str]:
    """Break the text between words. The module textwrap would take as long to import as all of this one."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines
