"""Failpoints: labelled points at which a test kills or stops a process.

A kill, as by `kill -9`, shows that nothing is lost. A stop shows what becomes of the process when the world changes
meanwhile. `BERTH_CRASH_AT=<label>` in the environment of a service arms one point, `BERTH_STOP_AT=<label>` has the
process stop itself there until SIGCONT; docs/behaviour.md lists them. Unset, a point costs two dictionary look-ups.
"""

import os
import signal


def failpoint(label: str) -> None:
    """Kill or stop this process if `label` is armed."""
    for variable, number in (("BERTH_CRASH_AT", signal.SIGKILL), ("BERTH_STOP_AT", signal.SIGSTOP)):
        if os.environ.get(variable) == label:
            os.kill(os.getpid(), number)
