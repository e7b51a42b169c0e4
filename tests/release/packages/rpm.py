"""Build an RPM package from a tree of files."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.release.packages.debian import DESCRIPTION
from tests.release.packages.tree import FILES

if TYPE_CHECKING:
    from tests.release.packages.tree import Release


def build_rpm(release: Release, tree: Path, out: Path) -> Path:
    """Build `berth-VERSION-1.ARCH.rpm` in `out` from the tree. Return its path."""
    words = {
        "VERSION": release.version,
        "RPM_VERSION": release.version.replace("-", "~"),
        "INTERPRETER": release.interpreter,
        "DESCRIPTION": DESCRIPTION.partition("\n")[2].replace("\n ", "\n").strip(),
        "TREE": str(tree),
    }
    text = (FILES / "berth.spec").read_text()
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    with tempfile.TemporaryDirectory(dir=tree.parent) as directory:
        spec = Path(directory) / "berth.spec"
        spec.write_text(text)
        defines = ("--define", f"_topdir {directory}/build", "--define", f"_rpmdir {directory}/made")
        command = ["rpmbuild", "-bb", "--quiet", "--nodebuginfo", *defines, str(spec)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            raise SystemExit(f"rpmbuild ended with {done.returncode}: {done.stderr[-2000:]}")
        (made,) = Path(directory, "made").rglob("*.rpm")
        return made.rename(out / made.name)
