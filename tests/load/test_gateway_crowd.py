"""Clients that wait for sessions, through the gateway's own processes and the real API: they cost others nothing."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from broker.gateway.settings import API_CONNECTIONS
from broker.schema.sessions import SessionState
from tests.component.controller.api.api_server import calls_under_way, serving
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes import openssh
from tests.fakes.core import Core, site_config
from tests.fakes.gateway_process import GatewayProcess, gateway_process
from tests.fakes.gateway_world import until
from tests.fakes.launcher import FakeLauncher
from tests.fakes.openssh import public
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from broker.schema.connections import ResolveAnswer

KEPT = 32
"""Connections to the controller that two workers keep for their next questions."""
NOWHERE = 1
"""A port without a listener: a client that is sent there hears that the session does not answer."""


@dataclass
class Crowd:
    """A controller with its API, a gateway process in front of it, and users who all have one key."""

    place: Path
    key: Path
    core: Core
    questions: Counter[str] = field(default_factory=Counter)
    """By user: first questions about where a session listens."""
    _process: GatewayProcess | None = None

    @property
    def process(self) -> GatewayProcess:
        assert self._process is not None
        return self._process

    async def queued(self, users: list[str]) -> None:
        for user in users:
            self.core.launcher.authorized_keys[user] = public(self.key) + "\n"
            await self.core.start(user=user)

    async def ready(self, user: str) -> None:
        """Have the session's job run, and announce an endpoint that does not answer."""
        session = self.core.row(user=user)
        assert session.job.job_id is not None
        self.core.scheduler.start(session.job.job_id, node="127.0.0.1")
        self.core.announce(session, node="127.0.0.1", port=NOWHERE)
        await self.core.tick()

    async def log_in(self, user: str) -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(
            "127.0.0.1",
            self.process.port,
            username=user,
            client_keys=[str(self.key)],
            known_hosts=None,
            agent_path=None,
            config=None,
            login_timeout=60,
        )

    async def asks(self, client: asyncssh.SSHClientConnection, user: str) -> str:
        """Return the gateway's answer to a client that wants to connect to the user's session."""
        try:
            await client.open_connection(f"{user}.dev.berth", 22)
        except asyncssh.ChannelOpenError as error:
            return error.reason
        except (asyncssh.Error, OSError) as error:
            return repr(error)
        return "connected"

    def connections(self) -> int:
        """Return the number of connections of the API's socket, as the kernel counts them."""
        lines = Path("/proc/net/unix").read_text().splitlines()
        connected = "03"
        return sum(line.split()[5] == connected for line in lines if line.endswith(f" {self.place}/api.sock"))

    def descriptors(self) -> int:
        """Return the number of descriptors that the gateway's workers have open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.process.workers())  # noqa: PTH208


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="berth-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def play(
    place: Path,
    scene: Callable[[Crowd], Awaitable[None]],
    **ssh: Any,  # noqa: ANN401 - settings
) -> None:
    async def whole() -> None:
        openssh.require()
        me = pwd.getpwuid(os.getuid()).pw_name
        config = site_config(
            place, gateway={"host": "login.example", "account": me}, ssh={"connect_wait": 3600.0} | ssh
        )
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        crowd = Crowd(config.runtime_dir, openssh.make_key(place / "key"), core)
        connect = core.connect.connect

        async def counting(user: str, target: str, **words: Any) -> ResolveAnswer:  # noqa: ANN401 - passed on
            crowd.questions[user] += not words["waited"]
            return await connect(user, target, **words)

        vars(core.connect)["connect"] = counting
        ticking = asyncio.create_task(core.reconciler.run())
        async with asyncio.timeout(TEST_DEADLINE_S), serving(core), gateway_process(crowd, workers=2) as process:
            crowd._process = process
            await scene(crowd)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)

    asyncio.run(whole())


def test_three_hundred_wait_and_another_user_is_answered(place: Path) -> None:
    users = [f"user{number}" for number in range(10)]

    async def scene(crowd: Crowd) -> None:
        await crowd.queued([*users, "bob"])
        await crowd.ready("bob")
        clients = {user: await crowd.log_in(user) for user in users}
        waiting = {
            user: [asyncio.create_task(crowd.asks(client, user)) for _ in range(30)] for user, client in clients.items()
        }
        all_of_them = [task for tasks in waiting.values() for task in tasks]
        await until(lambda: crowd.questions.total() >= 300 or any(task.done() for task in all_of_them))
        await until(lambda: calls_under_way() <= 2 or any(task.done() for task in all_of_them))
        assert [task.result() for task in all_of_them if task.done()] == []
        assert crowd.connections() <= 2 * API_CONNECTIONS
        async with await crowd.log_in("bob") as bob:
            assert "does not answer on 127.0.0.1" in await crowd.asks(bob, "bob")
        await crowd.ready(users[0])
        for each in await asyncio.gather(*waiting[users[0]]):
            assert "does not answer on 127.0.0.1" in each
        assert not any(task.done() for user in users[1:] for task in waiting[user])
        for client in clients.values():
            client.abort()
        await asyncio.gather(*all_of_them)

    play(place, scene)


def test_four_hundred_abandoned_logins_leave_nothing_behind(place: Path) -> None:
    users = [f"user{number}" for number in range(10)]

    async def scene(crowd: Crowd) -> None:
        await crowd.queued(users)
        before = crowd.descriptors()

        async def come_and_go(user: str) -> None:
            client = await crowd.log_in(user)
            asked = crowd.questions[user]
            asking = [asyncio.create_task(crowd.asks(client, user)) for _ in range(20)]
            await until(lambda: crowd.questions[user] >= asked + 20 or any(task.done() for task in asking))
            client.abort()
            await asyncio.gather(*asking)

        for _ in range(2):
            await asyncio.gather(*map(come_and_go, users))
        await until(lambda: calls_under_way() == 0)
        await until(lambda: crowd.descriptors() <= before + KEPT)
        assert {crowd.core.row(user=user).state for user in users} == {SessionState.QUEUED}

    play(place, scene)
