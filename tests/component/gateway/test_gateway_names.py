"""Any text of a client's: what is no name of a session costs it one channel, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import asyncssh
import pytest
from asyncssh.packet import String, UInt32

from broker.schema.connections import ConnectionReport
from broker.service.log_limit import LINES_PER_WINDOW, WINDOW_S
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.gateway_process import gateway_process
from tests.fakes.gateway_world import play, until, world
from tests.fakes.openssh import me

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.gateway_world import World

NO_NAMES = [
    "",
    ".",
    "a" * 64,
    "d" * 255,
    "d" * 256,
    "dev." * 200,
    "d" * 30_000,
    "d\0ev",
    "dév",
    "dev\n",
    "../dev",
    "{}",
]


async def refusal(client: asyncssh.SSHClientConnection, target: str) -> str:
    with pytest.raises(asyncssh.ChannelOpenError) as refused:
        await client.open_connection(target, 22)
    return refused.value.reason


async def still_works(w: World, client: asyncssh.SSHClientConnection) -> None:
    reader, writer = await client.open_connection(w.canonical, 22)
    assert (await reader.readline()).startswith(b"SSH-2.0-OpenSSH")
    writer.close()


def endpoints(w: World) -> int:
    return len(list((w.settings.host_key.parent / "known/endpoints").iterdir()))


def test_what_is_no_name_costs_one_channel_and_no_question(place: Path) -> None:
    async def scene(w: World) -> None:
        async with await w.client() as client:
            await still_works(w, client)
            before = len(w.controller.asked)
            for target in NO_NAMES:
                assert "is not a session's host name" in await refusal(client, target), target
            assert not [each for each in w.controller.asked[before:] if "resolve" in each]
            await still_works(w, client)

    play(place, scene)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (b"direct-tcpip", (String(b"\xff"), UInt32(22), String(b"127.0.0.1"), UInt32(1))),
        (b"direct-tcpip", (String(b"dev"), UInt32(22), String(b"\xfe\xff"), UInt32(1))),
        (b"direct-streamlocal@openssh.com", (String(b"\xff"), String(b""), UInt32(0))),
    ],
)
def test_names_that_are_no_text_cost_one_channel(place: Path, kind: bytes, names: tuple[bytes, ...]) -> None:
    async def scene(w: World) -> None:
        async with await w.client() as client:
            channel = client.create_tcp_channel()
            with pytest.raises(asyncssh.ChannelOpenError, match="no text"):
                await channel._open(kind, *names)
            await still_works(w, client)

    play(place, scene)


def test_fault_of_the_gateway_costs_one_channel(place: Path) -> None:
    async def scene(w: World) -> None:
        async with await w.client() as client:
            w.controller.sessions[me(), "odd"] = ("x" * 70, 22)  # a label that IDNA does not take
            assert await refusal(client, "odd") == "the gateway failed at this request"
            await still_works(w, client)

    play(place, scene)


def test_all_spellings_of_a_session_have_one_file(place: Path) -> None:
    async def scene(w: World) -> None:
        where = w.controller.sessions[me(), w.canonical]
        async with await w.client() as client:
            for number in range(2 ** len("dev")):
                name = "".join(c.upper() if number >> place & 1 else c for place, c in enumerate("dev"))
                for target in (name, f"{name}.BeRth", f"{me().upper()}.{name}.berth"):
                    w.controller.sessions[me(), target] = where
                    reader, writer = await client.open_connection(target, 22)
                    await reader.readline()
                    writer.close()
        assert endpoints(w) == 1
        await w.controller.stop()
        async with await w.client() as client:
            await still_works(w, client)

    play(place, scene)


def test_users_forwards_on_their_way_are_counted(place: Path) -> None:
    async def scene(w: World) -> None:
        w.controller.waits = 10**6
        async with await w.client() as one, await w.client() as other:
            waiting = [asyncio.create_task(refusal(each, w.canonical)) for each in (one, one, other)]
            await until(lambda: sum(each.forwards for each in w.gateway._live) == 3)
            said = await refusal(other, w.canonical)
            assert said == f"{me()} has 3 connections to sessions already (close some)"
            for each in waiting:
                each.cancel()
        await until(lambda: not len(w.gateway._live))

    play(place, scene, max_user_forwards=3)


def test_openings_end_with_their_connection(place: Path) -> None:
    async def scene(w: World) -> None:
        w.controller.waits = 10**6
        client = await w.client()
        waiting = [asyncio.create_task(client.open_connection(w.canonical, 22)) for _ in range(20)]
        await until(lambda: w.controller.waited)
        client.abort()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: not len(w.gateway._live))
        await until(lambda: not [task for task in asyncio.all_tasks() if "resolve" in repr(task.get_coro())])
        asked = len(w.controller.waited)
        async with await w.client() as other:  # time for many a question more
            w.controller.waits = 0
            await still_works(w, other)
        assert len(w.controller.waited) <= asked + 4, "those that were on their way"

    play(place, scene)


def test_invented_users_and_refusals_do_not_fill_the_log(place: Path) -> None:
    async def scene() -> None:
        async with world(place) as w, gateway_process(w, penalty_exempt=["127.0.0.0/8"]) as process:
            for number in range(20):
                with pytest.raises(asyncssh.PermissionDenied):
                    await asyncssh.connect(
                        "127.0.0.1", process.port, username=f"nobody{number}", known_hosts=None, agent_path=None,
                        config=None, client_keys=[str(w.key)],
                    )  # fmt: skip
            began_at = time.monotonic()
            async with await process.client() as client:
                for _ in range(300):
                    await refusal(client, "not-there")
            said = process.said
            windows = 1 + int((time.monotonic() - began_at) / WINDOW_S)  # one on a machine that is not busy
        assert "nobody" not in said
        assert "HTTP" not in said
        assert 0 < said.count("event=refused") <= windows * (LINES_PER_WINDOW + 10)

    async def whole() -> None:
        async with asyncio.timeout(TEST_DEADLINE_S):
            await scene()

    asyncio.run(whole())


@pytest.mark.parametrize("user", ["x" * 60_000, "a b", "üser", "../../etc", "%2e%2e", "x?notices=false", "{}"])
def test_odd_users_leave_neither_a_line_nor_a_file(place: Path, caplog: pytest.LogCaptureFixture, user: str) -> None:
    caplog.set_level("INFO")

    async def scene(w: World) -> None:
        key = asyncssh.generate_private_key("ssh-ed25519")
        authority = asyncssh.generate_private_key("ssh-ed25519")
        certificate = authority.generate_user_certificate(key, "k" * 20_000, principals=["p" * 500] * 20)
        before = len(w.controller.asked)
        with pytest.raises((asyncssh.Error, OSError)):
            await w.client(username=user, client_keys=[key, (key, certificate)])
        assert w.controller.asked[before:] == []
        assert not [each for each in (w.settings.host_key.parent / "known").rglob("*") if each.is_file()]
        ours = [each.getMessage() for each in caplog.records if each.name.startswith("broker.")]
        assert not [line for line in ours if user[:100] in line or len(line) > 1000]
        async with await w.client() as client:
            await still_works(w, client)

    play(place, scene)


def test_a_long_name_is_one_short_line_of_the_log(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scene(w: World) -> None:
        async with await w.client() as client:
            await refusal(client, "d" * 30_000)
        ours = [each.getMessage() for each in caplog.records if each.name.startswith("broker.")]
        assert 100 < max(map(len, ours)) < 1000

    play(place, scene)


def test_where_a_client_comes_from_never_stops_its_forward(place: Path) -> None:
    """An interface may have a name that no record of connections takes."""

    async def scene(w: World) -> None:
        async with await w.client() as client:
            (connection,) = w.gateway._live
            connection._peer = "fe80::1%br_lan+1:4711"
            await still_works(w, client)
            await until(lambda: w.controller.connections)
        assert ConnectionReport.model_validate({"connections": list(w.controller.connections.values())})

    play(place, scene)
