"""`berth profile verify`: compare an image with its digest and its signature."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName
from broker.cli.stores import OTHER, catalog_of, profile_errors, store_of, store_option

if TYPE_CHECKING:
    from pathlib import Path

    from broker.user_input import ProfileReference
    from profiles.image.store import Image
    from profiles.signature.policy import Assessment


@click.command()
@click.argument("wanted", type=ProfileName(), metavar="PROFILE[@VERSION]")
@store_option
@json_option
@pass_invocation
def verify(invocation: Invocation, wanted: ProfileReference, store: Path | None) -> None:
    """Compare an image with its digest and its signature.

    Reads the whole image. Exit code 1 if it differs, or if its signature does not count; also without a signature if
    this site requires one.
    """
    from broker.cli.signatures import signature_json

    with profile_errors():
        catalog = catalog_of(invocation, store)
        image = catalog.find(wanted.name, wanted.version)
        found = _require_signature(invocation, image, catalog.owner_of(image) or OTHER)
        store_of(image).verify(image)
    if invocation.json:
        verified = {"name": image.name, "version": image.version, "digest": image.digest, "ok": True}
        output.print_json(verified | {"signature": signature_json(found)})
        return
    output.print_note(f"{image.name}@{image.version} has the published digest {image.digest}")
    output.print_note(_describe_signer(found))


def _require_signature(invocation: Invocation, image: Image, owner: str) -> Assessment:
    """Raise SignatureError for a signature that does not count here, and for a missing one if it is required."""
    from broker.cli.signatures import assess_signature
    from broker.config.signature_policy import signature_policy
    from profiles.errors import DamagedImageError, SignatureError
    from profiles.signature.policy import SignatureProblem

    try:
        size = image.path.stat().st_size
    except OSError as error:
        raise DamagedImageError(f"{image.path} cannot be read: {error.strerror}", hint="ask its publisher") from error
    found, policy = assess_signature(invocation, image, owner, size), signature_policy(invocation.config)
    tolerated = {SignatureProblem.UNSIGNED, *([] if policy.signers else [SignatureProblem.UNKNOWN_KEY])}
    if found.problem is not None and (policy.is_required(owner) or found.problem not in tolerated):
        raise SignatureError(found.message, hint=found.hint)
    return found


def _describe_signer(found: Assessment) -> str:
    from broker.format import format_date

    if found.problem is not None:
        return found.message
    assert found.signed is not None
    return f"signed by {found.signer} on {format_date(found.signed)}"
