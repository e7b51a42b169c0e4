"""Calls of sbatch: the command of a session's job, its submission, and the test of when it would start.

No third-party package, as in session_verbs. Each runs as the user, in a process of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from broker.job.bundle import SESSION_SCRIPT
from broker.launcher.request import VerbError
from broker.volumes.program import run_program

if TYPE_CHECKING:
    import pwd
    from pathlib import Path

    from broker.launcher.request import RequestContext

JOB_ID = re.compile(r"[1-9][0-9]{0,9}")
"""A Slurm job id, 32 bits."""
REFUSAL_CHARACTERS = 400
SINGLETON = "--dependency=singleton"
"""Slurm does not start the job while another one with its name and owner runs."""
NOT_FOR_TESTS = frozenset({"--parsable", SINGLETON})
"""Options of a job that are left out of a test: with the second, Slurm could wait for the session's present job."""
_EXPECTED_START = re.compile(r"to start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\b")
"""In the line `sbatch: Job 7 to start at 2026-12-24T18:00:00 using 1 processors on nodes c1 in partition gpu`."""
UNCLEAR = re.compile(
    r"timed out|unable to contact|zero bytes|communication|connect|unexpected message|munge|slurmctld"
    r"|broken pipe|standby|authentication|temporarily unavailable|reset by peer|no message",
    re.IGNORECASE,
)
"""Messages of sbatch after which slurmctld may have accepted the job. After any other failure it has refused it."""


def job_command(
    context: RequestContext,
    session: Path,
    submission: int,
    options: list[str],
    shown_name: str = "",
    *,
    beside: bool = False,
) -> list[str]:
    """Return the command that submits a session's job and prints its id; `options` are checked already.

    `shown_name` is the session's name if the job's comment shows it; `beside`: the job may start while another one of
    the session runs.
    """
    return [
        context.sbatch,
        "--parsable",
        *options,
        f"--job-name=berth-{session.name}",
        f"--comment=berth:{session.name}:{submission}{shown_name and f' {shown_name}'}",
        *([] if beside else [SINGLETON]),
        "--nodes=1",
        "--signal=B:USR1@60",
        "--requeue",
        "--open-mode=append",
        f"--output={session}/run/job.log",
        f"--error={session}/run/job.log",
        f"--chdir={session}",
        "--export=NIL",
        "--propagate=NONE",
        context.session_script or str(session / "run" / SESSION_SCRIPT),
        str(session),
        str(submission),
    ]


def submit_job(argv: list[str], user: pwd.struct_passwd, timeout: float) -> int:
    """Run the command, and return the job's id. VerbError `refused` or `unclear`, with sbatch's message."""
    try:
        done = run_clean(argv, timeout, user=user)
    except subprocess.TimeoutExpired as error:
        raise VerbError("unclear", f"sbatch did not exit within {timeout:g} s") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
        words = words or f"sbatch exited with status {done.returncode} and no message"
        killed = done.returncode < 0  # perhaps after slurmctld had accepted the job
        raise VerbError("unclear" if killed or UNCLEAR.search(words) else "refused", words)
    number = done.stdout.decode(errors="replace").strip().split(";")[0]
    if JOB_ID.fullmatch(number) is None:
        raise VerbError("unclear", f"sbatch printed no job id: {number!r:.80}")
    return int(number)


def estimate_start(command: list[str], user: pwd.struct_passwd, timeout: float) -> dict[str, Any]:
    """Run the command with `--test-only`. Return the time at which Slurm would start the job, or its refusal.

    VerbError `unclear` without an answer. The job that it would follow does not count as a dependency.
    """
    program, *words = command
    argv = [program, "--test-only", *(word for word in words if word not in NOT_FOR_TESTS)]
    try:
        done = run_clean(argv, timeout, user=user, TZ="UTC0")
    except subprocess.TimeoutExpired as error:
        raise VerbError("unclear", f"sbatch did not exit within {timeout:g} s") from error
    words_of_slurm = (done.stderr or done.stdout).decode(errors="replace").strip()
    if done.returncode == 0 and (match := _EXPECTED_START.search(words_of_slurm)):
        at = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        return {"start_at": at.timestamp(), "refusal": ""}
    refused = done.returncode > 0 and words_of_slurm and not UNCLEAR.search(words_of_slurm)
    if not refused:
        raise VerbError("unclear", f"sbatch said no time: {words_of_slurm!r:.200}")
    last = words_of_slurm.splitlines()[-1].removeprefix("sbatch: ").removeprefix("error: ")
    return {"start_at": None, "refusal": last.removeprefix("allocation failure: ")[:REFUSAL_CHARACTERS]}


def run_clean(
    argv: list[str], timeout: float, *, user: pwd.struct_passwd | None = None, **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a program with a new environment: no inherited SBATCH_* or SLURM_* variable changes its meaning.

    `more` are further variables.
    """
    environment = {"PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"), "LC_ALL": "C.UTF-8", **more}
    if "SLURM_CONF" in os.environ:
        environment["SLURM_CONF"] = os.environ["SLURM_CONF"]
    if user is not None:
        environment |= {
            "HOME": user.pw_dir,
            "USER": user.pw_name,
            "LOGNAME": user.pw_name,
            "SHELL": user.pw_shell,
        }
    return run_program(argv, timeout=timeout, env=environment)
