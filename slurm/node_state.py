"""Slurm's node states, as far as they matter to a job that runs on the node, or may start there.

Slurm shows a base state with any number of flags, such as `MIXED+DRAIN+NOT_RESPONDING`. Older releases shorten the last
flag to a star: `IDLE*+DRAIN`.
"""

from __future__ import annotations

import re
from enum import StrEnum


class NodeCondition(StrEnum):
    """The condition of a node. The registry and the API hold these words."""

    UP = ""
    DRAINING = "draining"  # takes no new jobs; the jobs on it continue
    NOT_RESPONDING = "not responding"  # its slurmd does not answer; after SlurmdTimeout the node is down
    DOWN = "down"  # Slurm has ended or requeued its jobs, or is about to

    @classmethod
    def parse(cls, text: str) -> NodeCondition:
        """Read a state of any form: `IDLE`, `mixed*`, `DOWN+DRAIN+NOT_RESPONDING`. Never raises."""
        words = text.strip().upper()
        flags = set(_WORD.findall(words))
        if flags & _DOWN:
            return cls.DOWN
        if "*" in words or flags & _NOT_RESPONDING:
            return cls.NOT_RESPONDING
        return cls.DRAINING if flags & _DRAINING else cls.UP


def takes_jobs(text: str) -> bool:
    """Return whether a node in this state takes new jobs now. It does not with a word that is unknown here."""
    words = set(text.strip().upper().split("+"))
    return bool(words & _UP) and words <= _UP | _HARMLESS


_WORD = re.compile(r"[A-Z_]+")
_DOWN = frozenset({"DOWN"})
_NOT_RESPONDING = frozenset({"NOT_RESPONDING", "NO_RESPOND"})
_DRAINING = frozenset({"DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING"})
"""The flags DRAIN and FAIL, and the words that Slurm shows for them: sinfo(1)."""
_UP = frozenset({"ALLOCATED", "IDLE", "MIXED"})
_HARMLESS = frozenset({"CLOUD", "COMPLETING", "DYNAMIC_FUTURE", "DYNAMIC_NORM"})
"""Flags with which a node takes jobs. With others it is drained, reserved, planned for a waiting job, or it boots."""
