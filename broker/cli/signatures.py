"""Keys and signatures, for the commands of profiles."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from profiles.image.store import Image, Store
    from profiles.signature.keys import PrivateSigningKey
    from profiles.signature.policy import Assessment


sign_key_option = click.option(
    "--sign-key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Sign the image with this private key, a PEM file that only you can read.",
)


def load_key(path: Path, *, ask: bool = True) -> PrivateSigningKey:
    """Return the private key in a PEM file; with `ask`, ask for the passphrase of an encrypted one.

    Raises KeyFileError.
    """
    from profiles.signature.keys import read_private_signing_key

    return read_private_signing_key(path, lambda: _ask_passphrase(path) if ask else None)


def _ask_passphrase(path: Path) -> bytes | None:
    if not output.is_terminal(sys.stdin):
        return None
    return str(click.prompt(f"Passphrase of {path}", hide_input=True, err=True)).encode()


def key_for_build(
    invocation: Invocation, path: Path, recipe: Path, target: Store, *, ask: bool = True
) -> PrivateSigningKey:
    """Return the private key for the image of a recipe. Raises as `key_for`."""
    from profiles.recipe.spec import load_profile

    profile = load_profile(recipe)
    return key_for(invocation, path, f"{profile.name}@{profile.version}", target, ask=ask)


def key_for(invocation: Invocation, path: Path, label: str, target: Store, *, ask: bool = True) -> PrivateSigningKey:
    """Return the private key for the image `label`, NAME@VERSION.

    Raises KeyFileError; SignatureError if the target requires signatures, and this one would not count.
    """
    from broker.cli.stores import OTHER, config_catalog
    from broker.config.signature_policy import signature_policy

    key = load_key(path, ask=ask)
    owner = config_catalog(invocation.config).owner_at(target.path) or OTHER
    signature_policy(invocation.config).require_signer(key.public, label, owner, target.path, time.time())
    return key


def assess_signature(invocation: Invocation, image: Image, owner: str, size: int | None = None) -> Assessment:
    """Return what the image's signature is worth now."""
    from broker.config.signature_policy import signature_policy

    return signature_policy(invocation.config).assess(image, owner, time.time(), size)


def signature_json(found: Assessment) -> dict[str, object] | None:
    """Return a signature as a JSON object; None for an image without one."""
    from profiles.signature.policy import SignatureProblem

    if found.problem is SignatureProblem.UNSIGNED:
        return None
    return {
        "signer": found.signer or None,
        "key": found.key_id or None,
        "signed": found.signed,
        "problem": found.problem,
    }
