"""Change the resources of a running session: submit its next job with them.

The present job ends as soon as Slurm has accepted the next one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from broker.controller.reconcile.succession import ask_successor
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions import access
from broker.controller.sessions.pending import ANSWER_WITHIN
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


class Resizing:
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
        """Have the session go on in a job with these options in place of its own of the same kind. The present job ends
        when the next one is in the queue.

        ConflictError for a session that is not ready, RefusedError with Slurm's words if Slurm will not have the job:
        nothing is changed then.
        """
        try:
            check_options(options)
        except OptionError as error:
            raise InvalidInputError(str(error)) from error
        session = await access.resolve_own(self._registry, user, name, Permission.START)
        image = await asyncio.to_thread(require_image, self._stores, *session.image.values())
        wanted = merge_options(session.options, options)
        having = count_gpus(self._submitter.options(image.profile, wanted))
        async with self._limits.turn(user):
            if having > session.job.gpus and not session.job.gpus:
                await self._limits.check_start(user, having)
            decide = _asked(wanted, having, EventEntry(user, "resize", " ".join(options)))
            session = await self._registry.update(session.id, decide)
        attempt = self._submitter.submit_successor(session)
        done, _ = await asyncio.wait({attempt}, timeout=ANSWER_WITHIN)
        self._reconciler.wake()
        if done:
            session = attempt.result()
        return session.view(self._reconciler.stale_since)


def _asked(options: list[str], gpus: float, entry: EventEntry) -> Transition:
    def decide(now: Session) -> RowChange | None:
        if now.state is not SessionState.READY or now.root or now.pending is not None:
            state = "in root mode" if now.root else now.state.value
            raise ConflictError(
                f"{now.name} is {state}",
                hint=f"it can be resized while it is ready; without a job, `berth start {now.name} [SBATCH OPTIONS]`",
            )
        return ask_successor(now, time.time(), entry, options=options, gpus=gpus, resizes=True)

    return decide
