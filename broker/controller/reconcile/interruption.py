"""Name the interruption of a session (loss of its node, requeue, preemption), and the state of its node.

Pure functions. Slurm's answer about a job does not say why the job was requeued; the state of its former node does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.controller.reconcile.state import node_failed
from slurm.node_state import NodeCondition
from slurm.state import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.controller.registry.models import Session
    from slurm.nodes import Node
    from slurm.scheduler import Job

MAX_REASON_CHARACTERS = 200
"""Characters of an operator's text about a node that Berth keeps."""

INTERRUPTIONS = frozenset({"NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REQUEUED", "LOST"})
"""Outcomes of a job that interrupt a session which then continues. The time limit is none: users expect it."""


def is_requeued(session: Session, job: Job) -> bool:
    """Whether Slurm has requeued the session's job since it was last observed."""
    # While a requeued job is completing, it already has the count of its next run.
    return job.restarts > session.job.restarts and job.state is not JobState.COMPLETING


def requeue_columns(session: Session, job: Job, nodes: Mapping[str, Node], now: float) -> dict[str, Any]:
    """Return the columns of a job that Slurm has requeued since it was last observed; none for any other job."""
    if not is_requeued(session, job):
        return {}
    former = session.job.node
    return {"interruption": _requeue_reason(former, nodes.get(former)), "interrupted_at": now}


def node_columns(session: Session, job: Job, nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Return what Slurm reports of the job's node, as columns of the job; none if Slurm was not asked about it."""
    if job.state is JobState.UNKNOWN:
        return {}
    if not job.state.runs:
        return NO_NODE
    node = nodes.get(job.node)
    if node is None:
        return {} if job.node == session.job.node else NO_NODE
    reason = "".join(char for char in node.reason if char.isprintable())[:MAX_REASON_CHARACTERS]
    up = node.condition is NodeCondition.UP
    return {"node_condition": node.condition.value, "node_reason": "" if up else reason}


NO_NODE = {"node_condition": "", "node_reason": ""}
"""Columns of a job that has no node."""


def interruption_columns(former: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of the job that continues a session after another one has ended as in `former`."""
    if former["outcome"] not in INTERRUPTIONS:
        return {}
    return {"interruption": former["reason"], "interrupted_at": former["ended_at"]}


def _requeue_reason(name: str, node: Node | None) -> str:
    if node is not None and node.condition in {NodeCondition.DOWN, NodeCondition.NOT_RESPONDING}:
        return node_failed(name)
    return f"Slurm requeued the job, which ran on {name}" if name else "Slurm requeued the job"
