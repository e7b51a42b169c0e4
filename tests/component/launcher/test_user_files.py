"""Files of a user's that the launcher's children read, replaced by what must not be read: each is refused in words or,
where it is worth nothing, passed over; at once, and in little memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pwd
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.launcher_client.client import LauncherClient
from broker.controller.launcher_client.errors import LauncherError
from broker.launcher.arguments import (
    CopyArguments,
    DiffArguments,
    EnvironmentArguments,
    FlattenArguments,
    KeysArguments,
    RollbackArguments,
    SnapshotArguments,
)
from broker.launcher.child import CHILD_BYTES, Settings, run_request
from broker.launcher.request import RequestContext, VerbError
from broker.launcher.session_verbs import KEYS_LIMIT, VERBS, keys
from broker.names import new_id
from broker.volumes.copy_archive import ARCHIVE
from broker.volumes.errors import VolumeError
from broker.volumes.image import ImageFiles
from broker.volumes.program import run_program
from profiles.userfile import UnfitFileError, read_bytes, read_records, read_tail
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
        """By what is replaced: where it is, the verb that reads it, and what is to come of that."""
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


@pytest.mark.parametrize("kind", KINDS)
def test_unfit_files_are_refused_at_once_in_little_memory(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as launcher:
            world = World(launcher, tmp_path / "shared" / USER)
            await world.build()
            came, expected = {}, {}
            for name, (path, call, wanted) in world.calls(kind).items():
                expected[name] = wanted
                with replaced(path, kind) if path else contextlib.nullcontext():
                    came[name] = await outcome(call())
            assert came == expected

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_authorized_keys_that_are_unfit_let_nobody_in(kind: Kind, tmp_path: Path) -> None:
    place = RequestContext(
        pwd.struct_passwd((*ACCOUNT[:5], str(tmp_path), ACCOUNT[6])), "/{user}", "sbatch", "session.sh"
    )
    (tmp_path / ".ssh").mkdir()
    file = tmp_path / ".ssh/authorized_keys"
    assert keys(place, KeysArguments()) == {"text": ""}
    (tmp_path / "dotfiles").write_text("a key\n")
    file.symlink_to(tmp_path / "dotfiles")  # as sshd(8) reads it too
    assert keys(place, KeysArguments()) == {"text": "a key\n"}
    (tmp_path / "dotfiles").write_text("x" * (KEYS_LIMIT + 1))
    with pytest.raises(VerbError, match="larger than 256 KiB") as failure:
        keys(place, KeysArguments())
    assert failure.value.kind == "refused"
    file.unlink()
    kind(file)
    with pytest.raises(VerbError) as failure:
        keys(place, KeysArguments())
    assert (failure.value.kind, str(file) in str(failure.value)) == ("refused", True)


def test_a_file_is_counted_while_it_is_read(tmp_path: Path) -> None:
    """stat(2) reports too small a size for a file in /proc, or for one that grows."""
    with pytest.raises(UnfitFileError, match="larger than 1 KiB"):
        read_bytes("/proc/self/status", 1024)
    file = tmp_path / "file"
    file.write_bytes(b"one\0two\0three")
    assert read_bytes(file, 13) == b"one\0two\0three"
    assert read_tail(file, 5) == b"three"
    assert list(read_records(file, 13, longest=5)) == [b"one", b"two"]
    for content in (b"one\0\0", b"four\0", b"x" * 100_000):
        file.write_bytes(content)
        with pytest.raises(UnfitFileError, match="damaged"):
            list(read_records(file, 2**20, longest=3))


def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    if os.geteuid() == 0:
        give(file)
    else:
        file = Path("/etc/passwd")
    with pytest.raises(UnfitFileError, match="belongs to another user"):
        read_bytes(file, 2**20)
    read_bytes(file, 2**20, own=False)


NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "changes",
    [
        {"done": NESTED},
        {"snapshots": NESTED},
        {"last_number": "1e999"},
        {"snapshots": '[{"number": [], "at": 1, "consistency": "", "profile": "", "version": "", "digest": "",'
         ' "home": [], "system": []}]'},
        {"snapshots": '[{"number": 1, "at": NaN, "consistency": "", "profile": "", "version": "", "digest": "",'
         ' "home": [], "system": []}]'},
        {"handover": '{"submission": [], "home": "", "system": ""}'},
    ],
)  # fmt: skip
def test_a_record_of_the_right_size_and_wrong_content_is_refused(changes: dict[str, str], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as launcher:
            await launcher.prepare(USER, ID, "overlay")
            path = tmp_path / "shared" / USER / "sessions" / ID / "volumes.json"
            record = json.loads(path.read_text())
            (key, value), *_ = changes.items()
            path.write_text(json.dumps(record | {key: "HERE"}).replace('"HERE"', value))
            assert await outcome(launcher.snapshots(USER, ID)) == "files"

    asyncio.run(scenario())


@pytest.mark.parametrize(("verb", "kind"), [("log", "files"), ("submit", "unclear")])
def test_a_verb_that_runs_out_of_memory_says_so(verb: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(place: RequestContext, request: object) -> dict[str, Any]:
        del place, request
        return {"text": bytearray(2**40)}

    monkeypatch.setitem(VERBS, verb, fill)
    read_end, write_end = os.pipe()
    launcher = os.getpid()
    child = os.fork()
    if child == 0:
        settings = Settings("/nowhere/{user}", "sbatch", "/session.sh", 1)
        run_request(settings, {"verb": verb, "user": USER}, write_end, launcher)
    os.close(write_end)
    with os.fdopen(read_end) as answers:
        answer = json.load(answers)
    os.waitpid(child, 0)
    assert answer["error"] == kind
    assert "memory" in answer["message"]


@pytest.mark.parametrize(
    ("options", "child_bytes"), [((), CHILD_BYTES), (("--worker-memory=3072",), 3 * 2**30)], ids=["default", "option"]
)
def test_a_child_and_what_it_starts_have_bounded_memory(
    tmp_path: Path, options: tuple[str, ...], child_bytes: int
) -> None:
    async def scenario() -> None:
        show_limits = "cat /proc/self/limits /proc/self/oom_score_adj >&2; exit 1"
        async with running(tmp_path, *options, memory=2**40, sbatch=show_limits) as launcher:
            await launcher.prepare(USER, ID, "overlay")
            with pytest.raises(LauncherError) as failure:
                await launcher.submit(USER, ID, 1, options=[], files={"job.env": "A=1\n"}, limit=10)
            limits, score = failure.value.message.rsplit("\n", 1)
            address_space = next(line.split() for line in limits.splitlines() if line.startswith("Max address space"))
            assert address_space[3:5] == [str(child_bytes)] * 2
            assert score == "1000"

    asyncio.run(scenario())


@pytest.mark.parametrize("to", [1, 2])
def test_a_program_that_never_stops_talking_is_ended(to: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "unsquashfs"
    program.write_text(f"#!/bin/sh\nexec yes {'x' * 1000} >&{to}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if to == 1:
        with pytest.raises(VolumeError, match=r"unsquashfs printed more than"):
            ImageFiles("/nowhere/image.sif", 0).has("etc")
    else:
        with pytest.raises(subprocess.TimeoutExpired):
            run_program(["unsquashfs"], timeout=0.3)


def test_packing_and_unpacking_do_with_little_memory(tmp_path: Path) -> None:
    """The programs that a child starts are within its bounds too."""

    async def scenario() -> None:
        async with running(tmp_path) as launcher:
            world = World(launcher, tmp_path / "shared" / USER)
            await launcher.prepare(USER, ID, "plain")
            (world.home() / "file").write_bytes(os.urandom(2**20))
            give(world.home() / "file")
            await world.snapshot()
            await launcher.rollback(USER, RollbackArguments(session=ID, operation=new_id(), snapshot=1, **IMAGE))
            assert (world.home() / "file").stat().st_size == 2**20

    asyncio.run(scenario())
