"""The directory of the user of this process on the shared file system."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.config.settings import Config


def user_storage(config: Config) -> Path:
    """Return `storage.root` for this user, as launcher.request.RequestContext.root does."""
    user = pwd.getpwuid(os.getuid())
    root = config.storage.root
    return Path(user.pw_dir) / root[2:] if root.startswith("~/") else Path(root.replace("{user}", user.pw_name))
