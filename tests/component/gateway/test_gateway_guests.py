"""A guest's connection through the gateway: it ends with the access, and there is none without a controller."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.gateway import guests
from broker.schema.grants import Role
from tests.deadlines import DEADLINE_S
from tests.fakes.gateway_world import World, play, until
from tests.fakes.openssh import me

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import asyncssh

HOST = "zoe.dev.berth"
"""A session of another user, to which this user has a guest's access."""


def share(w: World) -> None:
    w.controller.roles[me(), HOST] = Role.WATCH
    w.controller.sessions[me(), HOST] = ("127.0.0.1", w.session_port)


def listed(w: World) -> list[str]:
    return [guest.user for workers in w.controller.guests.values() for guest in workers]


async def lost(reader: asyncssh.SSHReader[bytes]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await reader.read(4096):
            pass


async def revoke(w: World) -> None:
    w.controller.ended.set()


async def stop_controller(w: World) -> None:
    await w.controller.stop()


@pytest.mark.parametrize("end", [revoke, stop_controller])
def test_guest_is_cut_off_and_owner_stays(
    place: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[World], Awaitable[None]]
) -> None:
    monkeypatch.setattr(guests, "RETRY_S", 0.05)

    async def scene(w: World) -> None:
        share(w)
        async with await w.client() as client:
            own, own_writer = await client.open_connection(w.canonical, 22)
            reader, _ = await client.open_connection(HOST, 22)
            for each in (own, reader):
                assert (await each.readline()).startswith(b"SSH-2.0-")
            assert listed(w) == [me()]
            if end is stop_controller:
                monkeypatch.setattr(guests, "LEASE_S", 0.2)
            await end(w)
            await lost(reader)
            own_writer.write(b"SSH-2.0-still-here\r\n")
            assert await own.readexactly(1)
            if end is revoke:
                await until(lambda: not listed(w))

    play(place, scene)


def test_guest_whose_access_ends_while_connecting_sends_and_gets_nothing(place: Path) -> None:
    async def scene(w: World) -> None:
        share(w)
        w.controller.ended.set()
        done = await w.ssh(HOST, "true")
        assert done.code == 255
        assert "your access to this session has ended" in done.err
        assert w.controller.connections == {}

    play(place, scene)


def test_endpoint_of_another_users_session_is_not_remembered(place: Path) -> None:
    async def scene(w: World) -> None:
        share(w)
        for target in (HOST, "dev.berth"):
            async with await w.client() as client:
                reader, _ = await client.open_connection(target if target == HOST else w.canonical, 22)
                assert (await reader.readline()).startswith(b"SSH-2.0-")
        await w.controller.stop()
        assert (await w.ssh("dev.berth", "true")).code == 0
        done = await w.ssh(HOST, "true")
        assert done.code == 255
        assert "controller does not answer" in done.err

    play(place, scene)


def test_list_is_empty_when_the_guest_has_left(place: Path) -> None:
    async def scene(w: World) -> None:
        share(w)
        async with await w.client() as client:
            await client.open_connection(HOST, 22)
            await until(lambda: listed(w) == [me()])
        await until(lambda: listed(w) == [])

    play(place, scene)
