"""Building images on the lab's login node, as its users do, and the ones that all tests start sessions from."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slurm.lab.enter import exec_argv
from slurm.lab.spec import LOGIN

if TYPE_CHECKING:
    from tests.lab_cluster import Lab

SITE_STORE = "/profiles"
"""The site's store of tests/site/config.yaml, kept over the end of the lab."""
ROOM = "/shared/profile-tests"
STORE = f"{ROOM}/store"
"""The store of the tests of building, with recipes and images: alice's, new for each file of tests."""
CASE = "case/"
"""The part of a container image that is compared with what root makes of it."""
APPTAINER = "/usr/bin/apptainer"
PUBLISHER = "carol"
SHIPPED = "/opt/berth/src/profiles/library"
SECONDS = 300.0

PROGRAM = """
import json, signal, sys
from pathlib import Path
from profiles.build.builder import build
from profiles.errors import ProfilesError
from profiles.image.store import Store
signal.signal(signal.SIGTERM, signal.default_int_handler)
def tell(**what): print(json.dumps(what, default=str), flush=True)
try:
    result = build(
        Path(sys.argv[1]), store=Store(Path(sys.argv[2])), progress=lambda step: tell(step=step.name, line=step.line)
    )
    image = result.image
    tell(path=image.path, digest=image.digest, size=image.size, labels=image.labels, built=result.built)
except ProfilesError as error:
    tell(error=type(error).__name__, message=error.message, hint=error.hint, log=getattr(error, "log", None))
except KeyboardInterrupt:
    tell(error="KeyboardInterrupt")
"""
"""Builds argv[1] into the store argv[2]; tells, as JSON lines, each step and line, and at last the image or error."""


@dataclass(frozen=True, slots=True)
class Told:
    """The report of a build: its steps and lines, and at last the image or the error."""

    steps: list[str]
    lines: list[str]
    end: dict[str, Any]

    @property
    def image(self) -> str:
        """The path of the SIF."""
        assert "path" in self.end, f"the build failed: {self.end}"
        return str(self.end["path"])


def build_argv(lab: Lab, recipe: str, store: str, user: str) -> list[str]:
    """The argument list of a build on the login node, with the machine's network."""
    command = ["/opt/berth/venv/bin/python", "-B", "-c", PROGRAM, recipe, store]
    return exec_argv(LOGIN, command, user=user, lab=lab.place, host_network=True)


def told(output: str) -> Told:
    """Read the report of a build."""
    records = [json.loads(line) for line in output.splitlines()]
    progress = [record for record in records if "step" in record]
    steps = [record["step"] for record in progress if not record["line"]]
    return Told(steps, [record["line"] for record in progress if record["line"]], records[-1] if records else {})


def build(lab: Lab, recipe: str, store: str, user: str) -> Told:
    """Build a profile that stands in the lab, to its end, good or bad."""
    done = subprocess.run(build_argv(lab, recipe, store, user), capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return told(done.stdout.decode())


def published(lab: Lab, name: str) -> str:
    """The SIF of a shipped profile in the site's store, built if it is not there yet; its path in the lab."""
    there = lab.run(["sh", "-c", f"ls {SITE_STORE}/{name}/*/image.sif"]).stdout.decode().splitlines()
    if there:
        return there[-1]
    lab.sh(f"install -d -m 755 -o {PUBLISHER} {SITE_STORE}")
    return build(lab, f"{SHIPPED}/{name}/profile.yaml", SITE_STORE, PUBLISHER).image


def write(lab: Lab, name: str, text: str) -> str:
    """Put a file into the room; its path in the lab."""
    lab.run(["sh", "-c", f"cat >{ROOM}/{name}"], user="alice", stdin=text.encode())
    return f"{ROOM}/{name}"


def built(lab: Lab, name: str, text: str, *, user: str = "alice") -> Told:
    return build(lab, write(lab, f"{name}.yaml", text), STORE, user)


def inside(lab: Lab, image: str, script: str, *, user: str = "alice", env: dict[str, str] | None = None) -> str:
    """Return the output of a script in a container of the image."""
    done = lab.run([APPTAINER, "-q", "exec", "--contain", image, "sh", "-euc", script], user=user, env=env)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def workspaces(lab: Lab) -> str:
    return lab.sh("ls -d /var/tmp/berth-build-* 2>/dev/null || :")


def pack_system(lab: Lab, archive: str) -> None:
    """Write the system of the profile `base` as a layer of a container image."""
    image = published(lab, "base")
    offset = json.loads(lab.sh(f"cat {image.removesuffix('image.sif')}image.json"))["offset"]
    unpack = f"unsquashfs -no-progress -quiet -dest /var/tmp/system -offset {offset} {image}"
    pack = f"tar -C /var/tmp/system --exclude=./.singularity.d -cf {archive} ."
    lab.sh(f"rm -rf /var/tmp/system; {unpack} && {pack} && rm -r /var/tmp/system")


def listed(lab: Lab, image: dict[str, Any]) -> dict[str, list[object]]:
    """Return mode, owner, group, and size or target of what the image has of the difficult part, by path."""
    output = lab.sh(f"unsquashfs -lln -d '' -o {image['offset']} {image['path']} {CASE}")
    lines = re.findall(r"^(\S{10}) (\d+)/(\d+) +(\d+) \S+ \S+ /case/?(.*?)(?: -> (.*))?$", output, re.MULTILINE)
    return {
        name or ".": [mode, int(uid), int(gid), "" if mode[0] == "d" else target or int(size)]
        for mode, uid, gid, size, name, target in lines
    }
