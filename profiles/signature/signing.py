"""Sign images: in the stage of a build, or in a store afterwards."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from profiles.image.signature_file import SIGNATURE, SignatureFile
from profiles.image.store_files import replace_text
from profiles.image.store_reader import DESCRIPTION
from profiles.oci.descriptor import bytes_digest
from profiles.signature.statement import Statement, sign_statement

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.image.store import Image
    from profiles.signature.keys import PrivateSigningKey


def signature_of(image: Image, key: PrivateSigningKey, now: float) -> SignatureFile:
    """Return the signature of an image with its image.json. The SIF file itself is not read."""
    return SignatureFile(sign_statement(Statement.about(image, now), key))


def write_description(stage: Path, image: Image, key: PrivateSigningKey | None) -> None:
    """Write image.json into the stage of an image, and with a key the signature, which covers it. Raises OSError."""
    description = json.dumps(image.description(), indent=1).encode()
    (stage / DESCRIPTION).write_bytes(description)
    if key is not None:
        described = replace(image, description_digest=bytes_digest(description))
        (stage / SIGNATURE).write_text(signature_of(described, key, time.time()).text or "")


def write_signature(image: Image, signature: SignatureFile) -> None:
    """Put the signature beside the image, on disk, instead of an earlier one. StoreError, with nothing changed."""
    replace_text(image.directory / SIGNATURE, signature.text or "", like=image.directory / DESCRIPTION)
