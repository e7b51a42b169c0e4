"""Answer users' requests for the cluster, with what the site shows to them.

The controller is a Slurm operator and sees everything. So PrivateData of slurm.conf is applied here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, TypeVar

from broker.controller.cluster.answers import RETRY_S
from broker.controller.cluster.view import VisibleCluster, build_queue, build_visible, largest_of
from broker.errors import SlurmUnavailableError
from broker.schema.cluster import ClusterView
from slurm.scheduler import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.controller.cluster.answers import Answer, CachedQuery, ClusterAnswers
    from broker.controller.cluster.groups import UserGroups
    from broker.controller.registry.async_registry import AsyncRegistry
    from slurm.nodes import Node
    from slurm.partitions import Partition
    from slurm.queue_position import QueuedJob

T = TypeVar("T")

MAX_BUILT = 16
"""Sets of groups for which the view is kept."""
CONFIGURATION_TTL_S = 600.0
"""Seconds for which Slurm's answer about PrivateData is used."""
_HIDEABLE: tuple[Literal["jobs", "nodes", "partitions"], ...] = ("jobs", "nodes", "partitions")


class ClusterService:
    """The view of the cluster. Slurm is queried only by requests, and each query at most every `interval_s` seconds."""

    def __init__(
        self, *, answers: ClusterAnswers, groups: UserGroups, registry: AsyncRegistry, interval_s: float
    ) -> None:
        self._answers = answers
        self._groups = groups
        self._registry = registry
        self._interval_s = interval_s
        self._built: dict[frozenset[str], tuple[tuple[object, ...], VisibleCluster]] = {}
        """The answers and what was built from them, by the groups of the users that see it."""

    async def view(self, user: str) -> ClusterView:
        """Return the cluster as Slurm shows it to `user`.

        While Slurm does not answer, that is its last answer, marked as stale. SlurmUnavailableError if there is none.
        """
        interval = self._interval_s
        try:
            private = (await self._answers.private_data.latest_answer(CONFIGURATION_TTL_S)).value
            nodes, partitions, queue = await asyncio.gather(
                _unless("nodes" in private, self._answers.nodes, interval),
                _unless("partitions" in private, self._answers.partitions, interval),
                self._answers.queue.latest_answer(interval),
            )
        except NoAnswer as error:
            hint = f"try again later; after a failure, Berth queries Slurm again in {min(interval, RETRY_S):g} s"
            raise SlurmUnavailableError("Slurm does not answer", hint=hint) from error
        parts = None if partitions is None else partitions.value
        visible = self._build(
            None if nodes is None else nodes.value, parts, queue.value, await self._groups_of(user, parts)
        )
        sessions = {session.job.job_id: session.name for session in await self._registry.sessions_of(user)}
        answers = [answer for answer in (nodes, partitions, queue) if answer is not None]
        return ClusterView(
            as_of=min(answer.at for answer in answers),
            refresh_s=interval,
            stale=any(answer.is_stale for answer in answers),
            hidden=[name for name in _HIDEABLE if name in private],
            nodes=visible.nodes,
            nodes_left_out=visible.nodes_left_out,
            partitions=visible.partitions,
            queue=build_queue(queue.value, sessions, None if "jobs" in private else visible.names),
            largest=largest_of(visible.partitions),
        )

    async def _groups_of(self, user: str, partitions: Mapping[str, Partition] | None) -> frozenset[str]:
        """Return those of the user's groups to which partitions are restricted."""
        restricted = frozenset(group for part in (partitions or {}).values() for group in part.groups)
        return restricted & await self._groups.of(user) if restricted else restricted

    def _build(
        self,
        nodes: Mapping[str, Node] | None,
        partitions: Mapping[str, Partition] | None,
        queue: list[QueuedJob],
        groups: frozenset[str],
    ) -> VisibleCluster:
        """Return what users of these groups see. For 5,000 nodes that takes a quarter of a second, so it is kept."""
        sources = (nodes, partitions, queue)
        kept = self._built.get(groups)
        if kept is not None and all(one is other for one, other in zip(kept[0], sources, strict=True)):
            return kept[1]
        if len(self._built) >= MAX_BUILT:
            self._built.clear()
        built = build_visible(nodes, partitions, queue, groups)
        self._built[groups] = sources, built
        return built


async def _unless(hidden: bool, query: CachedQuery[T], max_age: float) -> Answer[T] | None:
    """Query only for what is not hidden: where Berth runs as the user, Slurm would refuse the rest."""
    return None if hidden else await query.latest_answer(max_age)
