"""The files with which a feature of a dev container is installed."""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING

from profiles.recipe.environment import shell_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from profiles.devcontainer.image_part import DevFeature

SCRIPT = "berth-install.sh"
OPTIONS = "devcontainer-features.env"
"""The name that the specification gives to the file with the options."""


def write_feature_files(features: Sequence[DevFeature], number: int, into: Path) -> None:
    """Copy a feature, its options, and a script that installs it, into the new folder `into`. Raises OSError.

    The script sees the variables of the features before it, and its own. The same feature gives the same files, also
    their times, so that buildah finds its layer again.
    """
    feature = features[number]
    shutil.copytree(feature.folder, into, symlinks=True)
    options = "".join(f"{name}={shlex.quote(text)}\n" for name, text in sorted(feature.variables.items()))
    (into / OPTIONS).write_text(options)
    environment = "".join(shell_lines(each.environment, venv=False) for each in features[: number + 1])
    (into / SCRIPT).write_text(
        f'set -eu\ncd "${{0%/*}}"\n{environment}set -a\n. ./{OPTIONS}\nset +a\nchmod +x install.sh\nexec ./install.sh\n'
    )
    for folder, _, names in os.walk(into):
        for path in (folder, *(os.path.join(folder, name) for name in names)):  # noqa: PTH118 - as os.walk gives them
            os.utime(path, (0, 0), follow_symlinks=False)
