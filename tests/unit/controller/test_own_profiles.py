"""Sessions from profiles in a user's own store: found through the launcher, for that user alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.config.file import Mode
from broker.controller.images import ImageFinder
from broker.controller.launcher_client.errors import LauncherError
from broker.errors import BerthError, ConflictError, InvalidInputError, NotFoundError, RefusedError
from broker.launcher.arguments import OwnImageArguments
from broker.schema.environments import EnvironmentRequest, PromoteRequest
from broker.schema.sessions import SessionState, StartRequest
from broker.schema.volumes import CloneRequest, RollbackRequest, SnapshotRequest, SwitchRequest
from profiles.image.own_store import OwnStore
from profiles.signature.policy import SignaturePolicy
from tests.fakes.core import BASE, Core, publish
from tests.fakes.sif import SQUASHFS_OFFSET, squashfs_sif
from tests.unit.controller.sessions.session_volumes import read, write

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.image.store import Image

MINE = StartRequest(profile="mine")


@pytest.fixture
def own(core: Core, tmp_path: Path) -> OwnStore:
    """Alice's own store."""
    core.launcher.own_storage["alice"] = tmp_path / "alice"
    return OwnStore(tmp_path / "alice/profiles")


def publish_own(store: OwnStore, name: str = "mine", version: str = "1", extra: str = "") -> Image:
    return publish(store, name, version, extra, content=squashfs_sif(f"{name}{version}".encode()))


async def stopped_from(core: Core, request: StartRequest) -> None:
    """Start the session `dev` and let its job end."""
    await core.start(request=request)
    job = core.row().job.job_id
    assert job is not None
    core.scheduler.start(job)
    core.announce(core.row())
    await core.tick()
    core.scheduler.end(job)
    await core.tick()


def test_session_starts_and_restarts_from_an_own_profile(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        image = publish_own(own, extra="continuation: never\n")
        await stopped_from(core, MINE)
        row = core.row()
        assert (row.profile, row.version, row.digest, row.image_path) == ("mine", "1", image.digest, str(image.path))
        env = core.launcher.directories["alice", row.id].files["job.env"]
        assert f"BERTH_IMAGE={image.path}\n" in env
        assert f"BERTH_IMAGE_OFFSET={SQUASHFS_OFFSET}\n" in env
        publish_own(own, version="2")
        view = await core.start(request=StartRequest(profile="mine"))
        assert (view.version, view.state) == ("1", SessionState.QUEUED)

    asyncio.run(scenario())


def test_no_other_user_starts_it(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        publish_own(own)
        for reference in ("mine", "own/mine"):
            with pytest.raises(NotFoundError, match="no profile is called mine") as caught:
                await core.start(user="bob", request=StartRequest(profile=reference))
            assert "mine" not in caught.value.hint
        assert core.registry.find("bob", "dev") is None

    asyncio.run(scenario())


def test_controller_never_opens_the_store_itself(core: Core, own: OwnStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        publish_own(own)
        answer = await core.launcher.own_image("alice", OwnImageArguments(profile="mine"))
        asked = len(core.launcher.asked)

        async def answered(*_: object) -> object:
            core.launcher.asked.append("own_image")
            return answer

        monkeypatch.setattr(core.launcher, "own_image", answered)
        own.path.parent.rename(own.path.parent.with_name("gone"))  # whoever opens it finds nothing now
        await core.start(request=MINE)
        assert core.row().state is SessionState.QUEUED
        assert core.launcher.asked[asked:].count("own_image") >= 2

    asyncio.run(scenario())


def test_name_of_site_and_user_must_say_the_owner(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        mine = publish_own(own, "base")
        with pytest.raises(InvalidInputError, match="the site and you each have a profile base") as caught:
            await core.start(request=BASE)
        assert caught.value.hint == "say which: site/base or own/base"
        assert core.registry.find("alice", "dev") is None
        await core.start(request=StartRequest(profile="own/base"))
        assert core.row().digest == mine.digest
        await core.start("other", request=StartRequest(profile="site/base"))
        assert core.row("other").digest == core.stores.find("base").digest
        await core.start("third", "bob", BASE)  # for whom there is only one

    asyncio.run(scenario())


def test_existing_session_accepts_its_owner_and_refuses_the_other(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        publish_own(own, "base")
        await stopped_from(core, StartRequest(profile="own/base"))
        with pytest.raises(ConflictError, match="dev was created from own/base@1") as caught:
            await core.start(request=StartRequest(profile="site/base"))
        assert "`berth switch dev site/base`" in caught.value.hint
        assert (await core.start(request=StartRequest(profile="own/base"))).state is SessionState.QUEUED

    asyncio.run(scenario())


def test_switch_between_site_and_own_profile_of_one_name(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        mine = publish_own(own, "base")
        await stopped_from(core, StartRequest(profile="site/base"))
        write(core, "of the site", "system")
        view = await core.container_changes.switch("alice", "dev", SwitchRequest(profile="own/base"))
        assert (view.digest, read(core, "system")) == (mine.digest, "")
        with pytest.raises(ConflictError, match="already"):
            await core.container_changes.switch("alice", "dev", SwitchRequest(profile="own/base"))
        view = await core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1"))
        assert (view.digest, read(core, "system")) == (core.stores.find("base").digest, "of the site")
        await core.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="2"))
        assert core.row().image_path == str(mine.path)

    asyncio.run(scenario())


def test_clone_snapshot_and_diff_of_a_session_on_an_own_profile(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        image = publish_own(own)
        (image.directory / "packages.txt").write_text("bash 5\n")
        await stopped_from(core, MINE)
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest(label="one"))
        await core.settle()
        await core.clones.clone("alice", "dev", CloneRequest(name="copy", at="one"))
        await core.clones.clone("alice", "dev", CloneRequest(name="moved", profile="own/mine"))
        await core.settle()
        assert {core.row(name).image_path for name in ("dev", "copy", "moved")} == {str(image.path)}
        assert (await core.images.packages("alice", image)) == "bash 5\n"
        assert (await core.snapshots.diff("alice", "dev", None)).base == "profile mine@1"

    asyncio.run(scenario())


def test_batch_environment_and_its_session_keep_the_own_image(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        image = publish_own(own, "base")
        with pytest.raises(InvalidInputError, match="the site and you each"):
            await core.environments.make("alice", EnvironmentRequest(of="base"))
        made = await core.environments.make("alice", EnvironmentRequest(of="own/base@1"))
        assert (made.of, made.digest) == ("base@1", image.digest)
        core.launcher.volumes.begin_job("alice", made.id, "7", {"result": "of the job"})
        view = await core.environments.promote("alice", made.id, PromoteRequest(name="debug", job="7"))
        assert view.digest == image.digest

    asyncio.run(scenario())


def test_lost_own_image_is_refused_at_the_start_and_loses_nothing(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        publish_own(own)
        await stopped_from(core, MINE)
        own.delete("mine", "1")
        with pytest.raises(RefusedError, match="the image mine@1 is not available"):
            await core.start(request=StartRequest())
        assert core.row().state is SessionState.STOPPED

    asyncio.run(scenario())


def test_unfit_own_profile_is_refused_in_words(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        image = publish_own(own)
        image.path.write_bytes(b"no image at all")
        with pytest.raises(RefusedError, match=r"image\.sif is no SIF file"):
            await core.start(request=MINE)
        own.path.rename(own.path.with_name("aside"))
        own.path.symlink_to("aside")
        with pytest.raises(RefusedError, match="profiles is a symbolic link") as caught:
            await core.start(request=BASE)
        assert "site/base is the site profile" in caught.value.hint
        await core.start(request=StartRequest(profile="site/base"))

    asyncio.run(scenario())


def test_silent_launcher_is_no_missing_profile(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        publish_own(own)
        await stopped_from(core, MINE)
        core.launcher.failures["own_image"] = LauncherError("timed-out", "no answer")
        with pytest.raises(BerthError, match="could not read your own store") as caught:
            await core.start("new", request=MINE)
        assert "site/mine" in caught.value.hint
        await core.start(request=StartRequest())  # the submission is tried again: this is no refusal
        assert core.row().state is SessionState.SUBMITTING

    asyncio.run(scenario())


def test_answer_with_another_description_is_refused(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        publish_own(own, "other").directory.parent.rename(own.path / "mine")
        with pytest.raises(RefusedError, match="describes other@1, which is not where it stands"):
            await core.start(request=MINE)

    asyncio.run(scenario())


def test_personal_mode_asks_no_launcher_for_images(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        publish_own(own)
        finder = ImageFinder(core.stores, core.launcher, Mode.PERSONAL, SignaturePolicy())
        image = core.stores.find("base")
        assert await finder.find_image("alice", "base", None) == image
        assert await finder.find_image("alice", "own/base", None) == image
        assert await finder.require_image("alice", "base", "1", image.digest) == image
        with pytest.raises(NotFoundError):
            await finder.find_image("alice", "mine", None)
        assert not [asked for asked in core.launcher.asked if asked.startswith("own_image")]

    asyncio.run(scenario())
