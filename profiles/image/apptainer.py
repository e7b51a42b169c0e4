"""The parts of Apptainer that a build needs: its own files in an image, and SIF files around squashfs."""

from __future__ import annotations

import platform
import subprocess
from typing import TYPE_CHECKING

from profiles.errors import ProfilesError

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 60.0
ARCHITECTURES = {"x86_64": "2", "aarch64": "4", "ppc64le": "6", "riscv64": "12"}
"""Values of `apptainer sif add --partarch` for the machines of uname(2)."""


def apptainer_version() -> str:
    """Return Apptainer's version, such as `1.4.5`. Raises ProfilesError if Apptainer is missing."""
    return _apptainer("--version").rpartition(" ")[2].strip()


def make_metadata(folder: Path) -> Path:
    """Let Apptainer make, below `folder`, the files that it expects as /.singularity.d in an image. Return their path.

    Without these files `APPTAINERENV_…`, `--env` and `apptainer run` have no effect.
    """
    empty, made = folder / "empty", folder / "made"
    empty.mkdir()
    _apptainer("--quiet", "build", "--sandbox", str(made), str(empty))
    found = made / ".singularity.d"
    (found / "Singularity").unlink()  # the definition file; there is none
    return found


def make_sif(squashfs: Path, sif: Path, timeout: float) -> None:
    """Make a SIF file whose root file system is `squashfs`; `timeout` in seconds, for the copying."""
    architecture = ARCHITECTURES.get(platform.machine(), "2")
    _apptainer("sif", "new", str(sif))
    # A primary system partition (2) with squashfs (1), as `apptainer build` makes it.
    kind = ("--datatype", "4", "--parttype", "2", "--partfs", "1", "--partarch", architecture, "--groupid", "1")
    _apptainer("sif", "add", *kind, str(sif), str(squashfs), timeout=timeout)


def _apptainer(*arguments: str, timeout: float = TIMEOUT_S) -> str:
    try:
        done = subprocess.run(
            ["apptainer", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
    except FileNotFoundError as error:
        raise ProfilesError(
            "apptainer is not installed", hint="Apptainer 1.4.4 or newer makes and runs images"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ProfilesError(f"apptainer {arguments[0]} did not end within {timeout:g} s") from error
    except subprocess.CalledProcessError as error:
        raise ProfilesError(f"apptainer {' '.join(arguments[:2])} failed: {error.stderr.strip()[-500:]}") from error
    return done.stdout
