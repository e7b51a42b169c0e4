"""The requests of valid forms to the controller.

The types of the API are imported when a request is made, as in `start_form`.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from broker.user_input import ProfileReference

if TYPE_CHECKING:
    from broker.forms.form import Form
    from broker.schema.sessions import ExtendRequest
    from broker.schema.volumes import CloneRequest, RollbackRequest, SnapshotRequest, SwitchRequest


def extend_request(form: Form) -> ExtendRequest:
    from broker.schema.sessions import ExtendRequest

    return ExtendRequest.model_validate({"seconds": form.values()["time"]})


def snapshot_request(form: Form) -> SnapshotRequest:
    from broker.schema.volumes import SnapshotRequest

    return SnapshotRequest(label=cast("str | None", form.values()["label"]))


def rollback_request(form: Form) -> RollbackRequest:
    from broker.schema.volumes import RollbackRequest

    return RollbackRequest(snapshot=str(form.values()["snapshot"]))


def switch_request(form: Form) -> SwitchRequest:
    from broker.schema.volumes import SwitchRequest

    values = form.values()
    profile = values["profile"]
    assert isinstance(profile, ProfileReference)
    return SwitchRequest(profile=profile.name, version=profile.version, fresh=values["fresh"] is True)


def clone_request(form: Form) -> CloneRequest:
    from broker.schema.volumes import CloneRequest

    values = form.values()
    profile = values["profile"]
    assert profile is None or isinstance(profile, ProfileReference)
    return CloneRequest(
        name=str(values["new"]),
        at=cast("str | None", values["snapshot"]),
        profile=profile.name if profile else None,
        version=profile.version if profile else None,
        start=values["start"] is True,
    )
