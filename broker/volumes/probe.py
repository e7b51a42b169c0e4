"""Choose the driver for a file system and a kernel, by trying what a session's job does.

The trial is `mount_overlay` of the batch script itself, run by bash as the user, in a user and mount namespace, with
the upper and the working directory on the shared file system, and lower directories there and on the node's disk. Only
the launcher's children call this module: `prepare` for a new session, `probe` for `berth doctor`. So the user, the
namespaces and the unit's sandbox are those in which sessions are made.

Where fuse-overlayfs mounts, it is tried as a session uses it, too: on a file server that knows the user alone it cannot
do all that a directory does (ADR 119).

The job runs on another machine, whose kernel and programs may differ; it decides there again (ADR 118).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from broker.job.bundle import session_script
from broker.volumes.content import FICLONE
from broker.volumes.errors import VolumeError
from broker.volumes.files import replace_file
from broker.volumes.program import run_program
from profiles.local_folder import local_folder
from profiles.removal import remove_tree
from profiles.userfile import read_bytes

TRIAL_TIMEOUT_S = 50
"""Below the controller's timeout for the launcher's verb. A trial takes a tenth of a second on an idle machine."""

TRIAL = """
source "$1"
log() { :; }
report_unmountable() { printf '%s\\n' none "$2" "$3"; exit 0; }
LAYERS=$2 NODE_DIR=$3 MOUNTED=() faults=''
cd "$LAYERS"
mount_overlay "$NODE_DIR/merged" top/tree below/tree "$NODE_DIR/image"
cd "$NODE_DIR/merged"
echo changed >file && rm gone && mkdir folder && mv file folder/ && rm "$4"
if [[ $HOW == fuse ]]; then faults=$(unshare --user --map-user="$5" --map-group="$6" bash -c "$7" 2>/dev/null); fi
cd "$LAYERS"
umount "$NODE_DIR/merged"
printf '%s\\n' "$HOW" "$REFUSAL" '' "$faults"
"""
"""A script for bash. It writes `kernel`, `fuse` or `none`, why the kernel mounts none, why FUSE mounts none, and what
FUSE does not do, a word for each."""
TRIAL_ON_NODE = """
source "$1"
cd "$2"
mkdir tree work
mount_by_kernel . lowerdir=image,upperdir=tree,workdir=work merged || exit 1
rm -r "merged/$3" && mkdir "merged/$3" && [[ -z $(ls -A "merged/$3") ]] && umount merged
"""
"""A script for bash. It ends with 0 if the kernel takes the node's disk as the upper directory."""
IMAGE_FILE = "of_the_image"
USE_TRIAL = """
cannot() { printf '%s ' "$1"; }
mkdir -m 500 made && mkdir -m 0 unfolded || cannot closed-folders
(umask 333 && echo text >written) && mv written kept && rm -f kept || cannot read-only-files
for place in in_layer in_image; do
  cd $place || exit
  rm -f removed && mv renamed moved && echo text >new && mv -f new replaced || cannot layer-files
  chmod 700 closed && rm -f closed/file && rmdir closed || cannot layer-folders
  cd ..
done
"""
"""A script for bash, run as a session's user in its overlay: what dpkg, git and `chmod` do every day. It writes what
did not work."""
FAULTS = {
    "closed-folders": "makes no folder without write permission",
    "read-only-files": "keeps no read-only file",
    "layer-files": "removes no read-only file of a layer",
    "layer-folders": "opens no closed folder of a layer",
}
"""The words of USE_TRIAL as sentences."""

NODE_DISK_LIMIT = (
    "outside of the home, a running job has its changes on its node's disk and saves them from time to time and at its "
    "end: a lost node, or a job that is killed, loses those since the last save"
)
"""A warning for users whose system volume is on the node's disk (ADR 120)."""
FUSE_LIMIT = "outside of the home, fuse-overlayfs {faults}: install packages with `berth exec --root NAME -- COMMAND`"
"""A warning for sessions where fuse-overlayfs has these faults, with the remedy."""
MAX_LIMITS = 5
MAX_REASON_CHARACTERS = 150
"""Limit for the kernel's reason: together with all faults it must fit into a launcher's answer."""
VALIDITY_S = 86400.0
"""Seconds for which a result is valid for new sessions in the same environment: the mounts of a probe take longer than
everything else that a new session needs."""
MAX_NOTE_BYTES = 64 * 1024
"""Limit for the file that keeps the result, which has some hundred bytes."""
SANDBOX_LINES = ("CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:")
"""Lines of /proc/PID/status (proc(5)) that show what a unit's sandbox takes away."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The driver that a directory's file system gets, and why."""

    driver: str
    why: str
    limits: tuple[str, ...] = ()
    """Limits of sessions with this driver here, each with its remedy."""
    on_node: bool = False
    """Whether the kernel refuses the shared file system, but takes the node's disk: a driver without overlays then has
    its system volumes there while a job runs."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """Outcome of a trial: `how` is `kernel`, `fuse` or `none`; the two reasons are empty if there is none.

    `faults` is what FUSE does not do here, as words of FAULTS.
    """

    how: str
    kernel: str = ""
    fuse: str = ""
    faults: str = ""

    def describe_faults(self) -> str:
        """The faults as the end of a sentence about fuse-overlayfs; empty if there are none."""
        return " and ".join(FAULTS[word] for word in dict.fromkeys(self.faults.split()) if word in FAULTS)


def cached_probe(directory: Path, note: Path) -> Probe:
    """Return the result that the file `note` has from the last VALIDITY_S in the same environment, else that of a new
    probe.
    """
    where = _environment_key(directory)
    try:
        found = json.loads(read_bytes(note, MAX_NOTE_BYTES))
        if found["where"] == where and 0 <= time.time() - found["at"] < VALIDITY_S:
            words = (str(found["driver"])[:20], str(found["why"])[:1000])
            return Probe(*words, _parse_limits(found), found["on_node"] is True)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass  # not there, or not ours
    return refresh_probe(directory, note)


def refresh_probe(directory: Path, note: Path) -> Probe:
    """Run a probe and store its result for `cached_probe`."""
    found = probe_driver(directory)
    said = {"where": _environment_key(directory), "at": time.time(), **asdict(found)}
    with contextlib.suppress(OSError):  # a full disk: then the next one tries again
        replace_file(note, json.dumps(said).encode())
    return found


def cached_limits(note: Path) -> tuple[str, ...]:
    """Return the limits of sessions by the last probe; none without a probe."""
    try:
        return _parse_limits(json.loads(read_bytes(note, MAX_NOTE_BYTES)))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ()


def _parse_limits(found: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(each)[:500] for each in found["limits"][:MAX_LIMITS])


def _environment_key(directory: Path) -> list[str]:
    """Return everything that the result depends on: machine, kernel, file system, sandbox, and the job's own mount
    code.

    A mount namespace belongs to one start of a unit, so a restart of the unit, perhaps with other settings, has another
    one. Numbers of namespaces and devices are valid only until the machine boots.
    """
    system = os.uname()
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return [
        system.nodename,
        system.release,
        Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        str(directory.stat().st_dev),
        *(str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("mnt", "user")),
        *(" ".join(line.split()) for line in status if line.startswith(SANDBOX_LINES)),
        hashlib.sha256(session_script() + (TRIAL + TRIAL_ON_NODE + USE_TRIAL).encode()).hexdigest(),
    ]


def probe_driver(directory: Path) -> Probe:
    """Choose the driver for sessions below `directory`, which must exist and be writable. OSError if it is not.

    VolumeError if the trial does not end.
    """
    room = Path(tempfile.mkdtemp(prefix=".probe-", dir=directory))
    try:
        trial = _try_overlay(room)
        if trial.how == "kernel":
            return Probe("overlay", "kernel overlayfs works here in a user namespace")
        faults = trial.describe_faults()
        limits = (FUSE_LIMIT.format(faults=faults),) if faults else ()
        refused = f"the kernel refuses overlayfs ({trial.kernel[:MAX_REASON_CHARACTERS]})"
        on_node = _mounts_on_node()
        also = f"; {NODE_DISK_LIMIT}" if on_node else f"; {limits[0]}" if limits else ""
        if _can_share_blocks(room):
            return Probe("reflink", f"{refused}, but files can share blocks{also}", limits, on_node)
        if faults:
            return Probe("plain", f"{refused}{also}", limits, on_node)
        if trial.how == "fuse":
            return Probe("overlay", f"{refused}; fuse-overlayfs works, slower", on_node=on_node)
        words = (
            f"neither kernel overlayfs ({trial.kernel}) nor fuse-overlayfs ({trial.fuse}) nor shared blocks work here"
        )
        if not on_node:
            also = "; the nodes need one of the first two for a session's system"
        return Probe("plain", words + also, on_node=on_node)
    finally:
        remove_tree(room)


def _mounts_on_node() -> bool:
    """Whether the kernel mounts an overlay that has its upper directory on this machine's disk."""
    try:
        with local_folder() as node:
            (node / "merged").mkdir()
            (node / "image" / IMAGE_FILE).mkdir(parents=True)
            (node / "image" / IMAGE_FILE / "file").write_text("a file\n")
            (node / "functions").write_bytes(session_script())
            script = ["bash", "-c", TRIAL_ON_NODE, "bash", str(node / "functions"), str(node), IMAGE_FILE]
            done = run_program(["unshare", "--user", "--map-root-user", "--mount", *script], timeout=TRIAL_TIMEOUT_S)
    except (subprocess.TimeoutExpired, OSError):
        return False
    return done.returncode == 0


def _try_overlay(room: Path) -> _Trial:
    """Mount an overlay as a job does, and change something through it."""
    for name in ("top/tree", "top/work", "below/tree"):
        (room / name).mkdir(parents=True)
    _make_layer_files(room / "below/tree/in_layer")
    (room / "below/tree/file").write_text("a file\n")
    (room / "below/tree/gone").write_text("a file\n")
    try:
        with local_folder() as node:
            for name in ("merged", "image"):
                (node / name).mkdir()
            (node / "image" / IMAGE_FILE).write_text("a file\n")
            _make_layer_files(node / "image/in_image")
            owner = [str(os.getuid()), str(os.getgid())]
            functions = node / "functions"
            functions.write_bytes(session_script())
            script = ["bash", "-c", TRIAL, "bash", str(functions), str(room), str(node), IMAGE_FILE, *owner]
            script.append(USE_TRIAL)
            command = ["unshare", "--user", "--map-root-user", "--mount", *script]
            done = run_program(command, timeout=TRIAL_TIMEOUT_S, cwd=room)
    except subprocess.TimeoutExpired as error:  # nothing is known, and a session keeps its driver for good
        words = f"the trial of an overlay in {room.parent} did not end within {TRIAL_TIMEOUT_S} s"
        raise VolumeError("files", f"{words}: the machine is too busy, or a file server does not answer") from error
    except OSError as error:
        return _Trial("none", type(error).__name__, type(error).__name__)
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode == 0 and lines:
        return _Trial(*lines[:4])
    said = done.stderr.decode(errors="replace").strip().splitlines() or lines
    words = said[-1][:200] if said else f"exit code {done.returncode}"
    return _Trial("none", words, words)


def _make_layer_files(folder: Path) -> None:
    """Make the files that USE_TRIAL changes: read-only files, and a folder without write permission."""
    for name in ("removed", "renamed", "replaced", "closed/file"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a file\n")
        path.chmod(0o444)
    (folder / "closed").chmod(0o555)


def _can_share_blocks(room: Path) -> bool:
    source, target = room / "source", room / "target"
    source.write_bytes(os.urandom(4096))
    with source.open("rb") as read, target.open("wb") as written:
        try:
            fcntl.ioctl(written, FICLONE, read.fileno())
        except OSError:
            return False
    return True
