"""A sender that sends anything: the receiver gets everything or nothing, and touches nothing but its own new folder."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from broker.names import new_id
from broker.volumes import operations, record
from broker.volumes.errors import VolumeError
from broker.volumes.probe import Probe
from broker.volumes.snapshot_receiver import receive_snapshot
from broker.volumes.snapshot_stream import (
    ATTRIBUTE,
    ATTRIBUTE_HEAD,
    BEGIN,
    BEGIN_HEAD,
    DATA,
    DATA_HEAD,
    DELETED,
    END,
    END_HEAD,
    FAILED,
    FILE,
    FILE_HEAD,
    FOLDER,
    FOLDER_HEAD,
    HEAD,
    KINDS,
    LEAVE,
    LINK,
    LINK_HEAD,
    MAGIC,
    MAX_CONTENT_BYTES,
    MAX_PIECE_BYTES,
    MAX_VALUE_BYTES,
    SYMLINK,
    SYMLINK_HEAD,
    VOLUME,
)
from broker.volumes.squashfs import unpack_layer
from broker.volumes.storage import Storage

if TYPE_CHECKING:
    from pathlib import Path

Step = tuple[bytes, bytes]

BEGUN: Step = (BEGIN, BEGIN_HEAD.pack(0, 0))
HOME: Step = (VOLUME, b"home")
SYSTEM: Step = (VOLUME, b"system")
OUT: Step = (LEAVE, b"")


def folder(name: bytes, mode: int = 0o755, *, opaque: int = 0) -> Step:
    return FOLDER, FOLDER_HEAD.pack(mode, 10**9, opaque) + name


def file(name: bytes, size: int = 0, mode: int = 0o644, *, linked: bool = False) -> Step:
    return FILE, FILE_HEAD.pack(mode, 10**9, size, linked) + name


def piece(offset: int, content: bytes) -> Step:
    return DATA, DATA_HEAD.pack(offset) + content


def attribute(name: bytes, value: bytes = b"v") -> Step:
    return ATTRIBUTE, ATTRIBUTE_HEAD.pack(len(name)) + name + value


def symlink(name: bytes, target: bytes) -> Step:
    return SYMLINK, SYMLINK_HEAD.pack(10**9, len(name)) + name + target


def link(number: int, name: bytes) -> Step:
    return LINK, LINK_HEAD.pack(number) + name


def end(entries: int) -> Step:
    return END, END_HEAD.pack(entries)


def encode(steps: list[Step]) -> bytes:
    return MAGIC + b"".join(HEAD.pack(kind, len(content)) + content for kind, content in steps)


VALID = [
    BEGUN,
    HOME,
    folder(b"a", 0o700),
    attribute(b"user.note"),
    file(b"f", 5, linked=True),
    attribute(b"user.note"),
    piece(1, b"text"),
    OUT,
    link(0, b"g"),
    symlink(b"s", b"/etc/passwd"),
    SYSTEM,
    folder(b"etc", opaque=1),
    (DELETED, b"motd"),
    OUT,
    end(6),
]


class Scene:
    """A receiver's storage, and what lies beside it."""

    def __init__(self, folder_: Path) -> None:
        self.storage = Storage(folder_ / "user")
        self.storage.root.mkdir(mode=0o700)
        self.storage.make()
        self.outside = folder_ / "outside"
        self.outside.mkdir()
        (self.outside / "file").write_text("unchanged")
        self.before = self._state()

    def receive(self, stream: bytes, session: str = "", most_bytes: int = 2**20, *, driver: str = "overlay") -> str:
        """Receive it, and return the session's id."""
        session = session or new_id()
        descriptor = os.memfd_create("stream")
        os.write(descriptor, stream)
        os.lseek(descriptor, 0, os.SEEK_SET)
        receive_snapshot(
            *(self.storage, session, new_id(), descriptor),
            driver=driver,
            digest="",
            with_system=True,
            most_bytes=most_bytes,
        )
        return session

    def refuses(self, stream: bytes, kinds: frozenset[str] = frozenset({"files", "ended", "space"})) -> bool:
        """Whether it was refused. Then nothing is there."""
        session, kind = new_id(), ""
        try:
            self.receive(stream, session)
        except VolumeError as error:
            kind = error.kind
        except OSError:
            kind = "files"
        assert self._state() == self.before
        if kind:
            assert kind in kinds
            assert not self.storage.session(session).exists()
            assert (self.storage.layers.all(), self.storage.layers.leftovers()) == ([], [])
        for layer in self.storage.layers.all():
            self.storage.layers.discard(layer)
        return bool(kind)

    def _state(self) -> list[tuple[str, int, int, bytes]]:
        """All beside the user's storage."""
        found = [self.outside, *self.outside.rglob("*")]
        return [
            (str(each), each.lstat().st_mode, each.lstat().st_nlink, b"" if each.is_dir() else each.read_bytes())
            for each in found
        ]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_valid_stream_makes_a_session(scene: Scene) -> None:
    session = scene.receive(encode(VALID))
    found = record.load_record(scene.storage.session(session))
    home = scene.storage.layers.tree(found.home.layers[-1])
    assert (home / "a/f").read_bytes() == b"\0text"
    assert (home / "g").samefile(home / "a/f")
    assert os.getxattr(home / "a", "user.note") == b"v"
    assert str((home / "s").readlink()) == "/etc/passwd"
    assert [stat.S_IMODE((home / each).stat().st_mode) for each in (".", "a", "a/f")] == [0o700, 0o700, 0o644]
    system = scene.storage.layers.tree(found.system.layers[-1])
    assert stat.S_ISCHR((system / "etc/motd").lstat().st_mode)
    assert found.snapshots == ()


def in_home(*steps: Step) -> list[Step]:
    entries = sum(kind in {FOLDER, FILE, SYMLINK, LINK, DELETED} for kind, _ in steps)
    return [BEGUN, HOME, *steps, SYSTEM, end(entries)]


NAMES = (b"", b".", b"..", b"a/b", b"/etc/passwd", b"../../outside/file", b"a\0b", b"x" * 256)
MALFORMED: dict[str, list[Step]] = {
    **{f"a folder named {name[:20]!r}": in_home(folder(name), OUT) for name in NAMES},
    **{f"a file named {name[:20]!r}": in_home(file(name)) for name in NAMES},
    **{f"a link named {name[:20]!r}": in_home(symlink(name, b"target")) for name in NAMES},
    **{f"a further name {name[:20]!r}": in_home(file(b"f", linked=True), link(0, name)) for name in NAMES},
    **{f"a deletion of {name[:20]!r}": [BEGUN, HOME, SYSTEM, (DELETED, name), end(1)] for name in NAMES},
    **{f"mode {mode:o}": in_home(file(b"f", mode=mode)) for mode in (0o4755, 0o2755, 0o1777, 0o100644)},
    **{f"folder of mode {mode:o}": in_home(folder(b"d", mode), OUT) for mode in (0o2755, 0o1777, 0o40755)},
    **{
        f"attribute {name!r}": in_home(file(b"f"), attribute(name))
        for name in (
            *(b"security.capability", b"system.posix_acl_access", b"trusted.overlay.opaque", b"user.", b"note"),
            *(b"user.overlay.opaque", b"user.overlay.whiteout", b"user.fuseoverlayfs.opaque", b"user.a\0b"),
            *(b"user.containers.override_stat", b"user." + b"x" * 251),
        )
    },
    "two attributes of a name": in_home(file(b"f"), attribute(b"user.a"), attribute(b"user.a")),
    "an attribute of nothing": in_home(attribute(b"user.a")),
    "an attribute of a link": in_home(symlink(b"s", b"t"), attribute(b"user.a")),
    "an attribute after content": in_home(file(b"f", 1), piece(0, b"x"), attribute(b"user.a")),
    "an attribute that is too long": in_home(file(b"f"), attribute(b"user.a", b"v" * (MAX_VALUE_BYTES + 1))),
    "content of nothing": in_home(piece(0, b"x")),
    "content of a folder": in_home(folder(b"d"), piece(0, b"x"), OUT),
    "content of a link": in_home(symlink(b"s", b"/etc/passwd"), piece(0, b"x")),
    "content after the end of a file": in_home(file(b"f", 1), piece(1, b"x")),
    "content at no possible place": in_home(file(b"f", 1), piece(2**64 - 1, b"x")),
    "content twice": in_home(file(b"f", 2), piece(0, b"xx"), piece(0, b"yy")),
    "no content": in_home(file(b"f", 2), piece(0, b"")),
    "a piece that is too long": in_home(file(b"f", 2**30), piece(0, b"x" * (MAX_PIECE_BYTES + 1))),
    "a file without an end": in_home(file(b"f", 2**64 - 1)),
    "an empty link": in_home(symlink(b"s", b"")),
    "a link that is too long": in_home(symlink(b"s", b"t" * 4096)),
    "a link with a zero byte": in_home(symlink(b"s", b"a\0b")),
    "a second entry of a name": in_home(file(b"f"), file(b"f")),
    "a file through a link": in_home(symlink(b"s", b"../../../outside"), folder(b"s"), file(b"file"), OUT),
    "a file over a link": in_home(symlink(b"s", b"../../../outside/file"), file(b"s", 1), piece(0, b"x")),
    "a further name of nothing": in_home(link(0, b"g")),
    "a further name of what is to come": in_home(link(1, b"g"), file(b"f", linked=True)),
    "a further name of a file that has none": in_home(file(b"f"), link(0, b"g")),
    "a further name of a file of the home": [
        *(BEGUN, HOME, file(b"f", linked=True), SYSTEM, link(0, b"g"), end(2)),
    ],
    "a way out": in_home(OUT, file(b"f")),
    "a way out with words": in_home(folder(b"d"), (LEAVE, b"..")),
    "a folder without an end": in_home(folder(b"d")),
    "a deletion in the home": in_home((DELETED, b"f")),
    "an opaque folder in the home": in_home(folder(b"d", opaque=1), OUT),
    "an entry before a volume": [BEGUN, file(b"f"), HOME, SYSTEM, end(1)],
    "no beginning": [HOME, SYSTEM, end(0)],
    "two beginnings": [BEGUN, BEGUN, HOME, SYSTEM, end(0)],
    "one volume": [BEGUN, HOME, end(0)],
    "three volumes": [BEGUN, HOME, SYSTEM, HOME, end(0)],
    "volumes in the wrong order": [BEGUN, SYSTEM, HOME, end(0)],
    "another volume": [BEGUN, HOME, (VOLUME, b"../../outside"), end(0)],
    "a wrong number of entries": [BEGUN, HOME, file(b"f"), SYSTEM, end(2)],
    "something after the end": [*VALID, HOME],
    "an unknown failure": [BEGUN, (FAILED, b"<script>")],
    "a failure": [BEGUN, HOME, (FAILED, b"files")],
    "a kind that does not exist": [BEGUN, (b"?", b"")],
    "a record that is too long": [BEGUN, HOME, (FILE, b"x" * (MAX_CONTENT_BYTES + 1))],
    "more than the receiver may have": [(BEGIN, BEGIN_HEAD.pack(2**40, 1)), HOME, SYSTEM, end(0)],
    "more inodes than there are": [(BEGIN, BEGIN_HEAD.pack(0, 2**60)), HOME, SYSTEM, end(0)],
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_stream_is_refused_and_leaves_nothing(scene: Scene, what: str) -> None:
    assert scene.refuses(encode(MALFORMED[what]))


def test_a_stream_that_is_cut_off_anywhere_is_refused(scene: Scene) -> None:
    whole = encode(VALID)
    for length in range(len(whole)):
        assert scene.refuses(whole[:length], frozenset({"files", "ended"})), length


def test_each_record_with_each_kind_and_each_changed_byte_gives_everything_or_nothing(scene: Scene) -> None:
    whole = encode(VALID)
    position = len(MAGIC)
    refused = 0
    for kind, content in VALID:
        for other in sorted(KINDS - {kind}):
            refused += scene.refuses(whole[:position] + other + whole[position + 1 :])
        for at in range(position + 1, position + HEAD.size + len(content)):
            refused += scene.refuses(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        position += HEAD.size + len(content)
    assert refused > len(whole) // 2


def test_a_system_volume_arrives_packed_where_jobs_have_it_on_their_nodes_disk(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "cached_probe", lambda *_: Probe("plain", "", (), on_node=True))
    session = scene.receive(encode(VALID), driver="plain")
    found = record.load_record(scene.storage.session(session))
    assert (found.driver, found.on_node, found.home.layers) == ("plain", True, ())
    assert (scene.storage.layers.tree(found.home.top) / "a/f").read_bytes() == b"\0text"
    (layer,) = found.system.layers
    target = scene.storage.root / "unpacked"
    unpack_layer(scene.storage.layers.squashfs(layer), target)
    assert stat.S_ISCHR((target / "etc/motd").lstat().st_mode)


def test_content_is_counted_while_it_arrives(scene: Scene) -> None:
    """A sender that announces little and sends much."""
    pieces = [piece(at << 16, b"x" * 2**16) for at in range(64)]
    assert scene.refuses(encode(in_home(file(b"f", 64 << 16), *pieces)), frozenset({"space"}))
    entries = [file(b"%d" % number) for number in range(4096)]
    assert scene.refuses(encode(in_home(*entries)), frozenset({"space"}))


def test_an_operation_is_done_once(scene: Scene) -> None:
    session = scene.receive(encode(VALID))
    operation = next(iter(record.load_record(scene.storage.session(session)).done))
    read, write = os.pipe()
    os.close(write)
    answer = receive_snapshot(
        scene.storage, session, operation, read, driver="overlay", digest="", with_system=True, most_bytes=0
    )
    assert answer["files"] == 6
