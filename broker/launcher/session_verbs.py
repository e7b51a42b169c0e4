"""The launcher's verbs for sessions. Each runs as the user, in a process of its own, and checks its own arguments.

Standard library and slurm.sbatch only: this is loaded by the root process, though never run by it as root.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.launcher.request import RequestContext, VerbError, check_own, own_directory
from broker.launcher.volume_verbs import VOLUME_VERBS, make_volumes
from broker.names import IDENTIFIER, new_id
from broker.ssh import host_key as hostkey
from broker.volumes import batch
from broker.volumes.copy_archive import ARCHIVE, copy_archive
from broker.volumes.errors import VolumeError
from broker.volumes.program import run
from broker.volumes.record import locked, write
from profiles.userfile import UnfitFileError, read_bytes, read_tail, read_text
from slurm.sbatch import OptionError, check_options

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable, Mapping

FILES = {
    "manifest.json": "manifest.json",
    "batch.json": batch.DESCRIPTION,
    "job.env": "run/job.env",
    "authorized_keys": "run/authorized_keys",
    "revoked_keys": "run/revoked_keys",
    "continuation": "run/continuation",
    "idle": "run/idle",
    "host_certificate": "run/ssh_host_ed25519_key-cert.pub",
}
"""What the controller may write into a session's directory: its name in a request, and where it goes."""
JOB_ID = re.compile(r"[1-9][0-9]{0,9}")
"""As Slurm counts them, in 32 bits."""
LOG_BYTES = 2**20
"""Bytes that are read of a job's log, from its end."""
HOST_KEY = "run/ssh_host_ed25519_key"
COPYING = f"run/{ARCHIVE}"
OLD_COPYING = "run/copying.py"
KEYS_LIMIT = 256 * 1024
KEY_BYTES = 16 * 1024
"""Bytes of one key's file; ssh-keygen writes about 400."""
MANIFEST_LIMIT = 256 * 1024
"""Bytes; the options alone may take slurm.sbatch's MAX_OPTIONS times MAX_VALUE."""
MANIFESTS_LIMIT = 8 * 2**20
"""Characters of all of one user's; as JSON at most six times as many bytes, which the controller still reads."""
MAX_SESSIONS = 10_000

UNCLEAR = re.compile(
    r"timed out|unable to contact|zero bytes|communication|connect|unexpected message|munge|slurmctld"
    r"|broken pipe|standby|authentication|temporarily unavailable|reset by peer|no word",
    re.IGNORECASE,
)
"""What sbatch says when it does not know whether slurmctld took the job; anything else that fails it is slurmctld's
refusal."""


def prepare(place: RequestContext, request: Mapping[str, Any]) -> dict[str, Any]:
    """Make a session's directories, volumes and host key if they are missing.

    The answer has its public host key, one line, and what its volumes are.
    """
    session = place.session(request)
    for directory in (place.root, session.parent, session, session / "run"):
        own_directory(directory, place.user.pw_uid)
    volumes = make_volumes(place, session.name, request.get("driver", "auto"))
    return {"host_key": _host_key(session), "volumes": volumes}


def clone(place: RequestContext, request: Mapping[str, Any]) -> dict[str, Any]:
    """Make a session, complete with host key and the files that the request brings, of what another one has."""
    made = VOLUME_VERBS["clone"](place, request)
    session = place.session(request)
    host_key = _host_key(session)
    install(place, request)
    return made | {"host_key": host_key}


def untrash(place: RequestContext, request: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a session back that was put aside, with another host key: clients may have learnt that the one it had is
    revoked.
    """
    answer = VOLUME_VERBS["untrash"](place, request)
    session = place.session(request)
    (session / HOST_KEY).unlink(missing_ok=True)
    return answer | {"host_key": _host_key(session)}


def environment(place: RequestContext, request: Mapping[str, Any]) -> dict[str, Any]:
    """Make the environment of a batch job of what a session has, or with empty volumes; where it is.

    What it is comes first, so that whatever is left of an attempt is known for what it is.
    """
    session = place.session(request)
    for directory in (place.root, session.parent, session, session / "run"):
        own_directory(directory, place.user.pw_uid)
    install(place, {**request, "files": {"batch.json": request["files"]["batch.json"]}})
    if request.get("source") is None:
        make_volumes(place, session.name, request.get("driver", "auto"))
    else:
        VOLUME_VERBS["clone"](place, request)
    for program in (Path(place.session_script), Path(place.session_script).with_name("batch.sh")):
        write(session / "run" / program.name, program.read_bytes())
    _install_copying(session)
    install(place, request)
    return {"directory": str(session)}


def promote(place: RequestContext, request: Mapping[str, Any]) -> dict[str, Any]:
    """Make a session, complete with host key and files, of what a batch job has left."""
    made = VOLUME_VERBS["promote"](place, request)
    host_key = _host_key(place.session(request))
    install(place, request)
    return made | {"host_key": host_key}


def _host_key(session: Path) -> str:
    """Return the session's public host key, one line.

    The private key is the truth, since it is what sshd proves: its `.pub` is written anew where that is another or
    missing. If there is no private key that sshd can use, another pair is made, and what was there is kept aside.
    Whatever ends this half-way, the next call finds a whole private key or makes one.
    """
    key, comment = session / HOST_KEY, f"berth session {session.name}"
    public = _public_half(key)
    if public is None:
        _put_aside(key)
        fresh = key.with_name(f".{key.name}.{new_id()}")
        done = _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(fresh)], 30)
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip()[-500:]
            raise VerbError("files", words or f"ssh-keygen ended with {done.returncode}")
        public = _public_half(fresh)
        assert public is not None
        fresh.with_name(fresh.name + ".pub").unlink()
        fresh.rename(key)
    line, place = hostkey.public_key_line(public, comment), key.with_name(key.name + ".pub")
    if _text(place, KEY_BYTES) != line + "\n":
        if place.is_dir():
            _put_aside(place)
        write(place, (line + "\n").encode())
    return line


def _public_half(key: Path) -> bytes | None:
    """Return the public half of a private key that sshd can use; None for any other content."""
    try:
        public = hostkey.public_key_of(_text(key, KEY_BYTES))
    except ValueError:
        return None
    if stat.S_IMODE(key.lstat().st_mode) & 0o077:
        key.chmod(0o600)  # sshd takes no key that others may read
    return public


def _text(path: Path, limit: int) -> str:
    """Return the text of a regular file of the user's own; empty if there is none that can be read."""
    try:
        return read_text(path, limit)
    except (FileNotFoundError, UnfitFileError):
        return ""


def _put_aside(path: Path) -> None:
    """Make room for a file, and keep what was there."""
    with contextlib.suppress(FileNotFoundError):
        path.rename(path.with_name(path.name + ".unusable"))


def _check_certificate(session: Path, certificate: object) -> None:
    """VerbError `host-key` if that is a certificate for another key than the session has: clients would refuse it."""
    certified = hostkey.certified_key(str(certificate))
    if certified is not None and hostkey.public_key_line(certified, "").split()[1] != _host_key(session).split()[1]:
        raise VerbError("host-key", "the session's host key is not the one that its certificate is for")


def install(place: RequestContext, request: Mapping[str, Any]) -> dict[str, Any]:
    """Write some of FILES into a session's directory, each whole or not at all."""
    session = place.session(request)
    check_own(session, place.user.pw_uid)
    files = request.get("files")
    if not isinstance(files, dict) or not files.keys() <= FILES.keys():
        raise VerbError("invalid", f"not among the files that may be written: {files!r:.200}")
    for name, content in files.items():
        write(session / FILES[name], str(content).encode())
    return {}


def submit(place: RequestContext, request: Mapping[str, Any]) -> dict[str, Any]:
    """Write the files and hand the session's job to sbatch; the answer is its job id.

    `refused` carries sbatch's own words: Slurm will not have this job. `unclear` means that it may or may not be
    queued. `host-key`: the certificate is for another key than the session's, and nothing was done.
    """
    session = place.session(request)
    submission = int(request["submission"])
    options = request.get("options")
    if not isinstance(options, list):
        raise VerbError("invalid", "options must be a list")
    try:
        check_options(options)
    except OptionError as error:
        raise VerbError("invalid", str(error)) from error
    files = request.get("files")
    _check_certificate(session, files.get("host_certificate", "") if isinstance(files, dict) else "")
    install(place, request)
    _install_copying(session)
    _remove_old_copying(session)
    argv = job_command(place, session, submission, options)
    return {"job_id": _sbatch(argv, place.user, float(request.get("timeout", 30)))}


def job_command(place: RequestContext, session: Path, submission: int, options: list[str]) -> list[str]:
    """The command that submits a session's job and prints its id; the options are checked."""
    return [
        place.sbatch,
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
        place.session_script,
        str(session),
        str(submission),
    ]


def keys(place: RequestContext, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - every verb has the same form
    """The user's own ~/.ssh/authorized_keys, which may be a link, as sshd(8) has it; empty when there is none.

    VerbError `refused` for a file that is not regular or too large: a part of it could say more than the whole.
    """
    try:
        return {"text": read_text(Path(place.user.pw_dir) / ".ssh/authorized_keys", KEYS_LIMIT, own=False, follow=True)}
    except FileNotFoundError:
        return {"text": ""}
    except UnfitFileError as error:
        raise VerbError("refused", f"{error.filename} {error.strerror}") from error


def log(place: RequestContext, request: Mapping[str, Any]) -> dict[str, Any]:
    """The last `bytes` bytes of a session's job log; empty when there is none."""
    try:
        tail = read_tail(place.session(request) / "run/job.log", min(int(request["bytes"]), LOG_BYTES))
    except FileNotFoundError:
        tail = b""
    return {"text": tail.decode(errors="replace")}


def manifests(place: RequestContext, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """The manifests of all the user's sessions, and of the deleted ones whose data is there, by session id. A batch
    job's environment has none.
    """
    return {"manifests": _manifests_in(place.root / "sessions"), "trash": _manifests_in(place.root / "trash")}


def _manifests_in(directory: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    length = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(directory.iterdir())[:MAX_SESSIONS]:
            if IDENTIFIER.fullmatch(entry.name) and not batch.is_environment(entry):
                # One that cannot be read must not hide the others.
                found[entry.name] = _text(entry / "manifest.json", MANIFEST_LIMIT)
                length += len(found[entry.name])
            if length > MANIFESTS_LIMIT:
                raise VerbError("files", f"the manifests in {directory} are longer than {MANIFESTS_LIMIT} characters")
    return found


VERBS: dict[str, Callable[[RequestContext, Mapping[str, Any]], dict[str, Any]]] = VOLUME_VERBS | {
    verb.__name__: verb
    for verb in (prepare, clone, environment, promote, untrash, install, submit, keys, log, manifests)
}


def _install_copying(session: Path) -> None:
    """Give the job the program that copies its volumes while it runs; it is the same for all, so rarely written."""
    archive = copy_archive()
    place = session / COPYING
    try:
        there = read_bytes(place, len(archive))
    except OSError:
        there = b""
    if there != archive:
        write(place, archive)


def _remove_old_copying(session: Path) -> None:
    """Remove the program that jobs of earlier versions copied with, unless such a job may still run."""
    old = session / OLD_COPYING
    if old.exists():
        with contextlib.suppress(VolumeError), locked(session / "run/lock", wait=False):
            old.unlink(missing_ok=True)


def _sbatch(argv: list[str], user: pwd.struct_passwd, timeout: float) -> int:
    try:
        done = _run(argv, timeout, user=user)
    except subprocess.TimeoutExpired as error:
        raise VerbError("unclear", f"sbatch did not end within {timeout:g} s") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
        words = words or f"sbatch ended with {done.returncode} and no word"
        killed = done.returncode < 0  # by whoever: perhaps after slurmctld had taken the job
        raise VerbError("unclear" if killed or UNCLEAR.search(words) else "refused", words)
    number = done.stdout.decode(errors="replace").strip().split(";")[0]
    if JOB_ID.fullmatch(number) is None:
        raise VerbError("unclear", f"sbatch ended without a job id: {number!r:.80}")
    return int(number)


def _run(
    argv: list[str], timeout: float, *, user: pwd.struct_passwd | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program with an environment made from nothing: no SBATCH_* or SLURM_* of anybody changes its meaning."""
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
    return run(argv, timeout=timeout, env=environment)
