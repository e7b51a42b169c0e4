"""Join the shell parts of a job into the scripts that run on a compute node.

Slurm copies one file to the node, and a job that is requeued has to run the version that it was submitted with. So each
script is one file. It is written from parts, which a reader and shellcheck see one by one (ADR 128).

The order of the parts is the order in which bash reads the script. A session's script runs three times: on the node, in
a namespace, and in the container. Each of the two inner runs ends before the parts that it does not need.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from pathlib import Path

SESSION_SCRIPT = "session.sh"
"""The name of the batch script of a session's job."""
ENVIRONMENT_SCRIPT = "batch.sh"
"""The name of the program that opens an environment for a batch job, in the environment's directory `run`."""
SERVICE_SCRIPT = "service.sh"
"""The name of the program inside a session that starts its services."""
_MOUNTS = (
    *("namespace/paths", "namespace/overlay", "namespace/layers", "namespace/mount_points", "namespace/skeleton"),
    "namespace/home",
)
_CHECKS = ("node/job_env", "node/checks", "node/stacks", "node/tmp_place")
PARTS = {
    SESSION_SCRIPT: (
        *("lib", "client_settings"),
        *("container/login", "container/sshd", "container/accounts", "container/freeze"),
        *("container/services", "container/second_logins", "container/web_door", "container/guest_door"),
        *("container/usage", "container/checks", "container/main"),
        *(*_MOUNTS, "namespace/exceptions", "namespace/main"),
        *(*_CHECKS, "node/directory", "node/memory", "node/comment", "node/lock", "node/process_ids"),
        *("node/messages", "node/time_limit", "node/idle", "node/live_copy", "node/saves", "node/hold"),
        *("node/container", "node/main"),
    ),
    ENVIRONMENT_SCRIPT: (
        *("batch/given", "lib", "client_settings"),
        *(*_MOUNTS, *_CHECKS),
        *("batch/variables", "batch/directories", "batch/mounts", "batch/binds", "batch/namespace", "batch/job"),
        *("batch/commands", "batch/options", "batch/steps", "batch/main"),
    ),
    SERVICE_SCRIPT: (
        *("service/files", "service/list", "service/attach", "service/door", "service/ports", "service/supervisor"),
        "service/main",
    ),
}
"""The parts of each script, in their order."""
_HEAD = """\
#!/bin/bash
# {name}: made from the parts in broker/job. See docs/reference/{page}.md.
"""
_PAGES = {SESSION_SCRIPT: "session-job", ENVIRONMENT_SCRIPT: "batch-job", SERVICE_SCRIPT: "session-job"}
_EMBED = re.compile(r"^#embed (\S+)\n", re.MULTILINE)
"""A line in a here-document, which the file or the script of that name replaces."""
_FOLDER = Path(__file__).parent


@functools.cache
def join_parts(name: str) -> bytes:
    """Return a script: the same parts make the same bytes. A process reads them once."""
    pieces = [_HEAD.format(name=name, page=_PAGES[name])]
    pieces += [f"# ---- {part}.sh\n{_part(f'{part}.sh')}" for part in PARTS[name]]
    return "\n".join(pieces).encode()


def session_script() -> bytes:
    """Return the batch script of a session's job."""
    return join_parts(SESSION_SCRIPT)


def environment_script() -> bytes:
    """Return the program that opens an environment for a batch job."""
    return join_parts(ENVIRONMENT_SCRIPT)


def digest(name: str) -> str:
    """Return the first 12 hexadecimal digits of a script's SHA-256: which version it is."""
    return hashlib.sha256(join_parts(name)).hexdigest()[:12]


def write_scripts(folder: Path) -> None:
    """Write all scripts into a folder, for shellcheck and for tests. Several processes may do so at once."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        path = folder / name
        if not path.exists() or path.read_bytes() != join_parts(name):
            fresh = folder / f".{name}.{id(path)}.{hashlib.sha256(join_parts(name)).hexdigest()[:8]}"
            fresh.write_bytes(join_parts(name))
            fresh.chmod(0o755)
            fresh.rename(path)


def _part(name: str) -> str:
    return _EMBED.sub(
        lambda found: join_parts(found[1]).decode() if found[1] in PARTS else _read(found[1]), _read(name)
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    write_scripts(Path(sys.argv[1]))
