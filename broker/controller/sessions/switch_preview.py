"""Preview a switch: the other image, and what it changes beside the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.registry.manifest import policy_of
from broker.errors import BerthError
from broker.schema.checks import SwitchPreview

if TYPE_CHECKING:
    from broker.controller.images import ImageFinder
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.models import Session
    from broker.controller.sessions.planned_change import NextJob
    from broker.schema.sessions import Persistence


async def preview_switch(
    session: Session, job: NextJob, chosen: Persistence | None, images: ImageFinder, submitter: Submitter
) -> SwitchPreview:
    """Return the preview of a switch whose plan has this next job, and whose request has a policy or none.

    The switch was checked before.
    """
    kept = session.policy if session.persistence_chosen else policy_of(job.profile)
    return SwitchPreview(
        profile=job.profile.name,
        version=job.profile.version,
        description=job.profile.description,
        options=submitter.options(job.profile, job.options),
        present_options=await _present_options(session, images, submitter),
        persistence=chosen or kept,
    )


async def _present_options(session: Session, images: ImageFinder, submitter: Submitter) -> list[str] | None:
    try:
        present = await images.require_image(session.owner, *session.image.values())
        return submitter.options(present.profile, session.options)
    except (BerthError, LauncherError):  # the image is missing, or no session can start with it any more
        return None
