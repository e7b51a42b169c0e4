"""Fixtures of the contract suite: clusters; a user's directory with the verbs about volumes, a session, an image."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.cluster import OLDER, REAL, Asker, FakeCluster, RealCluster
from tests.volumes.act import Actor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module", params=["fake", *REAL])
def asker(request: pytest.FixtureRequest) -> Iterator[Asker]:
    if request.param == "fake":
        cluster: FakeCluster | RealCluster = FakeCluster()
    elif request.param == OLDER:
        cluster = RealCluster(request.getfixturevalue("older_lab"), "commands")
    else:
        cluster = RealCluster(request.getfixturevalue("lab"), request.param)
    with asyncio.Runner() as runner:
        yield Asker(cluster, runner)
        runner.run(cluster.scheduler.close())


@pytest.fixture
def name(asker: Asker) -> Iterator[str]:
    """A name of this test's own; its jobs end with it."""
    fresh = f"berth-{secrets.token_hex(8)}"
    yield fresh
    for job in asker.jobs(fresh).values():
        asker.ask(asker.cluster.scheduler.cancel(job.id))


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An image's squashfs, as requests name it."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "tree/etc").mkdir(parents=True)
    (folder / "tree/etc/motd").write_text("of the image")
    (folder / "tree/etc/gone").write_text("of the image")
    command = ["mksquashfs", f"{folder}/tree", f"{folder}/squashfs", "-quiet", "-no-progress"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return {"image": str(folder / "squashfs"), "offset": 0}


@pytest.fixture
def actor(tmp_path: Path) -> Actor:
    (tmp_path / "user").mkdir(mode=0o700)
    return Actor(tmp_path / "user")


@pytest.fixture
def session(actor: Actor) -> str:
    made = actor.make("overlay")
    (actor.top(made) / "file").write_text("first")
    return made
