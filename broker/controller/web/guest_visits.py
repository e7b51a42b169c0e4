"""Visits of guests in browsers: each lasts only as long as a grant to the guest, or to a group of theirs, allows."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.schema.permissions import Permission
from broker.service.lasting_states import LastingStates

if TYPE_CHECKING:
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.web_models import Visit
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.web.control_client import ControlClient

CHECK_INTERVAL_S = 1.0
"""Seconds between two checks of all visits of guests. The name service reports no member who leaves a group."""

log = logging.getLogger(__name__)


class GuestVisits:
    """Ends the visits that `access` no longer allows."""

    def __init__(self, access: SessionAccess, registry: AsyncRegistry, control: ControlClient) -> None:
        self._access = access
        self._registry = registry
        self._control = control
        self._lasting = LastingStates(log)
        self.begun = asyncio.Event()
        """Set by each new visit of a guest."""

    async def run(self) -> None:
        """Check while there are visits of guests, until cancelled."""
        while True:
            self.begun.clear()
            remain = True
            try:
                remain = bool(await self._registry.guest_visits())
                if remain:
                    await self.end_refused()
                self._lasting.end("check")
            except Exception as error:  # noqa: BLE001 - the loop must outlive any single failure
                text = f"a check of the visits of guests failed: {error!r}"
                self._lasting.report("check", logging.ERROR, text, cause=error)
            if remain:
                await asyncio.sleep(CHECK_INTERVAL_S)
            else:
                await self.begun.wait()

    async def end_refused(self, session_id: str | None = None) -> bool:
        """End the visits of guests to one or all sessions that last longer than the grants allow now.

        Return whether their connections are closed; if not, berth-web closes them when it is back.
        """
        visits = await self._registry.guest_visits(session_id)
        sessions = {each.id: each for each in await self._registry.by_ids({visit.session_id for visit in visits})}
        ends = {_key(visit): 0.0 for visit in visits}
        cases = [(user, sessions[session], service) for user, session, service in ends if session in sessions]
        found = await asyncio.gather(*(self.visit_end(*case) for case in cases))
        ends |= {(user, session.id, service): end for (user, session, service), end in zip(cases, found, strict=True)}
        refused = [visit for visit in visits if ends[_key(visit)] < visit.expires_at]
        if not refused:
            return True
        await self._registry.remove_visits([visit.id for visit in refused])
        for visit in refused:
            log.info("visit of a guest ended user=%s session=%s service=%s", *_key(visit))
        return await self._control.close(visits=[visit.id for visit in refused])

    async def visit_end(self, user: str, session: Session, service: str) -> float:
        """Return the time until which `user` may visit the service; 0 if not at all."""
        until = await self._access.permission_end(user, session, Permission.VISIT, service)
        return until if until > clock.now() else 0.0


def _key(visit: Visit) -> tuple[str, str, str]:
    return visit.user, visit.session_id, visit.service
