"""The launcher's verbs for sessions. Each runs as the user, in a process of its own.

The root process loads this module and does not run it as root: no third-party package is imported (pyproject.toml).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.job.bundle import ENVIRONMENT_SCRIPT, SESSION_SCRIPT, environment_script, session_script
from broker.launcher import held_job
from broker.launcher.arguments import (
    BeginArguments,
    CloneArguments,
    EnvironmentArguments,
    EstimateArguments,
    HoldArguments,
    KeysArguments,
    PrepareArguments,
    PromoteArguments,
    RenewArguments,
    SubmitArguments,
    UntrashArguments,
)
from broker.launcher.request import RequestContext, VerbError, check_own, own_directory
from broker.launcher.sbatch_call import estimate_start, job_command, submit_job
from broker.launcher.session_host_key import check_certificate, ensure_host_key, renew_host_key
from broker.launcher.volume_verbs import change_volumes, chosen_driver, make_volumes
from broker.names import new_id
from broker.volumes import environments
from broker.volumes.copy_archive import ARCHIVE, copy_archive
from broker.volumes.errors import VolumeError
from broker.volumes.files import file_lock, replace_file, replace_files
from profiles.userfile import UnfitFileError, read_bytes, read_text
from slurm.sbatch import OptionError, check_options

if TYPE_CHECKING:
    from broker.launcher.argument_bases import FilesArguments, SessionArguments
    from broker.launcher.sharing_arguments import ReceiveArguments

FILES = {
    "manifest.json": "manifest.json",
    "batch.json": environments.DESCRIPTION,
    "job.env": "run/job.env",
    "authorized_keys": "run/authorized_keys",
    "revoked_keys": "run/revoked_keys",
    "web_authority": "run/web_authority",
    "guest_keys": "run/guest_keys",
    "guest_revoked": "run/guest_revoked",
    "guests": "run/guests",
    "continuation": "run/continuation",
    "idle": "run/idle",
    "ending": "run/ending",
    "message": "run/message",
    "remark": "run/remark",
    "services": "run/services",
    "checks": "run/checks",
    "own_services": "run/own_services",
    "host_certificate": "run/ssh_host_ed25519_key-cert.pub",
}
"""Files that the controller may write into a session's directory: the name in a request, and the path."""
COPYING = f"run/{ARCHIVE}"
OLD_COPYING = "run/copying.py"
KEYS_LIMIT = 256 * 1024


def prepare(context: RequestContext, arguments: PrepareArguments) -> dict[str, Any]:
    """Make a session's directories, volumes and host key if they are missing.

    The answer has the public host key, one line, and the facts of the volumes.
    """
    session = _make_directory(context, arguments)
    volumes = make_volumes(context, session.name, arguments.driver)
    return {"host_key": ensure_host_key(session), "volumes": volumes}


def _make_directory(context: RequestContext, arguments: SessionArguments) -> Path:
    session = context.session(arguments.session)
    for directory in (context.root, session.parent, session, session / "run"):
        own_directory(directory, context.user.pw_uid)
    return session


def clone_session(context: RequestContext, arguments: CloneArguments) -> dict[str, Any]:
    """Make a session from another one, complete with host key and the files of the request."""
    made = change_volumes(context, arguments)
    host_key = ensure_host_key(context.session(arguments.session))
    install(context, arguments)
    return made | {"host_key": host_key}


def untrash(context: RequestContext, arguments: UntrashArguments) -> dict[str, Any]:
    """Bring back a session that was set aside, with a new host key: clients may know the old one as revoked."""
    answer = change_volumes(context, arguments)
    session = context.session(arguments.session)
    return answer | {"host_key": renew_host_key(session)}


def renew(context: RequestContext, arguments: RenewArguments) -> dict[str, Any]:
    """Replace a session's host key, whose certificates have the session's former name. `busy` while a job runs."""
    session = context.session(arguments.session)
    check_own(session, context.user.pw_uid)
    try:
        with file_lock(session / "run/lock", wait=False, whose="a job"):
            return {"host_key": renew_host_key(session)}
    except VolumeError as error:
        raise VerbError(error.kind, str(error)) from error


def environment(context: RequestContext, arguments: EnvironmentArguments) -> dict[str, Any]:
    """Make the environment of a batch job from a session, or with empty volumes; return its directory.

    Its description is written first, so that the rest of a failed attempt is recognised as an environment.
    """
    session = _make_directory(context, arguments)
    install(context, replace(arguments, files={"batch.json": arguments.files["batch.json"]}))
    if arguments.source is None:
        make_volumes(context, session.name, arguments.driver)
    else:
        change_volumes(context, CloneArguments.parse(arguments.request()))
    replace_file(session / "run" / ENVIRONMENT_SCRIPT, environment_script())
    _install_copying(session)
    install(context, arguments)
    return {"directory": str(session)}


def promote(context: RequestContext, arguments: PromoteArguments) -> dict[str, Any]:
    """Make a session, complete with host key and files, from the files that a batch job has left."""
    made = change_volumes(context, arguments)
    host_key = ensure_host_key(context.session(arguments.session))
    install(context, arguments)
    return made | {"host_key": host_key}


def receive(context: RequestContext, arguments: ReceiveArguments) -> dict[str, Any]:
    """Make a session, complete with host key and files, of the snapshot that another user's process sends."""
    made = change_volumes(context, replace(arguments, driver=chosen_driver(context, arguments.driver)))
    host_key = ensure_host_key(context.session(arguments.session))
    install(context, arguments)
    return made | {"host_key": host_key}


def install(context: RequestContext, arguments: FilesArguments) -> dict[str, Any]:
    """Write some of FILES into a session's directory: none of them if one cannot be written."""
    session = context.session(arguments.session)
    check_own(session, context.user.pw_uid)
    if not arguments.files.keys() <= FILES.keys():
        raise VerbError("invalid", f"not among the files that may be written: {[*arguments.files]!r:.200}")
    replace_files({session / FILES[name]: content.encode() for name, content in arguments.files.items()})
    return {}


def submit(context: RequestContext, arguments: SubmitArguments) -> dict[str, Any]:
    """Write the files and submit the session's job with sbatch; the answer has its job id.

    VerbError `refused` carries sbatch's message: Slurm has refused the job. After `unclear` the job may be queued.
    `host-key`: the certificate is for another key than the session's, and nothing was done.
    """
    session = context.session(arguments.session)
    _check_options(arguments.options)
    check_certificate(session, arguments.files.get("host_certificate", ""))
    install(context, arguments)
    _install_copying(session)
    _remove_old_copying(session)
    shown, beside = arguments.shown_name, arguments.beside
    argv = job_command(context, session, arguments.submission, arguments.options, shown, beside=beside)
    if not context.session_script:
        _install_script(session)
    return {"job_id": submit_job(argv, context.user, arguments.timeout)}


def estimate(context: RequestContext, arguments: EstimateArguments) -> dict[str, Any]:
    """Ask Slurm when it would start a job with these options now; no job is submitted.

    The answer has the time in seconds since the epoch, or Slurm's message if it would not start the job now.
    """
    session = context.session(arguments.session)
    _check_options(arguments.options)
    command = job_command(context, session, 1, arguments.options)
    return estimate_start(command, context.user, arguments.timeout)


def _check_options(options: list[str]) -> None:
    try:
        check_options(options)
    except OptionError as error:
        raise VerbError("invalid", str(error)) from error


def hold(context: RequestContext, arguments: HoldArguments) -> dict[str, Any]:
    """Let the session's job give up the volumes and wait for `begin`: see held_job.release_volumes."""
    run = context.session(arguments.session) / "run"
    message = held_job.release_volumes(run, arguments.submission, arguments.operation, arguments.job_id, arguments.wait)
    return {"message": message}


def begin_run(context: RequestContext, arguments: BeginArguments) -> dict[str, Any]:
    """Write the files and let the held job begin the session's next run; VerbError `host-key` as in `submit`."""
    session = context.session(arguments.session)
    check_certificate(session, arguments.files.get("host_certificate", ""))

    def write_files() -> None:
        _install_copying(session)
        first = {name: content for name, content in arguments.files.items() if name != "job.env"}
        install(context, replace(arguments, files=first))
        # Last: with this file the job begins, and it reads the others.
        install(context, replace(arguments, files={"job.env": arguments.files["job.env"]}))

    held_job.begin_next_run(session / "run", arguments.submission, arguments.job_id, arguments.timeout, write_files)
    return {}


def keys(context: RequestContext, _: KeysArguments) -> dict[str, Any]:
    """Return the user's own ~/.ssh/authorized_keys; empty if there is none. It may be a link, as for sshd(8).

    VerbError `refused` for a file that is not regular or too large: a part of it could allow more than the whole.
    """
    try:
        return {
            "text": read_text(Path(context.user.pw_dir) / ".ssh/authorized_keys", KEYS_LIMIT, own=False, follow=True)
        }
    except FileNotFoundError:
        return {"text": ""}
    except UnfitFileError as error:
        raise VerbError("refused", f"{error.filename} {error.strerror}") from error


def _install_copying(session: Path) -> None:
    """Write the program with which the job copies its volumes while it runs, unless it is there already."""
    archive = copy_archive()
    path = session / COPYING
    try:
        present = read_bytes(path, len(archive))
    except OSError:
        present = b""
    if present != archive:
        replace_file(path, archive)


def _install_script(session: Path) -> None:
    """Write the batch script, unless this version of it is there. sbatch reads it at once; nothing does so later.

    So it need not reach the disk: a file that a crash cuts off is replaced at the next submission.
    """
    path, content = session / "run" / SESSION_SCRIPT, session_script()
    try:
        there = read_bytes(path, len(content))
    except OSError:
        there = b""
    if there != content:
        fresh = path.with_name(f".{path.name}.{new_id()}")
        try:
            fresh.write_bytes(content)
            fresh.rename(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise


def _remove_old_copying(session: Path) -> None:
    """Remove the program that jobs of earlier versions copied with, unless such a job may still run."""
    old = session / OLD_COPYING
    if old.exists():
        with contextlib.suppress(VolumeError), file_lock(session / "run/lock", wait=False):
            old.unlink(missing_ok=True)
