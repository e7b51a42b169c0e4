"""Two users with storage of their own, and a real launcher that acts for both: one sends a snapshot to the other."""

from __future__ import annotations

import asyncio
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.launcher.arguments import SnapshotArguments
from broker.launcher.sharing_arguments import ReceiveArguments
from broker.names import new_id
from broker.volumes.record import Record
from tests.component.launcher.launcher_process import running
from tests.volumes.act import IMAGE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from broker.controller.launcher_client.client import LauncherClient

ALICE, BOB = "daemon", "nobody"


@dataclass
class TwoUsers:
    """Two users' storage, and a launcher."""

    storage: Path
    launcher: LauncherClient
    pid: int

    async def make(self, user: str, driver: str = "overlay") -> str:
        session = new_id()
        await self.launcher.prepare(user, session, driver)
        return session

    def top(self, user: str, session: str, volume: str = "home") -> Path:
        found = self.record(user, session)
        return self.storage / user / "layers" / (found.home if volume == "home" else found.system).top / "tree"

    def record(self, user: str, session: str) -> Record:
        return Record.parse((self.storage / user / "sessions" / session / "volumes.json").read_bytes())

    async def snapshot(self, user: str, session: str) -> int:
        taken = await self.launcher.snapshot(
            user, SnapshotArguments.parse({"session": session, "operation": new_id(), **IMAGE})
        )
        return taken.snapshot.number

    def request(self, source: str, number: int, **values: Any) -> ReceiveArguments:  # noqa: ANN401 - of several types
        given: dict[str, Any] = {"driver": "overlay", "most_bytes": 2**40, "files": {"manifest.json": "{}"}} | values
        return ReceiveArguments(
            session=new_id(), operation=new_id(), owner=ALICE, source=source, snapshot=number, digest="", **given
        )

    async def receive(self, source: str, number: int, **values: Any) -> Path:  # noqa: ANN401
        """Bob's home of what he has received."""
        request = self.request(source, number, **values)
        await self.launcher.receive(BOB, request)
        return self.content(request.session)

    def content(self, session: str, volume: str = "home") -> Path:
        """The one tree that has the content of a received session, or of its empty top."""
        found = self.record(BOB, session)
        chosen = found.home if volume == "home" else found.system
        layers = self.storage / BOB / "layers"
        return layers / (chosen.layers[-1] if chosen.layers else chosen.top) / "tree"

    def write(self, user: str, path: Path, content: bytes = b"x") -> None:
        """Write a file as its user."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        account = pwd.getpwnam(user)
        for each in (path, *path.parents):
            if each == self.storage / user:
                break
            os.chown(each, account.pw_uid, account.pw_gid)


def with_launcher(
    storage: Path,
    scenario: Callable[[TwoUsers], Awaitable[None]],
    *,
    crash_at: str = "",
    module: str = "broker.launcher.server",
) -> None:
    async def act() -> None:
        async with running(storage, minimum_uid=1, module=module, BERTH_CRASH_AT=crash_at) as (launcher, pid):
            await scenario(TwoUsers(storage, launcher, pid))

    asyncio.run(act())


def names(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*")}


def state_of(user_storage: Path) -> dict[str, tuple[int, ...]]:
    """All that a user has, with what a change of it would change."""
    found: dict[str, tuple[int, ...]] = {}
    for each in (user_storage, *user_storage.rglob("*")):
        status = each.lstat()
        found[str(each)] = (status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, status.st_ino)
    return found
