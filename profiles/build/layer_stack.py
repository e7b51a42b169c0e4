"""The layers of a build's tree, each made by one step over those before it.

The tree of the first step is a plain directory. As soon as a layer is complete, the tree is an overlay of the kernel,
which each program mounts in a mount namespace of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiles.build import namespace
from profiles.build.command import CommandFailed
from profiles.build.network import PATH

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.build.command import ProgramRunner

LAYER_TREE = "tree"
"""The directory of a layer with its files."""


class LayerStack:
    """The layers in `folder`, which is private, empty, and on a local disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._links = folder / "stack"
        self._links.mkdir(parents=True)
        (folder / "merged").mkdir()
        self._count = 0
        self._begin()

    @property
    def top(self) -> Path:
        """The directory of the present step's layer."""
        return self._folder / f"layer{self._count}"

    @property
    def tree(self) -> Path:
        """The tree as a program sees it that runs behind `enter`. It does not exist before the first step makes it."""
        return self._folder / "merged" if self._count else self.top / LAYER_TREE

    @property
    def enter(self) -> list[str]:
        """The beginning of a command of root, which mounts the tree for the rest of it; nothing before the first layer.

        The mount is that of the program's own namespace, so it ends with the program.
        """
        if not self._count:
            return []
        return ["/bin/sh", str(namespace.INSIDE / "mount-layers.sh"), str(self._links), str(self.tree)]

    def push(self, layer: Path) -> None:
        """Put a complete layer, a directory with a `tree`, on the stack, and begin the next one."""
        self._count += 1
        (self._links / str(self._count)).symlink_to(layer / LAYER_TREE)
        self._begin()

    def _begin(self) -> None:
        self.top.mkdir()
        if not self._count:
            return
        work = self._folder / f"work{self._count}"
        work.mkdir()
        (self.top / LAYER_TREE).mkdir(mode=0o755)
        for name, target in (("upper", self.top / LAYER_TREE), ("work", work)):
            (self._links / name).unlink(missing_ok=True)
            (self._links / name).symlink_to(target)


def can_stack(folder: Path, run: ProgramRunner) -> bool:
    """Whether the kernel mounts layers in `folder`, which must be new, and can replace directories in them."""
    try:
        first = folder / "first" / LAYER_TREE / "directory"
        first.mkdir(parents=True)
        stack = LayerStack(folder / "stack")
        stack.push(folder / "first")
        script = 'rmdir "$1/directory" && mkdir "$1/directory"'
        run(namespace.as_root(*stack.enter, "/bin/sh", "-c", script, "sh", str(stack.tree)), {"PATH": PATH})
    except (OSError, CommandFailed):
        return False
    return True
