"""The forms of actions on the screen: with choices that are read from the controller and from the stores."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.forms.action_forms import clone_form, restore_form, switch_form
from broker.forms.free import free_notes
from broker.forms.start_form import describe_profile, new_session_form
from tui.screens.form_screen import FormScreen
from tui.workers.profiles import read_profiles
from tui.workers.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.forms.form import Form
    from broker.forms.start_form import ProfileChoice
    from broker.schema.cluster import ClusterView
    from broker.schema.sessions import SessionView
    from tui.app import BerthApp
    from tui.core.session_action import SessionAction
    from tui.workers.requests import RequestWorker

_WITH_RESOURCES = frozenset({"new", "resize"})
_WITH_PROFILES = frozenset({"new", "clone", "switch"})


def preset_form(action: SessionAction, preset: Mapping[str, str]) -> Form | None:
    """Return the form of an action with these texts in its fields; None if the action has none."""
    if action.make_form is None:
        return None
    form = action.make_form()
    for field_id, text in preset.items():
        form.set(field_id, text)
    return form


def asks_user(action: SessionAction, form: Form, preset: Mapping[str, str]) -> bool:
    """Whether the user has more to say than the preset texts."""
    return not preset or action.id not in {"rollback", "diff"} or bool(form.errors())


class ActionFormScreen(FormScreen):
    """A form that learns the profiles, or the deleted sessions, while the user already types."""

    def __init__(
        self,
        owner: BerthApp,
        requests: RequestWorker,
        action: SessionAction,
        form: Form,
        sessions: Sequence[SessionView],
    ) -> None:
        super().__init__(
            form,
            lambda filled: action.command_line(sessions, filled),
            target=", ".join(session.name for session in sessions),
            describe=self._describe_field,
        )
        self._owner = owner
        self._requests = requests
        self._action_id = action.id
        self._profiles: list[ProfileChoice] = []
        self._cluster: ClusterView | None = None

    def on_mount(self) -> None:
        super().on_mount()
        if self._action_id in _WITH_PROFILES:
            self.run_worker(self._load_profiles())
        elif self._action_id == "restore":
            self.run_worker(self._load_deleted())
        if self._action_id in _WITH_RESOURCES:
            self.run_worker(self._load_cluster())

    async def _load_profiles(self) -> None:
        try:
            self._profiles = await in_thread(read_profiles)
        except (OSError, ValueError, subprocess.SubprocessError):
            self.note("profile", "the list of profiles cannot be read")
            return
        if self._action_id == "new":
            taken = {view.name for view in self._owner.main_screen.sessions.views.values()}
            self.replace_form(new_session_form(self._profiles, taken))
        else:
            make = clone_form if self._action_id == "clone" else switch_form
            self.replace_form(make(self._profiles))

    async def _load_cluster(self) -> None:
        try:
            self._cluster = await self._requests.read(lambda client: client.cluster())
        except BerthError:  # the notes are missing then; the form works without them
            return
        self.form_changed()

    def form_changed(self) -> None:
        """Show what is free in the chosen partition."""
        if self._cluster is not None:
            partition = self.form.text("partition")
            for field_id, text in free_notes(self._cluster, partition).items():
                self.note(field_id, text)

    async def _load_deleted(self) -> None:
        try:
            deleted = await self._requests.read(lambda client: client.deleted_sessions())
        except BerthError as error:
            self.note("name", error.message)
            return
        self.replace_form(restore_form(tuple(dict.fromkeys(view.name for view in deleted))))
        self.note("name", "" if deleted else "there is none that can be restored")

    def _describe_field(self, field_id: str, text: str) -> str:
        return describe_profile(self._profiles, text) if field_id == "profile" else ""
