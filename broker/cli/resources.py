"""Resource options of a command line, as sbatch's options."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse_resources(words: Sequence[str], *, hint: str) -> list[str]:
    """Return the options as canonical `--name=value` words, with times and sizes in Slurm's forms.

    InvalidInputError with `hint` for an option that a session cannot use.
    """
    from profiles.recipe.resources import to_slurm_value
    from slurm.sbatch import OptionError, parse_options

    options = []
    try:
        for word in parse_options(words):
            name, equals, value = word.removeprefix("--").partition("=")
            try:
                options.append(f"--{name}={to_slurm_value(name, value)}" if equals else word)
            except ValueError as error:
                raise OptionError(f"--{name}: {error}") from error
    except OptionError as error:
        raise InvalidInputError(str(error), hint=hint) from error
    return options
