"""Values of sbatch options in forms that Slurm reads, for options whose values users also write with other units."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from profiles.recipe import duration, size
from profiles.recipe.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from profiles.recipe.yaml_document import YamlDocument

OptionCheck = Callable[[str, str | bool], None]
"""Gets the name and the value of an option, `True` and `False` for a flag. Raises ValueError if it cannot be used."""

OPTION_PATTERN = r"^[a-z][a-z0-9-]*$"
"""The names that the schema accepts, without their hyphens."""
DURATIONS = frozenset({"time", "time-min"})
SIZES = frozenset({"mem", "mem-per-cpu", "mem-per-gpu", "tmp"})
_NO_LIMIT = frozenset({"unlimited", "infinite", "-1"})


def to_slurm_value(name: str, value: str) -> str:
    """Return the value of the option `--name` for Slurm, such as `1:30:00` for `1h30m` and `1536M` for `1.5G`.

    A value that Slurm reads itself is not changed. ValueError, with the accepted forms, for a wrong time or size.
    """
    if name in DURATIONS:
        if duration.is_slurm_time(value) or value.lower() in _NO_LIMIT:
            return value
        return duration.slurm_time(duration.parse_duration(value))
    if name in SIZES and not size.is_slurm_size(value):
        return size.slurm_size(size.parse_size(value))
    return value


def any_option(name: str, value: str | bool) -> None:
    """Accept every option: this package does not know which options Slurm has."""
    del name, value


def slurm_resources(resources: Mapping[str, bool | str]) -> dict[str, bool | str]:
    """Return the resources with times and sizes in Slurm's forms; ValueError for a wrong one."""
    return {name: to_slurm_value(name, value) if isinstance(value, str) else value for name, value in resources.items()}


def resource_problems(document: YamlDocument, check_option: OptionCheck) -> Iterator[Problem]:
    """Find the options that cannot be used. Values that are not text are left to the schema."""
    resources = document.data.get("resources") if isinstance(document.data, dict) else None
    for name, value in resources.items() if isinstance(resources, dict) else []:
        if isinstance(value, str) and re.fullmatch(OPTION_PATTERN, name):
            try:
                flag = {"true": True, "false": False}.get(value)
                check_option(name, to_slurm_value(name, value) if flag is None else flag)
            except ValueError as error:
                yield Problem(document.line(("resources", name)), f"`resources.{name}`: {error}")
