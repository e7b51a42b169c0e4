"""Operations that replace the session's container: restart, switch to another image, and root mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller.reconcile.upgrading import takes_offer, upgrade_of_offer, upgrade_target_of
from broker.controller.registry.manifest import ImageTarget
from broker.controller.registry.operation import Operation
from broker.controller.sessions.planned_change import has_next_job
from broker.controller.sessions.preconditions import check_free
from broker.controller.sessions.upgrades import follow_of
from broker.errors import ConflictError
from broker.schema.operations import permission_for
from broker.schema.sessions import SessionState

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.limits import Limits
    from broker.controller.sessions.operation_requests import OperationRequests
    from broker.controller.sessions.pending import PendingOperations
    from broker.controller.sessions.planned_change import PlannedChange
    from broker.schema.sessions import SessionView
    from broker.schema.volumes import SwitchRequest


class ContainerChanges:
    """Requests for these operations. Each call asks `access` first, and no call raises LauncherError."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        images: ImageFinder,
        submitter: Submitter,
        requests: OperationRequests,
        pending: PendingOperations,
        limits: Limits,
    ) -> None:
        self._access = access
        self._images = images
        self._submitter = submitter
        self._requests = requests
        self._pending = pending
        self._limits = limits

    async def switch(self, user: str, name: str, request: SwitchRequest) -> SessionView:
        """Switch the session to another image, after taking a snapshot of the present state.

        The session keeps its home. It gets the system volume that it last had with that image, if any. A running
        session is stopped first and started again.
        """
        return await self._requests.begin(await self.plan_switch(user, name, request))

    async def plan_switch(self, user: str, name: str, request: SwitchRequest) -> PlannedChange:
        """Check everything that `switch` checks."""
        session = await self._access.resolve(user, name, permission_for("switch"))
        check_free(session)
        image = await self._images.find_image(user, request.profile, request.version)
        same = (image.name, image.version, image.digest) == tuple(session.image.values())
        if same and not request.fresh:
            raise ConflictError(
                f"{name} is on {image.name}@{image.version} already", hint="--fresh begins with an empty system"
            )
        kept = session.policy if session.persistence_chosen else None
        to = ImageTarget.of(image, request.persistence or kept, follow=follow_of(request.version))
        self._submitter.check(image.profile, session.options)  # also of a stopped session, which could never start
        arguments = {"to": to.model_dump(mode="json"), "fresh": request.fresh}
        operation = Operation.create("switch", user, arguments=arguments)
        same = await self._requests.has_same_resources(session, image)
        return self._requests.plan(session, operation, f"to {image.name}@{image.version}", image, same=same)

    async def restart(self, user: str, name: str) -> SessionView:
        """Stop a session that has a job, and start it again, in the same job if possible; this ends root mode."""
        plan = await self.plan_restart(user, name)
        if not has_next_job(plan.session):
            raise ConflictError(f"{name} is {plan.session.state.value}", hint=f"`berth start {name}` starts it")
        return await self._requests.begin(plan)

    async def plan_restart(self, user: str, name: str) -> PlannedChange:
        """Check everything that a start checks, so that no session is stopped that could not be started again.

        A session that is offered a version takes it.
        """
        session = await self._access.resolve(user, name, permission_for("restart"))
        image = await self._requests.image(session, *session.image.values())
        gpus = self._submitter.check(image.profile, session.options)
        await self._limits.check_storage(user)
        await self._limits.check_start(user, gpus, instead_of=name)
        operation, detail = Operation.create("restart", user, start=True), ""
        if takes_offer(session) and has_next_job(session) and not session.root:
            operation = upgrade_of_offer(session, user)
            image = await self._requests.image(session, *upgrade_target_of(operation).image.values())
            detail = f"to {image.name}@{image.version}"
        same = await self._requests.has_same_resources(session, image)
        return self._requests.plan(session, operation, detail, image, same=same)

    async def root(self, user: str, name: str) -> SessionView:
        """Start the session in root mode. A running session is stopped first."""
        session = await self._access.resolve(user, name, permission_for("root"))
        if session.root and has_next_job(session):
            return self._pending.view(session)
        return await self._requests.begin(await self.plan_root(user, name))

    async def plan_root(self, user: str, name: str) -> PlannedChange:
        """Check everything that `root` checks for a session in normal mode."""
        session = await self._access.resolve(user, name, permission_for("root"))
        check_free(session)
        image = await self._requests.image(session, *session.image.values())
        self._submitter.check(image.profile, session.options)
        same = await self._requests.has_same_resources(session, image)
        return self._requests.plan(session, Operation.create("root", user, start=True), "", image, same=same)

    async def commit_root(self, user: str, name: str) -> SessionView:
        """Keep the changes that were made in root mode. The snapshot from its start remains."""
        session = await self._access.resolve(user, name, permission_for("commit-root"))
        if not (session.root and session.state is SessionState.READY):
            raise ConflictError(
                f"{name} is not ready in root mode", hint=f"`berth exec --root {name} -- COMMAND` does it"
            )
        before = session.last_operation.snapshot if session.last_operation is not None else None
        operation = Operation.create("commit-root", user, arguments={"before": before})
        return await self._requests.begin(self._requests.plan(session, operation, ""))
