"""The schema of a check: a command that has to succeed in a session of the profile before it is promoted."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints

from profiles.recipe.duration import parse_duration
from profiles.recipe.fields import STRICT, one_line, refuse_duplicates

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_CHECKS = 24
"""Checks of one profile: with the limits of a verdict, its file stays below 512 KiB."""
MAX_CHECK_CHARS = 1000
DEFAULT_CHECK_LIMIT_S = 60.0
MAX_CHECK_LIMIT_S = 3600.0

CHECK_NAME_PATTERN = r"^[a-z][a-z0-9-]{0,38}$"
CHECK_PATTERN_MESSAGES = {
    CHECK_NAME_PATTERN: "must be a lower-case letter, then at most 38 lower-case letters, digits and `-`",
}
"""The meaning of each pattern in words."""


def _parse_time_limit(value: object) -> object:
    """Return the seconds of a length of time; numbers come from image.json, where they are seconds."""
    return parse_duration(value) if isinstance(value, str) else value


def _check_time_limit(seconds: float) -> float:
    if not 1 <= seconds <= MAX_CHECK_LIMIT_S:
        raise ValueError("must be from 1s to 1h")
    return seconds


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must be a command")
    return text


class ProfileCheck(BaseModel):
    """A check: a command for bash, in a login shell of the session."""

    model_config = STRICT

    name: Annotated[str, StringConstraints(pattern=CHECK_NAME_PATTERN)]
    command: Annotated[
        str, StringConstraints(max_length=MAX_CHECK_CHARS), AfterValidator(one_line), AfterValidator(_not_blank)
    ]
    time_limit: Annotated[float, BeforeValidator(_parse_time_limit), AfterValidator(_check_time_limit)] = (
        DEFAULT_CHECK_LIMIT_S
    )
    """Seconds."""
    gpu: bool = False
    """Whether the check needs a GPU that the session has been given."""


CheckList = Annotated[
    list[ProfileCheck],
    Field(max_length=MAX_CHECKS),
    AfterValidator(refuse_duplicates("name")),
]


def format_checks(checks: Iterable[ProfileCheck]) -> str:
    """Return checks as lines of seconds, `gpu` or `any`, name and command: the container of a session reads them."""
    return "".join(
        f"{math.ceil(check.time_limit)} {'gpu' if check.gpu else 'any'} {check.name} {check.command}\n"
        for check in checks
    )


_GPU_RESOURCES = frozenset({"gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task"})
_GPU_GRES = re.compile(r"(^|,)(gres[/:])?(gpu|shard)(:|,|$)")


def asks_for_gpu(resources: dict[str, bool | str]) -> bool:
    """Whether these default resources of a profile include a GPU, or a share of one."""
    return any(
        name in _GPU_RESOURCES or (name == "gres" and isinstance(value, str) and bool(_GPU_GRES.search(value)))
        for name, value in resources.items()
        if value is not False
    )
