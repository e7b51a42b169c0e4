"""The commands of a dev container's life: when each runs, and the shell command that runs it in a session."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_COMMAND_CHARS = 32_768
MAX_COMMANDS = 64

ON_CREATION = ("onCreateCommand", "updateContentCommand", "postCreateCommand")
"""Run once for each new system of a session, in this order."""
ON_START = "postStartCommand"
"""Runs once for each start of a session."""
ON_ATTACH = "postAttachCommand"
"""Runs each time."""
LIFECYCLE_KEYS = (*ON_CREATION, ON_START, ON_ATTACH)
LOCAL_COMMAND = "initializeCommand"
"""Would run on the user's own machine, before anything is built."""


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a NUL character")
    return text


Word = Annotated[str, Field(max_length=MAX_COMMAND_CHARS), AfterValidator(_without_nul)]
OneCommand = Word | Annotated[list[Word], Field(max_length=1024)]
Command = OneCommand | Annotated[dict[str, OneCommand], Field(max_length=MAX_COMMANDS)]
"""A line for a shell, the words of a program, or several of both by name, which run at the same time."""


@dataclass(frozen=True, slots=True)
class Hook:
    """Commands that run at the same time: each by its name, which may be empty, as one line for sh(1)."""

    key: str
    origin: str
    """The feature that it comes from; empty for devcontainer.json."""
    lines: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        """The key, and the feature it comes from."""
        return f"{self.key} of {self.origin}" if self.origin else self.key


def make_hook(key: str, command: Command, origin: str = "") -> Hook | None:
    """Return the hook of a command; None for an empty one."""
    named = command if isinstance(command, dict) else {"": command}
    lines = tuple((name, _line(each)) for name, each in named.items() if each)
    return Hook(key, origin, lines) if lines else None


def _line(command: OneCommand) -> str:
    return command if isinstance(command, str) else shlex.join(command)
