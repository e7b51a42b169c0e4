"""Fill forms with what a browser has sent, and add notes to their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.forms.form import NO, YES
from broker.forms.free import free_notes
from broker.forms.start_form import describe_profile, profile_texts
from broker.text.volume import snapshot_name
from broker.web.portal.portal_context import none_if_failed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.forms.form import Form
    from broker.forms.start_form import ProfileChoice
    from broker.web.portal.user_calls import UserCalls

SHOWN_SNAPSHOTS = 20


def fill_form(form: Form, texts: Mapping[str, str]) -> None:
    """Set the form's fields. A box that is not checked has no text."""
    for each in form.fields:
        form.set(each.id, texts.get(each.id, NO if each.choices == (NO, YES) else ""))


def profile_descriptions(profiles: Sequence[ProfileChoice] | None) -> dict[str, str]:
    """Return what is shown beside each profile in a list: the version that its name means, and its description."""
    found = profiles or ()
    described = {text: describe_profile(found, text) for text in profile_texts(found)}
    return {
        text: "" if description == text else description.removeprefix(f"{text}: ")
        for text, description in described.items()
    }


async def resource_notes(calls: UserCalls, form: Form) -> dict[str, str]:
    """Return what is free now, for each field of resources; nothing if Slurm does not answer."""
    cluster = await none_if_failed(calls.cluster())
    return {} if cluster is None else free_notes(cluster, form.text("partition"))


async def snapshot_notes(calls: UserCalls, name: str) -> dict[str, str]:
    """Return which snapshots there are, for the field of a snapshot."""
    snapshots = await none_if_failed(calls.snapshots(name))
    if not snapshots:
        return {}
    names = [snapshot_name(each).removeprefix("snapshot ") for each in snapshots[-SHOWN_SNAPSHOTS:]]
    return {"snapshot": f"there are {', '.join(names)}"}
