"""Fill the cluster's queue with COUNT jobs, every ONE_IN-th a session's (0: none). Runs in the lab, as root.

    crowd.py COUNT ONE_IN PARTITION USER…

With `-` as PARTITION the jobs are held. Held jobs, and those of a partition that is down, stay where they are, so that
both sides of a measurement see the same. pyslurm submits one in 2 ms, as any user. Prints how many there are after each
thousand.
"""

from __future__ import annotations

import os
import pwd
import sys
from typing import Any

from broker.controller.reconcile.job_comment import JOB_PREFIX
from broker.names import new_id

SCRIPT = "#!/bin/sh\n:\n"
HELD = "-"


def main(count: int, one_in: int, partition: str, users: list[str]) -> None:
    import pyslurm  # noqa: PLC0415 - is to see the environment that it hands to each job

    accounts = [pwd.getpwnam(user) for user in users]
    for number in range(count):
        account = accounts[number % len(accounts)]
        description = pyslurm.JobSubmitDescription(
            script=SCRIPT,
            **({"priority": 0} if partition == HELD else {"partitions": partition}),
            user_id=account.pw_uid,
            group_id=account.pw_gid,
            working_directory="/",
            environment={"PATH": "/usr/bin:/bin"},
            **_labels(number, one_in),
        )
        description.submit()
        if (number + 1) % 1000 == 0:
            print(number + 1, flush=True)


def _labels(number: int, one_in: int) -> dict[str, Any]:
    if not one_in or number % one_in:
        return {"name": f"simulation-{number}", "comment": "parameter sweep"}
    session_id = new_id()
    return {"name": JOB_PREFIX + session_id, "comment": f"berth:{session_id}:1"}


if __name__ == "__main__":
    os.environ.clear()  # pyslurm would hand all of it to the jobs
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
