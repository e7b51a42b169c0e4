"""The key pair that `berth ssh` and `berth exec` use on a login node. It is made at first use, and Berth knows it.

It is used for nothing else; people's own keys need not be there, and no agent has to be forwarded.
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
"""Seconds before a certificate's end from when on another is asked for."""
KEYGEN_TIMEOUT_S = 30.0
"""Seconds; ed25519 takes milliseconds, a machine short of entropy longer."""


def login_key_path() -> Path:
    """Where the private key is, or will be; the public one is beside it with `.pub`."""
    from broker.config.file import xdg_directory

    return xdg_directory("XDG_DATA_HOME", ".local/share") / "berth" / "id_ed25519"


def ensure_certificate(client: Client, login_with: str) -> Path:
    """Make the key if there is none, and have it let its owner in, as the site wants it (`SiteView.login_with`): itself
    or with a certificate that is good for a while. Return its path.
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
    """Get a certificate for the key and put it where ssh(1) looks for it. Its file's time is when it ends."""
    from broker.schema.login import UserCertificateRequest

    private, public = _pair()
    answer = client.sign(UserCertificateRequest(public_key=public, hours=hours))
    place = _certificate(private)
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    draft.write_text(answer.certificate + "\n", encoding="ascii")
    os.utime(draft, (answer.view.valid_before, answer.view.valid_before))
    draft.replace(place)
    return answer.view


def delete_login_key(fingerprints: list[str]) -> None:
    """Remove the certificate if it is for one of these keys: it is good for nothing."""
    public = login_key_path().with_name(f"{login_key_path().name}.pub")
    if public.exists() and fingerprint(public.read_text(encoding="ascii")) in fingerprints:
        _certificate(login_key_path()).unlink(missing_ok=True)


def _is_good(certificate: Path, client: Client) -> bool:
    """Whether it lasts for a while yet, and is of an authority that the site still has."""
    from broker.ssh.certificates import UserCertificate
    from broker.ssh.keys import PublicKey

    if not certificate.exists() or certificate.stat().st_mtime < time.time() + RENEWAL_MARGIN_S:
        return False
    trusted = {PublicKey.parse(each.public_key).blob for each in client.authorities() if each.kind == "user"}
    try:
        blob = base64.b64decode(certificate.read_text(encoding="ascii").split()[1])
        return UserCertificate.parse(blob).authority in trusted
    except (ValueError, IndexError):  # cut off, or no certificate: another takes its place
        return False


def _certificate(private: Path) -> Path:
    return private.with_name(f"{private.name}-cert.pub")


def _pair() -> tuple[Path, str]:
    """The private key's path and the public key's line."""
    private = login_key_path()
    if not private.exists():
        _make(private)
    return private, private.with_name(f"{private.name}.pub").read_text(encoding="ascii").strip()


def fingerprint(public: str) -> str:
    """`SHA256:…` of an authorized_keys line, as ssh-keygen(1) prints it."""
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode('ascii').rstrip('=')}"


def _make(private: Path) -> None:
    """Make the pair in a hidden place and move the private half last: where it is, the public one is as well."""
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

    from slurm.run import CommandError, run

    comment = f"berth@{os.uname().nodename}"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    try:
        asyncio.run(run(argv, timeout=KEYGEN_TIMEOUT_S))
    except CommandError as error:
        raise BerthError(f"cannot make a key: {error}", hint="OpenSSH's ssh-keygen must be installed") from error
