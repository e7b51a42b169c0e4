"""What the fake launcher claims is so with the real one: the same small contract over both."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.keys import PublicKey
from broker.launching import Launcher, LauncherError
from tests.fakes.launcher import FakeLauncher, MumblingLauncher, RefusingLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ID = "01jd0000000000000000000000"
USER = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
FILES = {"job.env": "A=1\n", "manifest.json": "{}", "authorized_keys": "", "host_certificate": "x"}
KINDS = ["fake", "real"]
TAKES, REFUSES, MUMBLES = "echo 1", "echo 'Invalid account' >&2; exit 1", "echo 'Socket timed out' >&2; exit 1"
FAKES = {TAKES: FakeLauncher, REFUSES: RefusingLauncher, MUMBLES: MumblingLauncher}


@contextlib.asynccontextmanager
async def opened(kind: str, directory: Path, sbatch: str = TAKES) -> AsyncIterator[Launcher]:
    """A launcher of this kind whose sbatch does what the script does."""
    if kind == "fake":
        yield FAKES[sbatch](FakeScheduler())
        return
    for each in [directory, *[p for p in directory.parents if "pytest-" in p.name or "popen-" in p.name]]:
        each.chmod(0o755)
    shared, program = directory / "shared", directory / "sbatch"
    shared.mkdir()
    shared.chmod(0o1777)
    program.write_text(f"#!/bin/sh\n{sbatch}\n")
    program.chmod(0o755)
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "broker.launcher",
            f"--serve-fd={theirs.fileno()}",
            f"--storage={shared}/{{user}}",
            f"--sbatch={program}",
            "--session-script=/session.sh",
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parents[2],
        )
    async with asyncio.timeout(30), Launcher(ours, process) as launcher:
        yield launcher


async def submit(launcher: Launcher) -> int:
    return await launcher.submit(USER, ID, 1, options=["--mem=1G"], files=FILES, limit=10)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_of_a_session(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(kind, tmp_path) as launcher:
            assert "{user}" in launcher.storage
            assert await launcher.manifests(USER) == {}
            assert await launcher.log(USER, ID, 10) == ""
            key = (await launcher.prepare(USER, ID)).host_key
            assert PublicKey.parse(key).line == key
            assert (await launcher.prepare(USER, ID)).host_key == key
            assert await launcher.manifests(USER) == {ID: ""}
            assert await submit(launcher) == 1
            assert await launcher.manifests(USER) == {ID: "{}"}
            await launcher.install(USER, ID, {"manifest.json": "[]"})
            assert await launcher.manifests(USER) == {ID: "[]"}
            await launcher.remove(USER, ID)
            await launcher.remove(USER, ID)
            assert await launcher.manifests(USER) == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_prepared_is_missing(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(kind, tmp_path) as launcher:
            for call in (submit(launcher), launcher.install(USER, ID, {"authorized_keys": ""})):
                with pytest.raises(LauncherError) as failure:
                    await call
                assert (failure.value.kind, failure.value.unclear) == ("missing", False)

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sbatch", "word"), [(REFUSES, "refused"), (MUMBLES, "unclear")])
def test_what_sbatch_did_not_take(kind: str, sbatch: str, word: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(kind, tmp_path, sbatch) as launcher:
            await launcher.prepare(USER, ID)
            with pytest.raises(LauncherError) as failure:
                await submit(launcher)
            assert (failure.value.kind, failure.value.unclear) == (word, word == "unclear")

    asyncio.run(scenario())


def test_one_users_share_of_the_launcher_leaves_room_for_others(tmp_path: Path) -> None:
    """Twice as many slow requests as a user may have under way: another user's is answered while they wait."""

    async def scenario() -> None:
        async with opened("real", tmp_path, f"touch {tmp_path}/shared/$$; exec sleep 20") as launcher:
            await launcher.prepare(USER, ID)
            slow = [asyncio.ensure_future(submit(launcher)) for _ in range(32)]
            while len([file for file in (tmp_path / "shared").iterdir() if file.name.isdigit()]) < 16:  # noqa: ASYNC110 - no event tells of a file
                await asyncio.sleep(0.02)
            with pytest.raises(LauncherError, match="system account"):
                await launcher.keys("daemon")
            began = [file for file in (tmp_path / "shared").iterdir() if file.name.isdigit()]
            assert len(began) == 16
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(scenario())
