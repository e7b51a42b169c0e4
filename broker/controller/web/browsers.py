"""Logins of browsers: a link proves who the user is, and a delegation says what the browser may do."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.registry.web_models import Delegation
from broker.controller.wakeup import wait_for_any
from broker.controller.web.links import LoginLinks
from broker.controller.web.secret import hash_secret, new_secret
from broker.errors import LoggedOutError, NotFoundError, RefusedError
from broker.names import MAX_ITEMS, new_id
from broker.schema.permissions import Permission
from broker.schema.web import BrowserView, DelegationAnswer, LinkAnswer, LoginPreview, LogoutAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.config.web_settings import WebSettings
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.shared_services import SharedServices
    from broker.controller.web.control_client import ControlClient
    from broker.origins import Origins
    from broker.schema.web import DelegationRequest, LinkRequest, Target

USE_INTERVAL_S = 60.0
"""Seconds between two records of the time at which a delegation was used."""


@dataclass(frozen=True, slots=True)
class ProviderSession:
    """A person's session at the OpenID provider that has proved a login. Its end there ends the login here."""

    issuer: str = ""
    """Empty for a login by a link."""
    subject: str = ""
    session: str = ""


LINK = ProviderSession()


class Browsers:
    """The logged-in browsers of all users."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        shared: SharedServices,
        control: ControlClient,
        origins: Origins,
        settings: WebSettings,
    ) -> None:
        self._access = access
        self._registry = registry
        self._shared = shared
        self._links = LoginLinks(settings.link_lifetime)
        self._control = control
        self._origins = origins
        self._lifetime_s = settings.login_lifetime
        self._minimum_uid = settings.minimum_uid
        self._followed: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        """Events to set at a logout, by the delegation's id."""

    async def make_link(self, user: str, uid: int, request: LinkRequest) -> LinkAnswer:
        """Return a link that logs a browser in as `user`.

        NotFoundError if the target's session is neither the user's nor shared with them; RefusedError for a system
        account; for guests also the errors of SharedServices.check_visit.
        """
        self._check_uid(user, uid)
        if request.target is not None:
            target = request.target
            session = await self._access.resolve(user, target.session, Permission.VISIT, target.service)
            if session.owner != user:
                await self._shared.check_visit(session, target.service)
        link = self._links.create(user, uid, request.target)
        login_url = f"{self._origins.portal_url}/login"
        return LinkAnswer(
            url=f"{login_url}#{link.secret}", login_url=login_url, code=link.code, expires_at=link.expires_at
        )

    def preview(self, request: DelegationRequest) -> LoginPreview:
        """Return what `log_in` would do. The link can still be used. Errors as of LoginLinks.find."""
        link = self._links.find(request.proof, request.address)
        return LoginPreview(user=link.user, target=link.target)

    async def log_in(self, request: DelegationRequest) -> DelegationAnswer:
        """Exchange a link or its code, which is used up, for a delegation. RefusedError as LoginLinks.consume."""
        link = self._links.consume(request.proof, request.address)
        return await self.add(link.user, link.uid, browser=request.browser, address=request.address, target=link.target)

    async def add(
        self,
        user: str,
        uid: int,
        *,
        browser: str,
        address: str,
        target: Target | None = None,
        provider: ProviderSession = LINK,
    ) -> DelegationAnswer:
        """Log a browser in whose user has proved to be `user`. RefusedError for a system account."""
        self._check_uid(user, uid)
        secret, now = new_secret(), clock.now()
        delegation = Delegation(
            id=new_id(),
            secret_hash=hash_secret(secret),
            user=user,
            uid=uid,
            browser=browser,
            address=address,
            created_at=now,
            used_at=now,
            expires_at=now + self._lifetime_s,
            issuer=provider.issuer,
            subject=provider.subject,
            provider_session=provider.session,
        )
        await self._registry.add_delegation(delegation, MAX_ITEMS)
        return DelegationAnswer(
            id=delegation.id, secret=secret, user=user, expires_at=delegation.expires_at, target=target
        )

    async def authenticate(self, secret: str) -> Delegation:
        """Return the delegation with this secret. LoggedOutError if it has ended; RefusedError for a system account."""
        now = clock.now()
        delegation = await self._registry.find_delegation(hash_secret(secret), now)
        if delegation is None:
            raise LoggedOutError("this browser is not logged in", hint="`berth portal` prints a link that logs it in")
        self._check_uid(delegation.user, delegation.uid)
        if now - delegation.used_at > USE_INTERVAL_S:
            await self._registry.note_delegation_use(delegation.id, now)
        return delegation

    async def wait_ended(self, delegation: Delegation, stopping: asyncio.Event) -> None:
        """Return when the delegation has ended, or `stopping` is set."""
        ended = asyncio.Event()
        self._followed[delegation.id].add(ended)
        try:
            if await self._registry.find_delegation(delegation.secret_hash, clock.now()) is None:
                return
            await wait_for_any([ended, stopping], delegation.expires_at - clock.now())
        finally:
            self._followed[delegation.id].discard(ended)
            if not self._followed[delegation.id]:
                del self._followed[delegation.id]

    async def views(self, user: str, current: Delegation | None = None) -> list[BrowserView]:
        """Return the user's logins. `current`: the one for which the request is."""
        of_request = "" if current is None else current.id
        found = await self._registry.delegations_of(user, clock.now())
        return [each.view().model_copy(update={"current": each.id == of_request}) for each in found]

    async def log_out(self, user: str, delegation_id: str) -> LogoutAnswer:
        """Log one browser of the user out. NotFoundError if there is none with that id."""
        answer = await self._end(user, delegation_id)
        if not answer.ended:
            raise NotFoundError(f"you have no logged-in browser {delegation_id}", hint="`berth browsers` lists them")
        return answer

    async def log_out_all(self, user: str) -> LogoutAnswer:
        return await self._end(user, None)

    def _check_uid(self, user: str, uid: int) -> None:
        if uid < self._minimum_uid:
            raise RefusedError(
                f"{user} is a system account, for which no browser may act",
                hint=f"web.minimum_uid is {self._minimum_uid}",
            )

    async def _end(self, user: str, delegation_id: str | None) -> LogoutAnswer:
        """Remove the delegations, and return when their connections are closed."""
        ended = await self._registry.end_delegations(user, delegation_id)
        closed = await self.close(ended)
        return LogoutAnswer(ended=[each.view() for each in ended], closed=closed)

    async def close(self, ended: Sequence[Delegation]) -> bool:
        """Close the connections of delegations that the registry no longer has. Return whether they are closed.

        The removal is committed first: berth-web asks again for what it has, if it does not hear of it now.
        """
        for event in [event for each in ended for event in self._followed.get(each.id, ())]:
            event.set()
        return await self._control.close(delegations=[each.id for each in ended])
