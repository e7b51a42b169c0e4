"""The base of all sections of the configuration."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """A section of the file. Numbers are finite, and `yes` is no number: YAML reads it as true, which is 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, field: ValidationInfo) -> object:
        if isinstance(value, bool) and field.field_name is not None:
            kind = cls.model_fields[field.field_name].annotation
            if kind is not bool and bool not in get_args(kind):
                raise ValueError("must not be `true`, `false`, `yes` or `no`")
        return value
