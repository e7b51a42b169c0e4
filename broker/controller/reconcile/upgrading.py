"""Take the version that a session follows at its natural restart, and hold it back if that fails, as pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.controller.registry.manifest import ImageTarget
from broker.controller.registry.operation import Operation
from broker.controller.registry.upgrade_offer import HeldVersion, UpgradeOffer, with_held_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.controller.reconcile.own_changes import OwnSystem
    from broker.controller.registry.models import Session
    from profiles.image.store import Image

MAX_REASON_CHARS = 500
"""Of a reason in a row and in the manifest."""


def upgrade_target(session: Session, image: Image) -> ImageTarget:
    """Return the session's image after an upgrade to this one."""
    kept = session.policy if session.persistence_chosen else None
    return ImageTarget.of(image, kept, follow=session.follow)


def create_upgrade(to: Mapping[str, Any], actor: str, *, fresh: bool = False, **values: Any) -> Operation:  # noqa: ANN401 - fields of several types
    """Return the operation. `fresh`: the session's own packages and files are left behind."""
    return Operation.create("upgrade", actor, arguments={"to": dict(to), "fresh": fresh}, **values)


def upgrade_of_offer(session: Session, actor: str = "berth", **values: Any) -> Operation:  # noqa: ANN401 - fields of several types
    """Return the operation that takes the session's offer, and starts the session afterwards."""
    offer = session.upgrade_offer
    assert offer is not None, "takes_offer"
    return create_upgrade(offer.to, actor, start=True, **values)


def upgrade_target_of(operation: Operation) -> ImageTarget:
    """Return the image to which an operation moves the session."""
    return ImageTarget.model_validate(operation.arguments["to"])


def own_changes_message(session: Session, to: ImageTarget, own: OwnSystem) -> str:
    """Return why a session does not take a version by itself."""
    return (
        f"{session.name} has {own.describe()}, which {to.profile}@{to.version} would not have; "
        f"`berth upgrade {session.name} --fresh` takes it without them"
    )


def columns_after_failure(operation: Operation, message: str) -> dict[str, Any]:
    """Return the columns after an upgrade that was refused because of the session's own changes; none after others."""
    arguments = operation.arguments
    if not operation.kind.takes_version or not (arguments.get("packages") or arguments.get("files")):
        return {}
    own = {name: arguments[name] for name in ("packages", "files")}
    made = UpgradeOffer(to=arguments["to"], obstacle=_one_line(message), **own)
    return {"offer": made.record()}


def columns_after_reversal(session: Session, operation: Operation, reason: str, now: float) -> dict[str, Any]:
    """Return the columns of a session that has returned from a version: it is held back; none after other operations.

    `session` still has the version from which it returns.
    """
    if not operation.kind.takes_version:
        return {}
    text = _one_line(reason)
    held = HeldVersion(version=session.version, digest=session.digest, reason=text, at=now, failed=True)
    to = {name: getattr(session, name) for name in ImageTarget.model_fields}
    offer = UpgradeOffer(to=to, obstacle=f"held back: {text}")
    return {"held_versions": with_held_version(session.held_versions, held), "offer": offer.record()}


def columns_after_return(session: Session, to: ImageTarget, reason: str, now: float) -> dict[str, Any]:
    """Return the columns of a session whose user goes back to another version of its profile, which it then keeps."""
    if to.digest == session.digest:
        return {}
    if to.profile != session.profile or not session.follow:
        return {"follow": "", "offer": None}
    held = HeldVersion(version=session.version, digest=session.digest, reason=_one_line(reason), at=now)
    return {
        "follow": session.follow,
        "offer": None,
        "held_versions": with_held_version(session.held_versions, held),
    }


def carry_trial(session: Session, number: int) -> dict[str, Any]:
    """Return the column by which submission `number` tries a version that no run of the session has proved yet."""
    operation = session.last_operation
    if operation is None or not operation.kind.takes_version or operation.status != "done":
        return {}
    if operation.trial == 0 or operation.trial != session.submission or session.job.fingerprint:
        return {}
    return {"operation": operation.replace(trial=number).record()}


def takes_offer(session: Session) -> bool:
    """Whether the session's next natural restart takes a version."""
    offer = session.upgrade_offer
    return offer is not None and offer.is_taken


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)[:MAX_REASON_CHARS]
