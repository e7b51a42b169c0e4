"""The key pair that `berth ssh` and `berth exec` use on a login node. It is created and registered at first use.

So users need neither their own keys on the login node nor agent forwarding.
"""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import time
from typing import TYPE_CHECKING

from broker.errors import BerthError, ConflictError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.client.client import Client
    from broker.schema.login import UserCertificateView

RENEWAL_MARGIN_S = 300.0
"""Time before a certificate's end at which a new one is requested."""
KEYGEN_TIMEOUT_S = 30.0
"""An ed25519 key takes milliseconds; a machine without entropy takes longer."""


def login_key_path() -> Path:
    """Return the private key's path; the public key is beside it with `.pub`."""
    from broker.config.file import xdg_directory

    return xdg_directory("XDG_DATA_HOME", ".local/share") / "berth" / "id_ed25519"


def ensure_certificate(client: Client, login_with: str) -> Path:
    """Create the key if it is missing, and allow it to log in: as a key or with a certificate, as `login_with` says.

    Return the private key's path. `login_with` is that of SiteView.
    """
    if login_with == "certificates":
        if not _is_good(_certificate(login_key_path()), client):
            certify_key(client)
        return login_key_path()
    private, public = _pair()
    known = {each.fingerprint for each in client.keys()}  # noqa: SIM118 - a call of the API, not a dict
    if fingerprint(public) not in known:
        with contextlib.suppress(ConflictError):  # another `berth ssh` was quicker
            client.add_key(public)
    return private


def certify_key(client: Client, hours: float | None = None) -> UserCertificateView:
    """Request a certificate for the key, and store it where ssh(1) looks for it. The file's mtime is its end."""
    from broker.schema.login import UserCertificateRequest

    private, public = _pair()
    answer = client.sign(UserCertificateRequest(public_key=public, hours=hours))
    path = _certificate(private)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(answer.certificate + "\n", encoding="ascii")
    os.utime(draft, (answer.view.valid_before, answer.view.valid_before))
    draft.replace(path)
    return answer.view


def delete_login_key(fingerprints: list[str]) -> None:
    """Remove the certificate, which was revoked, if it is for one of these keys."""
    public = login_key_path().with_name(f"{login_key_path().name}.pub")
    if public.exists() and fingerprint(public.read_text(encoding="ascii")) in fingerprints:
        _certificate(login_key_path()).unlink(missing_ok=True)


def _is_good(certificate: Path, client: Client) -> bool:
    """Whether the certificate is valid for a while, and signed by an authority that the site still trusts."""
    from broker.ssh.certificates import UserCertificate
    from broker.ssh.keys import PublicKey

    if not certificate.exists() or certificate.stat().st_mtime < time.time() + RENEWAL_MARGIN_S:
        return False
    trusted = {PublicKey.parse(each.public_key).blob for each in client.authorities() if each.kind == "user"}
    try:
        blob = base64.b64decode(certificate.read_text(encoding="ascii").split()[1])
        return UserCertificate.parse(blob).authority in trusted
    except (ValueError, IndexError):  # truncated or no certificate: it is replaced
        return False


def _certificate(private: Path) -> Path:
    return private.with_name(f"{private.name}-cert.pub")


def _pair() -> tuple[Path, str]:
    """Return the private key's path and the public key's line."""
    private = login_key_path()
    if not private.exists():
        _make(private)
    return private, private.with_name(f"{private.name}.pub").read_text(encoding="ascii").strip()


def fingerprint(public: str) -> str:
    """Return the fingerprint `SHA256:…` of an authorized_keys line, as ssh-keygen(1) prints it."""
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode('ascii').rstrip('=')}"


def _make(private: Path) -> None:
    """Create the pair under hidden names, and rename the private key last: if it exists, so does the public key."""
    private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (private.parent / "key.lock").open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if private.exists():
            return
        draft = private.with_name(f".{private.name}")
        for leftover in (draft, draft.with_name(f"{draft.name}.pub")):
            leftover.unlink(missing_ok=True)
        _keygen(draft)
        draft.with_name(f"{draft.name}.pub").rename(private.with_name(f"{private.name}.pub"))
        draft.rename(private)


def _keygen(path: Path) -> None:
    import asyncio

    from slurm.run import CommandError, run_command

    comment = f"berth@{os.uname().nodename}"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    try:
        asyncio.run(run_command(argv, timeout=KEYGEN_TIMEOUT_S))
    except CommandError as error:
        raise BerthError(f"cannot create a key: {error}", hint="install OpenSSH's ssh-keygen") from error
