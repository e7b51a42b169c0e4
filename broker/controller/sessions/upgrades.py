"""Let sessions follow a channel, and take a new version now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import with_user_errors
from broker.controller.reconcile.upgrading import create_upgrade, takes_offer, upgrade_of_offer, upgrade_target
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.preconditions import check_free
from broker.errors import ConflictError, InvalidInputError, NotFoundError
from broker.schema.operations import permission_for
from broker.schema.permissions import Permission
from broker.text.upgrade import CHANNEL_NAMES
from profiles.image.channels_file import CHANNELS

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.reconcile.manifests import ManifestWriter
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.reconcile.upgrade_offers import UpgradeOffers
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.operation import Operation
    from broker.controller.registry.registry import RowChange
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.operation_requests import OperationRequests
    from broker.controller.sessions.planned_change import PlannedChange
    from broker.schema.sessions import SessionView
    from broker.schema.volumes import UpgradeRequest


class UpgradeService:
    """Requests about the versions of a session's profile. Each call asks `access` first, and none raises
    LauncherError.
    """

    def __init__(
        self,
        access: SessionAccess,
        registry: AsyncRegistry,
        images: ImageFinder,
        submitter: Submitter,
        manifests: ManifestWriter,
        *,
        offers: UpgradeOffers,
        requests: OperationRequests,
    ) -> None:
        self._access = access
        self._registry = registry
        self._images = images
        self._submitter = submitter
        self._manifests = manifests
        self._offers = offers
        self._requests = requests

    async def set_follow(self, user: str, name: str, follow: str | None) -> SessionView:
        """Set the channel or version that the session follows; None: it keeps its image. No job notices.

        NotFoundError if there is no such version; InvalidInputError for a channel that cannot be followed.
        """
        session = await self._access.resolve(user, name, Permission.SET)
        if follow in set(CHANNELS) - set(CHANNEL_NAMES):
            raise InvalidInputError(
                f"no session can follow {follow}", hint=f"follow {', '.join(CHANNEL_NAMES)}, a version, or none"
            )
        if follow is not None and follow not in CHANNELS and follow != session.version:
            image = await with_user_errors(session.name, self._images.find_followed(session, follow=follow))
            if image is None:
                raise NotFoundError(
                    f"{session.profile} has no version {follow} that can be used",
                    hint="`berth profile list` shows the versions",
                )

        def decide(current: Session) -> RowChange | None:
            if current.follow == (follow or ""):
                return None
            entry = EventEntry(user, "set", f"follow={follow or 'none'}")
            return {"follow": follow or "", "offer": None}, entry

        session = await self._registry.update(session.id, decide)
        await self._manifests.try_write(session)
        return self._requests.view(await self.look(session))

    async def look(self, session: Session) -> Session:
        """Compare the session with what it follows now, and return it with the offer."""
        if session.pending is not None or not session.follow:
            return session
        return await self._offers.record(session, await self._offers.of(session))

    async def upgrade(self, user: str, name: str, request: UpgradeRequest) -> SessionView:
        """Take the version that the session follows now: stop a running session, and start it again.

        A snapshot keeps the present state. A version that was held back is tried again.
        """
        return await self._requests.begin(await self.plan_upgrade(user, name, request))

    async def plan_upgrade(self, user: str, name: str, request: UpgradeRequest) -> PlannedChange:
        """Check everything that `upgrade` checks. ConflictError if the session has that version."""
        session = await self._access.resolve(user, name, permission_for("upgrade"))
        check_free(session)
        if not session.follow:
            raise ConflictError(
                f"{name} follows no channel",
                hint=f"`berth set {name} --follow stable` follows one; `berth switch {name} PROFILE@VERSION` moves it",
            )
        image = await with_user_errors(session.name, self._images.find_followed(session))
        if image is None or image.digest == session.digest:
            raise ConflictError(f"{name} has {session.profile}@{session.version}, and no other version is offered")
        self._submitter.check(image.profile, session.options)
        operation = create_upgrade(upgrade_target(session, image).model_dump(mode="json"), user, fresh=request.fresh)
        same = await self._requests.has_same_resources(session, image)
        return self._requests.plan(session, operation, f"to {image.name}@{image.version}", image, same=same)

    def offered_operation(self, session: Session, gpus: float) -> Operation | None:
        """Return the operation with which a session without a job starts, for so many GPUs; None without an offer that
        is taken.
        """
        if not takes_offer(session):
            return None
        operation = upgrade_of_offer(session, state=session.state, why=session.reason)
        return operation.replace(arguments=operation.arguments | {"gpus": gpus})


def follow_of(version: str | None) -> str:
    """Return what a new session follows that was requested with this version or channel: stable without one."""
    if version is None:
        return "stable"
    return version if version in CHANNEL_NAMES or version not in CHANNELS else ""
