"""Memory of the launcher's children and of the programs that they start: it is bounded, and is enough."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.launcher.arguments import (
    RollbackArguments,
)
from broker.launcher.child import CHILD_BYTES, Settings, run_request
from broker.launcher.verbs import VERBS
from broker.names import new_id
from broker.volumes.errors import VolumeError
from broker.volumes.image import ImageFiles
from broker.volumes.program import run_program
from tests.component.launcher.user_files import ID, IMAGE, USER, World, give, running

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from broker.launcher.request import RequestContext

    Call = Coroutine[Any, Any, object]
    Kind = Callable[[Path], None]


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
