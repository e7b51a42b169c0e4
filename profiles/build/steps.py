"""The steps of a build: their progress reports, and the message if one fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from profiles.build.command import CommandFailed, run_logged
from profiles.errors import BuildError, ProfilesError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(slots=True)
class StepRecord:
    """A finished step: its time, and the bytes that it made if it counts them."""

    name: str
    seconds: float = 0.0
    size: int | None = None
    cached: bool = False
    """Whether an earlier build has run it, and its result was still there."""

    def __str__(self) -> str:
        if self.cached:
            return "as in an earlier build"
        size = "" if self.size is None else f", {self.size / 2**20:.1f} MiB"
        return f"{self.seconds:.1f} s{size}"


@dataclass(frozen=True, slots=True)
class Step:
    """The present step of a build. `line` is a line of its output, or empty at its beginning.

    At the end of a step, `record` has what it took, and `line` says it in words.
    """

    name: str
    number: int
    total: int
    line: str = ""
    record: StepRecord | None = None


StepCallback = Callable[[Step], None]

REMEDIES = {
    "debian": "is every package's name right, and does the network reach the Debian mirror?",
    "packages": "is every package's name right, and does the network reach the mirror of packages?",
    "resolve": "does this machine reach the package sources of the image?",
    "pip": "is every package's name right, and does the network reach the Python package index?",
    "files": "is every destination a place where a file can be?",
    "inventory": "does the image still have the database of its package manager?",
    "post": "the last command in the log is the one that failed",
}


MIRROR_HINT = (
    "this machine does not reach the Debian mirror: build where it is reached, or set a proxy (`http_proxy`, "
    "`https_proxy`) or another mirror (`BERTH_DEBIAN_MIRROR`)"
)
_UNREACHED = (
    "failed to fetch",
    "could not resolve",
    "temporary failure resolving",
    "could not connect",
    "unable to connect",
)
"""Parts of apt's complaints about a mirror."""


class Steps:
    """Runs the named steps in this order."""

    def __init__(self, names: Sequence[str], log: BinaryIO, progress: StepCallback, deadline: float) -> None:
        self._names = list(names)
        self._log = log
        self._progress = progress
        self._deadline = deadline
        self._now = Step("", 0, len(self._names))
        self.records: list[StepRecord] = []
        """The finished steps."""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[StepRecord]:
        """Announce a step for the time of the block, which may set the record's size.

        An error in it becomes a BuildError that names the step.
        """
        began, record = time.monotonic(), StepRecord(name)
        self._now = Step(name, self._names.index(name) + 1, len(self._names))
        self._log.write(f"== {self._now.number}/{self._now.total} {name} {time.strftime('%H:%M:%S')}\n".encode())
        self._progress(self._now)
        try:
            yield record
        except CommandFailed as error:
            said = f": {error.complaint}" if error.complaint else ""
            raise BuildError(f"step {name} failed: {error}{said}", step=name, hint=_hint(name, error)) from error
        except ProfilesError as error:
            raise BuildError(f"step {name} failed: {error.message}", step=name, hint=error.hint) from error
        except OSError as error:
            raise BuildError(f"step {name} failed: {error}", step=name, hint="the log has the details") from error
        record.seconds = round(time.monotonic() - began, 3)
        self.records.append(record)
        self._progress(replace(self._now, line=str(record), record=record))

    def skip(self, name: str) -> None:
        """Announce a step whose result an earlier build has left."""
        record = StepRecord(name, cached=True)
        self._now = Step(name, self._names.index(name) + 1, len(self._names), str(record), record)
        self._log.write(f"== {self._now.number}/{self._now.total} {name}: {record}\n".encode())
        self.records.append(record)
        self._progress(self._now)

    def run_quietly(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        """Run a program that is no part of a step: its output goes to the log only. Raises CommandFailed."""
        return run_logged(argv, log=self._log, deadline=self._deadline, env=env)

    def run(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        """Run a program as part of the step. Raises CommandFailed."""
        return run_logged(argv, log=self._log, deadline=self._deadline, env=env, line=self._line)

    def say(self, text: str) -> None:
        """Show a line of the step's own, and write it to the log."""
        self._log.write(f"{text}\n".encode())
        self._line(text)

    def remaining_seconds(self) -> float:
        """Return the remaining time of the build in seconds."""
        return max(1.0, self._deadline - time.monotonic())

    def extend(self, seconds: float) -> None:
        """Give the build more time, for a question to the user."""
        self._deadline += seconds

    def _line(self, text: str) -> None:
        if text.strip():
            self._progress(replace(self._now, line=text))


def _hint(step: str, error: CommandFailed) -> str:
    """Return the remedy of a failed step. Only the steps that install Debian packages use the mirror."""
    unreached = any(text in error.complaint.lower() for text in _UNREACHED)
    if unreached and step in {"debian", "packages", "resolve"}:
        return MIRROR_HINT
    return REMEDIES.get(step, "the log has the details")
