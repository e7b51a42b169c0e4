"""Offer the versions that sessions follow, in the background: only rows change, and no job notices."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.reconcile.upgrading import upgrade_target
from broker.controller.registry.registry import EventEntry
from broker.controller.registry.upgrade_offer import HeldVersion, UpgradeOffer
from broker.errors import BerthError
from broker.service.lasting_states import LastingStates
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    import asyncio

    from broker.controller.images import ImageFinder
    from broker.controller.reconcile.node_watch import NodeWatch
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from profiles.image.store import Image

log = logging.getLogger(__name__)

OFFER_INTERVAL_S = 10.0
"""Seconds between two looks at the channels of the profiles that sessions follow."""


class UpgradeOffers:
    """Decides which version a session is offered, and whether its next natural restart takes it."""

    def __init__(
        self, *, registry: AsyncRegistry, images: ImageFinder, submitter: Submitter, node_watch: NodeWatch
    ) -> None:
        self._registry = registry
        self._images = images
        self._submitter = submitter
        self._node_watch = node_watch
        self._looking = SingleFlight[str, None](self._note_end)
        self._looked_at = -OFFER_INTERVAL_S
        self._lasting = LastingStates(log)

    def look(self) -> None:
        """Start to compare all sessions with what they follow, unless that was done just now. No caller waits: the
        stores may be slow.
        """
        if clock.monotonic() - self._looked_at >= OFFER_INTERVAL_S:
            self._looked_at = clock.monotonic()
            self._looking.join("", self._look)

    async def close(self) -> None:
        """Cancel the look that is under way."""
        await self._looking.close()

    async def _find_followed(self, session: Session) -> Image | None:
        """Return the image that the session follows; None also if it cannot be read now."""
        try:
            return await self._images.find_followed(session)
        except (BerthError, LauncherError) as error:
            text = f"followed version not found profile={session.profile} error={error}"
            self._lasting.report(f"{session.owner} {session.profile}", logging.INFO, text)
            return None

    async def of(self, session: Session) -> UpgradeOffer | None:
        """Return the offer for the session as the stores are now."""
        return self._offer(session, await self._find_followed(session))

    def _offer(self, session: Session, image: Image | None) -> UpgradeOffer | None:
        if image is None or image.digest == session.digest:
            return None
        made = UpgradeOffer(to=upgrade_target(session, image).model_dump(mode="json"))
        former = session.upgrade_offer
        if former is not None and former.digest == image.digest and (former.packages or former.files):
            return former.model_copy(update={"to": made.to})  # until its owner asks for it
        return made.model_copy(update={"obstacle": self._obstacle(session, image)})

    def _obstacle(self, session: Session, image: Image) -> str:
        held = [HeldVersion.model_validate(each) for each in session.held_versions]
        for each in held:
            if each.digest == image.digest:
                return f"held back: {each.reason}"
        try:
            self._submitter.check(image.profile, session.options)
        except BerthError as error:
            return f"it does not allow what this session asks for: {error.message}"
        return ""

    async def _look(self) -> None:
        """Record the offers that have changed. A store that only the launcher reads is looked at when it counts: at a
        start, and when its owner asks.
        """
        followers = [each for each in await self._registry.followers() if self._images.is_readable(each)]
        found: dict[tuple[str, str, str], Image | None] = {}
        for session in followers:
            key = (self._images.owner_of(session), session.profile, session.follow)
            if key not in found:
                found[key] = await self._find_followed(session)
            await self.record(session, self._offer(session, found[key]))

    async def record(self, session: Session, offer: UpgradeOffer | None) -> Session:
        """Record the session's offer if it has changed, and return the session."""
        if offer == session.upgrade_offer:
            return session
        current = await self._registry.update(session.id, _record_offer(session, offer))
        self._node_watch.update_remark(session, current)
        return current

    def _note_end(self, _: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._lasting.report("look", logging.ERROR, f"offers not updated: {error!r}")


def _record_offer(observed: Session, offer: UpgradeOffer | None) -> Transition:
    def decide(current: Session) -> RowChange | None:
        if (current.digest, current.follow) != (observed.digest, observed.follow) or current.pending is not None:
            return None  # it has changed meanwhile: the next look decides
        entry = None
        before = current.upgrade_offer
        if offer is not None and (before is None or (before.digest, before.obstacle) != (offer.digest, offer.obstacle)):
            why = f"; not by itself: {offer.obstacle}" if offer.obstacle else ", at its next start"
            entry = EventEntry("berth", "offered", f"{current.profile}@{offer.version}{why}")
        return {"offer": None if offer is None else offer.record()}, entry

    return decide
