"""The session script's functions without a cluster."""

from __future__ import annotations

import subprocess

from tests.deadlines import DEADLINE_S
from tests.job_scripts import SESSION

DEFAULTS = (
    "BERTH_BINDS='' BERTH_LOCK_WAIT=10 BERTH_PORTS=20000-32767 "
    "BERTH_HOME=keep BERTH_SYSTEM=keep BERTH_KEEP='' BERTH_FRESH='' "
    "BERTH_ROOT='' BERTH_BEFORE='' BERTH_SHOW_NAME='' "
    "BERTH_TMP_DIRECTORIES=/tmp BERTH_SAVE_EVERY=600 SLURM_JOB_ID=7 SLURMD_NODENAME=c1\n"
)


def bash(
    code: str, *arguments: str, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code with the script's functions in reach; `id -un` says alice."""
    program = f"source {SESSION}\nid() {{ echo alice; }}\n{DEFAULTS}{code}"
    variables = {"PATH": "/usr/bin:/bin", **(env or {})}
    command = ["bash", "-c", program, "test", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=DEADLINE_S, env=variables, check=False
    )
