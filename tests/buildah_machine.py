"""Builds by buildah for tests: a store, the smallest system there is, and what is in the images."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tarfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.build.buildah import Buildah
from profiles.build.command import run_logged
from profiles.build.container_image import find_container_image
from profiles.build.image_store import layer_store
from profiles.build.namespace import remove_as_root
from profiles.build.workspace import workspace
from profiles.dockerfile.spec import DockerfileBuild
from profiles.recipe.base import Base, BaseKind
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from profiles.oci.image_source import OciImage

CLONE_NEWUSER = 0x10000000
USER, FIRST_SUBORDINATE, SUBORDINATES = 61_234, 700_000, 65_536
BUSYBOX = "/bin/busybox"
COMMANDS = (
    "sh",
    "cat",
    "chmod",
    "chown",
    "cp",
    "echo",
    "id",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "rm",
    "sed",
    "touch",
    "wget",
)
FROM_BASE = "FROM scratch\nADD base.tar /\n"


@dataclass
class BuildMachine:
    """Builds in one store, whose layers the next build finds again."""

    parent: Path
    lines: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        with (self.parent / "log").open("ab") as log:
            return run_logged(argv, log=log, deadline=time.monotonic() + DEADLINE_S, env=env, line=self.lines.append)

    @contextlib.contextmanager
    def buildah(self) -> Iterator[Buildah]:
        self.lines.clear()
        with workspace(self.parent) as folder, layer_store(self.parent, folder / "spare") as store:
            yield Buildah(folder, store, self.run)

    def build(self, build: DockerfileBuild) -> OciImage:
        with self.buildah() as buildah:
            return read_layout(buildah.export(buildah.build(build)))

    @property
    def ran(self) -> list[str]:
        """The instructions of the last build that were not taken from the cache."""
        ran = []
        for line, following in zip(self.lines, [*self.lines[1:], ""], strict=True):
            if "STEP " in line and "Using cache" not in following and ": FROM" not in line:
                ran.append(line.partition(": ")[2])
        return ran


def read_layout(layout: Path) -> OciImage:
    return find_container_image(Base(BaseKind.OCI_LAYOUT, path=layout))


@contextlib.contextmanager
def build_machine() -> Iterator[BuildMachine]:
    """Provide a machine with a store of its own. It must be on a disk that overlayfs can use."""
    parent = Path("/var/tmp") / f"berth-test-{os.getpid()}"  # noqa: S108 - mode 0700
    parent.mkdir(mode=0o700)
    try:
        yield BuildMachine(parent)
    finally:
        remove_as_root(parent)


def write_base(tmp_path: Path) -> None:
    """Write the archive that FROM_BASE adds."""
    with tarfile.open(tmp_path / "base.tar", "w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name in COMMANDS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("etc", "proc", "root", "tmp"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)


def dockerfile(context: Path, text: str, **more: object) -> DockerfileBuild:
    (context / "Dockerfile").write_text(text)
    return DockerfileBuild(context / "Dockerfile", context, **more)  # type: ignore[arg-type] # as given


def listed(layout: Path, name: str) -> list[tuple[int, int]]:
    """Return the owners of a file in all layers of a layout."""
    return [(info.uid, info.gid) for _, info in members(layout) if info.name.lstrip("./") == name]


def file_in(layout: Path, name: str) -> str:
    """Return the text of a file in the topmost layer that has it."""
    found = [path for path, info in members(layout) if info.name.lstrip("./") == name]
    with tarfile.open(found[-1]) as tar:
        [info] = [info for info in tar if info.name.lstrip("./") == name]
        content = tar.extractfile(info)
        assert content is not None
        return content.read().decode()


def members(layout: Path) -> list[tuple[Path, tarfile.TarInfo]]:
    image = read_layout(layout)
    blobs = [layout / "blobs" / each.digest.replace(":", "/") for each in image.layers]
    return [(blob, info) for blob in blobs for info in tarfile.open(blob)]


def run_as_ordinary_user(room: Path, work: Callable[[], None]) -> None:
    """Run `work` in a child that is root of the namespace of an ordinary user with subordinate ids, as a build is.

    `room` becomes the user's. AssertionError with the child's traceback if `work` raises. The caller is root.
    """
    os.chown(room, USER, USER)
    report = room / "report"
    ready, mapped = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            assert ctypes.CDLL(None).unshare(CLONE_NEWUSER) == 0
            os.write(ready[1], b"x")
            os.read(mapped[0], 1)
            work()
            report.touch()
        except BaseException:  # noqa: BLE001 - the parent reports it
            report.write_text(traceback.format_exc())
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    for name in ("gid_map", "uid_map"):
        Path(f"/proc/{child}/{name}").write_text(f"0 {USER} 1\n1 {FIRST_SUBORDINATE} {SUBORDINATES}\n")
    os.write(mapped[1], b"x")
    os.waitpid(child, 0)
    for descriptor in (*ready, *mapped):
        os.close(descriptor)
    assert report.exists(), "the child could not report"
    assert report.read_text() == "", report.read_text()
