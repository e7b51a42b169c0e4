"""The services that a user has added to a session, as the session's job reports them (broker/job/node/messages.sh)."""

from __future__ import annotations

import asyncio
import logging
from functools import lru_cache
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import BerthError
from broker.service_catalogue import parse_catalogue
from profiles.recipe.service import format_services

if TYPE_CHECKING:
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.models import Session
    from broker.service_catalogue import ListedService

READ_TIMEOUT_S = 2.0
"""Seconds that an answer waits for the user's file system."""
_REMEMBERED = 64
"""Reports whose meaning is remembered: reading YAML takes long, and a page asks again at each change."""

log = logging.getLogger(__name__)


class AddedServices:
    """Reads the reports, through the launcher and within limits, and hands what they define back to the sessions."""

    def __init__(self, launcher: LauncherClient) -> None:
        self._launcher = launcher
        self._installed: dict[str, str] = {}
        """By session's id, the definitions that this process has written last."""

    async def of(self, session: Session) -> list[ListedService]:
        """Return the user's services, and the ports that are published in the session's present run.

        Empty if they cannot be read now: a page shows everything else.
        """
        try:
            return await self.read(session)
        except BerthError:
            return []

    async def read(self, session: Session) -> list[ListedService]:
        """Return the same. BerthError if they cannot be read now."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                text = await self._launcher.listed_services(session.owner, session.id)
        except (LauncherError, TimeoutError) as error:
            log.info("services of the user not read %s error=%s", session.log_name, error)
            raise BerthError("Berth could not read the session's services", hint="try again in a moment") from error
        run, _, report = text.partition("\n")
        services = await asyncio.to_thread(_parse, report) if report else ()
        return [each for each in services if not each.published or run == session.generation]

    async def install(self, session: Session) -> None:
        """Write the definitions where the session finds them when berth-web opens one. A failure is logged."""
        added = [each.service for each in await self.of(session) if not each.published]
        content = format_services(added)
        if self._installed.get(session.id, "") == content:
            return
        try:
            await self._launcher.install(session.owner, session.id, {"own_services": content})
        except LauncherError as error:
            log.warning("services of the user not written %s error=%s", session.log_name, error.message)
        else:
            self._installed[session.id] = content


@lru_cache(_REMEMBERED)
def _parse(report: str) -> tuple[ListedService, ...]:
    """Read a report that a user may have written: one that is none, or is cut off, has no services."""
    try:
        return tuple(parse_catalogue(report.encode()).services.values())
    except ValueError:
        return ()
