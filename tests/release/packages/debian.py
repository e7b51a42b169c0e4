"""Build a Debian package from a tree of files."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.release.packages.tree import FILES

if TYPE_CHECKING:
    from tests.release.packages.tree import Release

SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
DESCRIPTION = """\
Persistent sessions on the GPU nodes of a Slurm cluster
 Berth starts sessions from versioned environments as Slurm jobs. A session has
 a stable name, keeps every change, can be snapshotted, rolled back, cloned and
 shared, and is reached by ssh or in a browser.
"""


def build_deb(release: Release, tree: Path, out: Path) -> Path:
    """Build `berth_VERSION_ARCH.deb` in `out` from the tree, which is left as it was. Return its path."""
    architecture = _say("dpkg", "--print-architecture")
    target = out / f"berth_{release.version}_{architecture}.deb"
    with tempfile.TemporaryDirectory(dir=tree.parent) as directory:
        root = Path(directory) / "root"
        shutil.copytree(tree, root, symlinks=True, copy_function=_link)
        control = root / "DEBIAN"
        control.mkdir(0o755)
        (control / "control").write_text(_control(release, architecture, tree))
        (control / "conffiles").write_text("/etc/berth/config.yaml\n")
        (control / "md5sums").write_text(_sums(tree))
        for name in SCRIPTS:
            script = control / name
            script.write_text((FILES / f"{name}.sh").read_text().replace("@VERSION@", release.version))
            script.chmod(0o755)
        document = root / "usr/share/doc/berth/copyright"
        document.parent.mkdir(parents=True)
        shutil.copyfile(FILES / "copyright", document)
        _say("dpkg-deb", "--root-owner-group", "-Zzstd", "--build", str(root), str(target))
    return target


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def _control(release: Release, architecture: str, tree: Path) -> str:
    size = sum(path.lstat().st_size for path in tree.rglob("*") if not path.is_dir()) // 1024
    python = Path(release.interpreter).name
    return (
        f"Package: berth\nVersion: {release.version}\nArchitecture: {architecture}\n"
        "Section: admin\nPriority: optional\n"
        "Maintainer: The authors of Berth <root@localhost>\n"
        f"Installed-Size: {size}\n"
        f"Depends: {python}, python3-minimal, passwd, openssh-client\n"
        "Recommends: slurm-client, apptainer\n"
        "Suggests: haproxy, buildah\n"
        f"Description: {DESCRIPTION}"
    )


def _sums(tree: Path) -> str:
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    sums = ((hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(), path) for path in files)
    return "".join(f"{digest}  {path.relative_to(tree)}\n" for digest, path in sums)


def _say(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout.strip()
