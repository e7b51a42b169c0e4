"""Make the tree of files that a package of Berth installs.

The program lies in /opt/berth, as after the commands of the quickstart: a virtual environment of the distribution's own
Python, with the locked dependencies. So the units and the documentation hold for both, and a site adds pyslurm by
/opt/berth/bin/pip.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
FILES = Path(__file__).parent / "files"
PREFIX = Path("opt/berth")
DOCUMENTS = ("quickstart.md", "howto/site.md", "howto/operate.md", "howto/pyslurm.md", "reference/config.md")
BUILD_S = 900
"""Limit for one command; downloading the dependencies takes most of it."""


@dataclass(frozen=True, slots=True)
class Release:
    """The version, Python and dependencies of a package."""

    version: str
    interpreter: str
    """The path of the distribution's Python, with its minor version."""
    requirements: Path

    @classmethod
    def of_checkout(cls, python: str) -> Release:
        """Return the release of this checkout for the Python at that path."""
        code = "import sys; print('/usr/bin/python%d.%d' % sys.version_info[:2])"
        interpreter = _run(python, "-I", "-c", code).strip()
        if not Path(interpreter).is_file():
            raise SystemExit(f"{python} is no Python of the distribution: there is no {interpreter}")
        init = (CHECKOUT / "broker/__init__.py").read_text()
        version = re.search(r'__version__ = "(.+)"', init)
        assert version is not None
        return cls(version[1], interpreter, CHECKOUT / "requirements.lock")


def make_tree(release: Release, tree: Path) -> None:
    """Fill the new directory `tree` with everything that the package installs, below its root."""
    environment = tree / PREFIX
    _run(release.interpreter, "-m", "venv", str(environment))
    pip = (
        str(environment / "bin/python3"),
        "-m",
        "pip",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "install",
    )
    _run(*pip, "--no-compile", "--require-hashes", "-r", str(release.requirements))
    _run(*pip, "--no-compile", "--no-deps", str(CHECKOUT))
    _relocate(environment, tree)
    _run(release.interpreter, "-I", "-m", "compileall", "-q", "-s", str(tree), "-p", "/", "--invalidation-mode",
         "unchecked-hash", str(environment / "lib"))  # fmt: skip
    _install(FILES / "lifecycle.sh", environment / "libexec/lifecycle", 0o755)
    _install(FILES / "config.yaml", tree / "etc/berth/config.yaml")
    for unit in sorted((CHECKOUT / "broker/systemd").glob("*.service")):
        _install(unit, tree / "usr/lib/systemd/system" / unit.name)
    for document in DOCUMENTS:
        _install(CHECKOUT / "docs" / document, environment / "share/doc/berth" / Path(document).name)
    _install(CHECKOUT / "CHANGELOG.md", environment / "share/doc/berth/CHANGELOG.md")
    _move_manual(environment / "share/man/man1", tree / "usr/share/man/man1")
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/berth").symlink_to("/opt/berth/bin/berth")


def _run(*command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _relocate(environment: Path, tree: Path) -> None:
    """Replace the place where the environment was made by the place where it will be."""
    for compiled in [*environment.rglob("__pycache__")]:
        shutil.rmtree(compiled)
    here, there = str(environment).encode(), b"/" + str(PREFIX).encode()
    for script in [*(environment / "bin").iterdir(), environment / "pyvenv.cfg"]:
        if script.is_file() and not script.is_symlink() and here in (content := script.read_bytes()):
            script.write_bytes(content.replace(here, there))
    for record in environment.glob("lib/python3*/site-packages/berth-*.dist-info/direct_url.json"):
        record.unlink()  # the checkout's path
    leaks = [str(path) for path in environment.rglob("*") if path.is_file() and _contains(path, str(tree).encode())]
    if leaks:
        raise SystemExit(f"files contain the place where they were made: {', '.join(leaks[:5])}")


def _contains(path: Path, text: bytes) -> bool:
    return not path.is_symlink() and text in path.read_bytes()


def _install(source: Path, target: Path, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _move_manual(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for page in sorted(source.iterdir()):
        (target / f"{page.name}.gz").write_bytes(gzip.compress(page.read_bytes(), mtime=0))
        page.unlink()
