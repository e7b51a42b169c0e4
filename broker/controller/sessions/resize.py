"""Change the resources of a running session: submit a successor with the new resources.

The present job ends as soon as Slurm has accepted the successor.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.reconcile.succession import ask_successor
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions import access
from broker.controller.sessions.pending import ANSWER_TIMEOUT_S
from broker.errors import ConflictError, InvalidInputError
from broker.images import require_image
from broker.schema.permissions import Permission
from broker.schema.sessions import SessionState
from slurm.gres import count_gpus
from slurm.sbatch import OptionError, check_options, merge_options

if TYPE_CHECKING:
    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.limits import Limits
    from broker.schema.sessions import SessionView
    from profiles.image.store import Stores


class ResizeService:
    """Requests to resize a session. Each call asks `access` first."""

    def __init__(
        self, *, registry: AsyncRegistry, stores: Stores, submitter: Submitter, reconciler: Reconciler, limits: Limits
    ) -> None:
        self._registry = registry
        self._stores = stores
        self._submitter = submitter
        self._reconciler = reconciler
        self._limits = limits

    async def resize(self, user: str, name: str, options: list[str]) -> SessionView:
        """Continue the session in a job with `options`, which replace its options of the same kind.

        ConflictError if the session is not ready; RefusedError has Slurm's message if Slurm refuses the job. After an
        error nothing has changed.
        """
        try:
            check_options(options)
        except OptionError as error:
            raise InvalidInputError(str(error)) from error
        session = await access.resolve_own(self._registry, user, name, Permission.START)
        image = await asyncio.to_thread(require_image, self._stores, *session.image.values())
        merged = merge_options(session.options, options)
        gpus = count_gpus(self._submitter.options(image.profile, merged))
        async with self._limits.lock(user):
            if gpus and not session.job.gpus:
                await self._limits.check_start(user, gpus)
            decide = _request_successor(merged, gpus, EventEntry(user, "resize", " ".join(options)))
            session = await self._registry.update(session.id, decide)
        attempt = self._submitter.submit_successor(session)
        done, _ = await asyncio.wait({attempt}, timeout=ANSWER_TIMEOUT_S)
        self._reconciler.wake()
        if done:
            session = attempt.result()
        return session.view(self._reconciler.stale_since)


def _request_successor(options: list[str], gpus: float, entry: EventEntry) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if current.state is not SessionState.READY or current.root or current.pending is not None:
            state = "in root mode" if current.root else current.state.value
            raise ConflictError(
                f"{current.name} is {state}",
                hint=f"a ready session can be resized; without a job, `berth start {current.name} [SBATCH OPTIONS]`",
            )
        return ask_successor(current, clock.now(), entry, options=options, gpus=gpus, resizes=True)

    return decide
