"""The paths of a lab, and its names in the kernel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from slurm.lab.errors import LabError

RUN_DIRECTORY = Path("/run/slurmlab")
"""One symbolic link for each lab that is up, to its state directory: the only mapping from names to directories."""


@dataclass(frozen=True, slots=True)
class LabPaths:
    """The paths and kernel names of one lab. Nothing here touches the file system except `record` and `forget`."""

    name: str
    state: Path

    @classmethod
    def find(cls, name: str, state: Path | None = None) -> LabPaths:
        """Return the lab called `name`: at `state`, else where it is up, else at $LAB_STATE or build/lab/<name>."""
        link = RUN_DIRECTORY / name
        if state is None and link.is_symlink():
            return cls(name, link.readlink())
        if state is None:
            state = Path(os.environ.get("LAB_STATE") or f"build/lab/{name}")
        place = cls(name, state.resolve())
        if link.is_symlink() and link.readlink() != place.state:
            raise LabError(
                f"a lab called {name} is up with its state in {link.readlink()}",
                hint=f"python3 -m slurm.lab down --name {name}, or choose another --name",
            )
        return place

    @property
    def shared(self) -> Path:
        return self.state / "shared"

    @property
    def site(self) -> Path:
        """The topmost read-only layer of all nodes: the lab's own /etc."""
        return self.state / "site"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def spec_file(self) -> Path:
        return self.state / "spec.json"

    @property
    def ready_file(self) -> Path:
        """Exists once `up` is complete."""
        return self.state / "ready"

    @property
    def published(self) -> Path:
        """A directory with one file for each published port."""
        return self.state / "published"

    def node_dir(self, node: str) -> Path:
        return self.state / "nodes" / node

    def log(self, node: str, daemon: str) -> Path:
        return self.logs / f"{node}.{daemon}.log"

    def netns(self, node: str) -> str:
        return f"slurmlab.{self.name}.{node}"

    def cgroup(self, node: str) -> str:
        return f"slurmlab.{self.name}.{node}"

    def record(self) -> None:
        RUN_DIRECTORY.mkdir(exist_ok=True)
        link = RUN_DIRECTORY / self.name
        link.unlink(missing_ok=True)
        link.symlink_to(self.state)

    def forget(self) -> None:
        (RUN_DIRECTORY / self.name).unlink(missing_ok=True)


def cache_root() -> Path:
    """Return $LAB_CACHE, else the user's cache directory."""
    chosen = os.environ.get("LAB_CACHE")
    if chosen:
        return Path(chosen).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slurm-lab"
