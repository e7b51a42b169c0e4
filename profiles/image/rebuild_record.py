"""The record of a rebuild, `<store>/<name>/<version>/rebuild.json`: what it is from, and what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from profiles.errors import DamagedImageError, StoreError
from profiles.image.checked_record import CheckedRecord, Digest, ShortLine, parse_checked_record, record_text
from profiles.image.store_files import read_owned_text
from profiles.image.vulnerability_count import VulnerabilityCount
from profiles.userfile import UnfitFileError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from profiles.image.store import Image

REBUILD_FILE = "rebuild.json"
MAX_REBUILD_BYTES = 16 << 20
REBUILD_FORMAT = 1
MAX_SUMMARY_CHARS = 150

LongLine = Annotated[str, Field(max_length=4096)]


class RecordedChange(CheckedRecord):
    """A package or an executable that differs, as in profiles.inventory.difference."""

    kind: ShortLine
    name: LongLine
    before: LongLine
    after: LongLine


class RebuildRecord(CheckedRecord):
    """The content of the file."""

    format: Annotated[int, Field(ge=REBUILD_FORMAT, le=REBUILD_FORMAT)] = REBUILD_FORMAT
    rebuilt_from: ShortLine
    """The version with which it was compared."""
    refreshed_key: Digest
    """The key of the build together with the resolved packages."""
    resolved: list[LongLine]
    """The packages that apt and pip resolved before the build, as `deb NAME VERSION`."""
    changes: list[RecordedChange]
    vulnerabilities: VulnerabilityCount | None = None
    """None without data."""


def write_rebuild_record(stage: Path, record: RebuildRecord) -> None:
    """Write the record into the stage of a build. Raises StoreError."""
    text = record_text(record)
    if len(text.encode()) > MAX_REBUILD_BYTES:
        raise StoreError(f"the record of the rebuild has more than {MAX_REBUILD_BYTES >> 20} MiB")
    (stage / REBUILD_FILE).write_text(text, encoding="utf-8")


def read_rebuild_record(image: Image) -> RebuildRecord | None:
    """Return the record of an image; None if it has none. DamagedImageError for one that cannot be used."""
    path = image.directory / REBUILD_FILE
    try:
        return parse_checked_record(RebuildRecord, read_owned_text(path, MAX_REBUILD_BYTES))
    except FileNotFoundError:
        return None
    except UnfitFileError as error:
        raise _damaged_record(f"{path} {error.strerror}") from error
    except OSError as error:
        raise _damaged_record(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _damaged_record(f"{path} is damaged: {error}") from error


def summarize_changes(changes: Sequence[RecordedChange]) -> str:
    """Return the changes in one line of at most MAX_SUMMARY_CHARS printable characters, packages first."""
    if not changes:
        return "no package and no program differs"
    packages = [each for each in changes if each.kind != "file"]
    words = [_words(each) for each in packages]
    words += [f"{len(changes) - len(packages)} programs of no package"] if len(packages) < len(changes) else []
    shown: list[str] = []
    for number, word in enumerate(words):
        rest = f"and {len(words) - number} more"
        if len(", ".join([*shown, word, rest])) > MAX_SUMMARY_CHARS:
            return ", ".join([*shown, rest])
        shown.append(word)
    return ", ".join(shown)


def _words(change: RecordedChange) -> str:
    text = (
        f"{change.name} {change.before} -> {change.after}"
        if change.before and change.after
        else f"{change.name} {change.after} added"
        if change.after
        else f"{change.name} removed"
    )
    return "".join(char if char.isprintable() else "?" for char in text)


def _damaged_record(message: str) -> DamagedImageError:
    shown = "".join(char if char.isprintable() else "?" for char in message)[:400]
    return DamagedImageError(shown, hint="remove this file: the next rebuild then compares the packages of the image")
