"""Two releases of HAProxy: the machine's, and that of the lab's Debian, which runs in the lab's root file system."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.paths import cache_root
from slurm.lab.progress import ProgressLog
from slurm.lab.releases import SID
from slurm.lab.rootfs import node_root

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN = "own"
RELEASES = (OWN, SID)

_WRAPPER = """#!/bin/sh
exec unshare --mount --propagation=private sh -euc '
mount --rbind /tmp "$0/tmp"
mount --rbind /dev "$0/dev"
exec chroot "$0" /usr/sbin/haproxy "$@"
' {root} "$@"
"""
"""In mounts of its own, so that the root file system stays as it is; one process, from the caller to HAProxy."""


@contextlib.contextmanager
def haproxy_release(release: str) -> Iterator[str]:
    """Have programs of this process start this HAProxy, within the block; gives its number. Root, unless it is OWN."""
    if release == OWN:
        yield _number()
        return
    root = node_root(cache_root(), ProgressLog(quiet=True), release)
    with tempfile.TemporaryDirectory(prefix="haproxy-") as directory:
        wrapper = Path(directory, "haproxy")
        wrapper.write_text(_WRAPPER.format(root=root))
        wrapper.chmod(0o755)
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{directory}:{before}"
        try:
            yield _number()
        finally:
            os.environ["PATH"] = before


def _number() -> str:
    said = subprocess.run(["haproxy", "-v"], check=True, capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"version (\d+\.\d+)", said)
    assert found, said
    return found[1]
