"""Guests of one service, with the real HAProxy, ssh and sshd: their cookies, tunnels and ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from broker.errors import ConflictError
from tests.component.web.test_web_revocation import _is_open, _is_refused, _open
from tests.deadlines import DEADLINE_S
from tests.fakes.raw_http import request
from tests.fakes.web_world import OWN_PAGE, WebWorld, play_web

if TYPE_CHECKING:
    from broker.web.session_link import SessionLink


def _tunnels(world: WebWorld) -> dict[tuple[str, str], SessionLink]:
    return world.gateway.access._connections._links


def test_guest_reaches_one_service_beside_its_owner() -> None:
    async def scene(world: WebWorld) -> None:
        guest, owner = await world.entered(user="bob"), await world.entered("other")
        assert (await world.get(guest)).status == 200
        for host in (world.host("other"), world.host("third")):
            headers = OWN_PAGE | world.cookie(guest)
            assert (await world.ask(request("GET", "/x", world.authority(host), headers))).status == 403
        assert [len(service.heads) for service in world.services.values()] == [1, 0]
        assert set(_tunnels(world)) == {(world.session_id, "echo"), (world.session_id, "")}
        assert (await world.get(owner)).status == 200

    play_web(scene)


def test_tunnel_of_a_guest_opens_no_other_socket() -> None:
    """Also for an attacker who has berth-web's keys: the session's sshd refuses."""

    async def scene(world: WebWorld) -> None:
        await world.entered(user="bob")
        link = _tunnels(world)[world.session_id, "echo"]
        async with link.use("unused") as tunnel:
            local = await tunnel.forward("other", "other.sock")
            reader, writer = await asyncio.open_unix_connection(local)
            writer.write(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(DEADLINE_S):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()
        assert world.services["other"].heads == []

    play_web(scene)


def test_service_sees_neither_our_cookies_nor_a_user() -> None:
    async def scene(world: WebWorld) -> None:
        guest = await world.entered(user="bob")
        cookie = f"{world.cookie(guest)['Cookie']}; own=bobs"
        vouching = {"X-Remote-User": "alice", "X-Forwarded-User": "alice", "Remote-User": "alice"}
        assert (await world.get(guest, "/x", Cookie=cookie, **vouching)).status == 200
        (head,) = world.echo.heads
        assert b"own=bobs" in head
        for word in (guest.cookie.encode(), b"__Host-Http-berth", b"alice:", b"-User"):
            assert word not in head

    play_web(scene)


@pytest.mark.parametrize("shared_tunnel", [False, True])
def test_end_of_a_guests_visit_closes_the_guest_alone(shared_tunnel: bool) -> None:
    """Also where guest and owner use one connection to the service: the first of the two has opened it."""

    async def scene(world: WebWorld) -> None:
        first, second = ("alice", "bob") if shared_tunnel else ("bob", "alice")
        browsers = {user: await world.entered(user=user) for user in (first, second)}
        guest, owner = browsers["bob"], browsers["alice"]
        ends, stays = await _open(world, guest), await _open(world, owner)
        await world.close(visit_ids=[guest.visit.id])
        assert await ends.rest() == b""
        assert await _is_refused(world, guest)
        assert await _is_open(stays)
        assert (await world.get(owner)).status == 200

    play_web(scene)


def test_visit_of_a_guest_ends_in_time_while_the_controller_is_away() -> None:
    async def scene(world: WebWorld) -> None:
        owner, guest = await world.entered(), await world.entered(seconds=4, user="bob")
        ends, stays = await _open(world, guest), await _open(world, owner)
        await world.controller.vanish()
        assert await ends.rest() == b""
        assert await _is_refused(world, guest)
        assert await _is_open(stays)

    play_web(scene)


def test_guest_sees_no_reason_and_no_line_of_the_session() -> None:
    async def scene(world: WebWorld) -> None:
        (world.place / "echo.slow").touch()
        guest = await world.enter(world.visit(user="bob"))
        answer = await world.navigate(guest.host, **world.cookie(guest))
        assert (answer.status, b"the service echo begins" in answer.body) == (202, False)
        (world.place / "echo.slow").unlink()
        world.controller.refusal = ConflictError("dev is queued: secret", hint="secret")
        other = await world.enter(world.visit("other", user="bob"))
        answer = await world.navigate(other.host, **world.cookie(other))
        assert answer.status == 409
        assert b"secret" not in answer.body
        assert b"other of alice.dev does not answer now" in answer.body
        assert b"/sessions/dev" not in answer.body

    play_web(scene)
