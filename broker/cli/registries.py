"""Parts that the commands about registries share: names of images, the site's settings, the display of transfers."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from broker.format import format_size

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from profiles.oci.reference import ImageReference
    from profiles.oci.registry_access import RegistryAccess, SiteRegistries

move_tag_option = click.option(
    "--move-tag", is_flag=True, help="Let the tag name the new image if it names another one already."
)


class RegistryImage(click.ParamType["ImageReference"]):
    """The name of an image in a registry."""

    name = "image"

    def convert(
        self, value: str | ImageReference, param: click.Parameter | None, ctx: click.Context | None
    ) -> ImageReference:
        from profiles.errors import ReferenceInvalidError
        from profiles.oci.reference import ImageReference

        if isinstance(value, ImageReference):
            return value
        try:
            return ImageReference.parse(value)
        except ReferenceInvalidError as error:
            self.fail(f"{error.message}: {error.hint}", param, ctx)


def access_of(invocation: Invocation, reference: ImageReference) -> RegistryAccess:
    """Return what the site has configured about the registry of an image."""
    return site_registries(invocation)(reference)


def site_registries(invocation: Invocation) -> SiteRegistries:
    """Return what the site has configured about registries."""
    from profiles.oci.registry_access import RegistryAccess, SiteRegistries

    listed = invocation.config.profiles.registries
    return SiteRegistries({each.host: RegistryAccess(ca=each.ca, timeout_s=each.timeout) for each in listed})


class TransferAmounts:
    """The amount and the rate of the blob that is on its way, for a ProgressLine."""

    def __init__(self) -> None:
        self._done = 0
        self._total = 0
        self._began = (time.monotonic(), 0)

    def update(self, done: int, total: int) -> None:
        """Take the bytes that are done, of `total`; another total is another blob."""
        if total != self._total:
            self._began = (time.monotonic(), done)
        self._done, self._total = done, total

    def text(self) -> str:
        """Return `12.0 MiB of 97.1 MiB, 48.2 MiB/s`; empty before anything is on its way."""
        if not self._total:
            return ""
        began, first = self._began
        passed = max(time.monotonic() - began, 0.001)
        rate = format_size(int((self._done - first) / passed))
        return f"{format_size(self._done)} of {format_size(self._total)}, {rate}/s"
