"""The credentials in a session's directory, which its sshd reads at every login."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.service.lasting_states import LastingStates

if TYPE_CHECKING:
    from broker.controller.credentials.login import LoginPolicy
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session

log = logging.getLogger(__name__)


class InstalledCredentials:
    """Keeps the credentials of sessions up to date: before each connection, and not when they change."""

    def __init__(self, registry: AsyncRegistry, launcher: LauncherClient, logins: LoginPolicy) -> None:
        self._registry = registry
        self._launcher = launcher
        self._logins = logins
        self._lasting = LastingStates(log)

    async def refresh(self, session: Session) -> None:
        """Write the credentials that let users in now, unless the session has them. A failure is logged.

        Raises as LoginPolicy.of.
        """
        login = await self._logins.of(session.owner)
        if (digest := login.digest) != session.keys_digest:
            try:
                await self._launcher.install(session.owner, session.id, login.files)
            except LauncherError as error:  # a full disk must not lock out the user who wants to free space
                text = f"keys not updated {session.log_name} error={error.message}"
                self._lasting.report(session.id, logging.WARNING, text)
                return
            self._lasting.end(session.id)
            await self._registry.update(session.id, lambda _: ({"keys_digest": digest}, None))
