"""`oci-import`: from an archive of a container image to a published profile, against `apptainer build` of the same.

OCI_IMPORT_MIB in the environment is the size of the unpacked image, if another one is wanted.
"""

from __future__ import annotations

import itertools
import json
import os

from tests.bench.ground import PYTHON, USER, Ground
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, result

NAME = "oci-import"
DEFAULT_MIB = 500
LIMIT_S = 900.0
PLACE = "/var/tmp/oci-import"  # noqa: S108 - of the lab, which has no strangers
"""A folder of alice's on the login node's disk."""

TREES = """
rm -rf {place}; install -d -o {user} {place}; cd {place}
unsquashfs -no-progress -quiet -no-xattrs -dest system -offset {offset} {image}
tar -C system --exclude=./.singularity.d --exclude=./dev/* -cf system.tar .
size=$(stat -c %s system.tar)
cd /usr
find lib share -xdev -type f -readable -printf '%s %p\\n' |
  awk -v left=$(({mib} * 1048576 - size)) '{{ left -= $1 + 1024; if (left < 0) exit; sub(/^[0-9]+ /, ""); print }}' |
  tar --transform 's,^,opt/more/,' --owner 0 --group 0 -cf {place}/more.tar -T -
rm -rf {place}/system
printf 'name: oci-import\\nversion: 1\\nbase: oci-archive:image.tar\\n' >{place}/profile.yaml
"""
"""Makes two layers: the system of the profile `base`, and files of the node up to the wanted size."""

ARCHIVE = """
import sys
from pathlib import Path
from tests.container_images import layout_files, make_image, write_archive
place = Path(sys.argv[1])
layers = [(place / name).read_bytes() for name in ("system.tar", "more.tar")]
write_archive(layout_files(make_image(layers, {"Env": ["A=b"]}, compression="gzip")), place / "image.tar")
"""
SQUASHFS = "-comp zstd -Xcompression-level 3"
"""The compression of profiles.build.tree."""


def _seconds(ground: Ground, *command: str) -> float:
    return ground.timed(["env", f"TMPDIR={PLACE}", *command], seconds=LIMIT_S)[0]


def measure(ground: Ground, runs: int) -> Result:
    """Build as alice on the login node; what is made is removed outside of the time."""
    names = itertools.count()
    mib = int(os.environ.get("OCI_IMPORT_MIB", DEFAULT_MIB))
    offset = json.loads(ground.sh(f"cat {ground.image.removesuffix('image.sif')}image.json"))["offset"]
    trees = TREES.format(place=PLACE, user=USER, image=ground.image, offset=offset, mib=mib)
    ground.sh(trees, seconds=LIMIT_S, user="root")
    ground.timed([*PYTHON, "-c", ARCHIVE, PLACE], seconds=LIMIT_S, user="root")

    def ours() -> float:
        store = f"{PLACE}/store{next(names)}"
        took = _seconds(ground, "berth", "profile", "build", f"{PLACE}/profile.yaml", "--no-cache", "--store", store)
        ground.sh(f"rm -r {store}")
        return took

    def peer() -> float:
        image = f"{PLACE}/{next(names)}.sif"
        build = ("apptainer", "-q", "build", "--disable-cache", "--mksquashfs-args", SQUASHFS)
        took = _seconds(ground, *build, image, f"oci-archive:{PLACE}/image.tar")
        ground.sh(f"rm {image}")
        return took

    try:
        seconds = in_turns({"ours": ours, "peer": peer}, runs, name=NAME, unit="s")
    finally:
        ground.sh(f"rm -rf {PLACE}", seconds=LIMIT_S, user="root")
    return result(NAME, seconds["ours"], seconds["peer"], "s", Target(0.5))
