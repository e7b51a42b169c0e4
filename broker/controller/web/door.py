"""The way into a session for berth-web: the endpoint of its sshd, and a certificate of a few minutes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.sessions.connect import check_login
from broker.controller.sessions.status_line import status_line
from broker.errors import ConflictError
from broker.schema.web import WEB_LOGIN, DoorAnswer
from broker.ssh.certificates import guest_principals, owner_principals
from broker.ssh.host_names import SessionHost

if TYPE_CHECKING:
    from broker.controller.reconcile.observed_slurm import ObservedSlurm
    from broker.controller.sessions.added_services import AddedServices
    from broker.controller.sessions.installed_credentials import InstalledCredentials
    from broker.controller.site import Site
    from broker.controller.web.source_addresses import SourceAddresses
    from broker.controller.web.visits import Visits
    from broker.schema.site import SiteView
    from broker.schema.web import DoorRequest
    from broker.ssh.certificates import CertificateAuthority


class SessionDoor:
    """Signs berth-web's keys for the sessions that are being visited."""

    def __init__(
        self,
        *,
        visits: Visits,
        credentials: InstalledCredentials,
        added: AddedServices,
        site: Site,
        authority: CertificateAuthority,
        observed: ObservedSlurm,
        sources: SourceAddresses,
        lifetime_s: float,
    ) -> None:
        """`authority`: the one for berth-web. `lifetime_s`: seconds for which a certificate is valid, for connections
        from `sources`.
        """
        self._visits = visits
        self._credentials = credentials
        self._added = added
        self._site = site
        self._authority = authority
        self._observed = observed
        self._sources = sources
        self._lifetime_s = lifetime_s

    async def open(self, request: DoorRequest) -> DoorAnswer:
        """Return the way into the session of a visit: for a guest, to the one service and no other.

        NotFoundError if the visit has ended; ConflictError, with the state in words, unless the session is ready and
        its node can be reached from here.
        """
        visit, session = await self._visits.require(request.visit)
        is_guest = visit.user != session.owner
        if is_guest and (session.root or session.endpoint is None):
            raise ConflictError(f"{session.full_name} is not ready", hint="the service opens when its session is ready")
        check_login(session, root=False)
        if session.endpoint is None:
            raise ConflictError(
                status_line(self._observed, session), hint="the service opens when its session is ready"
            )
        node, port = session.endpoint.node, session.endpoint.port
        sources, site, *_ = await asyncio.gather(
            self._sources.towards(node, port),
            self._site.view(session.owner),
            self._credentials.refresh(session),
            self._added.install(session),
        )
        now = clock.now()
        seconds = max(1, int(min(self._lifetime_s, visit.expires_at - now)))
        alias = SessionHost(session.owner, session.name).canonical_name(site.domain)
        return DoorAnswer(
            host=session.endpoint.node,
            port=session.endpoint.port,
            host_key_alias=alias,
            known_hosts=_known_hosts(site, alias),
            login=WEB_LOGIN,
            certificate=self._authority.sign_web(
                request.public_key,
                guest_principals(session.id, visit.service) if is_guest else owner_principals(session.id),
                sources=sources,
                valid_seconds=seconds,
                serial=int(now * 1e6),
                key_id=f"berth-web visit {visit.id}",
            ),
        )


def _known_hosts(site: SiteView, alias: str) -> list[str]:
    return [
        *(f"@cert-authority {alias} {_key(line)}" for line in site.ca_public_keys),
        *(f"@revoked * {_key(line)}" for line in site.revoked_host_keys),
    ]


def _key(line: str) -> str:
    """Return the algorithm and the key of a public-key line."""
    return " ".join(line.split()[:2])
