"""The window of a forward follows the distance of its client. Hours of satellite links pass in no time here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.gateway.channel import FIRST_WINDOW_BYTES
from broker.gateway.relay import MAX_WINDOW_BYTES, Relay
from broker.gateway.usage import Allowance, Resource, Usage
from tests.deadlines import DEADLINE_S
from tests.fakes.full_listener import full_listener

PACKET = 32768
"""OpenSSH's largest."""


@dataclass
class Client:
    """An ssh client that uploads as fast as its window lets it, as the gateway's channel sees it."""

    round_trip: float
    now: float = 0.0
    window: int = FIRST_WINDOW_BYTES
    granted: list[tuple[float, int]] = field(default_factory=list)
    """The times at which bytes arrive at the gateway for the window that it has granted, and their numbers."""

    def open_window(self, size: int) -> None:
        if size > self.window:
            self.granted.append((self.now + self.round_trip, size - self.window))
            self.window = size

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def upload(self, forward: Relay, seconds: float) -> None:
        size = self.window
        while self.now < seconds:
            while size:
                piece = min(size, PACKET)
                size -= piece
                self.window -= piece
                forward.data_received(bytes(piece), None)
            self.now, size = self.granted.pop(0)


class Session:
    """It takes everything at once."""

    def write(self, data: bytes) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def test_node_that_accepts_no_connection_is_given_the_sites_own_time() -> None:
    async def scene() -> None:
        forward = Relay(lambda *_: None, lambda _: None, Allowance(Usage(), "alice", Resource.WINDOW_BYTES, 1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(DEADLINE_S) as deadline:
                await forward.connect("127.0.0.1", port, 0.2)
        assert not deadline.expired()

    with full_listener() as port:
        asyncio.run(scene())


@pytest.mark.parametrize("round_trip", [0.001, 0.05, 0.29, 0.32, 0.65])
def test_window_grows_for_clients_far_and_near(round_trip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(round_trip)
    monkeypatch.setattr("broker.gateway.relay.time", SimpleNamespace(monotonic=lambda: client.now))
    allowance = Allowance(Usage(), "alice", Resource.WINDOW_BYTES, MAX_WINDOW_BYTES)
    forward = Relay(lambda *_: None, lambda _: None, allowance)
    forward.upstream_made(cast("Any", Session()))
    forward.connection_made(cast("Any", client))
    forward.session_started()
    client.upload(forward, 20 * round_trip)
    before = forward.sent
    client.upload(forward, 40 * round_trip)
    assert forward.sent - before > 20 * 0.8 * MAX_WINDOW_BYTES
