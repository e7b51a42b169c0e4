"""Say which instruction of a Dockerfile failed, in which line, and why."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from profiles.build import namespace
from profiles.errors import ProfilesError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiles.build.command import CommandFailed
    from profiles.devcontainer.image_part import DevFeature
    from profiles.dockerfile.instructions import Instruction
    from profiles.dockerfile.spec import DockerfileBuild

MAX_SHOWN_CHARS = 300

_STEP = re.compile(r"(?:\[\d+/\d+\] )?STEP \d+/\d+: (.*)")
_OWN = re.compile(r"subprocess exited|exit(?:ed with)? status \d+|time=\"|STEP |\[\d+/\d+\] STEP |-->|COMMIT")
"""Lines of buildah's own that say nothing about the reason."""
_BUILDAH_ERROR = re.compile(r"(?:Error: |error )building at STEP \"?(?P<step>.*?)\"?: (?P<why>[^:]*(?:: .*)?)$")
_EXIT = re.compile(r"exit(?:ed with)? status \d+$")
_NO_SUCH_ID = re.compile(r"invalid argument|insufficient UIDs or GIDs", re.IGNORECASE)
_OWNER = re.compile(r"chown|chgrp|useradd|adduser|install -o", re.IGNORECASE)
_SHORT_NAME = re.compile(r"short-name|unqualified-search")


def failure_of(error: CommandFailed, build: DockerfileBuild, instructions: Sequence[Instruction]) -> ProfilesError:
    """Return the error for the user, from buildah's output."""
    lines = error.lines
    steps = [found[1] for line in lines if (found := _STEP.match(line))]
    why = _reason(lines) or (lines[-1] if lines else str(error))
    failed = _instruction(steps[-1], instructions) if steps else None
    place = f"{build.file}:{failed.line}: " if failed else f"{build.file}: "
    step = failed.text if failed else steps[-1] if steps else "the build"
    message = f"{place}{_short(step)} failed: {_short(why)}"
    text = "\n".join(lines[-20:])
    if _SHORT_NAME.search(text):
        return ProfilesError(message, hint="write the image with its registry, as in REGISTRY/NAMESPACE/IMAGE:TAG")
    if _NO_SUCH_ID.search(text) and (_OWNER.search(step) or _OWNER.search(why)):
        return ProfilesError(message, hint=_range_hint())
    return ProfilesError(message, hint="the log has the whole output")


def feature_failure(error: CommandFailed, features: Sequence[DevFeature]) -> ProfilesError:
    """Return the error for the user if the script of a feature failed."""
    steps = [found[1] for line in error.lines if (found := _STEP.match(line))]
    number = re.search(r"/berth-feature-(\d+)/", steps[-1]) if steps else None
    last = _reason(error.lines)
    if number is None:
        return ProfilesError(f"the features could not be installed: {_short(last or str(error))}")
    name = features[int(number[1])].name
    return ProfilesError(
        f"install.sh of the feature {name} failed: {_short(last)}", hint="the log has its whole output"
    )


def _reason(lines: Sequence[str]) -> str:
    """Return what buildah says of its failure, or if that is only an exit code, the last line of the program's own.

    buildah 1.28 sometimes ends before it has passed on the output of a program that fails at once (seen in 1 of 20
    runs on a busy machine). Then there is only the exit code.
    """
    code = ""
    for line in reversed(lines):
        found = _BUILDAH_ERROR.match(line)
        if found and not _EXIT.search(found["why"]):
            return found["why"]
        if found:
            code = found["why"]
        elif not _OWN.match(line):
            return line
    return code


def _range_hint() -> str:
    """Say which numbers of users and groups a file of an image can have on this machine."""
    try:
        shown = subprocess.run(
            namespace.as_root("cat", "/proc/self/uid_map"), capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "an owner must be a number that /etc/subuid and /etc/subgid give you"
    highest = max((int(row[0]) + int(row[2]) - 1 for row in map(str.split, shown.splitlines())), default=0)
    return (
        f"owners of files can be 0 to {highest} for you, as /etc/subuid and /etc/subgid say: use such a number, or ask "
        "the administrator for a larger range"
    )


def _instruction(step: str, instructions: Sequence[Instruction]) -> Instruction | None:
    """Return the instruction that buildah shows as `step`."""
    wanted = _squeeze(step)
    exact = [each for each in instructions if _squeeze(each.text) == wanted]
    return exact[0] if exact else None


def _squeeze(text: str) -> str:
    return "".join(text.split()).lower()


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 1]}…"
