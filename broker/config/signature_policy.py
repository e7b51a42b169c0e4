"""The signers of the configuration with their keys, as a policy for images."""

from __future__ import annotations

from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING

from broker.config.file import Mode
from broker.errors import InvalidInputError
from profiles.errors import KeyFileError
from profiles.image.catalog import OWN, SITE
from profiles.signature.keys import parse_public_signing_key, read_public_signing_key
from profiles.signature.policy import SignaturePolicy, Signer

if TYPE_CHECKING:
    from datetime import date

    from broker.config.profile_settings import SignerSettings
    from broker.config.settings import Config

_DAY_S = 86400.0


def signature_policy(config: Config) -> SignaturePolicy:
    """Return who may sign what. InvalidInputError, with the signer's name, for a key that cannot be used."""
    signers: list[Signer] = []
    for settings in config.profiles.signers:
        signer = _signer(settings)
        if same := next((each.name for each in signers if each.key.key_id == signer.key.key_id), None):
            raise InvalidInputError(
                f"profiles.signers: {same} and {signer.name} have the same key", hint="give each signer its own key"
            )
        signers.append(signer)
    owner = SITE if config.mode is Mode.SITE else OWN
    return SignaturePolicy(signers, frozenset({owner}) if config.profiles.require_signature else frozenset())


def signer_faults(config: Config) -> list[InvalidInputError]:
    """Return the faults of the keys that the settings name."""
    try:
        signature_policy(config)
    except InvalidInputError as error:
        return [error]
    return []


def _signer(settings: SignerSettings) -> Signer:
    where = f"profiles.signers: the key of {settings.name}"
    try:
        if settings.public_key.startswith("/"):
            key = read_public_signing_key(Path(settings.public_key))
        else:
            key = parse_public_signing_key(settings.public_key.encode(), "public_key")
    except KeyFileError as error:
        raise InvalidInputError(f"{where}: {error.message}", hint=error.hint) from error
    first, last = settings.valid_from, settings.valid_until
    return Signer(
        settings.name,
        key,
        tuple(settings.profiles),
        tuple(settings.stores),
        0.0 if first is None else _midnight(first),
        float("inf") if last is None else _midnight(last) + _DAY_S,
    )


def _midnight(day: date) -> float:
    """Return the first second of a day in UTC, since the epoch."""
    return datetime.combine(day, time(), UTC).timestamp()
