"""The reader of tar archives, against Python's own writer, and against damaged archives."""

from __future__ import annotations

import io
import tarfile

import pytest

from profiles.errors import LayerInvalidError
from profiles.oci.entry_path import entry_path
from profiles.oci.tar_reader import MAX_TIME_S, EntryType, TarEntry, read_entries
from tests.container_images import MTIME, Member, folder, hard_link, layer, symlink


class MemoryStream:
    """Bytes as a ByteStream."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.position = 0

    def read_exactly(self, count: int) -> bytes:
        found = self._content[self.position : self.position + count]
        self.position += len(found)
        return found

    def skip(self, count: int) -> None:
        self.position = min(self.position + count, len(self._content))


def entries(content: bytes) -> list[TarEntry]:
    return list(read_entries(MemoryStream(content)))


def header(**fields: bytes) -> bytes:
    """Return a header of an empty file whose fields are replaced, with a right checksum."""
    places = {
        "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12),
        "type": (156, 1), "link": (157, 100),
    }  # fmt: skip
    made = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    for field, value in fields.items():
        at, length = places[field]
        made[at : at + length] = value.ljust(length, b"\0")
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(type=kind, size=b"%011o" % len(records)) + records.ljust(-(-len(records) // 512) * 512, b"\0")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_kinds_of_entries_are_read_as_they_were_written(form: int) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        long = "folder/" * 12 + "n" * 90
        for kind, name, link in [
            (tarfile.DIRTYPE, "folder", ""),
            (tarfile.REGTYPE, long, ""),
            (tarfile.SYMTYPE, "link", "../anywhere"),
            (tarfile.LNKTYPE, "hard", long[:99]),
            (tarfile.FIFOTYPE, "pipe", ""),
            (tarfile.CHRTYPE, "device", ""),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.uid, info.gid, info.mode, info.mtime = kind, link, 42, 60000, 0o4750, MTIME
            info.size = 700 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(bytes(700)))
    found = entries(made.getvalue())
    assert [entry.kind for entry in found] == [
        EntryType.DIRECTORY, EntryType.FILE, EntryType.SYMLINK, EntryType.HARD_LINK, EntryType.FIFO, EntryType.DEVICE,
    ]  # fmt: skip
    assert [entry_path(entry.name).decode() for entry in found] == ["folder", long, "link", "hard", "pipe", "device"]
    assert {(entry.uid, entry.gid, entry.mode, entry.mtime_ns) for entry in found} == {
        (42, 60000, 0o4750, MTIME * 10**9)
    }
    assert found[1].size == 700
    assert found[2].link == b"../anywhere"


def test_numbers_that_octal_cannot_hold_are_read() -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("x")
        info.uid, info.gid = 4_204_260, 2**31
        archive.addfile(info)
    assert [(entry.uid, entry.gid) for entry in entries(made.getvalue())] == [(4_204_260, 2**31)]


def test_pax_values_come_before_those_of_the_header() -> None:
    (found,) = entries(
        layer(
            Member(
                "x", pax={"uid": "7", "gid": "8", "mtime": "12.25", "path": "long\u00e9", "SCHILY.xattr.user.a": "b"}
            )
        )
    )
    assert (found.name.decode(), found.uid, found.gid, found.mtime_ns) == ("long\u00e9", 7, 8, 12_250_000_000)
    assert found.xattrs == (b"user.a",)


@pytest.mark.parametrize(
    ("written", "read"), [("-5.5", 0), ("99999999999", MAX_TIME_S * 10**9), ("4294967295.9", MAX_TIME_S * 10**9)]
)
def test_times_that_an_image_cannot_hold_become_the_nearest(written: str, read: int) -> None:
    (found,) = entries(layer(Member("x", pax={"mtime": written})))
    assert found.mtime_ns == read


def test_content_of_one_entry_is_passed_over() -> None:
    found = entries(layer(Member("a", b"x" * 513), folder("b"), symlink("c", "d"), hard_link("e", "a")))
    assert [entry.name for entry in found] == [b"a", b"b/", b"c", b"e"]


HOSTILE = {
    "no archive": (b"<html>" * 200, "wrong checksum"),
    "ends within a header": (header()[:300], "ends within a header"),
    "ends within content": (header(size=b"%011o" % 4000) + b"x" * 1000, "ends within the content"),
    "ends within a pax header": (header(type=b"x", size=b"%011o" % 900) + b"x" * 512, "ends within a header"),
    "pax header without its entry": (pax(b"10 path=x\n"), "entry that is missing"),
    "size that is no number": (header(size=b"12z"), "size is no number"),
    "size beyond all disks": (header(size=b"\x80" + b"\xff" * 11), "size is out of range"),
    "negative size": (header(size=b"\xff" * 12), "size is out of range"),
    "owner that is no number": (header(uid=b"root"), "uid is no number"),
    "negative owner": (header(uid=b"\xff" * 8), "uid is out of range"),
    "unknown type": (header(type=b"Z"), "unknown type"),
    "GNU sparse file": (header(type=b"S"), "sparse"),
    "pax sparse file": (pax(b"22 GNU.sparse.major=1\n") + header(), "sparse"),
    "folder with content": (header(name=b"x/", size=b"%011o" % 5) + bytes(512), "it has content"),
    "huge pax header": (header(type=b"x", size=b"%011o" % (1 << 21)), "are the most"),
    "huge long name": (header(type=b"L", size=b"%011o" % (1 << 30)), "are the most"),
    "pax record without a length": (pax(b"path=x\n") + header(), "without a length"),
    "pax record beyond its header": (pax(b"99 path=x\n") + header(), "damaged record"),
    "pax record without a value": (pax(b"8 path\n") + header(), "damaged record"),
    "pax record of no length": (pax(b"0 path=x\n") + header(), "damaged record"),
    "pax size that is no number": (pax(b"11 size=-1\n") + header(), "out of range"),
    "pax size of 30 digits": (pax(b"39 size=" + b"9" * 30 + b"\n") + header(), "out of range"),
    "pax owner that is no number": (pax(b"11 uid=me!\n") + header(), "out of range"),
    "pax time that is no number": (pax(b"13 mtime=now\n") + header(), "time is no number"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_archive_is_refused(case: str) -> None:
    content, message = HOSTILE[case]
    with pytest.raises(LayerInvalidError, match=message):
        entries(content)


@pytest.mark.parametrize(
    "name",
    [
        b"../x",
        b"a/../../x",
        b"a/..",
        b"..",
        b"/../x",
        b"./a/../b",
        b"a\0b",
        b"n" * 256,
        b"a/" * 300,
        b"a/" * 1500 + b"n",
    ],
)
def test_path_that_could_lead_elsewhere_is_refused(name: bytes) -> None:
    with pytest.raises(LayerInvalidError):
        entry_path(name)


@pytest.mark.parametrize(("name", "path"), [(b"./a//b/.", b"a/b"), (b"/etc/x", b"etc/x"), (b"./", b""), (b"a/", b"a")])
def test_path_is_relative_to_the_root_of_the_image(name: bytes, path: bytes) -> None:
    assert entry_path(name) == path
