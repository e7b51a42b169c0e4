"""The text of signature.json: what is signed, and what is no such text."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from profiles.image.store import Store
from profiles.signature.statement import (
    PAYLOAD_TYPE,
    Statement,
    StatementError,
    encode_for_signature,
    parse_envelope,
    sign_statement,
)
from tests.fakes.core import publish
from tests.fakes.signing import signing_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from profiles.image.store import Image

KEY = signing_key()


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return publish(Store(tmp_path))


def test_bytes_that_are_signed_are_those_of_the_specification() -> None:
    """The example of DSSE's protocol.md."""
    encoded = encode_for_signature("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_signed_statement_is_read_back(image: Image) -> None:
    statement = Statement.about(image, 1_800_000_000.7)
    envelope = parse_envelope(sign_statement(statement, KEY))
    assert envelope.is_signed_by(KEY.public)
    assert not envelope.is_signed_by(signing_key(2).public)
    assert envelope.key_id == KEY.public.key_id
    assert envelope.statement() == statement
    assert (statement.name, statement.version, statement.digest) == ("base", "1", image.digest)
    assert (statement.size, statement.created, statement.signed) == (3, 1.5, 1_800_000_000.0)
    assert statement.description_digest == image.description_digest != ""
    assert statement.base_digest is None


def test_statement_is_one_of_in_toto(image: Image) -> None:
    envelope = json.loads(sign_statement(Statement.about(image, 1.0), KEY))
    assert envelope["payloadType"] == PAYLOAD_TYPE
    payload = json.loads(base64.b64decode(envelope["payload"]))
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert payload["subject"][0] == {
        "name": "image.sif",
        "digest": {"sha256": image.digest.removeprefix("sha256:")},
    }


def changed_envelope(image: Image, change: Callable[[dict[str, Any]], object]) -> str:
    envelope: dict[str, Any] = json.loads(sign_statement(Statement.about(image, 1.0), KEY))
    change(envelope)
    return json.dumps(envelope)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.update(payloadType="text/plain"),
        lambda e: e.pop("payload"),
        lambda e: e.update(payload=7),
        lambda e: e.update(payload="é" * 40),
        lambda e: e.update(payload="YQ=="[:3]),
        lambda e: e.update(payload="Y Q=="),
        lambda e: e.update(more=1),
        lambda e: e.update(signatures=[]),
        lambda e: e.update(signatures=e["signatures"] * 2),
        lambda e: e.update(signatures={"0": e["signatures"][0]}),
        lambda e: e["signatures"][0].pop("keyid"),
        lambda e: e["signatures"][0].update(keyid="a" * 129),
        lambda e: e["signatures"][0].update(keyid="\x1b[31mroot"),
        lambda e: e["signatures"][0].update(keyid=None),
        lambda e: e["signatures"][0].update(sig="*"),
        lambda e: e["signatures"][0].update(sig=True),
        lambda e: e["signatures"][0].update(cert="x"),
    ],
)
def test_another_envelope_is_refused(image: Image, change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(StatementError) as caught:
        parse_envelope(changed_envelope(image, change))
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "1e999",
        "{",
        "\0",
        "[" * 16_000,
        '{"a":' * 3_000,
        "9" * 16_000,
        '{"payloadType": NaN}',
        '{"payload": "YQ==", "payload": "YQ=="}',
        "-----BEGIN PGP SIGNED MESSAGE-----",
    ],
    ids=lambda text: text[:12],
)
def test_text_that_is_no_envelope_is_refused(text: str) -> None:
    with pytest.raises(StatementError):
        parse_envelope(text)


def payload_with(image: Image, change: Callable[[dict[str, Any]], object]) -> bytes:
    envelope = json.loads(sign_statement(Statement.about(image, 1.0), KEY))
    payload: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    change(payload)
    return json.dumps(payload).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda p: p.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda p: p.update(subject=p["subject"][:1]),
        lambda p: p.update(subject=p["subject"][::-1]),
        lambda p: p.update(subject=[*p["subject"], p["subject"][0]]),
        lambda p: p["subject"][0]["digest"].update(sha256="0" * 63),
        lambda p: p["subject"][0]["digest"].update(sha512="0"),
        lambda p: p["predicate"].update(size=-1),
        lambda p: p["predicate"].update(size=True),
        lambda p: p["predicate"].update(size="3"),
        lambda p: p["predicate"].update(created=1e300),
        lambda p: p["predicate"].update(signed=-1.0),
        lambda p: p["predicate"].update(name=None),
        lambda p: p["predicate"].update(version="1" * 65),
        lambda p: p["predicate"].update(base_digest="md5:0"),
        lambda p: p["predicate"].update(more=1),
        lambda p: p.clear(),
    ],
)
def test_signed_content_that_is_no_statement_is_refused(
    image: Image, change: Callable[[dict[str, Any]], object]
) -> None:
    payload = payload_with(image, change)
    envelope = parse_envelope(changed_envelope(image, lambda e: e.update(payload=base64.b64encode(payload).decode())))
    assert not envelope.is_signed_by(KEY.public)
    with pytest.raises(StatementError):
        envelope.statement()
