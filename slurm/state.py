"""Job states: a total mapping of the words of Slurm 22.05 to 26.05.

Slurm keeps one *base* state and any number of *flags*, and shows one word: the strongest flag, or else the base. Berth
reduces every form with several words in the same way, so squeue, sacct, JSON and pyslurm read alike. Words, codes and
the order of the flags are those of `job_state_string()` in libslurm (slurm/slurm.h: job_states).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class JobState(StrEnum):
    """The one word that Slurm shows. Exactly one of waits, runs and ended is true; for UNKNOWN none is."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    # The flags.
    COMPLETING = "COMPLETING"  # processes or the epilog are still there, whatever comes next
    STAGE_OUT = "STAGE_OUT"  # data of the burst buffer is still on its way out
    CONFIGURING = "CONFIGURING"  # has its nodes; they boot
    EXPEDITING = "EXPEDITING"  # between its end and a possible requeue ahead of all others
    RESIZING = "RESIZING"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"  # requeued by the federation
    REQUEUE_HOLD = "REQUEUE_HOLD"  # requeued and held
    SPECIAL_EXIT = "SPECIAL_EXIT"  # requeued and held because of its exit code
    STOPPED = "STOPPED"  # keeps its nodes, its processes were sent SIGSTOP
    REVOKED = "REVOKED"  # another cluster of the federation took it
    RESV_DEL_HOLD = "RESV_DEL_HOLD"  # held because its reservation was deleted
    SIGNALING = "SIGNALING"  # a signal to it is on its way

    UNKNOWN = "UNKNOWN"  # a word that this version of berth does not know: nothing may be concluded from it

    @property
    def waits(self) -> bool:
        """Whether it holds no node and may start, perhaps only after a release."""
        return self in _WAITS

    @property
    def runs(self) -> bool:
        """Whether it has started and is not over: it holds nodes, or Slurm still cleans up after it."""
        return not (self.waits or self.ended or self is JobState.UNKNOWN)

    @property
    def ended(self) -> bool:
        """Whether it is over for good: it never starts again unless a user requeues it."""
        return self in _ENDED

    @property
    def failed(self) -> bool:
        """Whether it ended without success, and not by an order."""
        return self.ended and self not in {JobState.COMPLETED, JobState.CANCELLED}

    @classmethod
    def parse(cls, text: str) -> JobState:
        """Read any form: `R`, `CANCELLED by 1000`, `RUNNING+`, `RUNNING|RESIZING`. Never raises."""
        if text in _BY_WORD:
            return _BY_WORD[text]
        match = _FORM.fullmatch(text.strip().upper())
        return cls.combine(_SEPARATOR.split(match[1])) if match else cls.UNKNOWN

    @classmethod
    def combine(cls, words: Iterable[str]) -> JobState:
        """Reduce a list of words, such as in Slurm's JSON, to one state.

        Unknown words do not count, nor do the flags that Slurm itself never shows alone, such as LAUNCH_FAILED or
        POWER_UP_NODE. Never raises.
        """
        known = {_BY_WORD[word] for word in (raw.strip().upper() for raw in words) if word in _BY_WORD}
        for flag in _FLAGS:
            if flag in known:
                return flag
        return known.pop() if len(known) == 1 else cls.UNKNOWN


_WAITS = frozenset(
    {
        JobState.PENDING,
        JobState.REQUEUED,
        JobState.REQUEUE_FED,
        JobState.REQUEUE_HOLD,
        JobState.SPECIAL_EXIT,
        JobState.RESV_DEL_HOLD,
    }
)

_ENDED = frozenset(
    {
        JobState.COMPLETED,
        JobState.CANCELLED,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.NODE_FAIL,
        JobState.PREEMPTED,
        JobState.BOOT_FAIL,
        JobState.DEADLINE,
        JobState.OUT_OF_MEMORY,
        JobState.REVOKED,
    }
)

_CODES = {
    "PD": JobState.PENDING,
    "R": JobState.RUNNING,
    "S": JobState.SUSPENDED,
    "CD": JobState.COMPLETED,
    "CA": JobState.CANCELLED,
    "F": JobState.FAILED,
    "TO": JobState.TIMEOUT,
    "NF": JobState.NODE_FAIL,
    "PR": JobState.PREEMPTED,
    "BF": JobState.BOOT_FAIL,
    "DL": JobState.DEADLINE,
    "OOM": JobState.OUT_OF_MEMORY,
    "CG": JobState.COMPLETING,
    "SO": JobState.STAGE_OUT,
    "CF": JobState.CONFIGURING,
    "RS": JobState.RESIZING,
    "RQ": JobState.REQUEUED,
    "RF": JobState.REQUEUE_FED,
    "RH": JobState.REQUEUE_HOLD,
    "SE": JobState.SPECIAL_EXIT,
    "ST": JobState.STOPPED,
    "RV": JobState.REVOKED,
    "RD": JobState.RESV_DEL_HOLD,
    "SI": JobState.SIGNALING,
}
"""The two-letter words of `squeue -o %t` and `scontrol`; EXPEDITING has none."""

_BY_WORD: dict[str, JobState] = _CODES | {state.value: state for state in JobState if state is not JobState.UNKNOWN}

_FLAGS = (
    JobState.COMPLETING,
    JobState.STAGE_OUT,
    JobState.CONFIGURING,
    JobState.EXPEDITING,
    JobState.RESIZING,
    JobState.REQUEUED,
    JobState.REQUEUE_FED,
    JobState.REQUEUE_HOLD,
    JobState.SPECIAL_EXIT,
    JobState.STOPPED,
    JobState.REVOKED,
    JobState.RESV_DEL_HOLD,
    JobState.SIGNALING,
)
"""Strongest first: the word that Slurm shows for a job with several."""

_SEPARATOR = re.compile(r"[|,+]")
_FORM = re.compile(r"([A-Z0-9_]+(?:[|,+][A-Z0-9_]*)*)(?: BY \d+)?")
