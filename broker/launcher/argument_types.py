"""Types of the launcher's arguments: each has a check with which the launcher validates what a request brings.

The launcher runs as root and trusts nothing of a request: `Arguments.parse` checks the type and the bounds of every
field and raises VerbError `invalid` if one does not fit. Standard library only.
"""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, asdict, dataclass, fields
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from broker.launcher.request import VerbError
from broker.names import IDENTIFIER, LABEL_PATTERN, NAME_PATTERN, USER_PATTERN, VERSION_PATTERN
from broker.volumes.job_notes import JOB_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

LONG_CALL_TIMEOUT_S = 3600.0
"""Time limit of a verb that may have to read or write everything in a session's volumes."""
REASON_CHARACTERS = 200
PATH_CHARACTERS = 4096
"""PATH_MAX in limits.h."""
TEXT_CHARACTERS = 4 * 2**20
"""Characters of a text without a form of its own: no request is longer (server.LINE_LIMIT)."""
LIST_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class _Text:
    """A check for a text of some form."""

    what: str
    pattern: str

    def __call__(self, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise VerbError("invalid", f"not a {self.what}: {value!r:.80}")
        return value


@dataclass(frozen=True, slots=True)
class IntegerRange:
    """A check for an integer with bounds, both included."""

    what: str
    least: int
    most: int

    def __call__(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise VerbError("invalid", f"not a {self.what}: {value!r:.80}")
        return value


def _check_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise VerbError("invalid", f"not true or false: {value!r:.80}")
    return value


def _check_line(value: object) -> str:
    if not isinstance(value, str) or len(value) > REASON_CHARACTERS or not value.isprintable():
        raise VerbError("invalid", "the reason must be one short line")
    return value


def _check_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_CHARACTERS:
        raise VerbError("invalid", f"not a text: {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise VerbError("invalid", f"not a text: {error}") from error
    return value


def _check_path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or len(value) > PATH_CHARACTERS:
        raise VerbError("invalid", f"not an absolute path: {value!r:.80}")
    return value


def _check_seconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise VerbError("invalid", f"not a time in seconds: {value!r:.80}")
    if not 0 < value <= LONG_CALL_TIMEOUT_S:
        raise VerbError("invalid", f"a time limit must be at most {LONG_CALL_TIMEOUT_S:g} s: {value!r:.80}")
    return float(value)


def _check_files(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise VerbError("invalid", f"not files by name: {value!r:.80}")
    return {_check_text(name): _check_text(content) for name, content in value.items()}


SessionId = Annotated[str, _Text("session id", IDENTIFIER.pattern)]
OperationId = Annotated[str, _Text("operation", IDENTIFIER.pattern)]
SnapshotNumber = Annotated[int, IntegerRange("snapshot number", 1, 10**9 - 1)]
JobNumber = Annotated[int, IntegerRange("job id", 1, 2**32 - 1)]
"""Slurm's job ids have 32 bits."""
SubmissionNumber = Annotated[int, IntegerRange("submission number", 1, 10**9 - 1)]
ShownName = Annotated[str, _Text("session name", f"({NAME_PATTERN[1:-1]})?")]
"""The name of a session that its job's comment shows; empty to show none."""
SenderName = Annotated[str, _Text("user name", USER_PATTERN)]
ProfileName = Annotated[str, _Text("profile", NAME_PATTERN)]
ProfileVersion = Annotated[str, _Text("version", VERSION_PATTERN)]
ImageDigest = Annotated[str, _Text("digest", r"(sha256:[0-9a-f]{64})?")]
DriverName = Annotated[str, _Text("driver", r"auto|overlay|reflink|plain")]
Label = Annotated[str, _Text("label", f"({LABEL_PATTERN[1:-1]})?")]
BatchJobKey = Annotated[str, _Text("job", JOB_KEY.pattern)]
Flag = Annotated[bool, _check_flag]
Line = Annotated[str, _check_line]
Text = Annotated[str, _check_text]
Path = Annotated[str, _check_path]
Seconds = Annotated[float, _check_seconds]
Files = Annotated[dict[str, str], _check_files]
"""Names among session_verbs.FILES, and their content."""


def _check(hint: Any, value: object) -> Any:  # noqa: ANN401 - a type, and a value of it
    """Return `value` if it is of the type of a field; VerbError `invalid` otherwise."""
    if get_origin(hint) is Annotated:
        return get_args(hint)[1](value)
    if get_origin(hint) is list:
        if not isinstance(value, list) or len(value) > LIST_ENTRIES:
            raise VerbError("invalid", f"not a list: {value!r:.80}")
        return [_check(get_args(hint)[0], entry) for entry in value]
    if NoneType in get_args(hint):
        return None if value is None else _check(get_args(hint)[0], value)
    assert issubclass(hint, Arguments)
    if not isinstance(value, dict):
        raise VerbError("invalid", f"not an object: {value!r:.80}")
    return hint.parse(value)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of one verb."""

    VERB: ClassVar[str]
    IS_LONG: ClassVar[bool] = False
    """Whether the verb may have to read or write everything in a session's volumes."""
    WALKS_TREES: ClassVar[Literal["never", "if copied", "always"]] = "never"
    """Whether the verb walks through trees of files. `if copied`: only with a driver that copies."""

    @classmethod
    def parse(cls, request: Mapping[str, Any]) -> Self:
        """Return the arguments in a request. VerbError `invalid` names the first that does not fit. Other keys of the
        request are ignored.
        """
        hints = get_type_hints(cls, include_extras=True)
        missing = [field.name for field in fields(cls) if field.name not in request and field.default is MISSING]
        if missing:
            raise VerbError("invalid", f"missing arguments: {', '.join(missing)}")
        return cls(
            **{
                name: _check(hints[name], request[name])
                for name in (field.name for field in fields(cls))
                if name in request
            }
        )

    def request(self) -> dict[str, Any]:
        """Return the arguments as a request has them."""
        return asdict(self)
