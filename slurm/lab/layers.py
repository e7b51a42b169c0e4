"""Layers: read-only trees that lie over the root of every node, each made once by a script."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import host_settings
from slurm.lab.cache import cached_tree, digest_of
from slurm.lab.commands import run_tool
from slurm.lab.errors import LabError
from slurm.lab.rootfs import node_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm.lab.progress import ProgressLog

HERE = Path(__file__).parent

PYSLURM = HERE / "pyslurm.sh"
PYSLURM_INPUTS = (HERE / "pyslurm-requirements.txt",)


def build_layer(
    cache: Path,
    name: str,
    script: Path,
    inputs: Sequence[Path] = (),
    *,
    parents: Sequence[Path] = (),
    base: Path | None = None,
    progress: ProgressLog,
    seconds: float = 900,
) -> Path:
    """Run `script` with bash, as root, in a node's root with the machine's network; return the tree of what it changed.

    It finds each of `inputs` (files or directories, read-only) at `$INPUTS/<base name>`. `parents` are layers that lie
    below it, the lowest first; `base` is the tree at the bottom, by default the lab's root. The result is cached by the
    contents of all of these, so the script should depend on nothing else.
    """
    for path in (script, *inputs):
        if not path.exists():
            raise LabError(f"layer {name}: {path} does not exist")
    below = [base or node_root(cache, progress), *parents]
    key = digest_of([path.name for path in below], [script, *inputs])

    def make(work: Path) -> None:
        log = cache / f"{name}.log"
        log.unlink(missing_ok=True)
        progress.say(f"making layer {name} (once for each version; log: {log})")
        settings = work / "reach"
        host_settings.write_host_settings(settings)
        run_tool(
            ["bash", str(HERE / "layer.sh")],
            seconds=seconds,
            log=log,
            hint="see the end of the log",
            env={
                "PATH": os.environ["PATH"],
                "LOWER": lowerdir([*below, settings]),
                "UPPER": str(work / "tree"),
                "WORK": str(work / "overlay"),
                "ROOT": str(work / "root"),
                "SCRIPT": str(script.resolve()),
                "INPUTS": "\n".join(str(path.resolve()) for path in inputs),
                "SETTINGS": "\n".join(f"{key}={value}" for key, value in host_settings.network_variables().items()),
            },
        )
        progress.say(f"layer {name} made")

    return cached_tree(cache, f"layer-{name}", key, make, progress)


def pyslurm_layer(cache: Path, progress: ProgressLog) -> Path:
    """Return the layer with pyslurm for the root's Python: a wheel in /opt/wheels, unpacked in /opt/pyslurm."""
    return build_layer(cache, "pyslurm", PYSLURM, PYSLURM_INPUTS, progress=progress)


def lowerdir(paths: Sequence[Path]) -> str:
    """Return the value of overlayfs's option of this name: the topmost first, while `paths` has the lowest first."""
    return ":".join(str(path) for path in reversed(paths))
