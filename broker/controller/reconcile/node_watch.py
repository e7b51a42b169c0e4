"""Query Slurm for the nodes of sessions, and keep the greeting of logins up to date about node and interruptions."""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.interruption import is_requeued
from broker.controller.reconcile.job_files import before
from broker.errors import BerthError
from broker.format import format_time
from broker.schema.sessions import SessionState
from broker.single_flight import SingleFlight
from broker.text.status import describe_node_condition
from broker.text.upgrade import describe_offer
from slurm.scheduler import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.controller.cluster.answers import ClusterAnswers
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import JobRow, Session
    from slurm.nodes import Node
    from slurm.scheduler import Job

log = logging.getLogger(__name__)

NODE_QUERY_S = 30.0
"""Seconds between queries for the nodes of running sessions. After a requeue the query is made at once."""

_NONE: Mapping[str, Node] = MappingProxyType({})
_HAS_JOB = frozenset({SessionState.QUEUED, SessionState.STARTING, SessionState.READY})


class NodeWatch:
    """Queries for nodes, at most one for each tick, and writes the file run/remark of sessions.

    Requests of users for the cluster share the queries.
    """

    def __init__(self, registry: AsyncRegistry, answers: ClusterAnswers, launcher: LauncherClient) -> None:
        self._registry = registry
        self._answers = answers
        self._launcher = launcher
        self._asked_at: float | None = None
        self._writing = SingleFlight[str, None]()
        """Writes of files for jobs, by session, in the background: a user's file system may be slow."""

    async def query(self, sessions: Iterable[Session], jobs: Mapping[str, Job], now: float) -> Mapping[str, Node]:
        """Return the nodes of the sessions' jobs, if it is time or Slurm has requeued a job; else none.

        `jobs` are the jobs by the sessions' ids. A missing answer proves nothing: no node is returned.
        """
        observed = [(session, jobs[session.id]) for session in sessions if session.id in jobs]
        left = {session.job.node for session, job in observed if is_requeued(session, job)} - {""}
        if not left and self._asked_at is not None and 0 <= now - self._asked_at < NODE_QUERY_S:
            return _NONE
        names = left | {job.node for _, job in observed if job.state.runs} - {""}
        if not names:
            return _NONE
        self._asked_at = now
        try:
            answer = await self._answers.nodes.fresh_answer(0 if left else NODE_QUERY_S)
        except NoAnswer:  # the query has logged it
            return _NONE
        self._asked_at = answer.at
        return {name: answer.value[name] for name in names if name in answer.value}

    async def close(self) -> None:
        """Cancel the writes. A greeting may then lack the last change."""
        await self._writing.close()

    def update_remark(self, observed: Session, session: Session) -> None:
        """Write the session's remark if it has changed since `observed`."""
        if session.state in _HAS_JOB and _watched_state(observed) != _watched_state(session):
            self._writing.join(session.id, lambda: self._write(session))

    async def _write(self, session: Session) -> None:
        """Write the remark, and write it again if the session changes meanwhile."""
        written: object = None
        try:
            while session.state in _HAS_JOB and _watched_state(session) != written:
                written = _watched_state(session)
                text = remark(session, await self._registry.jobs_of(session.id))
                await self._launcher.install(session.owner, session.id, {"remark": text})
                session = await self._registry.require(session.id)
        except LauncherError as error:  # `berth list` and `explain` show it nevertheless
            log.warning("greeting not updated session=%s error=%s", session.id, error.message)
        except BerthError:
            log.exception("greeting not updated session=%s", session.id)


def offer_notice(session: Session) -> str:
    """Return what a greeting says about the version that is offered to the session; empty without one."""
    offer = session.upgrade_offer
    return "" if offer is None else describe_offer(session.profile, offer.view())


def _watched_state(session: Session) -> tuple[object, ...]:
    job = session.job
    end = job.ends_at if job.node_condition else None
    offer = session.offer
    return session.submission, offer, job.interruption, job.interrupted_at, job.node_condition, job.node_reason, end


def remark(session: Session, jobs: list[JobRow]) -> str:
    """Return the content of run/remark for the greeting of logins: see docs/reference/session-job.md."""
    job = session.job
    lines = []
    if job.interruption:
        at = "" if job.interrupted_at is None else f" {format_time(job.interrupted_at, 0)}"
        lines.append(f"before=interrupted{at}: {job.interruption}")
    elif earlier := before(jobs):
        lines.append(f"before={earlier}")
    if job.node_condition:
        text = describe_node_condition(job.node, job.node_condition, job.node_reason, job.ends_at)
        lines.append(f"notice={text}")
    if offer := offer_notice(session):
        lines.append(f"notice={offer}")
    return "".join(f"{line}\n" for line in lines)
