"""The limit of guests of one worker of a gateway, whose report to the controller names all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from broker.errors import BerthError, ConflictError
from broker.gateway import guests
from broker.gateway.relay import Relay
from broker.names import new_id
from broker.schema.connections import GatewayGuestsAnswer, GuestConnection
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from broker.schema.connections import GatewayGuests

LIMIT = 2


def relay() -> Relay:
    return object.__new__(Relay)  # never connected: it stands for a connection that is counted


def test_a_guest_beyond_the_limit_is_refused_and_the_others_are_still_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guests, "MAX_WORKER_GUESTS", LIMIT)
    reports: list[GatewayGuests] = []

    async def report(sent: GatewayGuests) -> GatewayGuestsAnswer:
        reports.append(sent)
        return GatewayGuestsAnswer(ended=[])

    async def scenario() -> None:
        relays = guests.GuestRelays(report)
        admitted = [GuestConnection(session_id=new_id(), user="bob") for _ in range(LIMIT)]
        held = [relay() for _ in admitted]
        for guest, each in zip(admitted, held, strict=True):
            await relays.add(guest, each)
        with pytest.raises(ConflictError):
            await relays.add(GuestConnection(session_id=new_id(), user="bob"), relay())
        await relays.add(admitted[0], relay())  # one more connection of the same guest
        assert reports[-1].guests == admitted
        relays.remove(admitted[1], held[1])
        await relays.add(GuestConnection(session_id=new_id(), user="carol"), relay())
        assert [guest.user for guest in reports[-1].guests] == ["bob", "carol"]

    asyncio.run(scenario())


class ClosedRelay:
    """A connection that notes its end."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize("error", [BerthError("no answer"), ValueError("an answer of another version")])
def test_guests_are_cut_off_when_no_report_is_answered_for_the_time_of_a_lease(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(guests, "RETRY_S", 0.01)
    monkeypatch.setattr(guests, "LEASE_S", 0.2)

    async def report(sent: GatewayGuests) -> GatewayGuestsAnswer:
        if sent.number == 1:
            return GatewayGuestsAnswer(ended=[])
        raise error

    async def scenario() -> None:
        held = ClosedRelay()
        async with guests.GuestRelays(report) as relays:
            await relays.add(GuestConnection(session_id=new_id(), user="bob"), cast("Relay", held))
            async with asyncio.timeout(DEADLINE_S):
                await held.closed.wait()

    asyncio.run(scenario())
