"""The proof that a client has reached the site's gateway: its ssh host key, and the key's certificate.

The gateway creates the key at its first start. The controller signs the certificate with the site's CA, and the gateway
renews it before it expires.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

import asyncssh

from broker.errors import BerthError
from broker.ssh import private_key
from broker.ssh.certificates import HostCertificate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 60.0
"""Seconds between attempts while the controller does not sign; doubled from the first to the last."""

RENEWAL_CHECK_S = 3600.0
"""At most so many seconds pass between looks at the clock, which may jump (docs/security.md, F15)."""

_log = logging.getLogger(__name__)


class HostKeyAndCertificate:
    """The gateway's proof of identity: `<path>` and `<path>-cert.pub`."""

    def __init__(self, path: Path, sign: Callable[[str], Awaitable[str]]) -> None:
        self._certificate_path = path.with_name(path.name + "-cert.pub")
        self._sign = sign
        self._key = private_key.load_or_create(path, comment="berth gateway")
        self._certificate = self._load_cached()

    @property
    def host_keys(self) -> list[tuple[asyncssh.SSHKey, bytes]]:
        """For asyncssh: the key with its certificate. `obtain_certificate` must have returned."""
        if self._certificate is None:
            raise RuntimeError("no certificate yet: await obtain_certificate() first")
        return [(self._key, self._certificate.line.encode())]

    async def obtain_certificate(self) -> None:
        """Return with a valid certificate: a new one, or else the cached one; without either, wait for the controller.

        Clients would refuse a gateway that cannot prove itself, so there is no point in listening before.
        """
        pause = FIRST_RETRY_S
        while not await self._renew() and not self._is_valid():
            _log.warning("no host certificate yet, the controller is asked again in %g s", pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_S)

    async def keep_fresh(self, renewed: Callable[[], Awaitable[None]]) -> None:
        """Renew in the last third of the validity, for ever; `renewed` is called after each time."""
        pause = FIRST_RETRY_S
        while True:
            wait = self._renewal_due() - time.time()
            if wait > 0:
                await asyncio.sleep(min(wait, RENEWAL_CHECK_S))
                continue
            if await self._renew():
                await renewed()
                pause = FIRST_RETRY_S
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_S)

    def _renewal_due(self) -> float:
        if self._certificate is None:
            return 0
        validity = self._certificate.valid_before - self._certificate.valid_after
        return self._certificate.valid_before - validity / 3

    def _is_valid(self) -> bool:
        return self._certificate is not None and self._certificate.valid_before > time.time()

    async def _renew(self) -> bool:
        try:
            line = await self._sign(self._key.export_public_key().decode().strip())
            certificate = HostCertificate.parse(line)
        except (BerthError, ValueError, asyncssh.KeyImportError) as error:
            _log.warning("the controller did not sign the host key: %s", error)
            return False
        if certificate.key_blob != self._key.public_data:
            _log.error("the controller signed another key than the one it was asked to")
            return False
        self._certificate = certificate
        _replace(self._certificate_path, certificate.line + "\n")
        _log.info("host certificate valid until %d", certificate.valid_before)
        return True

    def _load_cached(self) -> HostCertificate | None:
        try:
            certificate = HostCertificate.parse(self._certificate_path.read_text(encoding="ascii"))
        except (OSError, ValueError, asyncssh.KeyImportError):
            return None
        return certificate if certificate.key_blob == self._key.public_data else None


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")  # several workers may renew at once
    draft.write_text(text, encoding="ascii")
    draft.chmod(0o644)
    draft.replace(path)
