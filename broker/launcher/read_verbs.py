"""The launcher's verbs that only read a session's files, with a bound for each.

Standard library only: this is loaded by the root process, though never run by it as root.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from broker.launcher.held_job import describe_hold
from broker.launcher.request import VerbError
from broker.names import IDENTIFIER
from broker.volumes import environments
from profiles.userfile import UnfitFileError, read_tail, read_text

if TYPE_CHECKING:
    from pathlib import Path

    from broker.launcher.arguments import (
        ListedServicesArguments,
        LogArguments,
        ManifestsArguments,
        TerminalsArguments,
    )
    from broker.launcher.request import RequestContext

LOG_BYTES = 2**20
"""Limit for the end of a job's log."""
TERMINALS_BYTES = 64
LISTED_BYTES = 64 * 1024 + 64
"""The list of services as broker/job/node/messages.sh cuts it, after a line with the run."""
MANIFEST_LIMIT = 256 * 1024
"""Bytes; the options alone may take slurm.sbatch's MAX_OPTIONS times MAX_VALUE."""
MANIFESTS_LIMIT = 8 * 2**20
"""Characters of all manifests of one user. As JSON these are at most six times as many bytes, which the controller
accepts."""
MAX_SESSIONS = 10_000


def text_if_readable(path: Path, limit: int) -> str:
    """Return the text of a regular file that the user owns; empty if there is none that can be read."""
    try:
        return read_text(path, limit)
    except (FileNotFoundError, UnfitFileError):
        return ""


def log(context: RequestContext, arguments: LogArguments) -> dict[str, Any]:
    """Return the last `bytes` bytes of a session's job log; empty if there is none."""
    try:
        tail = read_tail(context.session(arguments.session) / "run/job.log", min(arguments.bytes, LOG_BYTES))
    except FileNotFoundError:
        tail = b""
    return {"text": tail.decode(errors="replace")}


def terminals(context: RequestContext, arguments: TerminalsArguments) -> dict[str, Any]:
    """Return run/terminals: the run id of the job that wrote it, and the number; empty if there is none."""
    return {"text": text_if_readable(context.session(arguments.session) / "run/terminals", TERMINALS_BYTES)}


def listed_services(context: RequestContext, arguments: ListedServicesArguments) -> dict[str, Any]:
    """Return run/listed: a line with the run of the job that wrote it, and its list; empty if there is none."""
    return {"text": text_if_readable(context.session(arguments.session) / "run/listed", LISTED_BYTES)}


def manifests(context: RequestContext, _: ManifestsArguments) -> dict[str, Any]:
    """Return the manifests of the user's sessions, and of deleted sessions whose data exists, by session id.

    The environments of batch jobs have none. `holds` says of each session with a manifest, whose job was kept for an
    operation, how far that was: see held_job.describe_hold.
    """
    sessions = context.root / "sessions"
    found = _manifests_in(sessions)
    holds = {session: hold for session in found if any((hold := _hold_of(sessions / session)).values())}
    return {"manifests": found, "holds": holds, "trash": _manifests_in(context.root / "trash")}


def _hold_of(session: Path) -> dict[str, int]:
    try:
        return describe_hold(session / "run")
    except OSError:  # a file that cannot be read must not hide the others
        return {}


def _manifests_in(directory: Path) -> dict[str, str]:
    manifests: dict[str, str] = {}
    length = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(directory.iterdir())[:MAX_SESSIONS]:
            if IDENTIFIER.fullmatch(entry.name) and not environments.is_environment(entry):
                # A file that cannot be read must not hide the others.
                manifests[entry.name] = text_if_readable(entry / "manifest.json", MANIFEST_LIMIT)
                length += len(manifests[entry.name])
            if length > MANIFESTS_LIMIT:
                raise VerbError("files", f"the manifests in {directory} are longer than {MANIFESTS_LIMIT} characters")
    return manifests
