"""The parts of the controller that know who may log in: keys, certificates and authorities."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from broker.controller.credentials.authorized_keys import AuthorizedKeys
from broker.controller.credentials.login import LoginPolicy
from broker.controller.registry.async_registry import AsyncRegistry
from broker.controller.sessions.installed_credentials import InstalledCredentials
from broker.controller.site import Site
from broker.controller.wakeup import ChangeNotifier
from broker.ssh.certificates import CertificateAuthority

if TYPE_CHECKING:
    from broker.config.settings import Config
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.registry import Registry


class CredentialParts:
    """The registry, and what needs nothing but it, the launcher and the configuration. `assembly` adds the rest."""

    def __init__(self, config: Config, registry: Registry, launcher: LauncherClient) -> None:
        self.config = config
        self.registry = registry
        self.launcher = launcher

    @cached_property
    def changes(self) -> ChangeNotifier:
        return ChangeNotifier()

    @cached_property
    def async_registry(self) -> AsyncRegistry:
        return AsyncRegistry(self.registry, self.changes.announce)

    @cached_property
    def authority(self) -> CertificateAuthority:
        return CertificateAuthority.load_or_create(self.config.state_dir / "ca_ed25519_key")

    @cached_property
    def user_authority(self) -> CertificateAuthority:
        return CertificateAuthority.load_or_create(self.config.state_dir / "user_ca_ed25519_key", "berth user CA")

    @cached_property
    def web_authority(self) -> CertificateAuthority | None:
        if not self.config.has_web:
            return None
        return CertificateAuthority.load_or_create(self.config.state_dir / "web_ca_ed25519_key", "CA of berth-web")

    @cached_property
    def keys(self) -> AuthorizedKeys:
        return AuthorizedKeys(self.async_registry, self.launcher, enough=self.config.ssh.login_with != "certificates")

    @cached_property
    def logins(self) -> LoginPolicy:
        return LoginPolicy(self.config.ssh, self.async_registry, self.keys, self.user_authority, self.web_authority)

    @cached_property
    def installed_credentials(self) -> InstalledCredentials:
        return InstalledCredentials(self.async_registry, self.launcher, self.logins)

    @cached_property
    def site(self) -> Site:
        return Site(self.config, self.async_registry, self.authority, self.user_authority, self.web_authority)
