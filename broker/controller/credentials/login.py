"""Credentials that open a user's sessions: keys, certificates, or both (`ssh.login_with`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.registry.credential_models import Certificate
from broker.errors import NotFoundError, RefusedError
from broker.schema.login import UserCertificateAnswer, UserCertificateView
from broker.ssh.keys import PublicKey

if TYPE_CHECKING:
    from broker.config.settings import SshSettings
    from broker.controller.credentials.authorized_keys import AuthorizedKeys
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.ssh.certificates import CertificateAuthority


@dataclass(frozen=True, slots=True)
class SshCredentials:
    """The credentials of `user`, each as one OpenSSH public-key line."""

    user: str
    keys: list[str]
    authorities: list[str]
    """Public keys of the authorities whose certificates for `user` are accepted."""
    revoked: list[str]
    """Keys whose certificates are revoked."""
    web: list[str]
    """Public keys of the authority whose certificates let berth-web in; none without web access."""

    @property
    def files(self) -> dict[str, str]:
        """Return the files for a session's sshd (sshd(8), sshd_config(5)), by their names in session_verbs.FILES."""
        principal = [f'cert-authority,principals="{self.user}" {line}' for line in self.authorities]
        lines = {
            "authorized_keys": [*self.keys, *principal],
            "revoked_keys": self.revoked,
            "web_authority": self.web,
        }
        return {name: "".join(f"{line}\n" for line in content) for name, content in lines.items()}

    @property
    def digest(self) -> str:
        """A hash of the files that ignores the order of their lines."""
        parts = (sorted(text.splitlines()) for text in self.files.values())
        return hashlib.sha256("\n\n".join("\n".join(part) for part in parts).encode()).hexdigest()


class LoginPolicy:
    """The site's policy for credentials. It signs and revokes certificates."""

    def __init__(
        self,
        settings: SshSettings,
        registry: AsyncRegistry,
        keys: AuthorizedKeys,
        authority: CertificateAuthority,
        web_authority: CertificateAuthority | None,
    ) -> None:
        """`authority`: the one for users. `web_authority`: None without web access."""
        self._settings = settings
        self._registry = registry
        self._keys = keys
        self._authority = authority
        self._web_authority = web_authority

    async def of(self, user: str) -> SshCredentials:
        """Return the credentials that open the sessions of `user` now; none for a user that does not exist.

        Raises as `AuthorizedKeys.lines`.
        """
        keys = await self._keys.lines(user)
        web = [] if self._web_authority is None else self._web_authority.trusted_lines
        if self._settings.login_with == "keys":
            return SshCredentials(user, keys, [], [], web)
        if not await self._keys.knows(user):
            return SshCredentials(user, [], [], [], [])
        authorities = [*self._authority.trusted_lines, *self._settings.user_ca_keys]
        if self._settings.login_with == "certificates":
            keys = []
        # sshd refuses a revoked key also without its certificate; a key that is accepted by itself must not be revoked.
        plain = {PublicKey.parse(line).blob for line in keys}
        certificates = await self._registry.certificates_of(user, clock.now())
        revoked = [certificate.public_key for certificate in certificates if certificate.revoked_at is not None]
        return SshCredentials(
            user, keys, authorities, [line for line in revoked if PublicKey.parse(line).blob not in plain], web
        )

    async def sign(self, user: str, public_key: str, hours: float | None) -> UserCertificateAnswer:
        """Sign a key of the user for `hours`, at most the site's limit. A revoked key becomes valid again."""
        if self._settings.login_with == "keys":
            raise RefusedError("this site accepts keys, not certificates", hint="`berth key add FILE` adds a key")
        key = PublicKey.parse(public_key)
        most = self._settings.user_certificate_hours
        seconds = min(most if hours is None else hours, most) * 3600
        now = clock.now()
        row = Certificate(
            owner=user,
            fingerprint=key.fingerprint,
            public_key=key.line,
            serial=int(clock.now() * 1e6),
            issued_at=now,
            valid_before=now + seconds,
        )
        line = self._authority.sign_user(
            key.line, user, valid_seconds=seconds, serial=row.serial, key_id=f"berth user {user}"
        )
        view = _view(await self._registry.issue_certificate(row))
        return UserCertificateAnswer(certificate=line, view=view)

    async def certificates(self, user: str) -> list[UserCertificateView]:
        """Return the user's certificates that have not expired, including revoked ones."""
        return [_view(row) for row in await self._registry.certificates_of(user, clock.now())]

    async def revoke(self, user: str, fingerprint: str | None) -> list[UserCertificateView]:
        """Revoke the certificates of one of the user's keys, or of all; return the revoked ones."""
        revoked = await self._registry.revoke_certificates(user, fingerprint, clock.now())
        if fingerprint is not None and not revoked:
            raise NotFoundError(f"you have no certificate for the key {fingerprint}", hint="`berth login --list`")
        return [_view(row) for row in revoked]


def _view(row: Certificate) -> UserCertificateView:
    return UserCertificateView(
        fingerprint=row.fingerprint,
        comment=PublicKey.parse(row.public_key).comment,
        serial=row.serial,
        issued_at=row.issued_at,
        valid_before=row.valid_before,
        revoked_at=row.revoked_at,
    )
