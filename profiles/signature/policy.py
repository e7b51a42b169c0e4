"""Rules for signatures: the signers, the images that each may sign, and the check of an image.

All decisions are functions of the image as it was read, of the signers, and of a time that the caller gives.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from profiles.errors import SignatureError
from profiles.image.catalog import OWN, SITE
from profiles.signature.keys import SHOWN_KEY_CHARS
from profiles.signature.statement import StatementError, parse_envelope

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from profiles.image.store import Image
    from profiles.signature.keys import PublicSigningKey
    from profiles.signature.statement import Envelope, Statement

_OWNER_WORDS = {SITE: "the site's stores", OWN: "users' own stores"}


class SignatureProblem(StrEnum):
    """Why the signature of an image does not count."""

    UNSIGNED = "unsigned"
    UNKNOWN_KEY = "unknown-key"
    EXPIRED = "expired"
    NOT_ALLOWED = "not-allowed"
    DAMAGED = "damaged"
    FORGED = "forged"
    OTHER_IMAGE = "other-image"
    SIZE = "size"


DOUBTS = frozenset(
    {
        SignatureProblem.UNSIGNED,
        SignatureProblem.UNKNOWN_KEY,
        SignatureProblem.EXPIRED,
        SignatureProblem.NOT_ALLOWED,
    }
)
"""These say nothing against an image where signatures are not required: without its signature it would start. The
others say that the image or its signature was changed."""


@dataclass(frozen=True, slots=True)
class Signer:
    """A key, and what it may sign."""

    name: str
    key: PublicSigningKey
    profiles: tuple[str, ...] = ("*",)
    """Names, in which `*` stands for any characters."""
    stores: tuple[str, ...] = ()
    """SITE, OWN, or the path of a store; empty: all."""
    valid_from: float = 0.0
    """Seconds since the epoch."""
    valid_until: float = float("inf")
    """Seconds since the epoch, the first that is too late."""

    def may_sign(self, name: str) -> bool:
        """Whether the profiles of this signer include that name."""
        return any(fnmatchcase(name, pattern) for pattern in self.profiles)


@dataclass(frozen=True, slots=True)
class Assessment:
    """The worth of an image's signature."""

    signer: str = ""
    """The name of the signer; empty if the key is unknown, or there is no signature that could be read."""
    key_id: str = ""
    """The key that the signature names."""
    signed: float | None = None
    """Seconds since the epoch, as the signer says; None unless the signer is known."""
    problem: SignatureProblem | None = None
    """None: the signature counts."""
    message: str = ""
    hint: str = ""


class SignaturePolicy:
    """The signers of a site, or of a user in personal mode, and the owners whose images need a signature."""

    def __init__(self, signers: Sequence[Signer] = (), required_of: frozenset[str] = frozenset()) -> None:
        self.signers = tuple(signers)
        self._required_of = required_of

    @property
    def is_empty(self) -> bool:
        """Whether no image can be refused."""
        return not self.signers and not self._required_of

    def is_required(self, owner: str) -> bool:
        """Whether sessions only start from the signed images of this owner."""
        return owner in self._required_of

    def require_signer(self, key: PublicSigningKey, label: str, owner: str, store: Path, now: float) -> str:
        """Return the name of the key's signer; empty if the key is unknown, or may not sign `label` (NAME@VERSION)
        there now, and no signature is required. SignatureError if one is.
        """
        signer = next((each for each in self.signers if each.key.key_id == key.key_id), None)
        if signer is None:
            problem = _unknown_key(label, key.key_id)
        elif late := _outside_time(signer, now, now):
            problem = _expired_signature(label, late)
        elif forbidden := _not_allowed(signer, label, owner, store):
            problem = _forbidden(forbidden)
        else:
            return signer.name
        if self.is_required(owner):
            raise SignatureError(problem.message, hint=problem.hint)
        return ""

    def require(self, image: Image, owner: str, now: float, size: int | None = None) -> Assessment:
        """Raise SignatureError if no session may start from the image; otherwise as `assess`."""
        found = self.assess(image, owner, now, size)
        if found.problem is not None and (self.is_required(owner) or found.problem not in DOUBTS):
            raise SignatureError(found.message, hint=found.hint)
        return found

    def assess(self, image: Image, owner: str, now: float, size: int | None = None) -> Assessment:
        """Return what the image's signature is worth at the time `now`.

        `size` is that of the SIF file, if it was measured. The content of the SIF file is not read: compare it with
        `image.digest`, which the signature covers.
        """
        label, read = f"{image.name}@{image.version}", image.signature
        if read.text is None and not read.problem:
            hint = f"its publisher signs it: `berth profile sign {label} --key FILE`"
            return Assessment(problem=SignatureProblem.UNSIGNED, message=f"{label} is not signed", hint=hint)
        if read.text is None:
            return _damaged_signature(label, read.problem)
        try:
            envelope = parse_envelope(read.text)
        except StatementError as error:
            return _damaged_signature(label, str(error))
        signer = next((each for each in self.signers if each.key.key_id == envelope.key_id), None)
        if signer is None:
            return _unknown_key(label, envelope.key_id)
        if not envelope.is_signed_by(signer.key):
            return _mismatch(
                signer, SignatureProblem.FORGED, f"the signature of {label} is not one of {signer.name}: it was changed"
            )
        return _assess_statement(signer, envelope, image, owner, now, size)


def _assess_statement(  # noqa: PLR0917 - all that the decision depends on
    signer: Signer, envelope: Envelope, image: Image, owner: str, now: float, size: int | None
) -> Assessment:
    """Assess a statement that the signer has really made."""
    label = f"{image.name}@{image.version}"
    try:
        statement = envelope.statement()
    except StatementError as error:
        return _mismatch(signer, SignatureProblem.OTHER_IMAGE, f"{signer.name} has signed something else: {error}")
    if problem := _other_image(statement, image):
        return _mismatch(signer, SignatureProblem.OTHER_IMAGE, f"{signer.name} has not signed this {label}: {problem}")
    if size is not None and size != statement.size:
        return _mismatch(
            signer, SignatureProblem.SIZE, f"{image.path} {_size_difference(size, statement.size, signer)}"
        )
    found = Assessment()
    if late := _outside_time(signer, statement.signed, now):
        found = _expired_signature(label, late)
    elif forbidden := _not_allowed(signer, label, owner, image.directory.parent.parent):
        found = _forbidden(forbidden)
    return replace(found, signer=signer.name, key_id=signer.key.key_id, signed=statement.signed)


def _other_image(statement: Statement, image: Image) -> str:
    """Return in words what differs between the statement and the image's description; empty if nothing does."""
    signed = f"{statement.name}@{statement.version}"
    if signed != f"{image.name}@{image.version}":
        return f"its signature is for {signed}"
    if statement.digest != image.digest or statement.size != image.size:
        return "its signature is for an image with another digest"
    if statement.description_digest != image.description_digest:
        return "image.json was changed, which has the settings and services of its sessions"
    return ""


def _size_difference(size: int, signed: int, signer: Signer) -> str:
    if size > signed:
        return f"has {size - signed} bytes more than {signer.name} has signed: something was appended to it"
    return f"has {signed - size} bytes less than {signer.name} has signed: it was cut off"


def _outside_time(signer: Signer, signed: float, now: float) -> str:
    """Return in words why the signature is outside the signer's time; empty if it is not."""
    if now >= signer.valid_until:
        return f"its signer {signer.name} was valid until {_day(signer.valid_until - 1)}"
    if now < signer.valid_from:
        return f"its signer {signer.name} is valid from {_day(signer.valid_from)} on"
    if not signer.valid_from <= signed < signer.valid_until:
        return f"{signer.name} made it on {_day(signed)}, when this signer was not valid"
    return ""


def _not_allowed(signer: Signer, label: str, owner: str, store: Path) -> str:
    """Return in words what the signer may not sign; empty if it may sign this image."""
    if not signer.may_sign(label.partition("@")[0]):
        return f"{signer.name} is the signer of {label}, but may not sign profiles of this name"
    if signer.stores and not {owner, str(store)} & {*signer.stores}:
        return f"{signer.name} is the signer of {label}, but may not sign for {_OWNER_WORDS.get(owner, store)}"
    return ""


def _expired_signature(label: str, late: str) -> Assessment:
    return Assessment(
        problem=SignatureProblem.EXPIRED,
        message=f"the signature of {label} does not count: {late}",
        hint=f"its publisher signs it with a key that is valid now: `berth profile sign {label} --key FILE`",
    )


def _forbidden(message: str) -> Assessment:
    hint = "the site decides it in `profiles.signers`; another signer may sign it instead"
    return Assessment(problem=SignatureProblem.NOT_ALLOWED, message=message, hint=hint)


def _unknown_key(label: str, key_id: str) -> Assessment:
    return Assessment(
        key_id=key_id,
        problem=SignatureProblem.UNKNOWN_KEY,
        message=f"{label} is signed with the key {key_id[:SHOWN_KEY_CHARS]}, which belongs to none of the signers here",
        hint="`berth config show` lists the signers; one of them signs it, or the site adds this key",
    )


def _damaged_signature(label: str, why: str) -> Assessment:
    return Assessment(
        problem=SignatureProblem.DAMAGED,
        message=f"the signature of {label} cannot be read: {why}",
        hint=f"its publisher signs it again: `berth profile sign {label} --key FILE`",
    )


def _mismatch(signer: Signer, problem: SignatureProblem, message: str) -> Assessment:
    return Assessment(
        signer=signer.name,
        key_id=signer.key.key_id,
        problem=problem,
        message=message,
        hint="do not use it: ask its publisher to build it again under another version, and to delete this one",
    )


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
