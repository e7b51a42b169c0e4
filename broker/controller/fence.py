"""A scheduler that refuses orders to Slurm unless the controller may act."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from slurm.nodes import Node
    from slurm.partitions import Partition
    from slurm.queue_position import QueuedJob
    from slurm.scheduler import FinishedJob, Job, Scheduler


class FencedScheduler:
    """A scheduler that calls `check` before each order; `check` raises to refuse it. Queries are not checked."""

    def __init__(self, scheduler: Scheduler, check: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._check = check

    @property
    def name(self) -> str:
        return self._scheduler.name

    async def jobs(self, name_prefix: str) -> list[Job]:
        return await self._scheduler.jobs(name_prefix)

    async def jobs_by_id(self, job_ids: Iterable[int]) -> list[Job]:
        return await self._scheduler.jobs_by_id(job_ids)

    async def queue(self) -> list[QueuedJob]:
        return await self._scheduler.queue()

    async def finished_jobs(self, job_ids: Iterable[int]) -> Mapping[int, FinishedJob]:
        return await self._scheduler.finished_jobs(job_ids)

    async def nodes(self) -> Mapping[str, Node]:
        return await self._scheduler.nodes()

    async def partitions(self) -> Mapping[str, Partition]:
        return await self._scheduler.partitions()

    async def cancel(self, job_id: int) -> None:
        self._check()
        await self._scheduler.cancel(job_id)

    async def set_time_limit(self, job_id: int, minutes: int) -> None:
        self._check()
        await self._scheduler.set_time_limit(job_id, minutes)

    async def start_now(self, job_id: int) -> None:
        self._check()
        await self._scheduler.start_now(job_id)

    async def private_data(self) -> frozenset[str]:
        return await self._scheduler.private_data()

    async def stores_comments(self) -> bool:
        return await self._scheduler.stores_comments()

    async def version(self) -> str:
        return await self._scheduler.version()

    async def close(self) -> None:
        await self._scheduler.close()
