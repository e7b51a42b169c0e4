"""Writes of a manifest that meet: what a user changes meanwhile is in the file afterwards, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.cluster import groups as groups_module
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.registry.operation import Operation
from broker.errors import BerthError
from broker.schema.grants import ShareRequest
from broker.schema.sessions import IdleChoice, SessionState
from broker.schema.volumes import RollbackRequest, SnapshotRequest, SwitchRequest
from profiles.image.store import Store
from tests.fakes.core import Core, publish, site_config, start_until_sbatch
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler
from tests.unit.controller.sessions.session_volumes import wait_for_operation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def _groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups_module, "_has_account", lambda _: True)


def files_of(core: Core) -> dict[str, str]:
    return core.launcher.directories["alice", core.row().id].files


def manifest(core: Core) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files_of(core)["manifest.json"])
    return content


async def change(core: Core) -> None:
    """Revoke the only grant, and set a policy."""
    await core.shares.unshare("alice", "dev", "bob")
    await core.policies.set_idle("alice", "dev", IdleChoice(idle="3h"))


def shows_the_change(core: Core) -> bool:
    return manifest(core)["grants"] == [] and manifest(core)["idle"] == "3h" and files_of(core)["idle"].startswith("3h")


def test_submission_takes_up_a_grant_that_is_made_meanwhile(tmp_path: Path) -> None:
    async def scenario() -> None:
        core, launcher, starting = await start_until_sbatch(site_config(tmp_path))
        await core.shares.share("alice", "dev", "bob", ShareRequest(role="operate"))
        launcher.let_go.set()
        await starting
        await core.settle()
        assert [each["grantee"] for each in manifest(core)["grants"]] == ["bob"]
        assert manifest(core)["submission"] == core.row().submissions

    asyncio.run(scenario())


@pytest.mark.parametrize("verb", ["submit", "begin"])
def test_files_of_a_submission_that_are_written_late_are_corrected(tmp_path: Path, verb: str) -> None:
    async def scenario() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        await core.stopped()
        if verb == "begin":
            await core.ready()
        await core.shares.share("alice", "dev", "bob", ShareRequest(role="operate"))
        meet(core, verb, change)
        if verb == "begin":
            await wait_for_operation(core, core.container_changes.restart("alice", "dev"))
        else:
            await core.start()
        await core.settle()
        assert shows_the_change(core)
        assert manifest(core)["submission"] == core.row().submissions

    asyncio.run(scenario())


def meet(core: Core, verb: str, change: Callable[[Core], Awaitable[None]]) -> None:
    """Let the next call of the launcher's verb do its work after `change`, which its caller does not know of."""
    real = getattr(core.launcher, verb)

    async def late(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - arguments of any verb
        setattr(core.launcher, verb, real)
        await change(core)
        return await real(*arguments, **options)

    setattr(core.launcher, verb, late)


ASKED = {
    "rollback": lambda core: core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")),
    "switch": lambda core: core.container_changes.switch("alice", "dev", SwitchRequest(profile="other")),
}


async def with_snapshot(tmp_path: Path) -> Core:
    core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
    publish(Store(core.config.profiles.stores[0]), "other", content=b"other")
    await core.stopped()
    await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
    await core.shares.share("alice", "dev", "bob", ShareRequest(role="operate"))
    return core


@pytest.mark.parametrize("verb", ASKED)
@pytest.mark.parametrize("failure", [None, LauncherError("space", "disk full")])
def test_manifest_keeps_the_pending_operation_when_a_user_changes_something(
    tmp_path: Path, verb: str, failure: LauncherError | None
) -> None:
    """A registry that is rebuilt meanwhile resumes the operation."""

    async def scenario() -> None:
        core = await with_snapshot(tmp_path)
        meanwhile: list[dict[str, Any]] = []

        async def look(core: Core) -> None:
            await change(core)
            meanwhile.append(manifest(core))
            if failure is not None:
                raise failure

        meet(core, verb, look)
        try:
            await ASKED[verb](core)
        except BerthError:
            assert failure is not None
        assert meanwhile[0]["operation"]["verb"] == verb
        assert shows_the_change(core)
        assert manifest(core)["operation"] is None
        assert (
            manifest(core)["profile"]
            == core.row().profile
            == ("other" if (verb, failure) == ("switch", None) else "base")
        )

    asyncio.run(scenario())


def test_result_of_an_operation_stays_until_the_row_has_it(tmp_path: Path) -> None:
    """The manifest has the result first. A write between the two keeps it; one after `forget` is of the row."""

    async def scenario() -> None:
        core = await with_snapshot(tmp_path)
        operation = Operation.create("switch", "alice", arguments={})
        values = {"operation": operation.record(), "state": SessionState.CHANGING}
        core.registry.update(core.row().id, lambda _: (values, None))
        manifests, session_id = core.manifests, core.row().id
        await manifests.write(session_id)
        assert manifest(core)["operation"]["id"] == operation.id
        await manifests.write_result(session_id, operation.id, {"profile": "other"})
        await change(core)
        assert shows_the_change(core)
        assert (manifest(core)["profile"], manifest(core)["operation"]) == ("other", None)
        core.registry.update(session_id, lambda _: ({"operation": operation.as_done("").record()}, None))
        manifests.forget(session_id)
        await manifests.write(session_id)
        assert manifest(core)["profile"] == "base"

    asyncio.run(scenario())


def test_writes_of_a_manifest_do_not_overtake_each_other(tmp_path: Path) -> None:
    """The launcher completes the first write after the row has changed again."""

    async def scenario() -> None:
        core = await with_snapshot(tmp_path)
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def wait(_: Core) -> None:
            reached.set()
            await go_on.wait()

        meet(core, "install", wait)
        first = asyncio.create_task(core.policies.set_idle("alice", "dev", IdleChoice(idle="1h")))
        await reached.wait()
        second = asyncio.create_task(core.shares.unshare("alice", "dev", "bob"))
        await asyncio.wait([second], timeout=0.3)
        assert not second.done(), "it waits for the write under way"
        go_on.set()
        await asyncio.gather(first, second)
        assert (manifest(core)["idle"], manifest(core)["grants"]) == ("1h", [])

    asyncio.run(scenario())
