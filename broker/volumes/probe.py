"""Choose the driver for a file system and a kernel, by trying what a session's job does.

The trial is `mount_overlay` of session.sh itself, run by bash as the user, in a user and mount namespace, with the
upper and the working directory on the shared file system, and lower directories there and on the node's disk. Only
the launcher's workers call this module: `prepare` for a new session, `probe` for `berth doctor`. So the user, the
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

from broker.volumes.content import FICLONE
from broker.volumes.errors import VolumeError
from broker.volumes.program import run
from broker.volumes.record import write
from profiles.local_folder import local_folder
from profiles.removal import remove_tree
from profiles.userfile import read_bytes

TRIAL_TIMEOUT_S = 50
"""Below what the controller waits for the launcher's verb. A trial takes a tenth of a second of a free machine."""

SESSION_SCRIPT = Path(__file__).parents[1] / "job/session.sh"
TRIAL = """
source "$1"
say() { :; }
refuse_overlay() { printf '%s\\n' none "$2" "$3"; exit 0; }
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
USE = """
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
"""What USE writes, in words."""

ON_NODE = (
    "outside of the home, a running job has its changes on its node's disk and saves them from time to time and at its "
    "end: a lost node, or a job that is killed, loses those since the last save"
)
"""What a site's people have to know of a system volume on the node's disk (ADR 120)."""
LIMIT = "outside of the home, fuse-overlayfs {faults}: install packages with `berth exec --root NAME -- COMMAND`"
"""What a session cannot do where fuse-overlayfs has these faults, and the way round it."""
MOST_LIMITS = 5
MOST_REASON = 150
"""Characters of why the kernel refuses: with all faults beside it, it has to fit a launcher's answer."""
VALIDITY_S = 86400.0
"""Time for which a result holds for new sessions, in the same surroundings: mounting to find out takes longer than all
else that a new session needs."""
NOTE_BYTES = 64 * 1024
"""Limit for the file that keeps the result, which has some hundred bytes."""
SANDBOX_LINES = ("CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:")
"""Lines of /proc/PID/status (proc(5)) that show what a unit's sandbox takes away."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The driver that a directory's file system gets, and why."""

    driver: str
    why: str
    limits: tuple[str, ...] = ()
    """What sessions with this driver cannot do here, in words, with what to do instead."""
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

    def told_faults(self) -> str:
        """The faults as the end of a sentence about fuse-overlayfs; empty if there are none."""
        return " and ".join(FAULTS[word] for word in dict.fromkeys(self.faults.split()) if word in FAULTS)


def remembered(directory: Path, note: Path) -> Probe:
    """As `probe`, but what was found within VALIDITY_S in the same surroundings is taken from the file `note`."""
    where = _surroundings(directory)
    try:
        found = json.loads(read_bytes(note, NOTE_BYTES))
        if found["where"] == where and 0 <= time.time() - found["at"] < VALIDITY_S:
            words = (str(found["driver"])[:20], str(found["why"])[:1000])
            return Probe(*words, _told_limits(found), found["on_node"] is True)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass  # not there, or not ours
    return probe_anew(directory, note)


def probe_anew(directory: Path, note: Path) -> Probe:
    """As `probe`, and note it for `remembered`."""
    found = probe(directory)
    said = {"where": _surroundings(directory), "at": time.time(), **asdict(found)}
    with contextlib.suppress(OSError):  # a full disk: then the next one tries again
        write(note, json.dumps(said).encode())
    return found


def noted_limits(note: Path) -> tuple[str, ...]:
    """Return what sessions cannot do, as the last probe found it; nothing if none has."""
    try:
        return _told_limits(json.loads(read_bytes(note, NOTE_BYTES)))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ()


def _told_limits(found: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(each)[:500] for each in found["limits"][:MOST_LIMITS])


def _surroundings(directory: Path) -> list[str]:
    """Return what the answer depends on: machine, kernel, file system, sandbox, and the job's own way to mount.

    A mount namespace is a unit's own, so a restart of the unit, perhaps with other settings, begins another. Numbers of
    namespaces and of devices mean something only until the machine boots.
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
        hashlib.sha256(SESSION_SCRIPT.read_bytes() + (TRIAL + TRIAL_ON_NODE + USE).encode()).hexdigest(),
    ]


def probe(directory: Path) -> Probe:
    """Choose for sessions below `directory`, which must exist and be writable. OSError if it is not.

    VolumeError if the trial does not end.
    """
    room = Path(tempfile.mkdtemp(prefix=".probe-", dir=directory))
    try:
        trial = _overlay(room)
        if trial.how == "kernel":
            return Probe("overlay", "kernel overlayfs works here in a user namespace")
        faults = trial.told_faults()
        limits = (LIMIT.format(faults=faults),) if faults else ()
        refused = f"the kernel refuses overlayfs ({trial.kernel[:MOST_REASON]})"
        on_node = _mounts_on_node()
        also = f"; {ON_NODE}" if on_node else f"; {limits[0]}" if limits else ""
        if _reflink(room):
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
            script = ["bash", "-c", TRIAL_ON_NODE, "bash", str(SESSION_SCRIPT), str(node), IMAGE_FILE]
            done = run(["unshare", "--user", "--map-root-user", "--mount", *script], timeout=TRIAL_TIMEOUT_S)
    except (subprocess.TimeoutExpired, OSError):
        return False
    return done.returncode == 0


def _overlay(room: Path) -> _Trial:
    """Mount an overlay as a job does, and change something through it."""
    for name in ("top/tree", "top/work", "below/tree"):
        (room / name).mkdir(parents=True)
    _fill(room / "below/tree/in_layer")
    (room / "below/tree/file").write_text("a file\n")
    (room / "below/tree/gone").write_text("a file\n")
    try:
        with local_folder() as node:
            for name in ("merged", "image"):
                (node / name).mkdir()
            (node / "image" / IMAGE_FILE).write_text("a file\n")
            _fill(node / "image/in_image")
            owner = [str(os.getuid()), str(os.getgid())]
            script = ["bash", "-c", TRIAL, "bash", str(SESSION_SCRIPT), str(room), str(node), IMAGE_FILE, *owner, USE]
            command = ["unshare", "--user", "--map-root-user", "--mount", *script]
            done = run(command, timeout=TRIAL_TIMEOUT_S, cwd=room)
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


def _fill(folder: Path) -> None:
    """Make what USE changes: read-only files, and a folder that nobody may write to."""
    for name in ("removed", "renamed", "replaced", "closed/file"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a file\n")
        path.chmod(0o444)
    (folder / "closed").chmod(0o555)


def _reflink(room: Path) -> bool:
    source, target = room / "source", room / "target"
    source.write_bytes(os.urandom(4096))
    with source.open("rb") as read, target.open("wb") as written:
        try:
            fcntl.ioctl(written, FICLONE, read.fileno())
        except OSError:
            return False
    return True
