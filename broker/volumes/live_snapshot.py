"""Snapshots of a running session: the job itself copies its tops while its processes are frozen.

Only the node sees what its processes have written at once, so the copy is made there, by `copying.pyz`. The two talk
through files in the session's `run` directory and one signal (docs/reference/session-job.md): the request is written,
USR2 is sent to the batch shell, and the outcome is waited for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from broker.failpoints import failpoint
from broker.names import new_id
from broker.volumes.drivers import MODES, OverlayDriver
from broker.volumes.errors import VolumeError
from broker.volumes.files import replace_file
from broker.volumes.layers import SYSTEM_MODE
from broker.volumes.operations import Answer, ImageVersion, SnapshotNote, commit_answer, require_unused_label
from broker.volumes.program import run_program
from broker.volumes.record import Snapshot, Volume, read_save
from profiles.userfile import read_text

if TYPE_CHECKING:
    from pathlib import Path

    from broker.volumes.storage import SessionVolumes, Storage

COPY_TIMEOUT_S = 3600.0
"""Seconds for the whole copy."""
POLL_INTERVAL_S = 0.02
"""Seconds between reads of the outcome: a network file system sends no notifications of changes."""
SCANCEL_TIMEOUT_S = 30.0
OUTCOME_FILE_BYTES = 2048
"""Size of the file for the job's answer. It is made before the copy, since a copy that fills the disk could not be
answered otherwise."""
MAX_OUTCOME_BYTES = 64 * 1024
"""Limit for reading that file: an answer may be longer than the file was made for."""
SESSION_ENDED = "the session ended"
"""The message of session.sh for a copy that ended together with its session."""
CONSISTENCIES = frozenset({"frozen", "crash-consistent"})


@dataclass(frozen=True, slots=True)
class CopyOutcome:
    """The outcome of a copy."""

    result: str
    """`frozen` or `crash-consistent`."""
    pause: float
    """Seconds for which the session's processes were frozen."""


def snapshot_running(
    storage: Storage, session_id: str, operation: str, *, job_id: int, image: ImageVersion, note: SnapshotNote
) -> Answer:
    """Take a snapshot of a running session. Its job continues, and its volumes do not change."""
    with storage.open_session(session_id) as session:
        if (answer := session.record.done.get(operation)) is not None:
            return answer
        require_unused_label(session, note.label)
        home, system = _new_target_layer(session, "home"), _new_target_layer(session, "system")
        outcome = _request_copy(session, job_id, home=home, system=system)
        failpoint("copy.copied")
        volume = _saved_volume(session, system) if session.record.on_node else session.record.system
        made = Snapshot(
            number=session.record.last_number + 1,
            at=time.time(),
            consistency=outcome.result,
            profile=image.profile,
            version=image.version,
            digest=image.digest,
            home=session.driver.live_stack("home", session.record.home, home),
            system=session.driver.live_stack("system", volume, system),
            label=note.label,
            reason=note.reason,
            automatic=note.automatic,
            pause=outcome.pause,
        )
        changed = replace(
            session.record.with_snapshot(made),
            home=replace(session.record.home, copied=home),
            # What is on the node is copied there first, and the next copy builds on that one.
            system=replace(session.record.system, copied="" if session.record.on_node else system),
        )
        return commit_answer(session, operation, changed, {"snapshot": asdict(made)})


def commit_root_layer(storage: Storage, session_id: str, operation: str, *, job_id: int) -> Answer:
    """Make the changes of root mode a layer of the system volume, which the session's next job mounts.

    The job is in root mode: it has mounted the system volume read-only, and all changes are in a directory of the node.
    """
    with storage.open_session(session_id) as session:
        if (answer := session.record.done.get(operation)) is not None:
            return answer
        layer = storage.layers.new_layer()
        _request_copy(session, job_id, home="", system=layer)
        failpoint("commit-root.copied")
        system = session.record.system
        if session.record.on_node:
            if not storage.layers.squashfs(layer).is_file():
                raise VolumeError("files", "the job did not pack the layer")
            below = (*system.layers, *system.saved)
        else:
            untouched = storage.layers.is_untouched(system.top, system.layers, SYSTEM_MODE)
            below = system.layers if untouched else (*system.layers, system.top)
        top = storage.layers.new_top(SYSTEM_MODE, system.saved[-1] if system.saved else system.top)
        changed = replace(session.record, system=Volume(top, (*below, layer)))
        return commit_answer(session, operation, changed, {"layer": layer})


def _saved_volume(session: SessionVolumes, layer: str) -> Volume:
    """Return the system volume as the job has saved it, with `layer` as the last save.

    VolumeError `files` if the last save is another layer. The record may be older: a job whose disk was full when it
    began notes the layers below its own only with its first save.
    """
    volume = session.record.system
    save = read_save(session.storage.layers.path(volume.top))
    if save.own != layer:
        raise VolumeError("files", "the job did not save the layer that it has packed")
    return replace(volume, below=save.below, own=save.own)


def _new_target_layer(session: SessionVolumes, kind: str) -> str:
    """Make the layer for the copy of a volume's top. Return "" for an overlay's top without changes."""
    layers = session.storage.layers
    volume = session.record.home if kind == "home" else session.record.system
    if session.driver.name == OverlayDriver.name and layers.is_untouched(volume.top, volume.layers, MODES[kind]):
        return ""
    return layers.new_layer()


def _request_copy(session: SessionVolumes, job_id: int, *, home: str, system: str) -> CopyOutcome:
    """Let the job copy its tops to these layers. VolumeError `ended` if the job ends meanwhile, `space`, `files`."""
    run_directory = session.directory / "run"
    attempt = new_id()  # not the operation's: a job may still be busy with an earlier attempt, at other layers
    request = {
        "ID": attempt,
        "HOME": home,
        "HOME_PREVIOUS": session.record.home.copied if home else "",
        "SYSTEM": system,
        "SYSTEM_PREVIOUS": session.record.system.copied if system else "",
    }
    outcome = run_directory / "copy.outcome"
    replace_file(outcome, b" " * OUTCOME_FILE_BYTES)
    replace_file(run_directory / "copy.request", "".join(f"{key}={value}\n" for key, value in request.items()).encode())
    failpoint("copy.requested")
    signal_job(job_id, run_directory / "lock")
    failpoint("copy.signalled")
    deadline = time.monotonic() + COPY_TIMEOUT_S
    while (reported := read_outcome(outcome)).get("ID") != attempt:
        if time.monotonic() > deadline:
            raise VolumeError("files", f"the job did not make the copy within {COPY_TIMEOUT_S:g} s")
        if job_is_gone(run_directory / "lock"):
            if read_outcome(outcome).get("ID") == attempt:
                continue
            raise VolumeError("ended", "the session's job ended while the copy was made")
        time.sleep(POLL_INTERVAL_S)
    if reported.get("RESULT") not in CONSISTENCIES:
        for layer in {home, system} - {""} - _saved_layers(session):
            session.storage.layers.discard(layer)  # half a copy, which would take the space that is missing
        words = reported.get("MESSAGE", "the job could not make the copy")
        if words == SESSION_ENDED:
            raise VolumeError("ended", "the session's job ended while the copy was made")
        full = "No space left" in words or "quota" in words.lower()
        raise VolumeError("space" if full else "files", words[:500])
    session.storage.layers.check({home, system} - {""})
    return CopyOutcome(reported["RESULT"], _parse_pause(reported.get("PAUSE", "")))


def _saved_layers(session: SessionVolumes) -> set[str]:
    """Return the layers that the job has saved. A layer may be saved although the copy failed afterwards."""
    if not session.record.on_node:
        return set()
    return set(read_save(session.storage.layers.path(session.record.system.top)).stack)


def _parse_pause(reported: str) -> float:
    """Return the pause in seconds that a job has reported. VolumeError `files` if it is no valid number."""
    try:
        seconds = float(reported or 0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= COPY_TIMEOUT_S:
        raise VolumeError("files", f"the job reported an invalid pause: {reported!r:.40}")
    return seconds


def signal_job(job_id: int, lock: Path) -> None:
    """Send USR2 to the batch shell of the user's own job (scancel(1)), which holds that lock."""
    command = ["scancel", "--batch", "--signal=USR2", str(job_id)]
    kept = {name: os.environ[name] for name in ("PATH", "SLURM_CONF") if name in os.environ}
    try:
        done = run_program(command, timeout=SCANCEL_TIMEOUT_S, env=kept | {"LC_ALL": "C.UTF-8"})
    except subprocess.TimeoutExpired as error:
        raise VolumeError("unclear", "scancel did not end: Slurm does not answer") from error
    except FileNotFoundError as error:
        raise VolumeError("files", "scancel is not installed") from error
    if done.returncode != 0:
        kind = "ended" if job_is_gone(lock) else "conflict"
        raise VolumeError(
            kind, done.stderr.decode(errors="replace").strip()[-500:] or f"scancel ended with {done.returncode}"
        )


def read_outcome(path: Path) -> dict[str, str]:
    """Return the KEY=VALUE lines of a file that is replaced as a whole; none while there is no file."""
    with contextlib.suppress(FileNotFoundError):
        text = read_text(path, MAX_OUTCOME_BYTES)
        return dict(line.split("=", 1) for line in text.split("\n") if "=" in line)
    return {}


def job_is_gone(lock: Path) -> bool:
    """Whether the lock that a job holds during its whole life is free."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
