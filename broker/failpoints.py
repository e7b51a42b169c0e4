"""Failpoints: labelled points at which a test kills or stops a process.

A kill, as by `kill -9`, tests that nothing is lost. A stop tests how the process reacts when the state changes while
it is stopped. `BERTH_CRASH_AT=<label>` in the environment of a service arms one point; with `BERTH_STOP_AT=<label>` the
process stops itself there until SIGCONT. docs/behaviour.md lists the labels. A point that is not armed costs two
dictionary look-ups.
"""

import os
import signal


def failpoint(label: str) -> None:
    """Kill or stop this process if `label` is armed."""
    for variable, number in (("BERTH_CRASH_AT", signal.SIGKILL), ("BERTH_STOP_AT", signal.SIGSTOP)):
        if os.environ.get(variable) == label:
            os.kill(os.getpid(), number)
