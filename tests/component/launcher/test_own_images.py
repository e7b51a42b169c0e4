"""The launcher reads a user's own store of images as that user: bounded, at once, and no other user's."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from broker.launcher.arguments import OwnImageArguments
from profiles.image.own_store import OwnStore
from profiles.image.store_reader import OWN_STORE
from tests.component.launcher.user_files import ACCOUNT, KINDS, USER, VERB_TIMEOUT_S, give, replaced, running
from tests.fakes.core import publish
from tests.fakes.sif import SQUASHFS_OFFSET, squashfs_sif

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.controller.launcher_client.answers import OwnImageAnswer
    from broker.controller.launcher_client.client import LauncherClient

    Kind = Callable[[Path], None]

MINE = OwnImageArguments(profile="mine")
SECOND = OwnImageArguments(profile="mine", version="2")
PARTS = ("mine", "mine/2", "mine/2/image.json", "mine/2/image.sif")


def _make_store(base: Path) -> Path:
    """Publish two versions as the user, in the storage of a launcher below `base`."""
    storage = base / "shared" / USER
    store = OwnStore(storage / OWN_STORE)
    for version in ("1", "2"):
        image = publish(store, "mine", version, content=squashfs_sif(version.encode()))
        (image.directory / "packages.txt").write_text(f"bash {version}\n")
    give(storage)
    for path in storage.rglob("*"):
        give(path)
    return store.path


async def _ask(launcher: LauncherClient, arguments: OwnImageArguments = MINE, user: str = USER) -> OwnImageAnswer:
    async with asyncio.timeout(VERB_TIMEOUT_S):
        return await launcher.own_image(user, arguments)


def test_newest_or_named_version_is_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as launcher:
            nothing = await _ask(launcher)
            assert (nothing.names, nothing.versions, nothing.description, nothing.problem) == ([], [], None, "")
            store = _make_store(tmp_path)
            newest = await _ask(launcher)
            assert (newest.store, newest.names, newest.versions) == (str(store), ["mine"], ["1", "2"])
            assert (newest.version, newest.offset, newest.size) == ("2", SQUASHFS_OFFSET, SQUASHFS_OFFSET + 5)
            assert newest.description == (store / "mine/2/image.json").read_text()
            assert newest.packages == ""
            first = await _ask(launcher, OwnImageArguments(profile="mine", version="1", packages=True))
            assert (first.version, first.packages) == ("1", "bash 1\n")
            missing = await _ask(launcher, OwnImageArguments(profile="mine", version="3"))
            assert (missing.versions, missing.version, missing.problem) == (["1", "2"], "", "")

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_unfit_parts_are_named_at_once_in_little_memory(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as launcher:
            store = _make_store(tmp_path)
            for part in (path for path in PARTS if not (kind.__name__ == "directory" and "image" not in path)):
                with replaced(store / part, kind):
                    answer = await _ask(launcher, SECOND)
                assert answer.description is None, part
                if (part, kind.__name__) == ("mine/2", "huge_sparse_file"):  # a regular file is no version
                    assert "2" not in answer.versions
                else:
                    assert str(store / part) in answer.problem, part
            answer = await _ask(launcher, SECOND)
            assert (answer.problem, answer.version) == ("", "2")

    asyncio.run(scenario())


@pytest.mark.skipif(os.getuid() != 0, reason="only root's launcher acts for several users")
def test_other_users_get_nothing_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as launcher:
            store = _make_store(tmp_path)
            other = "daemon"
            (tmp_path / "shared" / other).symlink_to(store.parent)
            # A system account is refused, and nobody's launcher child may not even enter another user's storage.
            os.chown(store.parent, 1, 1)
            answer = await _ask(launcher)
            assert (answer.names, answer.description) == ([], None)
            assert "Permission denied" in answer.problem
            os.chown(store.parent, ACCOUNT.pw_uid, ACCOUNT.pw_gid)

    asyncio.run(scenario())
