"""The controller's core on real parts (registry, store, certificate authority) over a fake Slurm and launcher."""

from __future__ import annotations

import asyncio
import functools
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.config.settings import Config
from broker.controller import clock
from broker.controller.assembly import Controller
from broker.controller.reconcile.job_comment import JOB_PREFIX
from broker.controller.registry.database import open_registry
from broker.schema.sessions import SessionView, StartRequest
from broker.ssh.keys import PublicKey
from profiles.image.store import Image, Store, file_digest
from profiles.recipe.spec import parse_profile
from tests.fakes.launcher import SlowLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    import pytest

    from broker.controller.registry.models import Session
    from slurm.state import JobState
    from tests.fakes.launcher import FakeLauncher

RECIPE = "name: {name}\nversion: {version}\nbase: debian:sid\nresources: {{mem: 1G}}\n"
OFFSET = 40960
"""The offset of the file system in a published image, as its description says it, in bytes."""
BASE = StartRequest(profile="base")


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """Make it the controller's clock for the rest of the test."""
        monkeypatch.setattr(clock, "now", self.time)
        monkeypatch.setattr(clock, "monotonic", self.time)
        return self


def publish(store: Store, name: str = "base", version: str = "1", extra: str = "", content: bytes = b"SIF") -> Image:
    """A real publication of an image of a few bytes."""
    stage = store.stage(name, version)
    sif = stage / "image.sif"
    sif.write_bytes(content)
    recipe = RECIPE.format(name=name, version=version)
    recipe = recipe.replace("resources: {mem: 1G}\n", "") if "resources:" in extra else recipe
    profile = parse_profile(recipe + extra, stage / "profile.yaml")
    image = Image(name, version, sif, file_digest(sif), len(content), 1.5, {}, profile, OFFSET)
    (stage / "image.json").write_text(json.dumps(image.description()))
    return store.publish(stage, name, version)


def site_config(directory: Path, **settings: object) -> Config:
    """A site whose every path is below `directory`."""
    values = {
        "mode": "site",
        "runtime_dir": directory / "run",
        "state_dir": directory / "state",
        "storage": {"root": "/shared/berth/{user}"},
        "profiles": {"stores": [directory / "store"]},
        "gateway": {"host": "login.example"},
    }
    return Config.model_validate(values | settings)


@functools.cache
def empty_registry() -> bytes:
    """Return the file of a registry without rows; all migrations from nothing take 190 ms, for each of many tests."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "registry.db"
        open_registry(f"sqlite:///{file}").close()
        return file.read_bytes()


class Core(Controller):
    """One controller without its API. `make` a second one over the same directory to restart it."""

    scheduler: FakeScheduler
    launcher: FakeLauncher

    @classmethod
    def make(cls, config: Config, launcher: FakeLauncher) -> Core:
        config.state_dir.mkdir(mode=0o700, exist_ok=True)
        store = Store(config.profiles.stores[0])
        if not store.versions("base"):
            publish(store)
        file = Path(config.registry_url.removeprefix("sqlite:///"))
        if not file.exists():
            file.write_bytes(empty_registry())
        return cls(config, open_registry(config.registry_url), launcher.scheduler, launcher)

    async def start(self, name: str = "dev", user: str = "alice", request: StartRequest = BASE) -> SessionView:
        return await self.sessions.start(user, name, request)

    async def tick(self) -> None:
        """Make one tick, and complete all that it began in the background."""
        await self.reconciler.tick()
        await self.settle()

    def under_way(self) -> list[asyncio.Task[Any]]:
        """Everything that is being done in the background."""
        upkeep = (
            self.maintenance._flattening,
            self.maintenance._collecting,
            self.idle_policy._writing,
            self.end_notices._writing,
            self.file_rewriter._running,
            self.node_watch._writing,
            self.cluster_answers.nodes._running,
            self.name_policy._query,
        )
        parts = (
            self.submitter._running,
            self.operations._running,
            self.deletion._running,
            self.environments._sweeping,
            self.holder._running,
            *upkeep,
        )
        return [task for running in parts for task in running.tasks]

    async def settle(self) -> None:
        """Wait for what is under way, and for the callbacks of what has just ended."""
        while tasks := self.under_way():
            await asyncio.wait(tasks, timeout=0.1)
        await asyncio.sleep(0)

    async def kill(self) -> None:
        """End as SIGKILL would: calls under way never continue."""
        tasks = self.under_way()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.registry.close()

    def row(self, name: str = "dev", user: str = "alice") -> Session:
        """The session as the registry has it."""
        session = self.registry.find(user, name)
        assert session is not None, f"{user} has no session {name}"
        return session

    def announce(self, session: Session, node: str = "c1", port: int = 20001, **lies: object) -> None:
        """The session's job says where it listens, as session.sh does; `lies` replace parts of it."""
        assert session.job.job_id is not None
        job = self.scheduler.change(session.job.job_id)
        said = {
            "session": session.id,
            "submission": session.submission,
            "restarts": job.restarts,
            "node": node,
            "port": port,
            "fingerprint": PublicKey.parse(session.host_key).fingerprint,
        } | lies
        self.scheduler.change(session.job.job_id, comment="berth:" + ":".join(str(part) for part in said.values()))

    def waits(self, session: Session) -> None:
        """The successor of the session's job runs, and says that it waits for the volumes, as directory.sh does."""
        assert session.next_job_id is not None
        job = self.scheduler.change(session.next_job_id)
        comment = f"berth:{session.id}:{session.successor}:{job.restarts}:waits"
        self.scheduler.change(job.id, comment=comment)

    def fail_to_start(self, session: Session, because: str = "the image has no /usr/sbin/sshd") -> None:
        """The session's kept job says that its run did not become ready, and waits again, as hold.sh does."""
        assert session.job.job_id is not None
        job = self.scheduler.change(session.job.job_id)
        comment = f"berth:{session.id}:{session.submission}:{job.restarts}:not-ready"
        self.scheduler.change(job.id, comment=comment)
        self.launcher.held[job.id] = session.submission
        self.launcher.not_ready[job.id] = because

    async def ready(self, name: str = "dev", user: str = "alice") -> Session:
        """A session that people can connect to."""
        await self.start(name, user)
        session = self.row(name, user)
        assert session.job.job_id is not None
        self.scheduler.start(session.job.job_id)
        self.announce(session)
        await self.tick()
        return self.row(name, user)

    async def stopped(self, name: str = "dev", user: str = "alice") -> Session:
        """A session that has run and has ended."""
        session = await self.ready(name, user)
        assert session.job.job_id is not None
        self.scheduler.end(session.job.job_id)
        await self.tick()
        return self.row(name, user)

    def live_jobs(self, session: Session) -> dict[int, JobState]:
        """The jobs of the session's owner and name that have not ended."""
        return {
            job.id: job.state
            for job in self.scheduler._jobs.values()
            if job.name == JOB_PREFIX + session.id and job.user == session.owner and not job.state.ended
        }


async def start_until_sbatch(config: Config) -> tuple[Core, SlowLauncher, asyncio.Task[SessionView]]:
    """Begin to start the session `dev`. Return when sbatch runs, which ends when the launcher lets it go."""
    launcher = SlowLauncher(FakeScheduler())
    core = Core.make(config, launcher)
    starting = asyncio.create_task(core.start())
    await launcher.reached.wait()
    return core, launcher, starting
