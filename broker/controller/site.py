"""The site's names, addresses and certificate authorities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.config.file import Mode
from broker.controller import clock
from broker.errors import NotFoundError
from broker.schema.login import AuthorityKeyView
from broker.schema.site import SiteView
from broker.ssh.host_names import gateway_host

if TYPE_CHECKING:
    from broker.config.settings import Config
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.schema.login import AuthorityKind
    from broker.ssh.ca import CaKey, CaKeys
    from broker.ssh.certificates import CertificateAuthority

GATEWAY_CERTIFICATE_DAYS = 30


class Site:
    """The site's names and authorities.

    The authority for hosts signs the keys of sessions and gateway, the one for users those of `berth login`, and the
    one for web access those of berth-web.
    """

    def __init__(
        self,
        config: Config,
        registry: AsyncRegistry,
        host_authority: CertificateAuthority,
        user_authority: CertificateAuthority,
        web_authority: CertificateAuthority | None,
    ) -> None:
        """`web_authority`: None without web access."""
        self._config = config
        self._registry = registry
        self._authorities: dict[AuthorityKind, CertificateAuthority] = {"host": host_authority, "user": user_authority}
        if web_authority is not None:
            self._authorities["web"] = web_authority
        self._in_use: dict[AuthorityKind, float] = {
            "host": max(config.ssh.host_certificate_days, GATEWAY_CERTIFICATE_DAYS) * 86400.0,
            "user": config.ssh.user_certificate_hours * 3600.0,
            "web": config.web.door_lifetime,
        }
        """Seconds for which certificates are valid, by the authority that signs them."""

    async def view(self, user: str) -> SiteView:
        """Return the settings that the ssh of `user` needs."""
        config = self._config
        since = clock.now() - config.ssh.host_certificate_days * 86400
        return SiteView(
            user=user,
            domain=config.ssh.domain,
            gateway_host=config.gateway_host if config.gateway.enabled else "",
            gateway_port=config.gateway_port,
            login_host=config.login_host,
            ca_public_keys=self._authorities["host"].trusted_lines,
            revoked_host_keys=await self._registry.revoked_host_keys(user, since),
            login_with=config.ssh.login_with,
            mode=config.mode.value,
            profile_stores=[str(each) for each in config.profiles.stores] if config.mode is Mode.SITE else [],
            portal_url=config.portal_url,
        )

    def certify_gateway(self, public_key: str) -> str:
        """Sign a certificate for the gateway's host key. Return its line."""
        config = self._config
        return self._authorities["host"].sign_host(
            public_key,
            sorted({gateway_host(config.ssh.domain), config.gateway_host.lower()}),
            valid_seconds=GATEWAY_CERTIFICATE_DAYS * 86400,
            serial=0,
            key_id="berth gateway",
        )

    def authorities(self) -> list[AuthorityKeyView]:
        """Return all keys whose certificates are accepted."""
        return [_view(kind, key) for kind, authority in self._authorities.items() for key in authority.keys.all]

    def rotate(self, kind: AuthorityKind, *, now: bool) -> AuthorityKeyView:
        """Announce the next key of the authority for hosts, or start to sign with the announced one.

        With `now`, sign at once, before clients have learned the key. The next key of another authority always signs at
        once: only gateways and sessions check these certificates, and Berth updates them. ConflictError as
        CaKeys.switch.
        """
        keys = self._keys(kind)
        if kind != "host":
            return _view(kind, keys.switch(overlap=0))
        if not now and not any(key.standing == "announced" for key in keys.all):
            return _view(kind, keys.announce())
        return _view(kind, keys.switch(overlap=0 if now else self._config.ssh.ca_overlap_days * 86400))

    def retire(self, kind: AuthorityKind, fingerprint: str, *, now: bool) -> AuthorityKeyView:
        """Stop to accept a key; with `now`, even while its certificates are valid. Errors as CaKeys.retire."""
        return _view(kind, self._keys(kind).retire(fingerprint, in_use=0 if now else self._in_use[kind]))

    def _keys(self, kind: AuthorityKind) -> CaKeys:
        if kind not in self._authorities:
            raise NotFoundError("this site has no web access, and so no authority for it", hint="set web.url first")
        return self._authorities[kind].keys


def _view(kind: AuthorityKind, key: CaKey) -> AuthorityKeyView:
    return AuthorityKeyView(
        kind=kind,
        fingerprint=key.public.fingerprint,
        public_key=key.public.line,
        standing=key.standing.value,
        since=key.since,
    )
