"""Requests to berth-web: close the connections of what is no longer valid."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import httpx

from broker.names import MAX_ITEMS
from broker.schema.web import EndedVisits
from broker.service.lasting_states import LastingStates
from broker.service.unix_http import unix_client

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CLOSE_TIMEOUT_S = 10.0
"""Seconds for berth-web to close connections, while a user waits. If it does not answer, its next check closes them."""

log = logging.getLogger(__name__)


class ControlClient:
    """Calls over berth-web's control socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._lasting = LastingStates(log)

    async def close(self, *, delegations: Sequence[str] = (), visits: Sequence[str] = ()) -> bool:
        """Have the connections of these delegations and visits closed. Return whether berth-web says that they are."""
        longest = max(len(delegations), len(visits))
        for start in range(0, longest, MAX_ITEMS):
            part = slice(start, start + MAX_ITEMS)
            ended = EndedVisits(delegation_ids=list(delegations[part]), visit_ids=list(visits[part]))
            if not await self._post(ended):
                return False
        return True

    async def _post(self, ended: EndedVisits) -> bool:
        async with unix_client(self._socket, CLOSE_TIMEOUT_S) as client:
            try:
                response = await client.post("/v1/close", json=ended.model_dump())
                response.raise_for_status()
            except httpx.HTTPError as error:
                text = f"berth-web has not confirmed a close error={error!r}"
                self._lasting.report("close", logging.WARNING, text)
                return False
        self._lasting.end("close")
        return True
