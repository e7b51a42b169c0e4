"""An image that Apptainer pushed: a SIF without a recipe. It gets a name, and a recipe that says where it is from."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from profiles.errors import DamagedImageError, ReferenceInvalidError, TransferError
from profiles.image.sif import squashfs_offset
from profiles.image.store import DESCRIPTION, IMAGE, RECIPE, Image
from profiles.recipe.spec import NAME_PATTERN, VERSION_PATTERN, load_profile

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.oci.reference import ImageReference

LABELS_FILE = ".singularity.d/labels.json"
MAX_LABELS_BYTES = 2**20
MAX_LABELS = 200
MAX_LABEL_CHARACTERS = 1000
READ_LIMIT_S = 60.0
"""Seconds for one look into a squashfs."""
NEEDED = ("bin/bash", "usr/bin/bash", "usr/sbin/sshd")
"""The programs that every session needs; bash in one of two places."""
OPTIONS_HINT = "give it a name and a version: --name NAME --profile-version VERSION"


@dataclass(frozen=True, slots=True)
class ForeignName:
    """The user's name for an image that has no recipe; empty parts come from its name in the registry."""

    name: str = ""
    version: str = ""

    def resolve(self, reference: ImageReference) -> tuple[str, str]:
        """Return name and version. Raises ReferenceInvalidError if the registry's name cannot be a profile's."""
        name = self.name or reference.repository.rpartition("/")[2]
        version = self.version or ("" if reference.tag == "latest" else reference.tag)
        if not re.fullmatch(NAME_PATTERN.strip("^$"), name) or not re.fullmatch(VERSION_PATTERN.strip("^$"), version):
            raise ReferenceInvalidError(
                f"{reference} has no recipe, and its name gives no name and version of a profile", hint=OPTIONS_HINT
            )
        return name, version

    def require_unused(self, shown: str) -> None:
        """Raise ReferenceInvalidError if a name was given for an image that has one."""
        if self.name or self.version:
            raise ReferenceInvalidError(
                f"{shown} has a recipe, and keeps its name and version",
                hint="leave --name and --profile-version out: they are for images that Apptainer has pushed",
            )


def describe_foreign(stage: Path, name: str, version: str, digest: str, where: str) -> str:
    """Write recipe and description of the SIF in `stage`, which came from `where`. Return the description.

    Raises TransferError if no session could run in it, DamagedImageError if its labels name another profile.
    """
    sif = stage / IMAGE
    offset = squashfs_offset(sif)
    _require_session_programs(sif, offset, where)
    labels = _read_labels(sif, offset)
    named = labels.get("berth.profile", name), labels.get("berth.version", version)
    if named != (name, version):
        raise DamagedImageError(
            f"the image was built as {named[0]}@{named[1]}, and would become {name}@{version}",
            hint=f"--name {named[0]} --profile-version {named[1]}",
        )
    recipe = {"name": name, "version": version, "description": f"Pulled from {where}", "base": f"sif:{IMAGE}"}
    (stage / RECIPE).write_text(yaml.safe_dump(recipe, sort_keys=False))
    profile = load_profile(stage / RECIPE)
    size = sif.stat().st_size
    image = Image(name, version, sif, digest, size, time.time(), labels, profile, offset)
    described = json.dumps(image.description(), indent=1)
    (stage / DESCRIPTION).write_text(described)
    return described


def _require_session_programs(sif: Path, offset: int, where: str) -> None:
    listed = _unsquashfs("-lc", sif, offset, *NEEDED).decode(errors="replace").splitlines()
    found = {line.strip().removeprefix("squashfs-root/") for line in listed}
    missing = [] if "usr/sbin/sshd" in found else ["/usr/sbin/sshd"]
    if not found & {"bin/bash", "usr/bin/bash"}:
        missing.append("/bin/bash")
    if missing:
        raise TransferError(
            f"{where} has no {' and no '.join(missing)}, which every session needs",
            hint="`apptainer pull` it, and build a profile with `base: sif:FILE`: the build adds them",
        )


def _read_labels(sif: Path, offset: int) -> dict[str, str]:
    """Return the labels of an image as far as they are short lines of text; none if they cannot be read."""
    try:
        data = json.loads(_unsquashfs("-cat", sif, offset, LABELS_FILE))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(data, dict) or len(data) > MAX_LABELS:
        return {}
    return {
        key: text
        for key, text in data.items()
        if isinstance(text, str)
        and all(each.isprintable() and len(each) <= MAX_LABEL_CHARACTERS for each in (key, text))
    }


def _unsquashfs(action: str, sif: Path, offset: int, *paths: str) -> bytes:
    """Return the output of unsquashfs(1), at most MAX_LABELS_BYTES; empty if it fails. Nothing is unpacked."""
    argv = ["unsquashfs", "-offset", str(offset), "-no-progress", action, str(sif), *paths]
    try:
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/"
        ) as process:
            assert process.stdout is not None  # as asked for above
            watch = _kill_after(process, READ_LIMIT_S)
            try:
                return process.stdout.read(MAX_LABELS_BYTES)
            finally:
                watch.cancel()
                process.kill()
    except OSError as error:
        raise TransferError("unsquashfs is not installed", hint="in Debian: squashfs-tools") from error


def _kill_after(process: subprocess.Popen[bytes], seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    return timer
