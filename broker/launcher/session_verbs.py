"""The launcher's verbs for sessions. Each runs as the user, in a process of its own.

Standard library and slurm.sbatch only: this is loaded by the root process, though never run by it as root.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.job.bundle import BATCH_SCRIPT, SESSION_SCRIPT, batch_script, session_script
from broker.launcher.arguments import (
    CloneArguments,
    EnvironmentArguments,
    FilesArguments,
    InstallArguments,
    KeysArguments,
    LogArguments,
    ManifestsArguments,
    PrepareArguments,
    PromoteArguments,
    SessionArguments,
    SubmitArguments,
    UntrashArguments,
)
from broker.launcher.request import RequestContext, VerbError, check_own, own_directory
from broker.launcher.volume_verbs import VOLUME_VERBS, change_volumes, make_volumes
from broker.names import IDENTIFIER, new_id
from broker.ssh import host_key as hostkey
from broker.volumes import environments
from broker.volumes.copy_archive import ARCHIVE, copy_archive
from broker.volumes.errors import VolumeError
from broker.volumes.files import file_lock, replace_file
from broker.volumes.program import run_program
from profiles.userfile import UnfitFileError, read_bytes, read_tail, read_text
from slurm.sbatch import OptionError, check_options

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable, Mapping

    from broker.launcher.argument_types import Arguments

FILES = {
    "manifest.json": "manifest.json",
    "batch.json": environments.DESCRIPTION,
    "job.env": "run/job.env",
    "authorized_keys": "run/authorized_keys",
    "revoked_keys": "run/revoked_keys",
    "continuation": "run/continuation",
    "idle": "run/idle",
    "host_certificate": "run/ssh_host_ed25519_key-cert.pub",
}
"""Files that the controller may write into a session's directory: the name in a request, and the path."""
JOB_ID = re.compile(r"[1-9][0-9]{0,9}")
"""A Slurm job id, 32 bits."""
LOG_BYTES = 2**20
"""Limit for the end of a job's log."""
HOST_KEY = "run/ssh_host_ed25519_key"
COPYING = f"run/{ARCHIVE}"
OLD_COPYING = "run/copying.py"
KEYS_LIMIT = 256 * 1024
KEY_BYTES = 16 * 1024
"""Bytes of one key's file; ssh-keygen writes about 400."""
MANIFEST_LIMIT = 256 * 1024
"""Bytes; the options alone may take slurm.sbatch's MAX_OPTIONS times MAX_VALUE."""
MANIFESTS_LIMIT = 8 * 2**20
"""Characters of all manifests of one user. As JSON these are at most six times as many bytes, which the controller
accepts."""
MAX_SESSIONS = 10_000

UNCLEAR = re.compile(
    r"timed out|unable to contact|zero bytes|communication|connect|unexpected message|munge|slurmctld"
    r"|broken pipe|standby|authentication|temporarily unavailable|reset by peer|no message",
    re.IGNORECASE,
)
"""Messages of sbatch after which slurmctld may have accepted the job. After any other failure it has refused it."""


def prepare(context: RequestContext, arguments: PrepareArguments) -> dict[str, Any]:
    """Make a session's directories, volumes and host key if they are missing.

    The answer has the public host key, one line, and the facts of the volumes.
    """
    session = _make_directory(context, arguments)
    volumes = make_volumes(context, session.name, arguments.driver)
    return {"host_key": _host_key(session), "volumes": volumes}


def _make_directory(context: RequestContext, arguments: SessionArguments) -> Path:
    session = context.session(arguments.session)
    for directory in (context.root, session.parent, session, session / "run"):
        own_directory(directory, context.user.pw_uid)
    return session


def clone_session(context: RequestContext, arguments: CloneArguments) -> dict[str, Any]:
    """Make a session from another one, complete with host key and the files of the request."""
    made = change_volumes(context, arguments)
    host_key = _host_key(context.session(arguments.session))
    install(context, arguments)
    return made | {"host_key": host_key}


def untrash(context: RequestContext, arguments: UntrashArguments) -> dict[str, Any]:
    """Bring back a session that was set aside, with a new host key: clients may know the old one as revoked."""
    answer = change_volumes(context, arguments)
    session = context.session(arguments.session)
    (session / HOST_KEY).unlink(missing_ok=True)
    return answer | {"host_key": _host_key(session)}


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
    replace_file(session / "run" / BATCH_SCRIPT, batch_script())
    _install_copying(session)
    install(context, arguments)
    return {"directory": str(session)}


def promote(context: RequestContext, arguments: PromoteArguments) -> dict[str, Any]:
    """Make a session, complete with host key and files, from the files that a batch job has left."""
    made = change_volumes(context, arguments)
    host_key = _host_key(context.session(arguments.session))
    install(context, arguments)
    return made | {"host_key": host_key}


def _host_key(session: Path) -> str:
    """Return the session's public host key, one line.

    The private key counts, since sshd proves that it has it: a missing or different `.pub` is written again. Without a
    private key that sshd can use, a new pair is made and the old files are renamed. After an interruption the next
    call finds a complete private key or makes one.
    """
    key, comment = session / HOST_KEY, f"berth session {session.name}"
    public = _public_half(key)
    if public is None:
        _put_aside(key)
        fresh = key.with_name(f".{key.name}.{new_id()}")
        done = _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(fresh)], 30)
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip()[-500:]
            raise VerbError("files", words or f"ssh-keygen exited with status {done.returncode}")
        public = _public_half(fresh)
        assert public is not None
        fresh.with_name(fresh.name + ".pub").unlink()
        fresh.rename(key)
    line, path = hostkey.public_key_line(public, comment), key.with_name(key.name + ".pub")
    if _text(path, KEY_BYTES) != line + "\n":
        if path.is_dir():
            _put_aside(path)
        replace_file(path, (line + "\n").encode())
    return line


def _public_half(key: Path) -> bytes | None:
    """Return the public half of a private key that sshd can use; None for any other content."""
    try:
        public = hostkey.public_key_of(_text(key, KEY_BYTES))
    except ValueError:
        return None
    if stat.S_IMODE(key.lstat().st_mode) & 0o077:
        key.chmod(0o600)  # sshd refuses a key that others can read
    return public


def _text(path: Path, limit: int) -> str:
    """Return the text of a regular file that the user owns; empty if there is none that can be read."""
    try:
        return read_text(path, limit)
    except (FileNotFoundError, UnfitFileError):
        return ""


def _put_aside(path: Path) -> None:
    """Rename a file that is in the way, so that its content is kept."""
    with contextlib.suppress(FileNotFoundError):
        path.rename(path.with_name(path.name + ".unusable"))


def _check_certificate(session: Path, certificate: str) -> None:
    """VerbError `host-key` if the certificate is for another key than the session's: clients would refuse it."""
    certified = hostkey.certified_key(certificate)
    if certified is not None and hostkey.public_key_line(certified, "").split()[1] != _host_key(session).split()[1]:
        raise VerbError("host-key", "the session's host key is not the one that its certificate is for")


def install(context: RequestContext, arguments: FilesArguments) -> dict[str, Any]:
    """Write some of FILES into a session's directory, each whole or not at all."""
    session = context.session(arguments.session)
    check_own(session, context.user.pw_uid)
    if not arguments.files.keys() <= FILES.keys():
        raise VerbError("invalid", f"not among the files that may be written: {[*arguments.files]!r:.200}")
    for name, content in arguments.files.items():
        replace_file(session / FILES[name], content.encode())
    return {}


def submit(context: RequestContext, arguments: SubmitArguments) -> dict[str, Any]:
    """Write the files and submit the session's job with sbatch; the answer has its job id.

    VerbError `refused` carries sbatch's message: Slurm has refused the job. After `unclear` the job may be queued.
    `host-key`: the certificate is for another key than the session's, and nothing was done.
    """
    session = context.session(arguments.session)
    try:
        check_options(arguments.options)
    except OptionError as error:
        raise VerbError("invalid", str(error)) from error
    _check_certificate(session, arguments.files.get("host_certificate", ""))
    install(context, arguments)
    _install_copying(session)
    _remove_old_copying(session)
    argv = job_command(context, session, arguments.submission, arguments.options)
    if not context.session_script:
        _install_script(session)
    return {"job_id": _sbatch(argv, context.user, arguments.timeout)}


def job_command(context: RequestContext, session: Path, submission: int, options: list[str]) -> list[str]:
    """Return the command that submits a session's job and prints its id; `options` are checked already."""
    return [
        context.sbatch,
        "--parsable",
        *options,
        f"--job-name=berth-{session.name}",
        f"--comment=berth:{session.name}:{submission}",
        "--dependency=singleton",
        "--nodes=1",
        "--signal=B:USR1@60",
        "--requeue",
        "--open-mode=append",
        f"--output={session}/run/job.log",
        f"--error={session}/run/job.log",
        f"--chdir={session}",
        "--export=NIL",
        "--propagate=NONE",
        context.session_script or str(session / "run" / SESSION_SCRIPT),
        str(session),
        str(submission),
    ]


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


def log(context: RequestContext, arguments: LogArguments) -> dict[str, Any]:
    """Return the last `bytes` bytes of a session's job log; empty if there is none."""
    try:
        tail = read_tail(context.session(arguments.session) / "run/job.log", min(arguments.bytes, LOG_BYTES))
    except FileNotFoundError:
        tail = b""
    return {"text": tail.decode(errors="replace")}


def manifests(context: RequestContext, _: ManifestsArguments) -> dict[str, Any]:
    """Return the manifests of the user's sessions, and of deleted sessions whose data exists, by session id.

    The environments of batch jobs have none.
    """
    return {"manifests": _manifests_in(context.root / "sessions"), "trash": _manifests_in(context.root / "trash")}


def _manifests_in(directory: Path) -> dict[str, str]:
    manifests: dict[str, str] = {}
    length = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(directory.iterdir())[:MAX_SESSIONS]:
            if IDENTIFIER.fullmatch(entry.name) and not environments.is_environment(entry):
                # A file that cannot be read must not hide the others.
                manifests[entry.name] = _text(entry / "manifest.json", MANIFEST_LIMIT)
                length += len(manifests[entry.name])
            if length > MANIFESTS_LIMIT:
                raise VerbError("files", f"the manifests in {directory} are longer than {MANIFESTS_LIMIT} characters")
    return manifests


_HANDLERS: dict[type[Arguments], Callable[[RequestContext, Any], dict[str, Any]]] = {
    **dict.fromkeys(VOLUME_VERBS.values(), change_volumes),  # snapshot, rollback, …: broker.launcher.volume_verbs
    PrepareArguments: prepare,
    CloneArguments: clone_session,
    EnvironmentArguments: environment,
    PromoteArguments: promote,
    UntrashArguments: untrash,
    InstallArguments: install,
    SubmitArguments: submit,
    KeysArguments: keys,
    LogArguments: log,
    ManifestsArguments: manifests,
}


def _verb(kind: type[Arguments]) -> Callable[[RequestContext, Mapping[str, Any]], dict[str, Any]]:
    return lambda context, request: _HANDLERS[kind](context, kind.parse(request))


VERBS = {kind.VERB: _verb(kind) for kind in _HANDLERS}
"""By name; each validates its request first. VerbError if it fails."""


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


def _sbatch(argv: list[str], user: pwd.struct_passwd, timeout: float) -> int:
    try:
        done = _run(argv, timeout, user=user)
    except subprocess.TimeoutExpired as error:
        raise VerbError("unclear", f"sbatch did not exit within {timeout:g} s") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
        words = words or f"sbatch exited with status {done.returncode} and no message"
        killed = done.returncode < 0  # perhaps after slurmctld had accepted the job
        raise VerbError("unclear" if killed or UNCLEAR.search(words) else "refused", words)
    number = done.stdout.decode(errors="replace").strip().split(";")[0]
    if JOB_ID.fullmatch(number) is None:
        raise VerbError("unclear", f"sbatch printed no job id: {number!r:.80}")
    return int(number)


def _run(
    argv: list[str], timeout: float, *, user: pwd.struct_passwd | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program with a new environment: no inherited SBATCH_* or SLURM_* variable changes its meaning."""
    environment = {"PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"), "LC_ALL": "C.UTF-8"}
    if "SLURM_CONF" in os.environ:
        environment["SLURM_CONF"] = os.environ["SLURM_CONF"]
    if user is not None:
        environment |= {
            "HOME": user.pw_dir,
            "USER": user.pw_name,
            "LOGNAME": user.pw_name,
            "SHELL": user.pw_shell,
        }
    return run_program(argv, timeout=timeout, env=environment)
