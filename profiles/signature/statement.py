"""The statement that a signature makes about an image, in an envelope.

The statement is one of in-toto (github.com/in-toto/attestation, v1): its subjects are the SIF file and image.json. The
envelope is DSSE (github.com/secure-systems-lab/dsse, version 1): the signature is of the statement's bytes as they are
in the envelope, so no form has to be canonical. Both are read strictly, since anyone who can write to a store may have
written them. Other programs that know DSSE and a public key can check the signature too.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from profiles.image.own_store import MAX_TIME_S
from profiles.strict_json import load_strict_json

if TYPE_CHECKING:
    from profiles.image.store import Image
    from profiles.signature.keys import PrivateSigningKey, PublicSigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:berth:profile-image:1"
_Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
_Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Time = Annotated[float, Field(ge=0, lt=MAX_TIME_S)]


class StatementError(ValueError):
    """The text is no envelope, or its content no statement about an image."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Statement(_Strict):
    """The signer's words about one image."""

    name: Annotated[str, StringConstraints(max_length=64)]
    version: Annotated[str, StringConstraints(max_length=64)]
    digest: _Digest
    """Of the SIF file."""
    size: Annotated[int, Field(ge=0)]
    """Bytes of the SIF file."""
    description_digest: _Digest
    """Of image.json, which has the settings and services of sessions."""
    base_digest: _Digest | None
    """Of the image from which this one was built, if it was built from one."""
    created: _Time
    """Seconds since the epoch."""
    signed: _Time
    """Seconds since the epoch, by the signer's clock."""

    @classmethod
    def about(cls, image: Image, now: float) -> Statement:
        """Return the statement about the published image."""
        return cls(
            name=image.name,
            version=image.version,
            digest=image.digest,
            size=image.size,
            description_digest=image.description_digest,
            base_digest=image.labels.get("berth.base.digest"),
            created=image.created,
            signed=float(int(now)),
        )


class Envelope(_Strict):
    """A statement's bytes with one signature."""

    payload: bytes
    key_id: str
    """The key with which it says it was signed: a hint that proves nothing."""
    signature: bytes

    def is_signed_by(self, key: PublicSigningKey) -> bool:
        """Whether the payload was signed with the private half of this key."""
        return key.verifies(self.signature, encode_for_signature(PAYLOAD_TYPE, self.payload))

    def statement(self) -> Statement:
        """Return the statement. StatementError if the payload is none; check the signature before."""
        try:
            content = _InToto.model_validate(load_strict_json(self.payload.decode()))
            image, description = content.subject
            return Statement(
                **content.predicate.model_dump(),
                digest=f"sha256:{image.digest.sha256}",
                description_digest=f"sha256:{description.digest.sha256}",
            )
        except ValueError as error:
            raise StatementError("it is no statement about an image") from error


class _Sha256(_Strict):
    sha256: _Hex


class _ImageSubject(_Strict):
    name: Literal["image.sif"]
    digest: _Sha256


class _DescriptionSubject(_Strict):
    name: Literal["image.json"]
    digest: _Sha256


class _Predicate(_Strict):
    name: str
    version: str
    size: int
    base_digest: str | None
    created: float
    signed: float


class _InToto(_Strict):
    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: Annotated[tuple[_ImageSubject, _DescriptionSubject], Field(strict=False)]  # a list in JSON
    predicate_type: Literal["urn:berth:profile-image:1"] = Field(alias="predicateType")
    predicate: _Predicate


class _Signature(_Strict):
    keyid: Annotated[str, StringConstraints(max_length=128, pattern=r"^[\x21-\x7e]*$")]
    sig: str


class _Dsse(_Strict):
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    payload: str
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=1)]


def encode_for_signature(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed: DSSE's pre-authentication encoding, version 1."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_statement(statement: Statement, key: PrivateSigningKey) -> str:
    """Return the text of signature.json."""
    payload = json.dumps(_in_toto(statement)).encode()
    signature = key.sign(encode_for_signature(PAYLOAD_TYPE, payload))
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key.public.key_id, "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope, indent=1) + "\n"


def parse_envelope(text: str) -> Envelope:
    """Read the text of signature.json. StatementError, in words, for all that is not exactly such a text."""
    try:
        read = _Dsse.model_validate(load_strict_json(text))
    except ValidationError as error:
        raise StatementError(_first_fault(error)) from error
    except ValueError as error:
        raise StatementError("it is not valid JSON") from error
    (signature,) = read.signatures
    try:
        payload = base64.b64decode(read.payload, validate=True)
        signed = base64.b64decode(signature.sig, validate=True)
    except ValueError as error:
        raise StatementError("its base64 is damaged") from error
    return Envelope(payload=payload, key_id=signature.keyid, signature=signed)


def _in_toto(statement: Statement) -> dict[str, Any]:
    said = statement.model_dump()
    subjects = {"image.sif": said.pop("digest"), "image.json": said.pop("description_digest")}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}} for name, digest in subjects.items()
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": said,
    }


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where or 'its content'} is not what a signature has there"
