"""List the paths in the image below a system volume's layers."""

from __future__ import annotations

import io
import os
import subprocess
from dataclasses import dataclass, field

from broker.volumes.errors import VolumeError
from broker.volumes.program import run_program

LIST_TIMEOUT_S = 120
"""Seconds for reading the list of an image's files; 25,000 take half a second."""
MAX_LIST_BYTES = 128 * 2**20
"""Limit for that list: some two million files. An image that a user made may claim any number."""


@dataclass(slots=True)
class ImageFiles:
    """The paths in the squashfs at `offset` bytes of the SIF `image`, read when they are first asked for."""

    image: str
    offset: int
    _paths: set[str] | None = field(default=None, init=False)
    _folders: dict[str, list[str]] | None = field(default=None, init=False)
    """By path, the names in each folder that is not empty; made when one is first asked for."""

    def has(self, path: str) -> bool:
        """Whether the image has this relative path. VolumeError `files` if it cannot be read."""
        return path in self._all()

    def inside(self, path: str) -> list[str]:
        """Return the names in a folder of the image, "" for its root; none for what is no folder. Raises as `has`."""
        if self._folders is None:
            self._folders = {}
            for each in self._all() - {""}:
                folder, _, name = each.rpartition("/")
                self._folders.setdefault(folder, []).append(name)
        return self._folders.get(path, [])

    def _all(self) -> set[str]:
        if self._paths is None:
            self._paths = self._read()
        return self._paths

    def _read(self) -> set[str]:
        command = ["unsquashfs", "-l", "-d", "", "-offset", str(self.offset), self.image]
        try:
            done = run_program(command, timeout=LIST_TIMEOUT_S, most=MAX_LIST_BYTES)
            done.check_returncode()
        except FileNotFoundError as error:
            raise VolumeError("files", "unsquashfs is not installed here (squashfs-tools)") from error
        except subprocess.SubprocessError as error:
            raise VolumeError("files", f"the files of the image {self.image} cannot be listed: {error}") from error
        return {os.fsdecode(line.rstrip(b"\n")).lstrip("/") for line in io.BytesIO(done.stdout)}
