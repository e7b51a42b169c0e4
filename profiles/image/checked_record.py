"""Records beside an image, as JSON: each value is checked, since who may write there may have written anything."""

from __future__ import annotations

import json
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from profiles.strict_json import load_strict_json

MAX_RECORD_TIME_S = 1e11
"""Seconds since the epoch; a larger number would be milliseconds by mistake."""


def require_printable(text: str) -> str:
    """Return the text. ValueError if it has characters that cannot be shown."""
    if not text.isprintable():
        raise ValueError("has characters that cannot be shown")
    return text


Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
ShortLine = Annotated[str, StringConstraints(max_length=256), AfterValidator(require_printable)]
RecordTime = Annotated[float, Field(ge=0, lt=MAX_RECORD_TIME_S)]


class CheckedRecord(BaseModel):
    """A record, or a part of one. Unknown entries, and values of another type, are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Record = TypeVar("Record", bound=CheckedRecord)


def parse_checked_record(kind: type[Record], text: str) -> Record:
    """Return the record in a text. ValueError with the fault, as the end of `FILE is damaged: `."""
    try:
        return kind.model_validate(load_strict_json(text))
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])[:80]
        raise ValueError(f"`{place or 'the whole'}` is wrong") from error


def record_text(record: CheckedRecord) -> str:
    """Return the content of a record's file."""
    return json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
