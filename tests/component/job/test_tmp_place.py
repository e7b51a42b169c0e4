"""The container's /tmp lies on a disk of the node with room, if the site allows one; else it counts as memory."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.deadlines import DEADLINE_S
from tests.job_scripts import BATCH, SESSION

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
BLOCK = 4096
# In place of a file system: each directory's file .fs has its free blocks, their size, and the type.
FILE_SYSTEMS = 'stat() { if [[ $1 == -f ]]; then cat "${@: -1}/.fs"; else command stat "$@"; fi; }\n'


def place(directory: Path, type_: str, free: int = 10 * GIB) -> Path:
    """Make a directory on such a file system."""
    directory.mkdir(parents=True)
    (directory / ".fs").write_text(f"{free // BLOCK} {BLOCK} {type_}\n")
    return directory


def run(script: Path, code: str, *directories: Path | str, tmpdir: str = "") -> list[str]:
    setting = ",".join(map(str, directories))
    variables = f"BERTH_OWNER=alice SLURM_JOB_ID=7 SLURM_TMPDIR={tmpdir} BERTH_TMP_DIRECTORIES={setting}\n"
    command = ["bash", "-c", f"source {script}\n{FILE_SYSTEMS}{variables}{code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def chosen(*directories: Path | str, tmpdir: str = "") -> str:
    *_, found = run(SESSION, 'list_tmp_places; find_tmp_place; echo "$TMP_PLACE"', *directories, tmpdir=tmpdir)
    return found


def refused(directory: Path) -> str:
    """Return why the directory is not used, as the job's log says it."""
    (line,) = run(SESSION, "list_tmp_places; [[ ${#PLACES[@]} == 0 ]]", directory)
    return line.partition(f" berth: warning: {directory} is not used for /tmp: ")[2]


@pytest.mark.parametrize("other", ["tmpfs", "ramfs", "nfs", "lustre", "UNKNOWN (0x1)"])
def test_first_place_on_a_disk_is_chosen(tmp_path: Path, other: str) -> None:
    first, second = place(tmp_path / "first", other), place(tmp_path / "second", "xfs")
    place(tmp_path / "third", "ext2/ext3")
    expected = first if other.startswith("UNKNOWN") else second
    assert chosen(first, "/nonexistent", second, tmp_path / "third") == str(expected)


def test_full_disk_is_not_chosen(tmp_path: Path) -> None:
    full, other = place(tmp_path / "full", "xfs", GIB - BLOCK), place(tmp_path / "other", "xfs", GIB)
    assert chosen(full, other) == str(other)
    assert chosen(full) == ""


def test_directory_that_others_can_change_is_not_chosen(tmp_path: Path) -> None:
    open_to_all, sticky = place(tmp_path / "open", "xfs"), place(tmp_path / "sticky", "xfs")
    open_to_all.chmod(0o777)
    sticky.chmod(0o1777)
    assert chosen(open_to_all, sticky) == str(sticky)
    sticky.chmod(0o775)
    assert chosen(open_to_all, sticky) == ""


def test_directory_below_one_that_others_can_change_is_refused(tmp_path: Path) -> None:
    own = place(tmp_path / "open" / "alice", "xfs")
    assert chosen(own) == str(own)
    own.parent.chmod(0o777)
    assert refused(own) == f"other users may change {own.parent}"
    own.parent.chmod(0o1777)
    assert chosen(own) == str(own)


@pytest.mark.skipif(os.getuid() != 0, reason="gives files to another user")
def test_directory_or_link_of_another_user_is_refused(tmp_path: Path) -> None:
    target, link = place(tmp_path / "target", "xfs"), tmp_path / "link"
    link.symlink_to(target)
    assert chosen(link) == str(link)
    os.lchown(link, 65534, 65534)
    assert refused(link) == f"{link} belongs to another user"
    own = place(tmp_path / "other" / "alice", "xfs")
    os.chown(own.parent, 65534, 65534)
    assert refused(own) == f"{own.parent} belongs to another user"


def test_links_are_followed_and_what_they_lead_through_is_checked(tmp_path: Path) -> None:
    own = place(tmp_path / "open" / "alice", "xfs")
    first, second = tmp_path / "first", tmp_path / "second"
    second.symlink_to("open/../second-target")
    (tmp_path / "second-target").symlink_to(own)
    first.symlink_to(second)
    assert chosen(first) == str(first)
    own.parent.chmod(0o777)
    assert refused(first) == f"other users may change {own.parent}"
    first.unlink()
    first.symlink_to(first)
    assert chosen(first) == ""


def test_names_of_user_and_job_are_filled_in_and_the_prolog_comes_first(tmp_path: Path) -> None:
    own = place(tmp_path / "alice" / "7", "xfs")
    assert chosen(f"{tmp_path}/{{user}}/{{job}}") == str(own)
    prolog = place(tmp_path / "prolog", "xfs")
    assert chosen(own, tmpdir=str(prolog)) == str(prolog)


def test_overlay_over_memory_is_memory(tmp_path: Path) -> None:
    upper, node = place(tmp_path / "upper", "tmpfs"), place(tmp_path / "node", "overlayfs")
    (upper / ".fs").write_text("tmpfs\n")
    code = f"findmnt() {{ echo rw,lowerdir=/a,upperdir={upper},workdir=/b; }}\nmeasure_place {node}; echo $KIND"
    assert run(SESSION, code, node) == ["memory"]
    assert run(SESSION, code.replace(str(upper), "/nonexistent"), node) == ["disk"]


@pytest.mark.parametrize("script", [SESSION, BATCH], ids=["session", "batch"])
def test_directory_is_private_and_removed_with_the_job(tmp_path: Path, script: Path) -> None:
    node, disk = place(tmp_path / "memory" / "node", "tmpfs"), place(tmp_path / "disk", "xfs")
    code = (
        f"NODE_DIR={node}; list_tmp_places\n"
        f'mktemp() {{ local made; made=$(command mktemp "$@"); cp {disk}/.fs $made; echo $made; }}\n'
        'make_tmp_dir job; echo "$TMP_KIND $(command stat -c %a "$TMP_DIR") $TMP_DIR"; remove_job_dirs'
    )
    (line,) = run(script, code, place(tmp_path / "other", "tmpfs"), disk)
    kind, mode, directory = line.split()
    assert (kind, mode) == ("disk", "700")
    assert directory.startswith(f"{disk}/job.")
    assert not os.path.lexists(directory)
    assert not node.exists()


def test_without_a_disk_the_job_says_that_files_count_as_memory(tmp_path: Path) -> None:
    node = place(tmp_path / "memory" / "node", "tmpfs")
    code = f"NODE_DIR={node}; list_tmp_places; make_tmp_dir job; echo $TMP_KIND $TMP_DIR"
    assert run(SESSION, code, place(tmp_path / "other", "tmpfs")) == [f"memory {node}"]
    room = place(tmp_path / "room", "tmpfs")
    code = (
        "SLURMD_NODENAME=c1 BERTH_SESSION_ID=01x\n"
        f"mktemp() {{ mkdir {node}/made; cp {room}/.fs {node}/made; echo {node}/made; }}\n"
        "make_node_dir"
    )
    (line,) = run(SESSION, code, room, tmpdir=str(room))
    assert " berth: warning: files in /tmp and /var/tmp count as this job's memory on c1: no directory " in line


def test_what_a_killed_run_left_in_any_place_goes_with_the_next(tmp_path: Path) -> None:
    first, second = place(tmp_path / "first", "xfs"), place(tmp_path / "second", "xfs")
    left = [each / f"berth-{os.getuid()}-01x.abc" for each in (first, second)]
    kept = first / f"berth-{os.getuid()}-01y.abc"
    for directory in (*left, kept):
        directory.mkdir()
    code = (
        "SLURMD_NODENAME=c1 BERTH_SESSION_ID=01x; measure_place() { KIND=disk FREE_KIB=$TMP_MIN_FREE_KIB; }\n"
        "make_node_dir; echo $TMP_DIR"
    )
    (made,) = run(SESSION, code, first, second, tmpdir=str(second))
    assert made.startswith(str(second))
    assert not any(directory.exists() for directory in left)
    assert kept.exists()
