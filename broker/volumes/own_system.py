"""List what a session's user has added to the system: packages that were asked for, and files of no package.

State of package managers, caches, logs and files of the machine are no changes of the user.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from broker.volumes.comparison import ComparisonDepth, compare_stacks
from broker.volumes.packages import image_packages, installed_packages, package_changes, read_stack_text
from profiles.commit.compare import BYPRODUCTS, MANAGER_STATE
from profiles.commit.filters import MACHINE_FILES, NEVER_COMMITTED, is_below, matches_any, transient_kind
from profiles.image import dpkg

if TYPE_CHECKING:
    from broker.volumes.image import ImageFiles
    from profiles.image.overlayfs import OpenStack

MAX_OWN_FILES = 50
"""Files that are named; more are counted as `truncated`."""


def own_changes(before: OpenStack, after: OpenStack, base_packages: str, image: ImageFiles) -> dict[str, Any]:
    """Return the user's own changes of the system over `image`, in the form of a diff. `before` is empty.

    A Debian package that another one has brought in is not named.
    """

    def read(path: str) -> str | None:
        return read_stack_text(after, os.fsencode(path).split(b"/")) or None

    changes = package_changes(image_packages(base_packages), installed_packages(after, base_packages))
    automatic = dpkg.automatic_packages(read)
    changed = {each["name"] for each in changes}
    installed = dpkg.read_packages(read)
    owned = set(dpkg.packaged_files(read, [installed[name] for name in changed & installed.keys()], str))
    quiet = [*MANAGER_STATE, *(BYPRODUCTS if changes else ())]
    quiet += ["opt/venv"] if any(name.startswith("pip ") for name in changed) else []
    files: list[dict[str, str]] = []
    truncated = False
    for change, path in compare_stacks(before, after, image, ComparisonDepth()):
        if _is_of_nobody(path, owned, quiet):
            continue
        if len(files) == MAX_OWN_FILES:
            truncated = True
            break
        files.append({"change": change, "volume": "system", "path": path})
    asked = [each for each in changes if not (each["after"] and each["name"] in automatic)]
    return {"packages": asked, "files": files, "truncated": truncated}


def _is_of_nobody(path: str, owned: set[str], quiet: list[str]) -> bool:
    """Whether this path is a package's, the machine's, or of the moment."""
    return (
        path in owned
        or path.removeprefix("usr/") in owned  # listed below /bin or /lib, which are links
        or path in MACHINE_FILES
        or any(is_below(path, place) for place in NEVER_COMMITTED)
        or bool(transient_kind(path))
        or matches_any(path, quiet)
    )
