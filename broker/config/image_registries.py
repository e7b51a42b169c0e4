"""The settings of registries with images."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from broker.config.section import Section
from broker.config.setting_types import AbsolutePath
from profiles.errors import ReferenceInvalidError
from profiles.oci.reference import ImageReference


def _host(text: str) -> str:
    try:
        if "/" not in text:
            return ImageReference.parse(f"{text}/any").registry
    except ReferenceInvalidError as error:
        raise ValueError("must be a registry as in names of images: HOST or HOST:PORT") from error
    raise ValueError("must be a registry without the name of an image: HOST or HOST:PORT")


class ImageRegistrySettings(Section):
    """One registry, as `berth up` and the commands of `berth profile` reach it for images and features."""

    host: Annotated[str, StringConstraints(max_length=255), AfterValidator(_host)]
    """The registry as in the names of its images, with its port if they have one: `registry.example.org:5000`."""
    ca: AbsolutePath | None = None
    """A file in PEM form, which users can read, with the certificate authorities of this registry, instead of those of
    the system. Only a registry on the machine itself may be without TLS."""
    timeout: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """Seconds without a byte after which a connection counts as interrupted, and is made again."""
