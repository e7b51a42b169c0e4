"""confine.sh: what buildah, and a program that leaves buildah's chroot, can see and change of the machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from profiles.build import namespace
from tests.deadlines import DEADLINE_S


def confined(folder: Path, shown: list[str], script: str) -> subprocess.CompletedProcess[str]:
    root = folder / "root"
    root.mkdir(exist_ok=True)
    command = namespace.as_confined_root(root, shown, "/bin/sh", "-c", script)
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=env, check=False)


def test_only_programs_settings_and_what_was_named_are_there(tmp_path: Path) -> None:
    (tmp_path / "named").mkdir()
    (tmp_path / "hidden").touch()
    done = confined(tmp_path, [str(tmp_path / "named")], f"ls -A / {tmp_path}; ls -A /home /root /var /run /tmp 2>&1")
    names = set(done.stdout.split())
    assert {"usr", "etc", "proc", "dev", "sys", "named"} <= names, done.stderr
    assert not names & {"hidden", "work", "opt", "srv", "mnt", "before", *(path.name for path in Path.home().iterdir())}


@pytest.mark.parametrize("place", ["/usr/x", "/etc/x", "NAMED/x"])
def test_what_is_shown_read_only_cannot_be_changed(tmp_path: Path, place: str) -> None:
    named = tmp_path / "named"
    named.mkdir()
    path = place.replace("NAMED", str(named))
    done = confined(tmp_path, [f"ro:{named}"], f"touch {path}")
    assert "Read-only file system" in done.stderr
    assert not Path(path).exists()


def test_writable_directory_within_a_read_only_one_stays_writable(tmp_path: Path) -> None:
    inner = tmp_path / "context/inner"
    inner.mkdir(parents=True)
    (inner.parent / "file").write_text("seen")
    shown = [f"ro:{inner.parent}", f"ro:{inner.parent}/file", str(inner)]
    done = confined(tmp_path, shown, f"cat {inner.parent}/file && touch {inner}/made && ! touch {inner.parent}/x")
    assert (done.returncode, done.stdout) == (0, "seen"), done.stderr
    assert (inner / "made").exists()


def test_processes_of_the_machine_cannot_be_signalled(tmp_path: Path) -> None:
    done = confined(tmp_path, [], f"kill -0 {os.getpid()}")
    assert done.returncode != 0
    assert "No such process" in done.stderr


def test_nothing_stays_mounted(tmp_path: Path) -> None:
    assert confined(tmp_path, [], "true").returncode == 0
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert list((tmp_path / "root").iterdir()) == []
