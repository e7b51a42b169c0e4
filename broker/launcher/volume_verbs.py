"""The launcher's verbs for volumes: each checks its request and calls broker.volumes.

Standard library only, as session_verbs; they run as the user, in a process of their own.

People make folders that they cannot enter themselves (mode 000), and overlayfs leaves some. A verb that reads or
removes trees therefore runs once more, in a user namespace in which the user is root over their own files and over
nobody else's (user_namespaces(7)). That takes a new program: a process that has given up being root cannot make a
namespace for itself without letting the user look into its memory (PR_SET_DUMPABLE in prctl(2)), which is a copy of
the launcher's.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
from typing import TYPE_CHECKING, Any

from broker.launcher.request import RequestContext, VerbError, own_directory
from broker.names import IDENTIFIER, LABEL_PATTERN, NAME_PATTERN, VERSION_PATTERN
from broker.volumes import (
    garbage,
    inspection,
    job_notes,
    live_snapshot,
    operations,
    program,
    record,
    sizes,
    verification,
)
from broker.volumes.environments import list_environments, promote_job
from broker.volumes.errors import VolumeError, from_os_error
from broker.volumes.files import file_lock
from broker.volumes.image import ImageFiles
from broker.volumes.operations import Image, Note
from broker.volumes.probe import NODE_DISK_LIMIT, refresh_probe
from broker.volumes.storage import Storage

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping

Answer = dict[str, Any]

DIGEST = r"^(sha256:[0-9a-f]{64})?$"
DRIVER = r"^(auto|overlay|reflink|plain)$"
KEY = f"^{job_notes.JOB_KEY.pattern}$"
REASON_LIMIT = 200
LARGEST_NUMBER = 10**9
TOO_LARGE = "the request takes more memory than it may have: a file that it reads is too large, or nested too deep"
ANSWER_BYTES = 8 * 2**20
"""Limit for the answer of a verb in a namespace. The largest is a diff of inspection.MOST_CHARACTERS in escapes."""


def make_volumes(place: RequestContext, session_id: str, driver: object) -> Answer:
    """Give a session volumes if it has none: part of `prepare`."""
    storage = _storage(place)
    return _done(lambda: operations.create(storage, session_id, _text(driver, DRIVER, "driver")))


def snapshot(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Keep what a stopped session has now."""
    storage, session_id, operation = _operation(place, request)
    image, note = _image(request), _note(request)
    return _done(lambda: operations.snapshot(storage, session_id, operation, image, note))


def copy(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Keep what a running session has now."""
    storage, session_id, operation = _operation(place, request)
    image, note, job_id = _image(request), _note(request), _number(request, "job_id")
    return _done(
        lambda: live_snapshot.snapshot_running(storage, session_id, operation, job_id=job_id, image=image, note=note)
    )


def commit_root(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Make what was done in root mode a layer of the system volume."""
    storage, session_id, operation = _operation(place, request)
    job_id = _number(request, "job_id")
    return _done(lambda: live_snapshot.commit_root_layer(storage, session_id, operation, job_id=job_id))


def hand_over(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Have the job that is to carry a session on begin with new tops, over a snapshot."""
    storage, session_id, image = _storage(place), _session(request), _image(request)
    submission, most = _number(request, "submission"), _number(request, "most")
    return _done(lambda: operations.hand_over(storage, session_id, submission, image, most=most))


def rollback(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Make a stopped session what it was at a snapshot."""
    storage, session_id, operation = _operation(place, request)
    number, image = _number(request, "snapshot"), _image(request)
    return _done(lambda: operations.rollback(storage, session_id, operation, number, image))


def switch(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Put a stopped session's home over another image."""
    storage, session_id, operation = _operation(place, request)
    image, target, fresh = _image(request), _image(request["to"]), request.get("fresh") is True
    return _done(lambda: operations.switch(storage, session_id, operation, image, target, fresh=fresh))


def clone(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Give the new session of this id what another one has."""
    storage, session_id, operation = _operation(place, request)
    source_id = _identifier(request.get("source"), "session id")
    number = None if request.get("snapshot") is None else _number(request, "snapshot")
    image, target = _image(request), None if request.get("to") is None else _image(request["to"])
    return _done(
        lambda: operations.clone(
            storage, session_id, operation, source_id=source_id, number=number, image=image, target=target
        )
    )


def environments(place: RequestContext, request: Mapping[str, Any]) -> Answer:  # noqa: ARG001 - every verb has the same form
    """Every environment of batch jobs."""
    storage = _storage(place)
    return _done(lambda: list_environments(storage))


def promote(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Give the new session of this id what a batch job has left."""
    storage, session_id, operation = _operation(place, request)
    source_id, key = _identifier(request.get("source"), "environment"), _text(request.get("job"), KEY, "job")
    return _done(lambda: promote_job(storage, session_id, operation, source_id=source_id, key=key))


def flatten(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Join the layers of deep stacks."""
    storage, session_id, operation = _operation(place, request)
    image, digest = _image_files(request), _text(request.get("digest"), DIGEST, "digest")
    return _done(lambda: operations.flatten(storage, session_id, operation, digest=digest, below=image.has))


def snapshots(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Every snapshot of a session."""
    storage, session_id = _storage(place), _session(request)
    return _done(lambda: operations.snapshots(storage, session_id))


def forget(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Drop a snapshot."""
    storage, session_id, number = _storage(place), _session(request), _number(request, "snapshot")
    return _done(lambda: operations.forget(storage, session_id, number))


def diff(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """What has changed in a session since a snapshot, or over its profile."""
    storage, session_id = _storage(place), _session(request)
    number = None if request.get("snapshot") is None else _number(request, "snapshot")
    packages, image = str(request.get("base_packages", "")), _image_files(request)
    content = request.get("content") is True
    return _done(
        lambda: inspection.diff(storage, session_id, number, base_packages=packages, image=image, content=content)
    )


def size(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """How much disk space a session takes."""
    storage, session_id = _storage(place), _session(request)
    return _done(lambda: sizes.size(storage, session_id))


def usage(place: RequestContext, request: Mapping[str, Any]) -> Answer:  # noqa: ARG001 - every verb has the same form
    """How much disk space a user takes."""
    storage = _storage(place)
    return _done(lambda: sizes.usage(storage))


def verify(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Read every immutable layer of a session and compare it with its checksums."""
    storage, session_id = _storage(place), _session(request)
    return _done(lambda: verification.verify(storage, session_id))


def probe(place: RequestContext, request: Mapping[str, Any]) -> Answer:  # noqa: ARG001 - every verb has the same form
    """Which driver new sessions of this user get, and why."""
    storage = _storage(place)

    def ask() -> Answer:
        with file_lock(storage.lock, shared=True):
            found = refresh_probe(storage.layers.root, storage.probe)
        is_on_node = found.on_node and found.driver != "overlay"
        promises = [*storage.driver(found.driver).promises, *([NODE_DISK_LIMIT] if is_on_node else found.limits)]
        return {"driver": found.driver, "why": found.why, "promises": promises}

    return _done(ask)


def trash(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Put a deleted session aside."""
    storage, session_id = _storage(place), _session(request)
    return _done(lambda: garbage.trash_session(storage, session_id))


def untrash(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Bring a session back that was put aside."""
    storage, session_id = _storage(place), _session(request)
    return _done(lambda: garbage.restore_session(storage, session_id))


def purge(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Remove a session for good."""
    storage, session_id = _storage(place), _session(request)
    return _done(lambda: garbage.purge_session(storage, session_id))


def gc(place: RequestContext, request: Mapping[str, Any]) -> Answer:
    """Remove deleted sessions whose grace is over, and the layers that no session needs, or only count them."""
    storage, dry_run = _storage(place), request.get("dry_run") is True
    over = [_identifier(each, "session id") for each in request.get("over", [])]
    return _done(lambda: garbage.collect_garbage(storage, dry_run=dry_run, over=over))


_VERBS: dict[str, Callable[[RequestContext, Mapping[str, Any]], Answer]] = {
    verb.__name__: verb
    for verb in (
        snapshot,
        copy,
        commit_root,
        hand_over,
        rollback,
        switch,
        clone,
        environments,
        promote,
        flatten,
        snapshots,
        forget,
        diff,
        size,
        usage,
        verify,
        probe,
        trash,
        untrash,
        purge,
        gc,
    )
}
_READ_TREES = frozenset({"flatten", "diff", "size", "usage", "verify", "purge", "gc"})
_COPY_TREES = frozenset({"snapshot", "rollback", "switch", "clone", "promote"})
"""With a driver that copies; with overlay these touch no tree."""


def _verb(name: str) -> Callable[[RequestContext, Mapping[str, Any]], Answer]:
    def act(place: RequestContext, request: Mapping[str, Any]) -> Answer:
        copies = name in _COPY_TREES and _driver(place, request) != "overlay"
        if name in _READ_TREES or copies:
            return _over_own_files(place, name, request)
        return _VERBS[name](place, request)

    return act


VOLUME_VERBS = {name: _verb(name) for name in _VERBS}


def _driver(place: RequestContext, request: Mapping[str, Any]) -> str:
    """The driver of the session that is changed or cloned."""
    session = _identifier(request.get("source") or request.get("session"), "session id")
    return str(_done(lambda: {"driver": record.load_record(_storage(place).session(session)).driver})["driver"])


def _over_own_files(place: RequestContext, verb: str, request: Mapping[str, Any]) -> Answer:
    """Run a verb as root over the user's own files, if the kernel lets them have a user namespace, else as they are."""
    _storage(place)
    asked = json.dumps({"storage": str(place.root), "verb": verb, "request": dict(request)})
    worker = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-P", "-m", "broker.launcher.volume_verbs"]
    namespace = ["unshare", "--map-root-user", "--"]
    for command in ([*namespace, *worker], worker):
        done = _done_by(command, asked)
        if done.returncode < 0:  # it may have been done all the same
            raise VerbError("crashed", f"the worker was ended by signal {-done.returncode}")
        if done.stdout:
            break
    else:
        words = done.stderr.decode(errors="replace").strip()[-500:]
        raise VerbError("files", words or f"the worker ended with {done.returncode}")
    try:
        answer: Answer = json.loads(done.stdout)
        if "error" in answer:
            raise VerbError(str(answer["error"]), str(answer["message"]))
    except (ValueError, TypeError, LookupError, RecursionError) as error:  # the user stopped and changed it
        raise VerbError("crashed", "the worker gave no answer that can be understood") from error
    return answer


def _done_by(command: list[str], asked: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return program.run_program(command, timeout=None, most=ANSWER_BYTES, given=asked.encode(), env=_environment())
    except VolumeError as error:
        raise VerbError("crashed", str(error)) from error


def _environment() -> dict[str, str]:
    passed_on = {"PATH", "SLURM_CONF", "BERTH_CRASH_AT", "BERTH_STOP_AT"}
    kept = {name: value for name, value in os.environ.items() if name in passed_on}
    return kept | {"LC_ALL": "C.UTF-8", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def main() -> None:
    """Do the verb that standard input asks for, as whoever this process runs as."""
    asked = json.load(sys.stdin)
    os.umask(0o077)
    place = RequestContext(pwd.getpwuid(os.getuid()), asked["storage"], "sbatch", "session.sh")
    try:
        answer = _VERBS[asked["verb"]](place, asked["request"])
        text = json.dumps(answer)
    except VerbError as error:
        text = json.dumps({"error": error.kind, "message": str(error)})
    except OSError as error:
        failed = from_os_error(error)
        text = json.dumps({"error": failed.kind, "message": str(failed)})
    except (MemoryError, RecursionError):
        text = json.dumps({"error": "files", "message": TOO_LARGE})
    except Exception as error:  # noqa: BLE001 - the launcher's worker tells of it, as of its own
        text = json.dumps({"error": "crashed", "message": f"{type(error).__name__}: {error}"})
    print(text)


def _done(work: Callable[[], Answer]) -> Answer:
    try:
        return work()
    except VolumeError as error:
        raise VerbError(error.kind, str(error)) from error
    except OSError as error:
        failed = from_os_error(error)
        raise VerbError(failed.kind, str(failed)) from error
    except (MemoryError, RecursionError) as error:
        raise VerbError("files", TOO_LARGE) from error


def _storage(place: RequestContext) -> Storage:
    """The user's directory, made if it is missing; VerbError if it is not theirs alone."""
    storage = Storage(place.root)
    own_directory(place.root, place.user.pw_uid)
    for name in ("layers", "sessions", "trash"):
        own_directory(place.root / name, place.user.pw_uid)
    return storage


def _operation(place: RequestContext, request: Mapping[str, Any]) -> tuple[Storage, str, str]:
    return _storage(place), _session(request), _identifier(request.get("operation"), "operation")


def _session(request: Mapping[str, Any]) -> str:
    return _identifier(request.get("session"), "session id")


def _identifier(value: object, what: str) -> str:
    if not isinstance(value, str) or not IDENTIFIER.fullmatch(value):
        raise VerbError("invalid", f"not a {what}: {value!r:.80}")
    return value


def _number(request: Mapping[str, Any], key: str) -> int:
    value = request.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < LARGEST_NUMBER:
        raise VerbError("invalid", f"{key} must be a number: {value!r:.80}")
    return value


def _image(request: Mapping[str, Any]) -> Image:
    return Image(
        _text(request.get("profile"), NAME_PATTERN, "profile"),
        _text(request.get("version"), VERSION_PATTERN, "version"),
        _text(request.get("digest"), DIGEST, "digest"),
    )


def _image_files(request: Mapping[str, Any]) -> ImageFiles:
    image, offset = request.get("image"), request.get("offset")
    if not isinstance(image, str) or not image.startswith("/") or not isinstance(offset, int):
        raise VerbError("invalid", f"not an image and its offset: {image!r:.80} {offset!r:.20}")
    return ImageFiles(image, offset)


def _note(request: Mapping[str, Any]) -> Note:
    label, reason = request.get("label") or "", str(request.get("reason") or "")
    if label:
        _text(label, LABEL_PATTERN, "label")
    if len(reason) > REASON_LIMIT or not reason.isprintable():
        raise VerbError("invalid", "the reason must be one short line")
    return Note(str(label), reason, request.get("automatic") is True)


def _text(value: object, pattern: str, what: str) -> str:
    if not isinstance(value, str) or not re.match(pattern, value) or "\n" in value:
        raise VerbError("invalid", f"not a {what}: {value!r:.80}")
    return value


if __name__ == "__main__":
    main()
