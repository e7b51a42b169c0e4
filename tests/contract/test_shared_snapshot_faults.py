"""A quota of the receiver's that is used up while a shared snapshot arrives: nothing of it is left."""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from tests.component.launcher.two_users import ALICE, BOB, TwoUsers, state_of, with_launcher
from tests.temporary import let_others_enter
from tests.volumes.filesystems import mounted

if TYPE_CHECKING:
    from pathlib import Path

SENT_BYTES = 48 * 2**20


def test_a_quota_that_is_used_up_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """Of a subvolume: statvfs(2) does not show it, so that the copy begins."""
    let_others_enter(tmp_path)

    async def scenario(site: TwoUsers) -> None:
        session = await site.make(ALICE)
        for name in ("first", "second"):
            site.write(ALICE, site.top(ALICE, session) / name, os.urandom(SENT_BYTES // 2))
        number = await site.snapshot(ALICE, session)
        before = state_of(site.storage / ALICE)
        request = site.request(session, number)
        with pytest.raises(LauncherError) as refused:
            await site.launcher.receive(BOB, request)
        assert refused.value.kind == "space", refused.value.message
        assert not (site.storage / BOB / "sessions" / request.session).exists()
        assert state_of(site.storage / ALICE) == before
        btrfs("qgroup", "limit", "none", site.storage / BOB)
        await site.launcher.gc(BOB, over=[], dry_run=False)
        assert list((site.storage / BOB / "layers").iterdir()) == []
        await site.launcher.receive(BOB, request)
        assert (site.content(request.session) / "second").stat().st_size == SENT_BYTES // 2

    with mounted("btrfs", tmp_path) as disk:
        disk.path.chmod(0o1777)
        btrfs("quota", "enable", disk.path)
        btrfs("subvolume", "create", disk.path / BOB)
        account = pwd.getpwnam(BOB)
        os.chown(disk.path / BOB, account.pw_uid, account.pw_gid)
        (disk.path / BOB).chmod(0o700)
        btrfs("qgroup", "limit", str(SENT_BYTES // 2), disk.path / BOB)
        with_launcher(disk.path, scenario)


def btrfs(*words: str | Path) -> None:
    subprocess.run(["btrfs", *words], check=True, capture_output=True, timeout=60)
