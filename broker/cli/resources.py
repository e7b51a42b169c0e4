"""Resource options of a command line: they are sbatch's options, after the names of sessions."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from broker.cli.params import SessionName, SessionReference
from broker.errors import InvalidInputError
from broker.user_input import parse_session_options

if TYPE_CHECKING:
    from collections.abc import Sequence


class ResourceCommand(click.Command):
    """A command with resource options; the shell completes them, too."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from slurm.sbatch import ALLOWED

        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            found += [CompletionItem(f"--{name}") for name in ALLOWED if f"--{name}".startswith(incomplete)]
        return found


class NameOrResource(SessionName):
    """A session's name or, after the names, a word of the resource options; completed with sessions."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        del param, ctx
        return value


def split_names(words: Sequence[str], ctx: click.Context) -> tuple[list[str], list[str]]:
    """Return the sessions' names at the beginning of a command line, and the resource options after them."""
    count = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    if words and not count and not ctx.params["every"]:
        count = 1  # the name's type refuses an option in place of the name
    return [SessionReference().convert(word, None, ctx) for word in words[:count]], list(words[count:])


def parse_resources(words: Sequence[str], *, hint: str) -> list[str]:
    """Return the options as canonical `--name=value` words, with times and sizes in Slurm's forms.

    InvalidInputError with `hint` for an option that a session cannot use.
    """
    try:
        return parse_session_options(words)
    except ValueError as error:
        raise InvalidInputError(str(error), hint=hint) from error
