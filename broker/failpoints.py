"""Labelled points at which a test lets a process die, as `kill -9` would, to see that nothing is lost.

`BERTH_CRASH_AT=<label>` in the environment of a service arms one point; docs/behaviour.md lists them. Unset, a point
costs one dictionary look-up.
"""

import os
import signal


def failpoint(label: str) -> None:
    """Kill this process if `label` is armed."""
    if os.environ.get("BERTH_CRASH_AT") == label:
        os.kill(os.getpid(), signal.SIGKILL)
