"""Images signed with keys of openssl(1), by the program itself, and checked by openssl(1)."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from profiles.image.signature_file import SIGNATURE
from profiles.image.store import Store
from profiles.signature.statement import PAYLOAD_TYPE, encode_for_signature
from tests.deadlines import DEADLINE_S
from tests.fakes.core import publish
from tests.fakes.sif import SQUASHFS_OFFSET, squashfs_sif

CHECKOUT = Path(__file__).parents[3]
KINDS = {
    "ed25519": "openssl genpkey -algorithm ed25519 -out team.key",
    "p256": "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out team.key",
    "encrypted": "openssl genpkey -algorithm ed25519 -aes256 -pass pass:secret -out team.key",
}


def shell(line: str, directory: Path) -> str:
    done = subprocess.run(
        shlex.split(line), cwd=directory, capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    return done.stdout


def berth(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "BERTH_CONFIG": str(directory / "config.yaml"),
        "HOME": str(directory),
        "PYTHONPATH": str(CHECKOUT),
    }
    argv = [sys.executable, "-m", "broker.cli", "profile", *words]
    return subprocess.run(
        argv, cwd=directory, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def real_sif(directory: Path) -> bytes:
    """The headers of a SIF, and a squashfs of mksquashfs(1)."""
    (directory / "tree").mkdir()
    (directory / "tree/file").write_text("content\n")
    shell("mksquashfs tree system.squashfs -quiet -no-progress -all-root", directory)
    return squashfs_sif()[:SQUASHFS_OFFSET] + (directory / "system.squashfs").read_bytes()


def openssl_accepts(directory: Path, kind: str) -> bool:
    """Whether openssl(1) finds the signature good, which knows nothing of Berth."""
    envelope = json.loads((directory / "store/base/1" / SIGNATURE).read_text())
    content = encode_for_signature(PAYLOAD_TYPE, base64.b64decode(envelope["payload"]))
    (directory / "content").write_bytes(content)
    (directory / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    digest = "-digest sha256" if kind == "p256" else ""
    line = f"openssl pkeyutl -verify -pubin -inkey team.pem -rawin {digest} -in content -sigfile signature"
    return "Signature Verified Successfully" in shell(line, directory)


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_key_of_openssl_signs_and_openssl_agrees(tmp_path: Path, kind: str) -> None:
    shell(KINDS[kind], tmp_path)
    (tmp_path / "team.pem").write_text(shell("openssl pkey -in team.key -pubout", tmp_path))
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", "team.pem", "-outform", "DER"],
        cwd=tmp_path,
        capture_output=True,
        timeout=DEADLINE_S,
        check=True,
    ).stdout
    (tmp_path / "key.der").write_bytes(der)
    key_id = shell("openssl dgst -sha256 -r key.der", tmp_path).split()[0]
    signers = [{"name": "team", "public_key": str(tmp_path / "team.pem")}]
    profiles = {"stores": [str(tmp_path / "store")], "require_signature": True, "signers": signers}
    (tmp_path / "config.yaml").write_text(json.dumps({"mode": "personal", "profiles": profiles}))
    image = publish(Store(tmp_path / "store"), content=real_sif(tmp_path))

    signed = berth(tmp_path, "sign", "base@1", "--key", "team.key", "--json")
    assert json.loads(signed.stdout) == {
        "name": "base",
        "version": "1",
        "digest": image.digest,
        "key": f"sha256:{key_id}",
        "signer": "team",
    }
    assert openssl_accepts(tmp_path, kind)
    assert berth(tmp_path, "verify", "base@1").returncode == 0

    content = image.path.read_bytes()
    image.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    flipped = berth(tmp_path, "verify", "base@1")
    image.path.write_bytes(content + b"\0" * 512)
    appended = berth(tmp_path, "verify", "base@1")
    assert (flipped.returncode, "its digest differs" in flipped.stderr) == (1, True)
    assert (appended.returncode, "512 bytes more than team has signed" in appended.stderr) == (1, True)


def test_encrypted_key_without_a_terminal_is_refused(tmp_path: Path) -> None:
    shell(KINDS["encrypted"], tmp_path)
    (tmp_path / "config.yaml").write_text(
        json.dumps({"mode": "personal", "profiles": {"stores": [str(tmp_path / "store")]}})
    )
    publish(Store(tmp_path / "store"))
    done = berth(tmp_path, "sign", "base@1", "--key", "team.key")
    assert (done.returncode, "is encrypted, and there is no passphrase" in done.stderr) == (2, True)
    assert not (tmp_path / "store/base/1" / SIGNATURE).exists()
