"""The parts of web access together: a site has all of them, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.controller.web.browser_watches import BrowserWatches
from broker.controller.web.browsers import Browsers
from broker.controller.web.control_client import ControlClient
from broker.controller.web.door import SessionDoor
from broker.controller.web.guest_visits import GuestVisits
from broker.controller.web.service_hosts import ServiceHosts
from broker.controller.web.source_addresses import SourceAddresses
from broker.controller.web.sweep import WebSweep
from broker.controller.web.visits import Visits
from broker.origins import Origins

if TYPE_CHECKING:
    from broker.config.settings import Config
    from broker.controller.images import ImageFinder
    from broker.controller.reconcile.observed_slurm import ObservedSlurm
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.added_services import AddedServices
    from broker.controller.sessions.installed_credentials import InstalledCredentials
    from broker.controller.sessions.shared_services import SharedServices
    from broker.controller.sessions.watch import SessionWatches
    from broker.controller.site import Site
    from broker.controller.wakeup import ChangeNotifier
    from broker.controller.web.oidc.logins import ProviderLogins
    from broker.ssh.certificates import CertificateAuthority


@dataclass(frozen=True, slots=True)
class WebAccess:
    """The parts that the API calls, and the account that it serves as berth-web."""

    account: str
    browsers: Browsers
    visits: Visits
    guests: GuestVisits
    door: SessionDoor
    watches: BrowserWatches
    provider: ProviderLogins | None
    """None for a site without logins by OpenID Connect."""
    sweep: WebSweep

    @classmethod
    def build(
        cls,
        config: Config,
        authority: CertificateAuthority,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        images: ImageFinder,
        credentials: InstalledCredentials,
        added: AddedServices,
        shared: SharedServices,
        site: Site,
        observed: ObservedSlurm,
        changes: ChangeNotifier,
        watches: SessionWatches,
    ) -> WebAccess:
        """`authority`: the one for berth-web. `config` has web access."""
        settings = config.web
        assert settings.url is not None
        origins, control = Origins.parse(settings.url), ControlClient(config.web_control_socket)
        guests = GuestVisits(access, registry, control)
        visits = Visits(
            access=access,
            registry=registry,
            control=control,
            hosts=ServiceHosts(access, registry, images, added, origins),
            shared=shared,
            guests=guests,
            observed=observed,
        )
        browsers = Browsers(
            access=access, registry=registry, shared=shared, control=control, origins=origins, settings=settings
        )
        door = SessionDoor(
            visits=visits,
            credentials=credentials,
            added=added,
            site=site,
            authority=authority,
            observed=observed,
            sources=SourceAddresses(settings.source_addresses),
            lifetime_s=settings.door_lifetime,
        )
        sweep = WebSweep(registry, visits, control, changes)
        provider = None
        if settings.oidc.issuer is not None:
            from broker.controller.web.oidc.logins import ProviderLogins  # noqa: PLC0415 - few sites need Authlib

            provider = ProviderLogins(settings.oidc, origins, registry, browsers)
        return cls(settings.account, browsers, visits, guests, door, BrowserWatches(watches, browsers), provider, sweep)
