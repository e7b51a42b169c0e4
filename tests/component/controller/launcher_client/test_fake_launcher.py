"""The fake launcher behaves as the real one: one small contract over both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.launcher_client.client import LauncherClient
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.launcher_client.volumes import GcResult
from broker.launcher.argument_bases import ImageArguments
from broker.launcher.arguments import (
    CloneArguments,
    CommitRootArguments,
    CopyArguments,
    DiffArguments,
    EnvironmentArguments,
    PromoteArguments,
    RollbackArguments,
    SnapshotArguments,
    SwitchArguments,
)
from broker.names import new_id
from broker.ssh.keys import PublicKey
from tests.deadlines import DEADLINE_S
from tests.fakes.launcher import PYTHON, FakeLauncher, MumblingLauncher, RefusingLauncher
from tests.fakes.scheduler import FakeScheduler
from tests.temporary import let_others_enter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.controller.launcher_client.volumes import SnapshotResult

ID = "01jd0000000000000000000000"
USER = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
FILES = {"job.env": "A=1\n", "manifest.json": "{}", "authorized_keys": "", "host_certificate": "x"}
KINDS = ["fake", "real"]
IMAGE: dict[str, Any] = {"profile": "base", "version": "1", "digest": "sha256:" + "1" * 64}
OTHER: dict[str, Any] = {"profile": "other", "version": "2", "digest": "sha256:" + "2" * 64}
DESCRIBED = {"of": "dev", "profile": "base", "version": "1", "created_at": 1.0}
SIF: dict[str, Any] = {"image": "/nowhere/image.sif", "offset": 40960}
PLAIN: dict[str, Any] = {"label": "", "reason": "", "automatic": False}
TAKES, REFUSES, MUMBLES = "echo 1", "echo 'Invalid account' >&2; exit 1", "echo 'Socket timed out' >&2; exit 1"
FAKES = {TAKES: FakeLauncher, REFUSES: RefusingLauncher, MUMBLES: MumblingLauncher}


@contextlib.asynccontextmanager
async def opened(kind: str, directory: Path, sbatch: str = TAKES) -> AsyncIterator[LauncherClient]:
    """A launcher of this kind whose sbatch does what the script does."""
    if kind == "fake":
        yield FAKES[sbatch](FakeScheduler())
        return
    let_others_enter(directory)
    shared, program = directory / "shared", directory / "sbatch"
    shared.mkdir()
    shared.chmod(0o1777)
    program.write_text(f"#!/bin/sh\n{sbatch}\n")
    program.chmod(0o755)
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            PYTHON,
            "-m",
            "broker.launcher.server",
            f"--serve-fd={theirs.fileno()}",
            f"--storage={shared}/{{user}}",
            f"--sbatch={program}",
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parents[4],
        )
    async with asyncio.timeout(DEADLINE_S), LauncherClient(ours, process) as launcher:
        yield launcher


async def submit(launcher: LauncherClient) -> int:
    return await launcher.submit(USER, ID, 1, options=["--mem=1G"], files=FILES, limit=10)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_of_a_session(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(kind, tmp_path) as launcher:
            assert "{user}" in launcher.storage
            assert await launcher.manifests(USER) == {}
            assert await launcher.log(USER, ID, 10) == ""
            key = (await launcher.prepare(USER, ID, "auto")).host_key
            assert PublicKey.parse(key).line == key
            assert (await launcher.prepare(USER, ID, "auto")).host_key == key
            assert await launcher.manifests(USER) == {ID: ""}
            assert await submit(launcher) == 1
            assert await launcher.manifests(USER) == {ID: "{}"}
            await launcher.install(USER, ID, {"manifest.json": "[]"})
            assert await launcher.manifests(USER) == {ID: "[]"}
            await launcher.purge(USER, ID)
            await launcher.purge(USER, ID)
            assert await launcher.manifests(USER) == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_environments_of_batch_jobs(kind: str, tmp_path: Path) -> None:
    """They are no sessions: they have no manifest, and are found by what they are."""

    async def scenario() -> None:
        async with opened(kind, tmp_path) as launcher:
            await launcher.prepare(USER, ID, "auto")
            files = {"batch.json": json.dumps(DESCRIBED), "job.env": "A=1\n"}
            made, empty, absent = new_id(), new_id(), new_id()
            for environment, source in ((made, ID), (empty, None)):
                directory = await launcher.environment(
                    USER,
                    EnvironmentArguments(session=environment, operation=new_id(), source=source, files=files, **IMAGE),
                )
                assert directory.endswith(f"/{USER}/sessions/{environment}")
            found = await launcher.environments(USER)
            assert {(each.id, each.of, each.job_id, *each.jobs) for each in found} == {
                (made, "dev", None),
                (empty, "dev", None),
            }
            assert set(await launcher.manifests(USER)) == {ID}
            for source in (made, absent):
                with pytest.raises(LauncherError) as failure:
                    await launcher.promote(
                        USER, PromoteArguments(session=new_id(), operation=new_id(), source=source, job="7", files={})
                    )
                assert failure.value.kind == "missing"
            await launcher.trash(USER, made)
            await launcher.purge(USER, made)
            assert [each.id for each in await launcher.environments(USER)] == [empty]

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
            await launcher.prepare(USER, ID, "auto")
            with pytest.raises(LauncherError) as failure:
                await submit(launcher)
            assert (failure.value.kind, failure.value.unclear) == (word, word == "unclear")

    asyncio.run(scenario())


def write(launcher: LauncherClient, directory: Path, content: str, session_id: str = ID) -> None:
    """Write a file in the home, as a process of the session would."""
    if isinstance(launcher, FakeLauncher):
        launcher.volumes.write(USER, session_id, "file", content)
        return
    record = json.loads((directory / "shared" / USER / "sessions" / session_id / "volumes.json").read_text("utf-8"))
    file = directory / "shared" / USER / "layers" / record["home"]["top"] / "tree" / "file"
    file.write_text(content)
    user = pwd.getpwnam(USER)
    os.chown(file, user.pw_uid, user.pw_gid)


async def snapshot(launcher: LauncherClient, operation: str, **what: object) -> SnapshotResult:
    return await launcher.snapshot(USER, SnapshotArguments(session=ID, operation=operation, **IMAGE, **(PLAIN | what)))


@contextlib.asynccontextmanager
async def prepared(kind: str, directory: Path) -> AsyncIterator[LauncherClient]:
    async with opened(kind, directory) as launcher:
        await launcher.prepare(USER, ID, "auto")
        yield launcher


@pytest.mark.parametrize("kind", KINDS)
def test_snapshots_are_numbered_listed_and_forgotten(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with prepared(kind, tmp_path) as launcher:
            made = await launcher.prepare(USER, ID, "auto")
            assert made.volumes is not None
            assert made.volumes["driver"] == (await launcher.probe(USER))[0]
            assert (await launcher.snapshots(USER, ID))[0] == []
            write(launcher, tmp_path, "one")
            first = (await snapshot(launcher, new_id(), label="one")).snapshot
            assert (first.number, first.label, first.automatic, first.consistency) == (1, "one", False, "stopped")
            assert (first.profile, first.version, first.digest) == tuple(IMAGE.values())
            assert len(first.home) == 1
            write(launcher, tmp_path, "two")
            second = await snapshot(launcher, new_id(), reason="why", automatic=True)
            assert (second.snapshot.number, second.snapshot.reason, second.snapshot.automatic) == (2, "why", True)
            assert second.volumes["snapshots"] == 2
            found, volumes = await launcher.snapshots(USER, ID)
            assert found == [first, second.snapshot]
            assert volumes["snapshots"] == 2
            assert (await launcher.delete_snapshot(USER, ID, 1)).snapshot == first
            with pytest.raises(LauncherError) as failure:
                await launcher.delete_snapshot(USER, ID, 1)
            assert failure.value.kind == "missing"
            assert (await snapshot(launcher, new_id())).snapshot.number == 3, "numbers are never used twice"

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_operation_is_done_once(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with prepared(kind, tmp_path) as launcher:
            write(launcher, tmp_path, "one")
            ids = [new_id() for _ in range(5)]
            for _ in range(2):
                assert (await snapshot(launcher, ids[0])).snapshot.number == 1
            write(launcher, tmp_path, "two")
            for _ in range(2):
                taken = await launcher.rollback(
                    USER, RollbackArguments(session=ID, operation=ids[1], snapshot=1, **IMAGE)
                )
                assert (taken.snapshot.number, taken.snapshot.automatic) == (2, True)
            for _ in range(2):
                taken, system = await launcher.switch(
                    USER,
                    SwitchArguments(session=ID, operation=ids[2], to=ImageArguments(**OTHER), fresh=False, **IMAGE),
                )
                assert (taken.snapshot.number, system) == (3, "fresh")
            for _ in range(2):
                taken, system = await launcher.switch(
                    USER,
                    SwitchArguments(session=ID, operation=ids[3], to=ImageArguments(**IMAGE), fresh=False, **OTHER),
                )
                assert (taken.snapshot.number, system) == (4, "fresh"), "it was empty there too"
            clone = new_id()
            for _ in range(2):
                files = {"manifest.json": "{}"}
                made = await launcher.clone(
                    USER, CloneArguments(session=clone, operation=ids[4], source=ID, snapshot=1, files=files, **IMAGE)
                )
                assert made.taken.snapshot.number == 1
                assert made.source == (await launcher.snapshots(USER, ID))[1]
                assert made.host_key == (await launcher.prepare(USER, clone, "auto")).host_key
                assert (await launcher.manifests(USER))[clone] == "{}"
            assert [each.number for each in (await launcher.snapshots(USER, ID))[0]] == [1, 2, 3, 4]
            assert set(await launcher.manifests(USER)) == {ID, clone}

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_what_all_of_it_takes(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with prepared(kind, tmp_path) as launcher:
            before = await launcher.usage(USER)
            write(launcher, tmp_path, "x" * 100_000)
            grown = await launcher.usage(USER)
            assert grown >= before + 99_000
            await snapshot(launcher, new_id())
            assert await launcher.usage(USER) < grown + 50_000  # a snapshot shares what it has
            await launcher.trash(USER, ID)
            assert await launcher.usage(USER) >= before + 99_000  # what is set aside is still there

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with prepared(kind, tmp_path) as launcher:
            nobody = new_id()
            for call in (
                launcher.rollback(USER, RollbackArguments(session=ID, operation=new_id(), snapshot=7, **IMAGE)),
                launcher.delete_snapshot(USER, ID, 7),
                launcher.diff(USER, DiffArguments(session=ID, snapshot=7, **SIF), base=""),
                launcher.clone(
                    USER, CloneArguments(session=nobody, operation=new_id(), source=ID, snapshot=7, files={}, **IMAGE)
                ),
                launcher.clone(
                    USER,
                    CloneArguments(session=nobody, operation=new_id(), source=nobody, snapshot=None, files={}, **IMAGE),
                ),
                launcher.snapshots(USER, nobody),
                launcher.rollback(USER, RollbackArguments(session=nobody, operation=new_id(), snapshot=1, **IMAGE)),
                launcher.size(USER, nobody),
                launcher.restore(USER, nobody),
            ):
                with pytest.raises(LauncherError) as failure:
                    await call
                assert failure.value.kind == "missing"
            assert nobody not in await launcher.manifests(USER)
            await launcher.trash(USER, nobody)
            await launcher.purge(USER, nobody)

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_is_gone_copies_nothing(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with prepared(kind, tmp_path) as launcher:
            for call in (
                launcher.copy(USER, CopyArguments(session=ID, operation=new_id(), job_id=4711, **IMAGE, **PLAIN)),
                launcher.commit_root(USER, CommitRootArguments(session=ID, operation=new_id(), job_id=4711)),
            ):
                with pytest.raises(LauncherError) as failure:
                    await call
                assert not failure.value.unclear
            assert (await launcher.snapshots(USER, ID))[0] == []

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_set_aside_comes_back_or_goes(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with prepared(kind, tmp_path) as launcher:
            await launcher.install(USER, ID, {"manifest.json": "{}"})
            write(launcher, tmp_path, "one")
            await snapshot(launcher, new_id())
            for _ in range(2):
                await launcher.trash(USER, ID)
                assert await launcher.manifests(USER) == {}
                assert await launcher.trashed_manifests(USER) == {ID: "{}"}
            kept = await launcher.gc(USER, over=[], dry_run=False)
            assert (kept.layers, kept.sessions) == (0, [])
            for _ in range(2):
                assert (await launcher.restore(USER, ID)).volumes["snapshots"] == 1
            assert await launcher.manifests(USER) == {ID: "{}"}
            await launcher.trash(USER, ID)
            for _ in range(2):
                found = await launcher.gc(USER, over=[ID], dry_run=True)
                assert found.sessions == [ID]
                assert found.layers >= 1
            for _ in range(2):
                await launcher.purge(USER, ID)
                assert await launcher.trashed_manifests(USER) == {}
            assert await launcher.gc(USER, over=[ID], dry_run=False) == GcResult(0, 0, [])
            await launcher.prepare(USER, ID, "auto")
            await launcher.trash(USER, ID)
            assert (await launcher.gc(USER, over=[ID], dry_run=False)).sessions == [ID]
            assert await launcher.trashed_manifests(USER) == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_looking_into_volumes_changes_nothing(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with prepared(kind, tmp_path) as launcher:
            write(launcher, tmp_path, "one")
            before = (await snapshot(launcher, new_id())).volumes
            write(launcher, tmp_path, "other")
            report = await launcher.diff(USER, DiffArguments(session=ID, snapshot=1, **SIF), base="snapshot 1")
            assert [(each.change, each.volume) for each in report.files] == [("M", "home")]
            same = await launcher.diff(USER, DiffArguments(session=ID, snapshot=1, until=1, **SIF), base="snapshot 1")
            assert same.files == []
            size = await launcher.size(USER, ID)
            assert [line.what for line in size.lines] == ["home", "system", "snapshot 1"]
            assert (await launcher.verify(USER, ID)).problems == []
            assert (await launcher.snapshots(USER, ID))[1] == before

    asyncio.run(scenario())


def test_one_users_share_of_the_launcher_leaves_room_for_others(tmp_path: Path) -> None:
    """Twice as many slow requests as a user may have under way: another user's is answered while they wait."""

    async def scenario() -> None:
        async with opened("real", tmp_path, f"touch {tmp_path}/shared/$$; exec sleep 20") as launcher:
            await launcher.prepare(USER, ID, "auto")
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
