"""`export_image`: make a runnable OCI image of a published one, for container engines on laptops and elsewhere.

Its one layer is the tree of the SIF, unpacked in the user namespace that builds use, so that the owners are right. Its
environment is what sessions get: the image's own file is asked, in its tree.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.build import namespace, network
from profiles.build.command import CommandFailed, run_logged
from profiles.build.steps import Step, StepCallback
from profiles.build.tree import ImageTree
from profiles.build.workspace import default_parent, workspace
from profiles.errors import ImageExistsError, ProfilesError, ReferenceInvalidError
from profiles.exchange.layer_writer import write_layer
from profiles.exchange.push import version_tag
from profiles.exchange.runnable import IMAGE_CONFIG, RunnableImage, make_runnable, write_archive
from profiles.image.sif import sif_architecture
from profiles.image.store import verify_image
from profiles.oci.descriptor import OCI_MANIFEST
from profiles.oci.reference import ImageReference
from profiles.oci.registry_client import RegistryClient, TransferCallback
from profiles.recipe.spec import RESERVED_VARIABLES, VARIABLE_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from profiles.image.store import Image
    from profiles.oci.registry_access import RegistryAccess

EXPORT_LIMIT_S = 3600.0
"""Seconds for an export, without its upload."""
ARCHIVE_SCHEME = "oci-archive:"
EXPORT_STEPS = ("check", "unpack", "layer", "environment", "write")
EXPORT_TOOLS = {
    "newuidmap": "uidmap",
    "setpriv": "util-linux",
    "tar": "tar",
    "unshare": "util-linux",
    "unsquashfs": "squashfs-tools",
}
"""The programs that an export runs, and the Debian packages that have them."""

ENGINE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH that container engines give if an image has none; the image's environment adds to it."""
ENVIRONMENT_SCRIPT = "f=/.singularity.d/env/90-environment.sh; [ ! -r $f ] || . $f; exec /usr/bin/env -0"
MAX_ENVIRONMENT_BYTES = 2**17
_OF_THE_SHELL = {"PWD", "OLDPWD", "SHLVL", "_"}


@dataclass(frozen=True, slots=True)
class Exported:
    """A runnable image."""

    where: str
    digest: str
    """`sha256:…` of its manifest."""
    size: int
    """Bytes of its layer."""


def export_image(
    image: Image,
    target: Path | ImageReference,
    *,
    access: RegistryAccess,
    move_tag: bool = False,
    progress: StepCallback = lambda _: None,
    transfer: TransferCallback = lambda _done, _total: None,
    work: Path | None = None,
) -> Exported:
    """Write the runnable image to an archive, or to a registry, under the tag of the version if none is given.

    Raises DamagedImageError, ImageExistsError for a file that exists, or for a tag that does, unless `move_tag`,
    StoreError, TransferError and ProfilesError. Then nothing is written, except blobs without a name in a registry.
    """
    deadline = time.monotonic() + EXPORT_LIMIT_S
    announce = _Announce(progress)
    announce("check")
    if isinstance(target, ImageReference):
        target = _with_tag(target, image, access, move_tag=move_tag)
    elif os.path.lexists(target):
        raise ImageExistsError(f"{target} exists", hint="name another file, or remove this one")
    _require_tools()
    verify_image(image)
    with workspace(work or default_parent()) as folder, (folder / "log").open("wb") as log:
        runnable = _make(image, _Unpacking(folder, log, deadline), announce)
        announce("write")
        if isinstance(target, ImageReference):
            _upload(runnable, target, access, transfer)
            return Exported(str(target), runnable.digest, runnable.layer.descriptor.size)
        write_archive(runnable, target, version_tag(image.version))
        return Exported(f"{ARCHIVE_SCHEME}{target}", runnable.digest, runnable.layer.descriptor.size)


class _Unpacking:
    """The folder, log and time limit of one export."""

    def __init__(self, folder: Path, log: BinaryIO, deadline: float) -> None:
        self.folder = folder
        self._log = log
        self._deadline = deadline
        self.tree = ImageTree(folder, self._run)

    @property
    def remaining_seconds(self) -> float:
        return max(1.0, self._deadline - time.monotonic())

    def environment(self) -> dict[str, str]:
        """Return the variables that the image's environment file sets, in an empty environment."""
        kit = self.folder / "kit"
        argv = namespace.in_tree(self.tree.path, kit, "/bin/sh", "-c", ENVIRONMENT_SCRIPT)
        said = self._run(argv, {"PATH": ENGINE_PATH})
        return dict(_variables(said[:MAX_ENVIRONMENT_BYTES]))

    def _run(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        try:
            return run_logged(argv, log=self._log, deadline=self._deadline, env=env)
        except CommandFailed as error:
            said = f": {error.complaint}" if error.complaint else ""
            raise ProfilesError(f"{error}{said}", hint="nothing was exported") from error


def _make(image: Image, unpacking: _Unpacking, announce: _Announce) -> RunnableImage:
    announce("unpack")
    unpacking.tree.unpack(image.path)
    announce("layer")
    layer = write_layer(unpacking.tree.path, unpacking.folder / "layer.tar.gz", unpacking.remaining_seconds)
    announce("environment")
    return make_runnable(image, layer, unpacking.environment(), sif_architecture(image.path))


def _upload(
    runnable: RunnableImage, target: ImageReference, access: RegistryAccess, transfer: TransferCallback
) -> None:
    with RegistryClient(target, access, progress=transfer) as client:
        client.push_blob(runnable.layer.descriptor, runnable.layer.path)
        client.push_bytes(IMAGE_CONFIG, runnable.config)
        client.push_manifest(runnable.manifest, OCI_MANIFEST, target.tag)


def _with_tag(target: ImageReference, image: Image, access: RegistryAccess, *, move_tag: bool) -> ImageReference:
    """Return the target with a tag that is free. Raises ImageExistsError, TransferError."""
    if target.digest:
        raise ReferenceInvalidError(f"{target} has a digest, which only the registry can give", hint="name a tag")
    target = target if target.tag else target.with_tag(version_tag(image.version))
    with RegistryClient(target, access) as client:
        if not move_tag and client.find_manifest(target.tag) is not None:
            raise ImageExistsError(
                f"{target} is an image already", hint="name another tag; --move-tag makes this tag name the new one"
            )
    return target


def _require_tools() -> None:
    """Raise ProfilesError if this machine cannot unpack images."""
    unneeded = {"newuidmap"} if os.geteuid() == 0 else set()
    missing = [each for each in EXPORT_TOOLS if each not in unneeded and not shutil.which(each, path=network.PATH)]
    if missing:
        packages = ", ".join(sorted({EXPORT_TOOLS[each] for each in missing}))
        raise ProfilesError(f"not installed: {', '.join(missing)}", hint=f"in Debian: {packages}")
    if said := namespace.namespace_problem():
        raise ProfilesError(
            f"user namespaces do not work here: {said}",
            hint="it takes a range of ids for you in /etc/subuid and /etc/subgid (usermod --add-subuids)",
        )


def _variables(text: str) -> Iterator[tuple[str, str]]:
    """Yield the variables of `env -0` that an image may have."""
    for entry in text.split("\0"):
        name, _, value = entry.partition("=")
        named = re.fullmatch(VARIABLE_PATTERN.strip("^$"), name) is not None
        if named and name not in _OF_THE_SHELL and not RESERVED_VARIABLES.match(name):
            yield name, value


class _Announce:
    """Announces the steps of an export by their names."""

    def __init__(self, progress: StepCallback) -> None:
        self._progress = progress

    def __call__(self, name: str) -> None:
        self._progress(Step(name, EXPORT_STEPS.index(name) + 1, len(EXPORT_STEPS)))
