"""The session script's additions to the image: mount points, and a sudo."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.component.job.session_script import bash

if TYPE_CHECKING:
    from pathlib import Path


class TestSkeleton:
    """The skeleton between image and volume: nothing in it may hide anything of the image."""

    @pytest.mark.parametrize(
        ("path", "leads_to"),
        [
            ("/plain/file", "/plain/file"),
            ("/plain/none/below", "/plain/none/below"),
            ("/absolute/x", "/plain/x"),
            ("/relative/x", "/plain/x"),
            ("/up/x", "/x"),
            ("/chain", "/plain/dangling"),
            ("//plain/./../plain/", "/plain"),
        ],
    )
    def test_links_lead_to_where_they_would_in_the_container(self, tmp_path: Path, path: str, leads_to: str) -> None:
        tmp_path.joinpath("plain").mkdir()
        for name, target in {
            "absolute": "/plain",
            "relative": "./plain",
            "up": "../../../",
            "chain": "absolute/next",
            "plain/next": "dangling",
        }.items():
            tmp_path.joinpath(name).symlink_to(target)
        assert bash('resolve_path "$1" "$2"; echo "$RESOLVED"', str(tmp_path), path).stdout == f"{leads_to}\n"

    def skeleton(self, tmp_path: Path, code: str = "") -> Path:
        (tmp_path / "skeleton").mkdir()
        points = '"d /run/berth/node" "d /mnt/made" "d /home/alice/data" "f /etc/resolv.conf" "f /etc/hosts" "d /proc"'
        start = f"NODE_DIR=$1 BERTH_OWNER=alice POINTS=({points}); umask 022;"
        done = bash(f"{start} {code} make_skeleton", str(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        return tmp_path / "skeleton"

    def test_it_has_what_the_image_lacks_and_folders_have_the_images_rights(self, tmp_path: Path) -> None:
        image = tmp_path / "image"
        for folder, mode in {"run": 0o755, "etc/apt/apt.conf.d": 0o755, "mnt": 0o1777, "usr/local/bin": 0o2775}.items():
            (image / folder).mkdir(parents=True)
            (image / folder).chmod(mode)
        (image / "proc").mkdir()
        (image / "etc/hosts").touch()
        (image / "etc/resolv.conf").symlink_to("../run/resolved/resolv.conf")
        made = self.skeleton(tmp_path)
        files = {str(path.relative_to(made)) for path in made.rglob("*") if not path.is_dir()}
        commands = {"usr/local/bin/sudo", "usr/local/bin/berth-show"}
        assert files == {"run/resolved/resolv.conf", "etc/apt/apt.conf.d/95berth", *commands}
        assert (made / "run/berth/node").is_dir()
        assert not (made / "proc").exists()
        assert [(made / name).stat().st_mode & 0o7777 for name in ("mnt", "usr/local/bin")] == [0o1777, 0o2775]

    def test_in_root_mode_there_is_neither_sudo_nor_a_setting_of_apts(self, tmp_path: Path) -> None:
        for folder in ("etc/apt/apt.conf.d", "usr/local/bin"):
            (tmp_path / "image" / folder).mkdir(parents=True)
        made = self.skeleton(tmp_path, "BERTH_ROOT=yes;")
        assert not [path for path in made.rglob("*") if path.name in {"sudo", "95berth"}]

    def test_the_images_own_sudo_stays(self, tmp_path: Path) -> None:
        (tmp_path / "image/usr/local/bin").mkdir(parents=True)
        (tmp_path / "image/usr/local/bin/sudo").touch()
        assert [each.name for each in (self.skeleton(tmp_path) / "usr/local/bin").iterdir()] == ["berth-show"]

    def test_the_images_own_commands_stay(self, tmp_path: Path) -> None:
        (tmp_path / "image/usr/local/bin").mkdir(parents=True)
        for name in ("sudo", "berth-show"):
            (tmp_path / "image/usr/local/bin" / name).touch()
        assert not (self.skeleton(tmp_path) / "usr").exists()


def stubs(directory: Path, programs: dict[str, str]) -> dict[str, str]:
    """Put shell scripts in place of programs; return the environment that finds them."""
    for name, text in programs.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    return os.environ | {"PATH": f"{directory}:{os.environ['PATH']}", "BERTH_SESSION_NAME": "dev"}


class TestSudo:
    def test_shellcheck_has_nothing_to_say(self, tmp_path: Path) -> None:
        assert bash('write_sudo "$1"', str(tmp_path / "sudo")).returncode == 0
        done = subprocess.run(
            ["shellcheck", str(tmp_path / "sudo")], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout == ""

    @pytest.mark.parametrize(
        ("command", "ran"),
        [
            ("apt-get install -y htop", False),
            ("/usr/bin/dpkg -i tool.deb", False),
            ("DEBIAN_FRONTEND=noninteractive apt full-upgrade", False),
            ("apt-get update", True),
            ("dpkg --list", True),
            ("install file /opt", True),
        ],
    )
    def test_sudo_begins_no_package_where_dpkg_would_leave_it_half_installed(
        self, tmp_path: Path, command: str, ran: bool
    ) -> None:
        as_on_nfs = '[ "$1" != -m ]'  # with fuse-overlayfs
        path = stubs(tmp_path, {"mkdir": as_on_nfs, "rmdir": ":", "unshare": 'echo "ran $*"'})
        assert bash('write_sudo "$1"', str(tmp_path / "sudo")).returncode == 0
        done = subprocess.run(
            [tmp_path / "sudo", *command.split()], capture_output=True, text=True, timeout=60, check=False, env=path
        )
        if ran:
            assert (done.returncode, done.stdout) == (0, f"ran --map-root-user -- {command}\n")
        else:
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.endswith(f"Do it from outside of the session: berth exec --root dev -- {command}\n")

    @pytest.mark.parametrize(
        ("words", "packages", "way"),
        [
            (["sh", "-c", "exit 7"], False, None),
            (["grep", "x", "/dev/null"], False, None),
            (["apt-get", "install", "nosuch"], False, None),
            (["apt-get", "install", "daemon"], True, "apt-get install daemon"),
            (["sh", "-c", "dpkg -i it's.deb"], True, r"sh -c 'dpkg -i it'\''s.deb'"),
            (["/bin/chown", "games", "two words"], False, "/bin/chown games 'two words'"),
            (["A=b", "useradd", "", "x"], False, "A=b useradd '' x"),
            (["-i"], True, None),
        ],
    )
    def test_sudo_explains_only_failures_of_programs_that_need_another_user(
        self, tmp_path: Path, words: list[str], packages: bool, way: str | None
    ) -> None:
        begins = f"echo >>{tmp_path}/log; exit 7" if packages else "exit 7"
        path = stubs(tmp_path, {"unshare": begins, "grep": f"wc -l <{tmp_path}/log"})
        (tmp_path / "log").touch()
        assert bash('write_sudo "$1"', str(tmp_path / "sudo")).returncode == 0
        sudo = tmp_path / "sudo"
        done = subprocess.run([sudo, *words], capture_output=True, text=True, timeout=60, check=False, env=path)
        assert done.returncode == 7
        if way is None:
            assert done.stderr == ""
        else:
            assert done.stderr.endswith(f" outside of the session: berth exec --root dev -- {way}\n")
