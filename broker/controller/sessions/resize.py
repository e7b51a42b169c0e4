"""Change the resources of a running session: submit a successor with the new resources (ADR 144).

The present job ends when the successor runs, if Slurm expects to start it beside the present job; otherwise as soon as
Slurm has accepted the successor.
"""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.launcher_client.errors import with_user_errors
from broker.controller.reconcile.succession import CONTINUABLE_STATES, ask_successor, without_successor
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.pending import ANSWER_TIMEOUT_S
from broker.controller.sessions.planned_change import NextJob, PlannedChange
from broker.controller.sessions.preconditions import check_free, resize_conflict
from broker.controller.sessions.start_estimates import fits_beside
from broker.errors import ConflictError, InvalidInputError
from broker.schema.permissions import Permission
from broker.schema.sessions import STARTABLE, SessionState
from slurm.sbatch import OptionError, check_options, merge_options

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.reconcile.session_files import FileRewriter
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.limits import Limits
    from broker.controller.sessions.start_estimates import StartEstimates
    from broker.schema.sessions import PresentJob, SessionView
    from profiles.recipe.spec import Profile


NO_GRES = "--gres=none"
"""Option of a job without GPUs, as one without the option."""


class ResizeService:
    """Requests to resize a session. Each call asks `access` first."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        images: ImageFinder,
        submitter: Submitter,
        reconciler: Reconciler,
        limits: Limits,
        estimates: StartEstimates,
        rewriter: FileRewriter,
    ) -> None:
        self._access = access
        self._registry = registry
        self._images = images
        self._submitter = submitter
        self._reconciler = reconciler
        self._limits = limits
        self._estimates = estimates
        self._rewriter = rewriter

    async def resize(self, user: str, name: str, options: list[str], present_job: PresentJob = "auto") -> SessionView:
        """Continue the session in a job with `options`, which replace its options of the same kind.

        Nothing changes if its job has them already. ConflictError if the session is not ready, or cannot keep its
        present job as requested; RefusedError has Slurm's message if Slurm refuses the job. After an error nothing has
        changed.
        """
        beside = await self._decide_beside(await self.plan(user, name, options), options, present_job)
        async with self._limits.lock(user):
            plan = await self.plan(user, name, options, beside=beside)  # once more: Slurm was asked meanwhile
            session = await self._registry.update(plan.session.id, plan.decide)
        if plan.next_job is None:
            return self._reconciler.observed.view(session)
        attempt = self._submitter.submit_successor(session)
        done, _ = await asyncio.wait({attempt}, timeout=ANSWER_TIMEOUT_S)
        self._reconciler.wake()
        if done:
            session = attempt.result()
        return self._reconciler.observed.view(session)

    async def plan(self, user: str, name: str, options: list[str], *, beside: bool = False) -> PlannedChange:
        """Check everything that `resize` checks, except whether the next job fits beside the present one."""
        try:
            check_options(options)
        except OptionError as error:
            raise InvalidInputError(str(error)) from error
        session = await self._access.resolve(user, name, Permission.RESIZE)
        image = await with_user_errors(name, self._images.require_startable(user, *session.image.values()))
        merged = merge_options(session.options, options)
        gpus = self._submitter.check(image.profile, merged)
        if gpus and not session.job.gpus:
            await self._limits.check_start(user, gpus)
        entry = EventEntry(user, "resize", shlex.join(options))
        request = _request_successor(merged, entry, gpus=gpus, beside=beside)
        if self._has_already(session, image.profile, options):
            return PlannedChange(session, _without_change(request))
        return PlannedChange(session, request, NextJob(image.profile, merged))

    def _has_already(self, session: Session, profile: Profile, options: list[str]) -> bool:
        """Whether the session's job has the requested resources. A new job has all of its time."""
        if any(option.startswith("--time=") for option in options):
            return False
        present, requested = (
            {*self._submitter.options(profile, own)} - {NO_GRES}
            for own in (session.options, merge_options(session.options, options))
        )
        return present == requested

    async def withdraw(self, user: str, name: str) -> SessionView:
        """Withdraw a resize: its job is cancelled, and the session keeps its present job.

        ConflictError if no resize waits, or the present job is ending for it already.
        """
        session = await self._access.resolve(user, name, Permission.RESIZE)
        session = await self._registry.update(session.id, _withdraw(user))
        await self._rewriter.rewrite(session.id)
        self._reconciler.wake()
        return self._reconciler.observed.view(session)

    async def _decide_beside(self, plan: PlannedChange, options: list[str], present_job: PresentJob) -> bool:
        """Return whether the next job may run beside the present one.

        ConflictError if the request must keep the present job and the next one may not.
        """
        if present_job == "end" or plan.next_job is None:
            return False
        plan.check()
        beside = fits_beside(plan.session, await self._estimates.estimate(plan.session, plan.next_job))
        check_present_job(plan.session, options, present_job, beside=beside)
        return beside


def check_present_job(session: Session, options: list[str], present_job: PresentJob, *, beside: bool) -> None:
    """Raise ConflictError if the request asks to keep the present job, and the next one will not run `beside` it."""
    if present_job == "keep" and not beside:
        raise ConflictError(
            f"Slurm does not expect to start the new job beside the present one, so {session.name} was not resized",
            hint=f"`berth resize {session.name} --end-first {shlex.join(options)}` ends the present job first",
        )


def _request_successor(options: list[str], entry: EventEntry, *, gpus: float, beside: bool) -> Transition:
    def decide(current: Session) -> RowChange | None:
        check_free(current)
        if current.state is not SessionState.READY:
            raise ConflictError(f"{current.name} is {current.state.value}", hint=_hint(current, entry.detail))
        if current.resizing:
            raise resize_conflict(current)
        return ask_successor(current, clock.now(), entry, options=options, gpus=gpus, resizes=True, beside=beside)

    return decide


def _without_change(request: Transition) -> Transition:
    """Return a transition that checks all that `request` checks, and changes nothing."""

    def decide(current: Session) -> RowChange | None:
        request(current)
        return None

    return decide


def _withdraw(user: str) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if not current.resizing or current.state not in CONTINUABLE_STATES:
            raise ConflictError(
                f"no resize of {current.name} waits", hint=f"`berth show {current.name}` shows its state"
            )
        if current.takeover_begun:
            raise resize_conflict(current)
        entry = EventEntry(user, "resize-withdrawn", f"job {current.next_job_id or ''}".strip())
        return without_successor(current, entry)

    return decide


def _hint(current: Session, words: str) -> str:
    """Return what to do instead of a resize with the options `words`."""
    if current.state in STARTABLE:
        return f"`berth start {current.name} {words}` starts it with these options"
    return f"`berth show {current.name}` shows its state; resize it when it is ready"
