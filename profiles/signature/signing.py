"""Sign images: in the stage of a build, or in a store afterwards."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.errors import StoreError
from profiles.image.signature_file import SIGNATURE, SignatureFile
from profiles.image.store_reader import DESCRIPTION
from profiles.oci.descriptor import bytes_digest
from profiles.signature.statement import Statement, sign_statement

if TYPE_CHECKING:
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
    path = image.directory / SIGNATURE
    try:
        mode = stat.S_IMODE((image.directory / DESCRIPTION).stat().st_mode)
        descriptor, name = tempfile.mkstemp(prefix=f".{SIGNATURE}.", dir=image.directory)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(signature.text or "")
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}", hint="only the store's owner can sign") from error
