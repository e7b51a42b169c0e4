"""Run a module of this package as root of a build's tree: for code that reads all files of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.build import namespace, network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiles.build.command import ProgramRunner


def run_tree_module(run: ProgramRunner, module: str, *arguments: str, enter: Sequence[str] = ()) -> str:
    """Run `module` with arguments and return its output. Its environment has nothing of the caller's.

    `enter` is the beginning of the command that mounts the tree, if it has to be mounted: LayerStack.
    """
    environment = network.outside_environment() | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",
    }
    return run(namespace.as_root(*enter, sys.executable, "-m", module, *arguments), environment)
