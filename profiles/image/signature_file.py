"""The file signature.json beside an image, as it was read: profiles.signature checks it.

The standard library alone: the launcher's children import this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.userfile import UnfitFileError, read_text

if TYPE_CHECKING:
    from pathlib import Path

SIGNATURE = "signature.json"
MAX_SIGNATURE_BYTES = 16 * 1024
"""Limit of the file: ten times what the longest name and version need."""


@dataclass(frozen=True, slots=True)
class SignatureFile:
    """The content of signature.json, which anyone who may write to the store may have written."""

    text: str | None = None
    """None: the image has no such file."""
    problem: str = ""
    """The reason why the file could not be read."""


UNSIGNED = SignatureFile()


def read_signature_file(directory: Path, *, own: bool) -> SignatureFile:
    """Read the file in the directory of an image. With `own` it must be the caller's own and no link."""
    path = directory / SIGNATURE
    try:
        return SignatureFile(read_text(path, MAX_SIGNATURE_BYTES, own=own, follow=not own))
    except FileNotFoundError:
        return UNSIGNED
    except UnfitFileError as error:
        return SignatureFile(problem=f"{path} {error.strerror}")
    except OSError as error:
        return SignatureFile(problem=f"{path} cannot be read: {error.strerror}")
