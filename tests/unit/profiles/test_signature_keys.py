"""Keys in PEM files: the kinds that count, and files that hold none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from profiles.errors import KeyFileError
from profiles.signature.keys import MAX_KEY_BYTES, parse_public_signing_key, read_private_signing_key
from tests.fakes.signing import key_file, public_pem, signing_key

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

KEY = signing_key()


def private_pem(key: PrivateKeyTypes, passphrase: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_ed25519_and_p256_sign_and_verify(tmp_path: Path) -> None:
    for key in (KEY.key, ec.generate_private_key(ec.SECP256R1())):
        read = read_private_signing_key(written(tmp_path / "key", private_pem(key)))
        signature = read.sign(b"content")
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        public = parse_public_signing_key(pem, "key")
        assert public.verifies(signature, b"content")
        assert public.key_id == read.public.key_id
        for wrong in (b"", b"\0" * 64, signature[:-1], signature + b"\0", bytes([signature[0] ^ 1]) + signature[1:]):
            assert not public.verifies(wrong, b"content")
        assert not public.verifies(signature, b"contents")


def test_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    path = written(tmp_path / "key", private_pem(KEY.key, b"secret"))
    assert read_private_signing_key(path, lambda: b"secret").public == KEY.public
    with pytest.raises(KeyFileError, match="cannot be decrypted"):
        read_private_signing_key(path, lambda: b"other")
    with pytest.raises(KeyFileError, match="there is no passphrase for it"):
        read_private_signing_key(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_private_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path / "key", KEY)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="other users can read or change") as caught:
        read_private_signing_key(path)
    assert f"chmod 600 {path}" in caught.value.hint


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
    ],
    ids=["rsa", "p384", "k256", "ed448", "x25519"],
)
def test_key_of_another_kind_is_refused(tmp_path: Path, key: PrivateKeyTypes) -> None:
    with pytest.raises(KeyFileError, match="only ed25519 and P-256"):
        read_private_signing_key(written(tmp_path / "key", private_pem(key)))
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyFileError, match="only ed25519 and P-256"):
        parse_public_signing_key(pem, "key")


HOSTILE = {
    "empty": b"",
    "zero": b"\0" * 300,
    "text": b"hello\n",
    "cut": public_pem(KEY).encode()[:60],
    "ssh": b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3r x\n",
    "wrong-der": b"-----BEGIN PUBLIC KEY-----\nMAoGCCqGSM49BAMC\n-----END PUBLIC KEY-----\n",
    "no-base64": b"-----BEGIN PUBLIC KEY-----\n\xff\xff*\n-----END PUBLIC KEY-----\n",
    "certificate": b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
    "label": public_pem(KEY).encode().replace(b"PUBLIC KEY", b"EC PARAMETERS"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(KeyFileError, match="is no public key"):
        parse_public_signing_key(content, "key")
    with pytest.raises(KeyFileError, match="is no private key"):
        read_private_signing_key(written(tmp_path / "key", content))


def test_private_key_is_no_public_key() -> None:
    with pytest.raises(KeyFileError, match="only the public key belongs there"):
        parse_public_signing_key(private_pem(KEY.key), "key")


def test_file_that_must_not_be_read_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    written(tmp_path / "large", b"#" * (MAX_KEY_BYTES + 1))
    for name, why in (("pipe", "named pipe"), ("large", "larger than"), ("gone", "No such file"), (".", "a directory")):
        with pytest.raises(KeyFileError, match=why):
            read_private_signing_key(tmp_path / name)
