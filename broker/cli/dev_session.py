"""The session of a dev container: its start, its preparation and its commands, over ssh."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from broker.cli import output
from broker.errors import BerthError, ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.cli.context import Invocation
    from broker.schema.sessions import SessionView
    from profiles.devcontainer.lifecycle import Hook
    from profiles.devcontainer.plan import DevPlan

StartRequester = Callable[[dict[str, object]], "SessionView"]
"""Requests the start of the session, with these fields beside its options."""

SETUP_LIMIT_S = 120
"""Seconds for the preparation, which only makes directories and small files."""
SHOWN_LINES = 12
"""Lines of the end of a command's output that its failure shows."""


class DevSession:
    """A ready session, in which commands run by ssh."""

    def __init__(self, invocation: Invocation, view: SessionView, plan: DevPlan) -> None:
        from broker.cli.ssh_process import find_ssh, ssh_command

        find_ssh()
        self._invocation = invocation
        self._view = view
        self._plan = plan
        argv, _ = ssh_command(
            invocation, view.name, before=["-T", "-o", "LogLevel=ERROR"], after=["--", "exec /bin/bash -l -s"]
        )
        self._argv = argv
        self._marks: dict[str, str] = {}

    def prepare(self) -> None:
        """Make directories and settings, and copy the repository if the session has none. Raises BerthError."""
        from profiles.devcontainer.session_scripts import COPIED, read_marks, setup_script

        plan = self._plan
        script = setup_script(
            plan.config.inside,
            plan.session.folders,
            plan.config.dev.remote_env,
            plan.config.dev.customizations.vscode.extensions,
        )
        done = subprocess.run(
            self._argv, input=script.encode(), stdout=subprocess.PIPE, timeout=SETUP_LIMIT_S, check=False
        )
        if done.returncode != 0:
            raise self._command_error(
                "the preparation", done.returncode, done.stdout.decode(errors="replace").splitlines()
            )
        self._marks = read_marks(done.stdout.decode(errors="replace"))
        if not plan.is_bound and COPIED not in self._marks:
            self._copy()

    def run_hooks(self) -> list[str]:
        """Run the commands that are due, and return their titles. BerthError for one that fails; none follows it."""
        from profiles.devcontainer.session_scripts import hook_mark, hook_script, is_due

        run = []
        for hook in self._plan.session.hooks:
            if is_due(hook, self._marks, self._view.generation):
                output.print_note(f"{hook.title}: {_shown_lines(hook)}")
                script = hook_script(hook, self._plan.config.inside, hook_mark(hook), self._view.generation)
                self._run(hook.title, script)
                run.append(hook.title)
        return run

    def publish_ports(self) -> list[str]:
        """Publish the ports that are not published yet, and return the names of all their services."""
        if not self._plan.session.ports:
            return []
        from broker.cli.service_definition import define_service
        from broker.cli.service_list import ask_for_services
        from broker.client.published_port import published_service

        name = self._view.name
        there = ask_for_services(self._invocation, name).services
        wanted = [published_service(port, title) for port, title in self._plan.session.ports.items()]
        for listed in wanted:
            if listed.service.name not in there:
                define_service(self._invocation, name, listed)
        return [listed.service.name for listed in wanted]

    def _run(self, title: str, script: str) -> None:
        """Run a script, show its output, and raise BerthError with its end if it fails."""
        tail: deque[str] = deque(maxlen=SHOWN_LINES)
        with subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            feeder = threading.Thread(target=_feed, args=[process.stdin, script.encode()], daemon=True)
            feeder.start()
            for line in process.stdout:
                text = line.decode(errors="replace").rstrip("\n")
                tail.append(text)
                if not self._invocation.json:
                    output.print_note(f"  | {text}")
        if process.returncode != 0:
            raise self._command_error(title, process.returncode, tail)

    def _copy(self) -> None:
        """Copy the repository into the session, once."""
        from profiles.devcontainer.session_scripts import COPIED, STATE

        config = self._plan.config
        output.print_note(f"copying {config.workspace} to {config.inside} of {self._view.name}")
        inside = shlex.quote(config.inside)
        unpack = f"tar -x -C {inside} && : >{STATE}/{COPIED}"
        with subprocess.Popen(
            ["tar", "-c", "-C", str(config.workspace), "."], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as pack:
            done = subprocess.run([*self._argv[:-1], unpack], stdin=pack.stdout, check=False)
        if done.returncode != 0 or pack.returncode != 0:
            raise BerthError(
                f"{config.workspace} could not be copied into {self._view.name}",
                hint=f"`berth up` tries again; `berth ssh {self._view.name}` logs in without a copy",
            )

    def _command_error(self, title: str, code: int, lines: Sequence[str] | deque[str]) -> BerthError:
        end = "".join(f"\n  | {line}" for line in list(lines)[-SHOWN_LINES:])
        name = self._view.name
        return BerthError(
            f"{title} failed with exit code {code}; no further command was run{end}",
            hint=f"`berth up` runs it again; `berth ssh {name}` logs in to look",
        )


def _feed(stream: IO[bytes], script: bytes) -> None:
    with contextlib.suppress(OSError), stream:  # the end of ssh is reported by its code
        stream.write(script)


def _shown_lines(hook: Hook) -> str:
    shown = "; ".join(line for _, line in hook.lines).replace("\n", " ")
    return shown if len(shown) <= 100 else f"{shown[:99]}…"


def find_session(invocation: Invocation, name: str) -> SessionView | None:
    """Return the user's session of that name; None if there is none."""
    try:
        return invocation.client.session(name, refresh=True)
    except NotFoundError:
        return None


def find_dev_session(invocation: Invocation, name: str, plan: DevPlan) -> SessionView | None:
    """Return the user's session of that name; None if there is none.

    ConflictError if its image was not built by this user from the plan's devcontainer.json.
    """
    from broker.cli.dev_build import OWN_STORE
    from broker.cli.stores import target_of
    from profiles.errors import ProfilesError

    view = find_session(invocation, name)
    if view is None:
        return None
    hint = f"`berth up --name NAME` makes another session; `berth delete {view.name}` deletes that one"
    try:
        image = target_of(invocation, OWN_STORE).read(plan.name, view.version)
    except ProfilesError:
        image = None
    if view.profile != plan.name or image is None or image.digest != view.digest:
        raise ConflictError(f"{view.name} is a session of {view.profile}@{view.version}, not of this folder", hint=hint)
    origin = image.labels.get("berth.base", "")
    if origin != plan.origin:
        raise ConflictError(f"{view.name} is the session of {origin.partition(':')[2]}, not of this folder", hint=hint)
    return view


def start_dev_session(
    invocation: Invocation, name: str, plan: DevPlan, begin: StartRequester, *, timeout: float | None
) -> tuple[SessionView, bool]:
    """Start the session with the image of `plan`, or find it ready; return it, and whether it has that image.

    `begin` requests a start with the session's options. A stopped session with an older image is moved to this one; one
    that runs is left alone. ConflictError if the session was not made from this devcontainer.json.
    """
    from broker.cli.wait import until_ready
    from broker.schema.states import LIVE, STARTABLE

    view = find_dev_session(invocation, name, plan)
    is_current = view is None or view.version == plan.version
    if view is not None and not is_current and view.state in LIVE:
        return until_ready(invocation, view, timeout=timeout), False
    if view is not None and not is_current:
        _move(invocation, view, plan, timeout)
    if view is None or view.state in STARTABLE:
        request: dict[str, object] = {}
        if view is None:
            request |= {"profile": f"own/{plan.name}", "version": plan.version, "defaults": _default_options()}
        view = begin(request)
    return until_ready(invocation, view, timeout=timeout), True


def _default_options() -> list[str]:
    from broker.user_input import default_options

    return default_options(os.environ)


def _move(invocation: Invocation, view: SessionView, plan: DevPlan, timeout: float | None) -> None:
    """Move a stopped session to the image of the plan."""
    from broker.cli.wait import show_request_progress, until_done
    from broker.schema.volumes import SwitchRequest

    with show_request_progress(invocation, view.name, "switch"):
        request = SwitchRequest(profile=f"own/{plan.name}", version=plan.version)
        moved = invocation.client.switch(view.name, request)
    until_done(invocation, moved, timeout=timeout)
    output.print_note(f"{view.name} has the image {plan.version} now; its former system is kept as a snapshot")
