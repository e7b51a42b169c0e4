"""A snapshot from one user to another, by a real launcher and two real accounts: what arrives, and what does not."""

from __future__ import annotations

import asyncio
import os
import pwd
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from tests.component.launcher.launcher_process import ROOT
from tests.component.launcher.two_users import ALICE, BOB, TwoUsers, names, state_of, with_launcher
from tests.processes import process_tree
from tests.volumes.access_list import access_list

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.skipif(not ROOT, reason="only root's launcher acts for two users; `make test` runs as root")

SECRET = b"canary-" + b"7" * 40


def holds_bytes(folder: Path, wanted: bytes) -> bool:
    done = subprocess.run(
        ["grep", "-rFl", "-e", wanted.decode(), str(folder)], capture_output=True, timeout=60, check=False
    )
    return bool(done.stdout)


@pytest.mark.parametrize(
    ("driver", "folder"), [("overlay", "storage"), ("plain", "storage"), ("reflink", "sharing_blocks")]
)
def test_what_is_deleted_secret_or_special_stays_behind_and_all_else_is_the_receivers(
    request: pytest.FixtureRequest, driver: str, folder: str
) -> None:
    async def scenario(site: TwoUsers) -> None:
        session = await site.make(ALICE, driver)
        top = site.top(ALICE, session)
        site.write(ALICE, top / "deleted", SECRET)
        site.write(ALICE, top / ".ssh/id_ed25519", SECRET)
        site.write(ALICE, top / ".bash_history", SECRET)
        site.write(ALICE, top / "project/.netrc", SECRET)
        await site.snapshot(ALICE, session)
        top = site.top(ALICE, session)
        if driver == "overlay":
            os.mknod(top / "deleted", stat.S_IFCHR, os.makedev(0, 0))
        else:
            (top / "deleted").unlink()
        sparse = 2**40 if driver == "overlay" else 2**27
        make_special(site, top, sparse)
        number = await site.snapshot(ALICE, session)
        before = state_of(site.storage / ALICE)
        home = await site.receive(session, number, driver=driver)
        assert state_of(site.storage / ALICE) == before, "nothing of alice's has changed"
        check_special(home, sparse)
        assert not holds_bytes(site.storage / BOB, SECRET)

    with_launcher(request.getfixturevalue(folder), scenario)


def make_special(site: TwoUsers, top: Path, sparse_bytes: int) -> None:
    """Make entries that need care, in a home of alice's."""
    site.write(ALICE, top / "project/run.sh", b"#!/bin/sh\n")
    (top / "project/run.sh").chmod(0o6755)
    os.setxattr(top / "project/run.sh", "system.posix_acl_access", access_list(6))
    os.setxattr(top / "project/run.sh", "user.note", b"kept")
    site.write(ALICE, top / "locked/file", b"locked")
    (top / "locked/file").chmod(0)
    os.link(top / "project/run.sh", top / "project/again.sh")
    (top / "to-alice").symlink_to(f"/home/{ALICE}/.ssh")
    os.mkfifo(top / "fifo")
    site.write(ALICE, top / "sparse")
    os.truncate(top / "sparse", sparse_bytes)
    for each in ("project/again.sh", "to-alice", "fifo"):
        account = pwd.getpwnam(ALICE)
        os.chown(top / each, account.pw_uid, account.pw_gid, follow_symlinks=False)
    (top / "project/run.sh").chmod(0o6755)  # chown(2) has cleared the bits
    (top / "locked").chmod(0)


def check_special(home: Path, sparse_bytes: int) -> None:
    expected = {"project", "project/run.sh", "project/again.sh", "locked", "locked/file", "to-alice", "sparse"}
    assert names(home) == expected
    uid = pwd.getpwnam(BOB).pw_uid
    assert {(home / each).lstat().st_uid for each in expected} == {uid}
    run = home / "project/run.sh"
    assert stat.S_IMODE(run.stat().st_mode) == 0o755
    assert os.listxattr(run) == ["user.note"]
    assert run.samefile(home / "project/again.sh")
    assert (stat.S_IMODE((home / "locked").stat().st_mode), (home / "locked/file").read_bytes()) == (0, b"locked")
    assert str((home / "to-alice").readlink()) == f"/home/{ALICE}/.ssh"
    sparse = (home / "sparse").stat()
    assert (sparse.st_size, sparse.st_blocks < 100) == (sparse_bytes, True)


def test_a_survey_lists_what_stays_behind_and_why(storage: Path) -> None:
    async def scenario(site: TwoUsers) -> None:
        session = await site.make(ALICE)
        top = site.top(ALICE, session)
        site.write(ALICE, top / ".ssh/id_ed25519", SECRET)
        site.write(ALICE, top / ".bash_history", SECRET)
        site.write(ALICE, top / "notes", b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + b"A" * 64)
        site.write(ALICE, top / "project/main.py", b"print()\n")
        number = await site.snapshot(ALICE, session)
        survey = await site.launcher.survey(ALICE, session, number)
        assert {(each.path, each.reason) for each in survey.left_out} == {
            (".ssh/", "ssh keys and their like"),
            (".bash_history", "a history of what was typed"),
            ("notes", "a private key"),
        }
        assert survey.included["home"].files == 1
        assert names(await site.receive(session, number)) == {"project", "project/main.py"}

    with_launcher(storage, scenario)


def test_deletions_of_the_image_arrive_and_the_machines_own_files_do_not(storage: Path) -> None:
    async def scenario(site: TwoUsers) -> None:
        session = await site.make(ALICE)
        top = site.top(ALICE, session, "system")
        site.write(ALICE, top / "opt/tool", b"tool")
        site.write(ALICE, top / "etc/resolv.conf", b"nameserver 192.0.2.1\n")
        site.write(ALICE, top / "etc/new/file", b"new")
        os.setxattr(top / "etc/new", "user.overlay.opaque", b"y")
        os.mknod(top / "etc/motd", stat.S_IFCHR, os.makedev(0, 0))
        number = await site.snapshot(ALICE, session)
        for system in (True, False):
            request = site.request(session, number, system=system)
            await site.launcher.receive(BOB, request)
            tree = site.content(request.session, "system")
            if not system:
                assert names(tree) == set()
                continue
            assert names(tree) == {"opt", "opt/tool", "etc", "etc/new", "etc/new/file", "etc/motd"}
            assert stat.S_ISCHR((tree / "etc/motd").lstat().st_mode)
            assert os.getxattr(tree / "etc/new", "user.overlay.opaque") == b"y"

    with_launcher(storage, scenario)


@pytest.mark.parametrize("point", ["receive.volume", "receive.made", "receive.before-commit", "receive.committed"])
def test_a_receiver_that_dies_has_everything_or_nothing(storage: Path, point: str) -> None:
    session, number, request = "", 0, None

    async def die(site: TwoUsers) -> None:
        nonlocal session, number, request
        session = await site.make(ALICE)
        site.write(ALICE, site.top(ALICE, session) / "file", b"content")
        number = await site.snapshot(ALICE, session)
        request = site.request(session, number)
        with pytest.raises(LauncherError) as failed:
            await site.launcher.receive(BOB, request)
        assert failed.value.kind == "crashed"

    async def again(site: TwoUsers) -> None:
        assert request is not None
        committed = site.storage / BOB / "sessions" / request.session / "volumes.json"
        assert committed.exists() == (point == "receive.committed")
        await site.launcher.receive(BOB, request)
        assert (site.content(request.session) / "file").read_bytes() == b"content"
        await site.launcher.gc(BOB, over=[], dry_run=False)
        found = site.record(BOB, request.session)
        assert {each.name for each in (site.storage / BOB / "layers").iterdir()} == found.named_layers()

    with_launcher(storage, die, crash_at=point)
    with_launcher(storage, again)


@pytest.mark.parametrize("point", ["send.opened", "send.volume", "send.done"])
def test_a_sender_that_dies_leaves_nothing(storage: Path, point: str) -> None:
    async def scenario(site: TwoUsers) -> None:
        session = await site.make(ALICE)
        site.write(ALICE, site.top(ALICE, session) / "file", b"content")
        request = site.request(session, await site.snapshot(ALICE, session))
        if point == "send.done":  # all has been sent
            await site.launcher.receive(BOB, request)
            return
        with pytest.raises(LauncherError) as failed:
            await site.launcher.receive(BOB, request)
        assert failed.value.kind == "ended"
        assert list((site.storage / BOB / "layers").iterdir()) == []
        assert not (site.storage / BOB / "sessions" / request.session).exists()

    with_launcher(storage, scenario, crash_at=point)


def test_a_sender_ends_with_its_receiver_and_others_are_served_meanwhile(storage: Path) -> None:
    async def scenario(site: TwoUsers) -> None:
        session = await site.make(ALICE)
        for number in range(4):
            site.write(ALICE, site.top(ALICE, session) / f"file{number}", os.urandom(2**21))
        number = await site.snapshot(ALICE, session)
        wanted = [site.request(session, number, most_bytes=2**40 if index % 2 else 2**12) for index in range(8)]
        calls = [site.launcher.receive(BOB, request) for request in wanted]
        others = [site.launcher.size(ALICE, session) for _ in range(8)]
        results = await asyncio.gather(*calls, *others, return_exceptions=True)
        kinds = [each.kind if isinstance(each, LauncherError) else "" for each in results]
        assert kinds == ["space", ""] * 4 + [""] * 8
        while len(process_tree(site.pid)) > 1:  # noqa: ASYNC110 - killed processes end by themselves
            await asyncio.sleep(0.05)
        for request in wanted[1::2]:
            assert (site.content(request.session) / "file3").stat().st_size == 2**21

    with_launcher(storage, scenario)
