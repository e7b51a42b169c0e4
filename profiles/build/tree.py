"""The tree of files that becomes an image, and the steps that fill it. Every step runs as root of the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiles.build import namespace, network
from profiles.build.feature_files import SCRIPT, write_feature_files
from profiles.image import apptainer
from profiles.image.sif import squashfs_offset

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from profiles.build.command import ProgramRunner
    from profiles.build.layer_stack import LayerStack
    from profiles.devcontainer.image_part import DevFeature
    from profiles.recipe.spec import File

LEAVE_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*")
"""Not unpacked by dpkg, as in Debian's own slim images; the copyright files stay."""

EMPTIED = ("dev/*", "proc/*", "sys/*", "tmp/*", "var/tmp/*", "run/berth-build")
"""Content that a tree has only while it is built."""

ZSTD_LEVEL = 3
"""Measured with 1.6 GB on 2 cores: level 1 is no faster and 6 % larger."""


class ImageTree:
    """A tree below `folder`, which must be empty, private and on a local disk; with a `stack`, a tree of layers."""

    def __init__(self, folder: Path, run: ProgramRunner, stack: LayerStack | None = None) -> None:
        self._plain = folder / "tree"
        self._stack = stack
        self.squashfs = folder / "tree.squashfs"
        self._run = run
        self._kit = folder / "kit"
        self._kit.mkdir()
        self._outside = network.outside_environment()
        self._inside = network.inside_environment(self._kit)

    @property
    def path(self) -> Path:
        """The tree as programs see it that run behind `enter`."""
        return self._plain if self._stack is None else self._stack.tree

    @property
    def enter(self) -> list[str]:
        """The beginning of a command of root, which mounts the tree if that has layers."""
        return [] if self._stack is None else self._stack.enter

    def pip_settings(self) -> list[list[str]]:
        """Return the settings of the machine that decide which packages pip finds."""
        variables = [[name, text] for name, text in sorted(self._inside.items()) if name.startswith("PIP_")]
        files = [[path.parent.parent.name, path.read_text()] for path in sorted(self._kit.glob("pip-*/pip/pip.conf"))]
        return [each for each in variables if each[0] not in network.BUNDLES] + files

    def debian(self, suite: str, packages: Sequence[str]) -> None:
        """Fill the tree with a Debian and packages, without recommended packages."""
        options = [
            "--dpkgopt=force-unsafe-io",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEAVE_OUT),
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        ]
        self._mmdebstrap(suite, packages, options)

    def simulate_debian(self, suite: str, packages: Sequence[str]) -> str:
        """Return apt's words about what `debian` would install today. The tree must be empty, and stays unusable."""
        return self._mmdebstrap(suite, packages, ["--simulate", "--verbose"])

    def _mmdebstrap(self, suite: str, packages: Sequence[str], options: Sequence[str]) -> str:
        settings = self._kit / "apt-outside.conf"
        settings.write_text(network.apt_settings(network.certificates()))
        apt = [f"--aptopt={settings}", '--aptopt=APT::Install-Recommends "false"']
        mmdebstrap = ["mmdebstrap", "--mode=root", "--variant=apt", "--format=directory", *apt, *options]
        what = [f"--include={','.join(packages)}", suite, str(self.path), *network.mirrors()]
        return self._run(namespace.as_root(*mmdebstrap, *what), self._outside)

    def unpack(self, sif: Path) -> None:
        """Fill the tree with the content of a SIF file."""
        offset = squashfs_offset(sif)
        unsquashfs = ["unsquashfs", "-no-progress", "-quiet", "-no-xattrs", "-dest", str(self.path)]
        self._run(namespace.as_root(*unsquashfs, "-offset", str(offset), str(sif)), self._outside)

    def install(self, session: Sequence[str], own: Sequence[str]) -> None:
        """Add Debian packages; do nothing if all are installed.

        `session` has the packages that sessions need: in an image of another distribution, its own package manager adds
        what stands for them. `own` are those of the recipe, which need Debian or a relative of it.
        """
        for name in ("install.sh", "install-rpm.sh", "install-apk.sh"):
            (self._kit / name).write_bytes((namespace.INSIDE / name).read_bytes())
        self._script("packages.sh", *session, "--", *own)

    def add(self, files: Sequence[File]) -> None:
        """Add files, with their folders."""
        folder = self._kit / "files"
        folder.mkdir()
        with (folder / "list").open("w") as listing:
            for number, file in enumerate(files, start=1):
                content = file.source.read_bytes() if file.source else (file.content or "").encode()
                (folder / str(number)).write_bytes(content)
                listing.write(f"{file.mode:o} {file.destination}\n")
        self._script("files.sh")

    def pip(self, requirements: Sequence[str]) -> None:
        """Add Python packages in /opt/venv."""
        self._script("pip.sh", *requirements)

    def simulate(self, packages: Sequence[str], *, missing_only: bool) -> str:
        """Return apt's words about Debian packages that the tree's package sources have today.

        With `missing_only` about those that `install` would add, with their dependencies; else about these alone.
        """
        return self._script("resolve.sh", "simulate" if missing_only else "candidates", *packages)

    def simulate_pip(self, requirements: Sequence[str], *, fresh: bool) -> str:
        """Return pip's report of what `pip` would install today; with `fresh`, as if the tree had no /opt/venv."""
        self._script("resolve-pip.sh", "new" if fresh else "own", *requirements)
        return (self._kit / "pip-report.json").read_text(encoding="utf-8")

    def feature(self, features: Sequence[DevFeature], number: int) -> None:
        """Install a feature of a dev container, with the variables of those before it."""
        folder = self._kit / "features" / str(number)
        folder.parent.mkdir(exist_ok=True)
        write_feature_files(features, number, folder)
        self._enter("/bin/sh", f"{network.KIT}/features/{number}/{SCRIPT}")

    def post(self, script: str) -> None:
        """Run a profile's own script with bash, until its first failing command."""
        (self._kit / "post").write_text(script)
        self._enter("/bin/bash", "-euo", "pipefail", f"{network.KIT}/post")

    def finish(self, environment: str, labels: str) -> str:
        """Prepare the tree for sessions, and return the list of all packages in it, one a line."""
        scratch = self._kit / "scratch"
        scratch.mkdir()
        apptainer.make_metadata(scratch).rename(self._kit / "metadata")
        (self._kit / "environment.sh").write_text(environment)
        (self._kit / "labels.json").write_text(labels)
        self._script("finish.sh")
        return (self._kit / "packages.txt").read_text()

    def squash(self) -> Path:
        """Pack the tree into a zstd squashfs and return its path."""
        compression = ["-comp", "zstd", "-Xcompression-level", str(ZSTD_LEVEL)]
        quietly = ["-noappend", "-no-progress", "-quiet", "-no-xattrs"]
        mksquashfs = ["mksquashfs", str(self.path), str(self.squashfs), *compression, *quietly]
        self._run(namespace.as_root(*self.enter, *mksquashfs, "-wildcards", "-e", *EMPTIED), self._outside)
        return self.squashfs

    def _script(self, name: str, *arguments: str) -> str:
        """Run one of profiles/build/inside/ in the tree."""
        (self._kit / name).write_bytes((namespace.INSIDE / name).read_bytes())
        return self._enter("/bin/sh", f"{network.KIT}/{name}", *arguments)

    def _enter(self, *argv: str) -> str:
        return self._run(namespace.in_tree(self.path, self._kit, *argv, enter=self.enter), self._inside)
