"""Layers of images, unpacked for real: as root, and as an ordinary user whose namespace has one id."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from profiles.build import namespace
from profiles.errors import OciImageError
from profiles.oci import gunzip, unpack_worker
from profiles.oci.unpack_layers import LayerFile, unpack_image
from profiles.oci.unpack_stream import Compression
from tests.container_images import Member, compressed, folder, hard_link, layer, sha256, symlink
from tests.deadlines import DEADLINE_S
from tests.hostile_layers import HOSTILE_LAYERS, OUTSIDE, SMALL
from tests.unpacked_images import listing, reference, tricky_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiles.oci.unpack_findings import UnpackFindings
    from profiles.oci.unpack_limits import UnpackLimits

ROOT = Path(__file__).parents[3]
CLONE_NEWUSER = 0x10000000
"""linux/sched.h."""
TRICKY = tricky_layers()

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root gives files to other users")


def stored(layers: Sequence[bytes], where: Path, kind: Compression = Compression.NONE) -> list[LayerFile]:
    """Write layers as files."""
    where.mkdir()
    files = []
    for number, content in enumerate(layers):
        path = where / str(number)
        path.write_bytes(compressed(content, kind))
        files.append(LayerFile(str(path), sha256(path.read_bytes()), sha256(content), kind))
    return files


def unpack(
    layers: Sequence[bytes], tmp_path: Path, kind: Compression = Compression.NONE, limits: UnpackLimits = SMALL
) -> UnpackFindings:
    return unpack_image(stored(layers, tmp_path / "layers", kind), tmp_path / "tree", limits)


@pytest.mark.parametrize("kind", Compression)
def test_layers_become_what_gnu_tar_and_the_rules_of_whiteouts_make(tmp_path: Path, kind: Compression) -> None:
    unpack(TRICKY, tmp_path, kind)
    expected = listing(reference(TRICKY, tmp_path / "reference"))
    assert listing(tmp_path / "tree") == expected
    assert "secret/inner" in expected, "the case has a file in a folder of mode 000"


def test_hard_links_across_layers_are_one_file(tmp_path: Path) -> None:
    unpack([layer(Member("a", b"1")), layer(hard_link("b", "a")), layer(hard_link("sub/c", "/b"))], tmp_path)
    numbers = {(tmp_path / "tree" / name).stat().st_ino for name in ("a", "b", "sub/c")}
    assert len(numbers) == 1


def test_changing_one_name_of_a_file_leaves_the_other(tmp_path: Path) -> None:
    unpack([layer(Member("a", b"old"), hard_link("b", "a")), layer(Member("a", b"new"))], tmp_path)
    assert [(tmp_path / "tree" / name).read_bytes() for name in ("a", "b")] == [b"new", b"old"]


def test_whiteouts_leave_what_their_own_layer_has(tmp_path: Path) -> None:
    lower = layer(folder("d"), Member("d/low"), Member("d/both"), folder("d/deep"), Member("d/deep/low"), Member("e"))
    upper = layer(
        Member("d/both", b"up"), folder("d/deep"), Member("d/deep/up"), Member("d/.wh..wh..opq"), Member("e", b"up"),
        Member(".wh.e"), Member("gone/.wh.nothing"),
    )  # fmt: skip
    unpack([lower, upper], tmp_path)
    tree = tmp_path / "tree"
    assert {str(path.relative_to(tree)) for path in tree.rglob("*")} == {"d", "d/both", "d/deep", "d/deep/up", "e"}
    assert (tree / "e").read_bytes() == b"up"


def test_kinds_replace_each_other(tmp_path: Path) -> None:
    lower = layer(folder("a"), Member("a/x"), Member("b"), symlink("c", "a"), folder("d"), symlink("e", "/etc"))
    upper = layer(Member("a", b"file"), folder("b"), folder("c"), symlink("d", "b"), Member("e", b"file"))
    unpack([lower, upper], tmp_path)
    tree = tmp_path / "tree"
    assert (tree / "a").read_bytes() == b"file"
    assert all((tree / name).is_dir() and not (tree / name).is_symlink() for name in "bc")
    assert str((tree / "d").readlink()) == "b"
    assert (tree / "e").is_file()
    assert not (tree / "e").is_symlink()


def test_what_cannot_be_kept_is_reported(tmp_path: Path) -> None:
    findings = unpack(
        [
            layer(
                Member("ping", pax={"SCHILY.xattr.security.capability": "x"}),
                Member("noted", pax={"SCHILY.xattr.user.x": "y"}),
                Member("pipe", kind=tarfile.FIFOTYPE),
            )
        ],
        tmp_path,
    )
    assert [findings.capabilities.examples, findings.attributes.examples, findings.pipes.examples] == [
        ["'ping'"], ["'noted'"], ["'pipe'"],
    ]  # fmt: skip
    assert os.listxattr(tmp_path / "tree/ping") == os.listxattr(tmp_path / "tree/noted") == []
    assert (tmp_path / "tree/pipe").is_fifo()


@pytest.mark.parametrize("case", HOSTILE_LAYERS)
def test_hostile_layer_is_refused_and_nothing_outside_is_touched(tmp_path: Path, case: str) -> None:
    layers, message = HOSTILE_LAYERS[case]
    outside = tmp_path / OUTSIDE
    outside.mkdir()
    (outside / "sentinel").write_text("safe")
    before = listing(outside)
    inner = tmp_path / "a"
    inner.mkdir()
    with pytest.raises(OciImageError, match=message) as caught:
        unpack(layers, inner, Compression.GZIP)
    assert caught.value.hint
    assert caught.value.message.isprintable()
    assert listing(outside) == before
    assert {path.name for path in inner.iterdir()} <= {"layers", "tree"}


@pytest.mark.parametrize(
    ("content", "message"), [(b"\x1f\x8b" + b"x" * 100, "cannot be decompressed"), (None, "cannot be decompressed")]
)
def test_damaged_compression_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    whole = layer(Member("x", os.urandom(5000)))
    files = stored([whole], tmp_path / "layers", Compression.GZIP)
    path = Path(files[0].path)
    path.write_bytes(content or path.read_bytes()[:-9])
    with pytest.raises(OciImageError, match=message if content else f"{message}|ends within"):
        unpack_image(files, tmp_path / "tree")


def test_layer_with_another_digest_is_refused(tmp_path: Path) -> None:
    files = stored([layer(Member("x"))], tmp_path / "layers")
    wrong = [LayerFile(files[0].path, files[0].digest, sha256(b"another"), Compression.NONE)]
    with pytest.raises(OciImageError, match="the image's configuration says"):
        unpack_image(wrong, tmp_path / "tree")


PYTHON = sys.executable
USER, FIRST_SUBORDINATE, SUBORDINATES = 65534, 200_000, 65536


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of an ordinary user's, which that user reaches, as what decompresses layers."""
    for each in (tmp_path, *tmp_path.parents):
        if each.name.startswith(("test_", "pytest-", "popen-")) or each == tmp_path.parent:
            each.chmod(0o755)
    place = tmp_path / "room"
    place.mkdir()
    os.chown(place, USER, USER)
    program = shutil.copy(gunzip.__file__, place / "gunzip.py")
    monkeypatch.setattr(gunzip, "__file__", str(program))
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    return place


def run_as_user(room: Path, layers: Sequence[bytes], subordinates: int) -> int:
    """Run the worker of a build as an ordinary user, who is root of a namespace with so many subordinate ids."""
    unpack_worker.write_request(room, stored(layers, room / "layers", Compression.GZIP), room / "tree")
    ready, mapped = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            assert ctypes.CDLL(None).unshare(CLONE_NEWUSER) == 0
            os.write(ready[1], b"x")
            os.read(mapped[0], 1)
            code = unpack_worker.main(room)
        finally:
            os._exit(code)
    os.read(ready[0], 1)
    ranges = f"0 {USER} 1\n" + (f"1 {FIRST_SUBORDINATE} {subordinates}\n" if subordinates else "")
    for name in ("gid_map", "uid_map"):
        Path(f"/proc/{child}/{name}").write_text(ranges)
    os.write(mapped[1], b"x")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for descriptor in (*ready, *mapped):
        os.close(descriptor)
    return code


def test_user_with_subordinate_ids_gets_what_root_would(tmp_path: Path, room: Path) -> None:
    assert run_as_user(room, TRICKY, SUBORDINATES) == 0
    findings = unpack_worker.read_result(room)
    assert findings is not None
    assert findings.foreign_owners.count == 0
    assert listing(room / "tree", _own_id) == listing(reference(TRICKY, tmp_path / "reference"))


def _own_id(number: int) -> int:
    """Return the id in the namespace of one outside."""
    return 0 if number == USER else number - FIRST_SUBORDINATE + 1


def test_owners_that_a_user_has_no_ids_for_become_root_and_are_reported(room: Path) -> None:
    content = layer(folder("a", 0, uid=42), Member("a/b", b"x", uid=60000, gid=5, mode=0o4755), Member("bin/sh"))
    assert run_as_user(room, [content], 0) == 0
    findings = unpack_worker.read_result(room)
    assert findings is not None
    assert findings.foreign_owners.count == 2
    assert findings.foreign_owners.examples == ["'a' (42:0)", "'a/b' (60000:5)"]
    assert findings.has_shell
    status = (room / "tree/a/b").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (USER, USER, 0o4755)
    assert (room / "tree/a").stat().st_mode & 0o777 == 0


def test_worker_reports_a_refusal_and_ends_with_1(room: Path) -> None:
    assert run_as_user(room, [layer(Member("ok")), layer(Member("../x"))], SUBORDINATES) == 1
    with pytest.raises(OciImageError, match="layer 2 of 2"):
        unpack_worker.read_result(room)


def test_full_disk_is_said(tmp_path: Path, room: Path) -> None:
    unpack_worker.write_request(
        room, stored([layer(Member("x", os.urandom(2**20)))], tmp_path / "l"), room / "disk/tree"
    )
    (room / "disk").mkdir()
    script = f"mount -t tmpfs -o size=64k tmpfs {room}/disk; exec {PYTHON} -m profiles.oci.unpack_worker {room}"
    subprocess.run(
        namespace.as_root("sh", "-c", script),
        cwd=ROOT,
        timeout=DEADLINE_S,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    result: dict[str, Any] = json.loads((room / "unpacked.json").read_text())
    assert "No space left on device" in result["refused"]
