"""Layers that attack the user who unpacks them, each with the words of its refusal."""

from __future__ import annotations

import os
import tarfile

from profiles.oci.unpack_limits import UnpackLimits
from tests.container_images import Member, folder, hard_link, layer, symlink

OUTSIDE = "outside"
"""A folder beside the one that the image is unpacked in, with a file `sentinel`."""
SMALL = UnpackLimits(
    layers=3, entries=50, names_bytes=6000, unpacked_bytes=64 * 2**20, ratio=200, ratio_free_bytes=2**20
)
"""Limits that small layers exceed too."""
LINK_OUT = [symlink("out", "/mnt"), symlink("up", f"../../{OUTSIDE}"), symlink("top", "/")]
HOSTILE_AT_ANY_LIMIT: dict[str, tuple[list[bytes], str]] = {
    "path above the tree": ([layer(Member("../x"))], r"layer 1 of 1 .*entry '\.\./x'.*could lead out"),
    "path through a folder and out": ([layer(Member("a/../../x"))], "could lead out"),
    "file through an absolute link": ([layer(*LINK_OUT, Member("out/x"))], "entry 'out'.*symbolic link"),
    "file through a relative link": ([layer(*LINK_OUT, Member("up/x"))], "entry 'up'.*symbolic link"),
    "file through a link of a lower layer": ([layer(*LINK_OUT), layer(Member("out/x"))], "layer 2 of 2.*symbolic link"),
    "folder through a link": ([layer(*LINK_OUT, folder("out/x/y"))], "symbolic link"),
    "link through a link": ([layer(*LINK_OUT, symlink("out/x", "y"))], "symbolic link"),
    "whiteout through a link": ([layer(*LINK_OUT), layer(Member("out/.wh.sentinel"))], "symbolic link"),
    "opaque folder through a link": ([layer(*LINK_OUT), layer(Member("out/.wh..wh..opq"))], "symbolic link"),
    "link of the tree's root": ([layer(*LINK_OUT, Member("top/x"))], "symbolic link"),
    "file below a file": ([layer(Member("a"), Member("a/x"))], "symbolic link or a file"),
    "hard link above the tree": ([layer(hard_link("x", "../../outside/sentinel"))], "could lead out"),
    "hard link through a link": ([layer(*LINK_OUT, hard_link("x", "out/sentinel"))], "does not have"),
    "hard link to nothing": ([layer(hard_link("x", "etc/passwd"))], "does not have"),
    "hard link to a folder": ([layer(folder("a"), hard_link("x", "a"))], "hard link to a folder"),
    "hard link to itself": ([layer(Member("x"), hard_link("x", "x"))], "hard link to itself"),
    "hard link to the root": ([layer(hard_link("x", "/"))], "hard link to a folder"),
    "whiteout of the folder itself": ([layer(Member("a/.wh.."))], "nothing that can be deleted"),
    "whiteout of the folder above": ([layer(Member("a/.wh..."))], "nothing that can be deleted"),
    "whiteout without a name": ([layer(Member(".wh."))], "nothing that can be deleted"),
    "reserved whiteout": ([layer(Member(".wh..wh.aufs"))], "nothing that can be deleted"),
    "whiteout with content": ([layer(Member(".wh.x", b"1"))], "no empty file"),
    "whiteout that is a folder": ([layer(folder(".wh.x"))], "no empty file"),
    "whiteout that is a link": ([layer(symlink(".wh.x", "/"))], "no empty file"),
    "character device": ([layer(Member("dev/null", kind=tarfile.CHRTYPE))], "entry 'dev/null'.*device"),
    "block device": ([layer(Member("sda", kind=tarfile.BLKTYPE))], "device"),
    "NUL in a name": ([layer(Member("x", pax={"path": "a\0b"}))], "NUL"),
    "NUL in a link": ([layer(Member("x", kind=tarfile.SYMTYPE, link="y", pax={"linkpath": "a\0b"}))], "NUL"),
    "link to nothing": ([layer(symlink("x", ""))], "target is empty"),
    "endless link": ([layer(symlink("x", "y" * 5000))], "target is empty, too long"),
    "long name": ([layer(Member("n" * 300))], "too long"),
    "deep path": ([layer(Member("d/" * 300 + "x"))], "too long"),
    "root that is a file": ([layer(Member("./", kind=tarfile.SYMTYPE, link="/"))], "root of the image is no folder"),
    "large file that is not there": ([layer(Member("x", pax={"size": str(2**50)}))], "ends within the content"),
    "no archive": ([b"<html>" * 200], "no tar archive"),
}
"""Layers that are refused whatever the limits are."""
HOSTILE_LAYERS: dict[str, tuple[list[bytes], str]] = HOSTILE_AT_ANY_LIMIT | {
    "many empty files": ([layer(*(Member(str(number)) for number in range(60)))], "more than 50 entries"),
    "many files in two layers": ([layer(*(Member(str(number)) for number in range(30)))] * 2, "more than 50 entries"),
    "long names": ([layer(*(Member(f"{number}" * 100) for number in range(10, 45)))], "names in the image"),
    "many layers": ([layer(Member("x"))] * 4, "4 layers, and 3 are the most"),
    "zeros": ([layer(Member("x", bytes(8 * 2**20)))], "more than 200 times"),
    "large layers": ([layer(Member("x", os.urandom(2**20) * 40))] * 2, "larger than 64 MiB"),
}
"""The same, and those that exceed SMALL."""
