"""The program that copies, as a job starts it: from its archive, as a user whom no capability helps."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.volumes.copy_archive import ARCHIVE, copy_archive
from broker.volumes.copy_program import USAGE
from tests.volumes.tree_content import content

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that another user than the test's reaches."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        shutil.chown(name, "nobody")
        yield Path(name)


def run_as_nobody(room: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a user whom no capability helps, as none does with files that lie on NFS."""
    program = room / ARCHIVE
    program.write_bytes(copy_archive())
    program.chmod(0o644)
    as_nobody = ["setpriv", "--reuid=nobody", "--clear-groups", "--inh-caps=-all"]
    command = [*as_nobody, "/usr/bin/python3", "-I", str(program), *words]
    return subprocess.run(command, input="all\n" * 2, capture_output=True, text=True, timeout=60, check=False)


def test_files_that_cannot_be_read_are_named_before_anything_is_frozen(shared: Path) -> None:
    source = shared / "source"
    for number in range(3):
        (source / f"sub{number}").mkdir(parents=True)
        (source / f"sub{number}/secret\n").write_text("secret")
        (source / f"sub{number}/secret\n").chmod(0)
    (source / "closed").mkdir(0o300)
    (source / "open").write_text("content")
    for path in (source, *source.rglob("*")):
        shutil.chown(path, "nobody")
    done = run_as_nobody(shared, "--drain", str(source), str(shared / "layer"), "")
    assert (done.returncode, done.stderr) == (1, "")
    words = done.stdout.splitlines()
    assert len(words) == 1
    assert words[0].startswith("failed permission denied: cannot read ")
    assert words[0].endswith(" and 1 more; run `chmod u+r` or `chmod u+rx` on them, or remove them")
    assert words[0].count("secret\\x0a") + words[0].count("closed") == 3
    for path in source.rglob("*"):
        path.chmod(0o700)
    done = run_as_nobody(shared, "--drain", str(source), str(shared / "other"), "")
    assert done.stdout.split() == ["ready", "drained", "copied", "still", "done"]
    assert content(shared / "other/tree") == content(source)


def test_reason_of_a_failure_needs_no_room_on_the_disk(shared: Path) -> None:
    """The job keeps the standard error in a file on the node's disk, and that disk may be what is full."""
    (shared / ARCHIVE).write_bytes(copy_archive())
    command = ["/usr/bin/python3", "-I", str(shared / ARCHIVE), str(shared / "no source"), str(shared / "layer"), ""]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, f"failed No such file or directory: {shared}/no source\n")


def test_program_needs_nothing_but_its_archive(shared: Path) -> None:
    """And the same sources make the same archive, or each start of a job would write it again."""
    done = run_as_nobody(shared, "--unknown")
    assert (done.returncode, done.stderr) == (2, USAGE + "\n")
    copy_archive.cache_clear()
    assert (shared / ARCHIVE).read_bytes() == copy_archive()


def test_access_list_of_unknown_users_does_not_give_the_group_more(tmp_path: Path) -> None:
    """A namespace knows one user only; by the mode alone, the group would have what the mask lets others have."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("content")
    entries = [(0x01, 6, 2**32 - 1), (0x02, 4, 1), (0x04, 0, 2**32 - 1), (0x10, 4, 2**32 - 1), (0x20, 0, 2**32 - 1)]
    text = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(tmp_path / "source/file", "system.posix_acl_access", text)
    program = tmp_path / ARCHIVE
    program.write_bytes(copy_archive())
    command = [
        "unshare",
        "--map-root-user",
        "/usr/bin/python3",
        "-I",
        str(program),
        str(tmp_path / "source"),
        str(tmp_path / "layer"),
        "",
    ]
    subprocess.run(command, input=b"all\n", check=True, capture_output=True, timeout=60)
    copied_list = os.getxattr(tmp_path / "layer/tree/file", "system.posix_acl_access")
    assert [entry[:2] for entry in struct.iter_unpack("<HHI", copied_list[4:])] == [
        (1, 6),
        (4, 0),
        (0x10, 4),
        (0x20, 0),
    ]
