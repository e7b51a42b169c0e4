"""Suggest the command or session that a user probably meant."""

# ruff: noqa: PLC0415 - only failed commands need these modules

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.cli.command_table import ALIASES, COMMANDS, HIDDEN, SUGGESTIONS
from broker.errors import BerthError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.cli.context import Invocation


def similar_command(word: str) -> str | None:
    """Return the command that `word` probably means."""
    if word in SUGGESTIONS:
        return SUGGESTIONS[word]
    found = _find_similar(word, [*COMMANDS.keys() - HIDDEN.keys(), *ALIASES, *SUGGESTIONS])
    return None if found is None else SUGGESTIONS.get(found) or ALIASES.get(found) or found


def with_similar_session(error: NotFoundError, invocation: Invocation) -> NotFoundError:
    """Return the error with a hint to the session that the user probably meant, if it is about a given name.

    Another error, as about a profile, keeps its hint: the name of a new session need not exist.
    """
    from broker.client.autostart import passive_client

    try:
        existing = [session.name for session in passive_client(invocation.config).sessions()]
    except BerthError:
        return error
    for name in invocation.names:
        if name in error.message.split() and name not in existing and (found := _find_similar(name, existing)):
            return NotFoundError(error.message, hint=f"did you mean {found}? {error.hint}".rstrip())
    return error


def _find_similar(word: str, known: Iterable[str]) -> str | None:
    import difflib

    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return found[0] if found else None
