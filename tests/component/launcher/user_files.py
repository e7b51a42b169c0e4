"""A launcher with little memory, a user's files that it reads, and unfit things in their place."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pwd
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.controller.launcher_client.client import LauncherClient
from broker.controller.launcher_client.errors import LauncherError
from broker.launcher.arguments import (
    CopyArguments,
    DiffArguments,
    EnvironmentArguments,
    FlattenArguments,
    SnapshotArguments,
)
from broker.names import new_id
from broker.volumes.copy_archive import ARCHIVE
from tests.fakes.launcher import PYTHON
from tests.temporary import let_others_enter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    Call = Coroutine[Any, Any, object]
    Kind = Callable[[Path], None]

ID = "01jd0000000000000000000000"
USER = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
ACCOUNT = pwd.getpwnam(USER)
IMAGE: dict[str, Any] = {"profile": "base", "version": "1", "digest": "sha256:" + "1" * 64}
SIF: dict[str, Any] = {"image": "/nowhere/image.sif", "offset": 40960}
PLAIN: dict[str, Any] = {"label": "", "reason": "", "automatic": False}
MEMORY_BYTES = 512 * 2**20
"""Address space of the launcher here: a file that is read whole does not fit."""
VERB_TIMEOUT_S = 15
"""Seconds for one verb: what waits for a writer of a named pipe waits for longer."""


def link_to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge_sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def named_pipe(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def unix_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:  # a long path does not fit
        made.bind(path.name)


KINDS = [link_to_zero, huge_sparse_file, named_pipe, directory, unix_socket]


def give(path: Path, *below: str) -> Path:
    """Make a file, and what is named below it, the user's."""
    os.chown(path, ACCOUNT.pw_uid, ACCOUNT.pw_gid, follow_symlinks=False)
    return give(path / below[0], *below[1:]) if below else path


@contextlib.contextmanager
def replaced(path: Path, kind: Kind) -> Iterator[None]:
    """Have something else at `path` for the time of the block."""
    aside = path.with_name("aside")
    there = path.exists()
    if there:
        path.rename(aside)
    kind(path)
    give(path)
    yield
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    if there:
        aside.rename(path)


@contextlib.asynccontextmanager
async def running(
    base: Path, *options: str, memory: int = MEMORY_BYTES, sbatch: str = "echo 1"
) -> AsyncIterator[LauncherClient]:
    """A launcher with little memory, below `base`: its storage, and a scancel that puts `planted` in its place."""
    let_others_enter(base)
    shared, programs = base / "shared", base / "bin"
    shared.mkdir()
    shared.chmod(0o1777)
    programs.mkdir()
    run_program = shared / USER / "sessions" / ID / "run"
    scripts = {
        "sbatch": sbatch,
        "scancel": f"rm {run_program}/copy.outcome; mv -T {run_program}/planted {run_program}/copy.outcome",
    }
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    programs.chmod(0o755)
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *("prlimit", f"--as={memory}", "--"),
            *(PYTHON, "-m", "broker.launcher.server", f"--serve-fd={theirs.fileno()}", f"--storage={shared}/{{user}}"),
            *(f"--sbatch={programs}/sbatch", *options),
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parents[3],
            env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
        )
    async with LauncherClient(ours, process) as launcher:
        yield launcher


class World:
    """A user with a session that has layers and checksums, and an environment in which a job has begun."""

    def __init__(self, launcher: LauncherClient, root: Path) -> None:
        self.launcher = launcher
        self.root = root
        self.session = root / "sessions" / ID
        self.environment = root / "sessions" / new_id()

    def record(self, session_id: str = ID) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "sessions" / session_id / "volumes.json").read_text())
        return found

    def home(self) -> Path:
        return self.root / "layers" / str(self.record()["home"]["top"]) / "tree"

    async def snapshot(self, session_id: str = ID) -> object:
        return await self.launcher.snapshot(
            USER, SnapshotArguments(session=session_id, operation=new_id(), **IMAGE, **PLAIN)
        )

    async def build(self) -> None:
        await self.launcher.prepare(USER, ID, "overlay")
        for name in ("one", "two"):
            (self.home() / name).write_text(name)
            give(self.home() / name)
            await self.snapshot()
        for file in ("begun", "job.log"):
            (self.session / "run" / file).write_text("1\n")
            give(self.session / "run" / file)
        await self.launcher.install(USER, ID, {"manifest.json": "{}"})
        await self.launcher.verify(USER, ID)
        status = self.root / "layers" / self.record()["system"]["top"] / "tree/var/lib/dpkg/status"
        status.parent.mkdir(parents=True)
        for each in status.parents[:3]:
            give(each)
        self.status = status
        described = {"of": "dev", "profile": "base", "version": "1", "created_at": 1.0}
        arguments = EnvironmentArguments(
            session=self.environment.name,
            operation=new_id(),
            driver="overlay",
            files={"batch.json": json.dumps(described), "job.env": "A=1\n"},
            **IMAGE,
        )
        await self.launcher.environment(USER, arguments)
        jobs = give(self.environment / "run") / "jobs"
        jobs.mkdir()
        give(jobs)
        (jobs / "7").write_text(f"TOP={new_id()}\n")
        (jobs.parent / "job").write_text("7\n")
        give(jobs, "7")
        give(jobs.parent / "job")

    async def copied(self, kind: Kind) -> object:
        """Return the answer to a live copy whose outcome the job writes into something else."""
        kind(self.session / "run/planted")
        give(self.session / "run/planted")
        with (self.session / "run/lock").open("w") as lock:  # as a job holds it
            fcntl.flock(lock, fcntl.LOCK_EX)
            return await self.launcher.copy(
                USER, CopyArguments(session=ID, operation=new_id(), job_id=7, **IMAGE, **PLAIN)
            )

    async def rebuilt(self, kind: Kind) -> object:
        """Return the answer to a snapshot for which an earlier copy's index is useful."""
        other = new_id()
        await self.launcher.prepare(USER, other, "reflink")
        await self.snapshot(other)
        record = self.record(other)
        layer = record["snapshots"][0]["home"][0]
        record["home"]["copied"] = layer
        path = self.root / "sessions" / other / "volumes.json"
        path.write_text(json.dumps(record))
        give(path)
        with replaced(self.root / "layers" / layer / "index", kind):
            return await self.snapshot(other)

    def calls(self, kind: Kind) -> dict[str, tuple[Path | None, Callable[[], Call], str]]:
        """Return, by the replaced file: its path, the verb that reads it, and the expected result."""
        launcher, session, layers = self.launcher, self.session, self.root / "layers"
        layer = self.record()["snapshots"][0]["home"][0]
        programs, log = session / f"run/{ARCHIVE}", session / "run/job.log"
        folder = kind is directory
        environments = lambda: launcher.environments(USER)  # noqa: E731
        files = {"job.env": "A=1\n"}
        return {
            "record": (session / "volumes.json", lambda: launcher.snapshots(USER, ID), "files"),
            "begun": (session / "run/begun", lambda: launcher.snapshots(USER, ID), "files"),
            "public key": (  # written anew, of the private one
                session / "run/ssh_host_ed25519_key.pub",
                lambda: launcher.prepare(USER, ID, "overlay"),
                "done",
            ),
            "manifest": (session / "manifest.json", lambda: launcher.manifests(USER), "done"),
            "log": (log, lambda: launcher.log(USER, ID, 100), "done" if kind is huge_sparse_file else "files"),
            "terminals": (session / "run/terminals", lambda: launcher.terminals(USER, ID), "done"),
            "listed": (session / "run/listed", lambda: launcher.listed_services(USER, ID), "done"),
            "checksums": (layers / layer / "sums", lambda: launcher.verify(USER, ID), "files"),
            "inodes": (layers / layer / "inodes", lambda: launcher.size(USER, ID), "done"),
            "owners": (
                layers / layer / "owners",
                lambda: launcher.flatten(
                    USER, FlattenArguments(session=ID, operation=new_id(), digest=IMAGE["digest"], **SIF)
                ),
                "files",
            ),
            "packages": (
                self.status,
                lambda: launcher.diff(USER, DiffArguments(session=ID, snapshot=None, **SIF), base=""),
                "files",
            ),
            "description": (self.environment / "batch.json", environments, "files"),
            "job": (self.environment / "run/job", environments, "files"),
            "job's file": (self.environment / "run/jobs/7", environments, "files"),
            "probe": (self.root / "probe.json", lambda: launcher.prepare(USER, new_id(), "auto"), "done"),
            "program": (
                programs,
                lambda: launcher.submit(USER, ID, 1, options=[], files=files, limit=10),
                "files" if folder else "done",
            ),
            "outcome": (None, lambda: self.copied(kind), "files"),
            "index": (None, lambda: self.rebuilt(kind), "done"),
        }


async def outcome(call: Call) -> str:
    try:
        async with asyncio.timeout(VERB_TIMEOUT_S):
            await call
    except LauncherError as error:
        return error.kind if "Error" not in error.message else error.message
    except TimeoutError:
        return "waits"
    return "done"
