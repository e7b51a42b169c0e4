"""The scripts that prepare a dev container's session and run its commands, for bash in the session."""

from __future__ import annotations

import hashlib
import shlex
from typing import TYPE_CHECKING

from profiles.devcontainer.lifecycle import ON_CREATION, ON_START
from profiles.devcontainer.variables import shell_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from profiles.devcontainer.lifecycle import Hook

STATE = "/var/lib/berth/up"
"""In the session's system: after a change of the image it has another system, in which no command has run yet."""
SETTINGS = "$HOME/.config/berth"
ENVIRONMENT = "environment.sh"
"""In SETTINGS: login shells read it (profiles/build/inside/finish.sh)."""
EXTENSIONS = "vscode-extensions"
COPIED = "copied"
"""The mark of a copy of the repository."""
DONE = "berth-up-done "
"""Begins the lines that name what was done before."""


def setup_script(
    inside: str, folders: Sequence[str], environment: Mapping[str, str | None], extensions: Sequence[str]
) -> str:
    """Return the script that prepares the session, and prints a line DONE for each mark of what was done before."""
    settings = "".join(
        f"unset {name}\n" if value is None else f"{name}={shell_text(value)}\nexport {name}\n"
        for name, value in environment.items()
    )
    files = {ENVIRONMENT: settings, EXTENSIONS: "".join(f"{each}\n" for each in extensions)}
    return "\n".join(
        [
            "set -eu",
            f'mkdir -p {STATE} {shlex.quote(inside)} "{SETTINGS}"',
            *(f"mkdir -p {shlex.quote(folder)}" for folder in folders),
            *(
                f'(umask 077; printf %s {shlex.quote(text)} >"{SETTINGS}/{name}.new")\n'
                f'mv "{SETTINGS}/{name}.new" "{SETTINGS}/{name}"'
                for name, text in files.items()
            ),
            f"for mark in {STATE}/*; do",
            f'  [ ! -f "$mark" ] || printf "{DONE}%s %s\\n" "${{mark##*/}}" "$(cat "$mark")"',
            "done",
            "",
        ]
    )


def hook_script(hook: Hook, inside: str, mark: str, run: str) -> str:
    """Return the script that runs a hook in the repository, and marks it as done in this `run` if all of it succeeds.

    A login shell runs it. It ends with the exit code of a command that failed. Commands of one hook run at the same
    time.
    """
    lines = ["set -u", f"cd {shlex.quote(inside)} || exit 1"]
    if len(hook.lines) == 1:
        [(_, line)] = hook.lines
        lines.append(f"/bin/sh -c {shlex.quote(line)} </dev/null || exit")
    else:
        lines.append("code=0")
        for number, (_, line) in enumerate(hook.lines):
            lines.append(f"/bin/sh -c {shlex.quote(line)} </dev/null & process{number}=$!")
        for number, (name, _) in enumerate(hook.lines):
            said = shlex.quote(f"{name} failed with exit code")
            lines.append(f'wait "$process{number}" || {{ code=$?; echo {said} "$code" >&2; }}')
        lines.append('[ "$code" -eq 0 ] || exit "$code"')
    lines.append(f"printf %s {shlex.quote(run)} >{STATE}/{mark}")
    return "\n".join([*lines, ""])


def hook_mark(hook: Hook) -> str:
    """Return the name of the mark of a hook, which changes with nothing but its origin and key."""
    origin = hashlib.sha256(hook.origin.encode()).hexdigest()[:12] if hook.origin else "own"
    return f"{hook.key}.{origin}"


def read_marks(output: str) -> dict[str, str]:
    """Return the marks that a setup script has printed, with the runs in which they were made."""
    lines = [line.removeprefix(DONE) for line in output.splitlines() if line.startswith(DONE)]
    return {name: run for name, _, run in (line.partition(" ") for line in lines)}


def is_due(hook: Hook, marks: Mapping[str, str], run: str) -> bool:
    """Whether a hook has to run now: once in each system, once in each run, or each time."""
    if hook.key in ON_CREATION:
        return hook_mark(hook) not in marks
    return hook.key != ON_START or marks.get(hook_mark(hook)) != run
