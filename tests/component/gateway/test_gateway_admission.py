"""The limits on clients that begin a login: the policy by itself, and the gateway under it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from typing import TYPE_CHECKING

import asyncssh
import pytest

from broker.gateway import admission, fair_reader
from broker.gateway.admission import Failure, LoginThrottle, source_of
from broker.ssh.max_startups import MaxStartups
from tests.fakes.gateway_world import World, play, until
from tests.fakes.openssh import me

if TYPE_CHECKING:
    from pathlib import Path

PLENTY = MaxStartups(1000, 30, 1000)


class Client:
    """One without a login."""

    def __init__(self, name: str, source: str = "192.0.2.1") -> None:
        self.name = name
        self.source = source
        self.busy = False
        self.dropped = False

    def __repr__(self) -> str:
        return self.name

    def has_unread(self) -> bool:
        return self.busy

    def drop(self) -> None:
        self.dropped = True


class Door:
    """An Admission whose clock and dice the test holds."""

    def __init__(self, max_startups: str = "3:0:4", exempt: str = "") -> None:
        self.now = 0.0
        self.dice = 0.99
        networks = [ipaddress.ip_network(exempt)] if exempt else []
        self.throttle = LoginThrottle(
            MaxStartups.parse(max_startups), networks, clock=lambda: self.now, chance=lambda: self.dice
        )

    def arrive(self, name: str, source: str = "192.0.2.1") -> Client:
        client = Client(name, source)
        self.throttle.enter(client)
        return client

    def begin(self, name: str) -> Client:
        client = self.arrive(name)
        self.throttle.record_data(client, 2 * admission.GREETING_BYTES)
        return client

    def fail(self, failure: Failure, times: int = 1, source: str = "192.0.2.1") -> None:
        for _ in range(times):
            self.throttle.leave(self.arrive("failing", source), failure)


@pytest.mark.parametrize("text", ["", "10", "10:30", "a:b:c", "10:30:5", "0:30:10", "10:101:20", "10:-1:20"])
def test_max_startups_is_refused_unless_it_makes_sense(text: str) -> None:
    with pytest.raises(ValueError, match="start"):
        MaxStartups.parse(text)


def test_the_share_grows_from_rate_to_all() -> None:
    policy = MaxStartups.parse("10:30:60")
    assert [round(policy.drop_probability(waiting), 2) for waiting in (9, 10, 35, 59, 60)] == [0, 0.3, 0.65, 0.99, 1]


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.1"),
        ("127.255.255.254", "127.0.0.1"),
        ("::1", "127.0.0.1"),
        ("::ffff:127.9.9.9", "127.0.0.1"),
        ("128.0.0.1", "128.0.0.1"),
        ("::2", "::/64"),
    ],
)
def test_a_source_is_an_address_or_an_ipv6_network(address: str, source: str) -> None:
    assert source_of(address) == source


def test_all_of_loopback_is_punished_as_one() -> None:
    door = Door()
    for number in range(2, 20):
        door.fail(Failure.NO_LOGIN, source=source_of(f"127.0.{number}.1"))
    for address in ("127.0.0.1", "127.44.0.1", "::1", "::ffff:127.0.0.1"):
        assert door.throttle.refuses(source_of(address))


@pytest.mark.parametrize(
    ("exempt", "address"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.7/32", "127.0.0.7"),
        ("::1/128", "::1"),
        ("::/0", "::1"),
        ("0.0.0.0/0", "::ffff:127.0.0.1"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("2001:db8:1:2::5/128", "2001:db8:1:2::5"),
        ("2001:db8::/32", "2001:db8:1:2::5"),
    ],
)
def test_exempt_address_is_exempt_in_each_family(exempt: str, address: str) -> None:
    for networks, refused in (([ipaddress.ip_network(exempt)], False), ([], True)):
        door = LoginThrottle(MaxStartups.parse("2:0:4"), networks, clock=lambda: 0.0)
        for number in range(5):
            door.leave(Client(str(number), source_of(address)), Failure.NO_LOGIN)
        assert bool(door.refuses(source_of(address))) is refused


def test_when_the_house_is_full_the_silent_one_goes_and_not_the_newcomer() -> None:
    door = Door()
    silent, greeting = door.arrive("silent"), door.arrive("greeting")
    begun = [door.begin(f"begun {number}") for number in range(2)]
    door.throttle.record_data(greeting, admission.GREETING_BYTES)
    newcomer = door.arrive("newcomer")
    assert silent.dropped
    assert not any(client.dropped for client in (greeting, *begun, newcomer))


def test_of_those_that_have_begun_the_one_goes_that_was_heard_longest_ago() -> None:
    door = Door()
    clients = [door.arrive(str(number)) for number in range(4)]
    for door.now, number in enumerate([0, 1, 2, 3, 0], 1):
        door.throttle.record_data(clients[number], 2 * admission.GREETING_BYTES)
    newcomer = door.arrive("newcomer")
    assert [client.dropped for client in (*clients, newcomer)] == [False, True, False, False, False]


def test_whoever_comes_has_room_to_begin_however_many_have() -> None:
    door = Door("1:0:100")
    for number in range(100):
        door.begin(f"begun {number}")
    newcomers = [door.arrive(f"newcomer {number}") for number in range(25)]
    assert not any(client.dropped for client in newcomers)


def test_nobody_goes_because_we_have_not_listened() -> None:
    door = Door()
    clients = [door.arrive(str(number)) for number in range(4)]
    clients[0].busy = True
    door.now = 10
    door.arrive("newcomer")
    assert [client.dropped for client in clients] == [False, True, False, False]


def test_if_all_have_just_come_the_first_of_them_goes() -> None:
    door = Door()
    clients = [door.arrive(str(number)) for number in range(5)]
    assert [client.dropped for client in clients] == [True, False, False, False, False]


@pytest.mark.parametrize(("dice", "after", "goes"), [(0.6, 6, False), (0.4, 6, True), (0.4, 4, False)])
def test_the_early_drop_is_random_and_strikes_who_stalls(dice: float, after: float, goes: bool) -> None:
    door = Door("2:50:4")
    first = door.begin("first")
    door.now, door.dice = after, dice
    others = [door.arrive("second"), door.arrive("third")]
    assert first.dropped == goes
    assert not any(client.dropped for client in others)


@pytest.mark.parametrize(
    ("failure", "times"), [(Failure.NO_ATTEMPT, 15), (Failure.NO_LOGIN, 3), (Failure.TOO_SLOW, 2), (Failure.ABUSE, 1)]
)
def test_penalties_add_up_and_are_enforced_from_fifteen_seconds(failure: Failure, times: int) -> None:
    door = Door()
    door.fail(failure, times - 1)
    assert not door.throttle.refuses("192.0.2.1")
    door.fail(failure)
    assert door.throttle.refuses("192.0.2.1") == failure.value * times
    assert not door.throttle.refuses("192.0.2.2")
    door.now = failure.value * times
    assert not door.throttle.refuses("192.0.2.1")
    door.fail(Failure.NO_ATTEMPT)
    assert not door.throttle.refuses("192.0.2.1"), "it begins anew"


def test_a_penalty_that_has_run_off_does_not_come_back_with_the_next_slip() -> None:
    door = Door()
    standing = door.arrive("standing")
    door.fail(Failure.ABUSE)
    door.now = 91
    door.throttle.leave(standing, Failure.NO_ATTEMPT)
    assert not door.throttle.refuses("192.0.2.1")


def test_penalties_end_after_ten_minutes_whatever_was_done() -> None:
    door = Door()
    door.fail(Failure.ABUSE, 100)
    assert door.throttle.refuses("192.0.2.1") == 600


def test_slow_failures_never_add_up() -> None:
    door = Door()
    for door.now in range(0, 600, 6):
        door.fail(Failure.NO_LOGIN)
        assert not door.throttle.refuses("192.0.2.1")


def test_where_somebody_is_logged_in_nobody_is_locked_out() -> None:
    door = Door()
    door.fail(Failure.ABUSE)
    door.throttle.add_connection("192.0.2.1")
    assert not door.throttle.refuses("192.0.2.1")
    door.throttle.remove_connection("192.0.2.1")
    assert door.throttle.refuses("192.0.2.1")


def test_exempt_networks_are_never_punished() -> None:
    door = Door(exempt="10.1.0.0/16")
    door.fail(Failure.ABUSE, source="10.1.2.3")
    door.fail(Failure.ABUSE, source="10.2.2.3")
    door.fail(Failure.ABUSE, source="2001:db8:1:2::/64")
    assert not door.throttle.refuses("10.1.2.3")
    assert door.throttle.refuses("10.2.2.3")
    assert door.throttle.refuses("2001:db8:1:2::/64")


def test_sources_without_number_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_SOURCES", 100)
    door = Door()
    for number in range(250):
        door.fail(Failure.ABUSE, source=f"198.51.100.{number}")
    refused = [number for number in range(250) if door.throttle.refuses(f"198.51.100.{number}")]
    assert refused == list(range(150, 250))


# The gateway by it


async def _answer(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.readline()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_a_house_full_of_idlers_lets_people_in(place: Path) -> None:
    """sshd would refuse everybody here until the idlers' time is up."""

    async def scene(w: World) -> None:
        idlers = [await asyncio.open_connection("127.0.0.1", w.gateway.port) for _ in range(5)]
        for reader, _ in idlers:
            assert await reader.readline()
        assert (await w.ssh("dev.berth", "true")).code == 0
        with contextlib.suppress(ConnectionError):
            assert await idlers[0][0].read(-1) == b""
        for _, writer in idlers:
            writer.close()
        await until(lambda: not w.gateway._throttle.waiting)

    play(place, scene, max_startups=MaxStartups(5, 100, 5))


def test_who_keeps_failing_is_turned_away_at_the_door_and_told_so(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(w: World) -> None:
        wrong = [asyncssh.generate_private_key("ssh-ed25519")]
        for _ in range(4):  # of 5 s each, which run off meanwhile
            with pytest.raises(asyncssh.PermissionDenied):
                await w.client(client_keys=wrong)
            await until(lambda: not w.gateway._throttle.waiting)
        assert await _answer(w.gateway.port) == b"Not allowed at this time\r\n"
        finished = await w.ssh("dev.berth", "true")
        assert finished.code == 255
        assert await _answer(w.gateway.port) == b"Not allowed at this time\r\n"
        assert caplog.text.count("event=turned-away source=127.0.0.1") == 1, "a flood must not fill the log"

    play(place, scene)


def test_a_colleague_who_is_logged_in_vouches_for_the_address(place: Path) -> None:
    async def scene(w: World) -> None:
        async with await w.client():
            wrong = [asyncssh.generate_private_key("ssh-ed25519")]
            for _ in range(4):
                with pytest.raises(asyncssh.PermissionDenied):
                    await w.client(client_keys=wrong)
            assert (await w.ssh("dev.berth", "true")).code == 0
        await until(lambda: not len(w.gateway._live))
        assert await _answer(w.gateway.port) == b"Not allowed at this time\r\n"

    play(place, scene)


def test_an_outage_of_the_controller_is_nobodys_failure(place: Path) -> None:
    async def scene(w: World) -> None:
        await w.controller.stop()
        for _ in range(6):
            with pytest.raises(asyncssh.PermissionDenied):
                await w.client()
        await w.controller.start()
        assert (await w.ssh("dev.berth", "true")).code == 0

    play(place, scene)


def test_a_port_scanner_and_a_health_check_are_not_locked_out_for_looking(place: Path) -> None:
    async def scene(w: World) -> None:
        for _ in range(10):
            assert (await _answer(w.gateway.port)).startswith(b"SSH-2.0-")
        await until(lambda: not w.gateway._throttle.waiting)
        assert (await w.ssh("dev.berth", "true")).code == 0

    play(place, scene)


def test_time_wasters_pay_for_it(place: Path) -> None:
    async def scene(w: World) -> None:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", w.gateway.port)
            await reader.read(-1)
            writer.close()
        await until(lambda: not w.gateway._throttle.waiting)
        assert await _answer(w.gateway.port) == b"Not allowed at this time\r\n"

    play(place, scene, login_timeout=0.2)


def test_a_login_consists_of_so_many_bytes_and_no_more(place: Path) -> None:
    async def scene(w: World) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.gateway.port)
        ignored = (12).to_bytes(4, "big") + b"\x06\x02" + bytes(10)  # SSH_MSG_IGNORE, the smallest packet
        writer.write(b"SSH-2.0-flood\r\n" + ignored * (fair_reader.LOGIN_BYTES // len(ignored) + 1))
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        writer.close()
        await until(lambda: not w.gateway._throttle.waiting)
        assert await _answer(w.gateway.port) == b"Not allowed at this time\r\n"

    play(place, scene)


def test_one_user_has_so_many_connections(place: Path) -> None:
    async def scene(w: World) -> None:
        first, second = await w.client(), await w.client()
        third = await w.client()
        with pytest.raises(asyncssh.ChannelOpenError):
            await third.open_connection(w.canonical, 22)
        await third.wait_closed()
        reader, _ = await first.open_connection(w.canonical, 22)
        assert await reader.readline(), "those that stand are not concerned"
        second.close()
        await second.wait_closed()
        await until(lambda: len(w.gateway._live.of(me())) == 1)
        async with await w.client() as again:
            await again.open_connection(w.canonical, 22)
        first.close()

    play(place, scene, max_user_connections=2)


def test_one_user_has_so_many_forwards_on_all_connections(place: Path) -> None:
    async def scene(w: World) -> None:
        async with await w.client() as one, await w.client() as other:
            _, first = await one.open_connection(w.canonical, 22)
            await other.open_connection(w.canonical, 22)
            with pytest.raises(asyncssh.ChannelOpenError, match="has 2 connections to sessions already"):
                await other.open_connection(w.canonical, 22)
            first.close()
            await first.wait_closed()
            await other.open_connection(w.canonical, 22)

    play(place, scene, max_user_forwards=2)
