"""The launcher's verbs for volumes: each calls broker.volumes with the arguments of its request.

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
import sys
from typing import TYPE_CHECKING, Any

from broker.launcher.arguments import (
    CloneArguments,
    CommitRootArguments,
    CopyArguments,
    DiffArguments,
    EnvironmentsArguments,
    FlattenArguments,
    ForgetArguments,
    GcArguments,
    HandOverArguments,
    ImageArguments,
    NoteArguments,
    ProbeArguments,
    PromoteArguments,
    PurgeArguments,
    RollbackArguments,
    SizeArguments,
    SnapshotArguments,
    SnapshotsArguments,
    SwitchArguments,
    TrashArguments,
    UntrashArguments,
    UsageArguments,
    VerifyArguments,
)
from broker.launcher.request import RequestContext, VerbError, own_directory
from broker.volumes import batch, collection, inspection, live, operations, program, record, sizes, verification
from broker.volumes.errors import VolumeError, from_os_error
from broker.volumes.image import ImageFiles
from broker.volumes.operations import Image, Note
from broker.volumes.probe import ON_NODE, probe_anew
from broker.volumes.record import locked
from broker.volumes.storage import Storage

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from broker.launcher.argument_types import Arguments

Answer = dict[str, Any]

TOO_LARGE = "the request takes more memory than it may have: a file that it reads is too large, or nested too deep"
ANSWER_BYTES = 8 * 2**20
"""Limit for the answer of a verb in a namespace. The largest is a diff of inspection.MOST_CHARACTERS in escapes."""


def make_volumes(place: RequestContext, session_id: str, driver: str) -> Answer:
    """Give a session volumes if it has none: part of `prepare`."""
    storage = _storage(place)
    return _done(lambda: operations.create(storage, session_id, driver))


def _snapshot(storage: Storage, given: SnapshotArguments) -> Answer:
    return operations.snapshot(storage, given.session, given.operation, _image(given), _note(given))


def _copy(storage: Storage, given: CopyArguments) -> Answer:
    image, note = _image(given), _note(given)
    return live.copy(storage, given.session, given.operation, job_id=given.job_id, image=image, note=note)


def _commit_root(storage: Storage, given: CommitRootArguments) -> Answer:
    return live.commit_root(storage, given.session, given.operation, job_id=given.job_id)


def _hand_over(storage: Storage, given: HandOverArguments) -> Answer:
    return operations.hand_over(storage, given.session, given.submission, _image(given), most=given.most)


def _rollback(storage: Storage, given: RollbackArguments) -> Answer:
    return operations.rollback(storage, given.session, given.operation, given.snapshot, _image(given))


def _switch(storage: Storage, given: SwitchArguments) -> Answer:
    image, target = _image(given), _image(given.to)
    return operations.switch(storage, given.session, given.operation, image, target, fresh=given.fresh)


def _clone(storage: Storage, given: CloneArguments) -> Answer:
    image, target = _image(given), None if given.to is None else _image(given.to)
    return operations.clone(
        *(storage, given.session, given.operation),
        source_id=given.source,
        number=given.snapshot,
        image=image,
        target=target,
    )


def _environments(storage: Storage, _: EnvironmentsArguments) -> Answer:
    return batch.environments(storage)


def _promote(storage: Storage, given: PromoteArguments) -> Answer:
    return batch.promote(storage, given.session, given.operation, source_id=given.source, key=given.job)


def _flatten(storage: Storage, given: FlattenArguments) -> Answer:
    below = ImageFiles(given.image, given.offset).has
    return operations.flatten(storage, given.session, given.operation, digest=given.digest, below=below)


def _snapshots(storage: Storage, given: SnapshotsArguments) -> Answer:
    return operations.snapshots(storage, given.session)


def _forget(storage: Storage, given: ForgetArguments) -> Answer:
    return operations.forget(storage, given.session, given.snapshot)


def _diff(storage: Storage, given: DiffArguments) -> Answer:
    return inspection.diff(
        *(storage, given.session, given.snapshot),
        base_packages=given.base_packages,
        image=ImageFiles(given.image, given.offset),
        content=given.content,
    )


def _size(storage: Storage, given: SizeArguments) -> Answer:
    return sizes.size(storage, given.session)


def _usage(storage: Storage, _: UsageArguments) -> Answer:
    return sizes.usage(storage)


def _verify(storage: Storage, given: VerifyArguments) -> Answer:
    return verification.verify(storage, given.session)


def _probe(storage: Storage, _: ProbeArguments) -> Answer:
    with locked(storage.lock, shared=True):
        found = probe_anew(storage.layers.root, storage.probe)
    is_on_node = found.on_node and found.driver != "overlay"
    promises = [*storage.driver(found.driver).promises, *([ON_NODE] if is_on_node else found.limits)]
    return {"driver": found.driver, "why": found.why, "promises": promises}


def _trash(storage: Storage, given: TrashArguments) -> Answer:
    return collection.trash(storage, given.session)


def _untrash(storage: Storage, given: UntrashArguments) -> Answer:
    return collection.untrash(storage, given.session)


def _purge(storage: Storage, given: PurgeArguments) -> Answer:
    return collection.purge(storage, given.session)


def _gc(storage: Storage, given: GcArguments) -> Answer:
    return collection.collect(storage, dry_run=given.dry_run, over=given.over)


_ACTIONS: dict[type[Arguments], Callable[[Storage, Any], Answer]] = {
    SnapshotArguments: _snapshot,
    CopyArguments: _copy,
    CommitRootArguments: _commit_root,
    HandOverArguments: _hand_over,
    RollbackArguments: _rollback,
    SwitchArguments: _switch,
    CloneArguments: _clone,
    EnvironmentsArguments: _environments,
    PromoteArguments: _promote,
    FlattenArguments: _flatten,
    SnapshotsArguments: _snapshots,
    ForgetArguments: _forget,
    DiffArguments: _diff,
    SizeArguments: _size,
    UsageArguments: _usage,
    VerifyArguments: _verify,
    ProbeArguments: _probe,
    TrashArguments: _trash,
    UntrashArguments: _untrash,
    PurgeArguments: _purge,
    GcArguments: _gc,
}
VOLUME_VERBS = {kind.VERB: kind for kind in _ACTIONS}


def change_volumes(place: RequestContext, given: Arguments) -> Answer:
    """Run one of VOLUME_VERBS, in a user namespace if it walks through trees. VerbError if it fails."""
    if given.WALKS_TREES == "always" or (given.WALKS_TREES == "if copied" and _driver(place, given) != "overlay"):
        return _over_own_files(place, given)
    return _act(place, given)


def _act(place: RequestContext, given: Arguments) -> Answer:
    storage = _storage(place)
    return _done(lambda: _ACTIONS[type(given)](storage, given))


def _driver(place: RequestContext, given: Arguments) -> str:
    """Return the driver of the session that is changed or cloned."""
    session = getattr(given, "source", None) or given.request()["session"]
    return str(_done(lambda: {"driver": record.load(_storage(place).session(session)).driver})["driver"])


def _over_own_files(place: RequestContext, given: Arguments) -> Answer:
    """Run a verb as root over the user's own files, if the kernel lets them have a user namespace, else as they are."""
    _storage(place)
    request = json.dumps({"storage": str(place.root), "verb": given.VERB, "arguments": given.request()})
    worker = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-P", "-m", "broker.launcher.volume_verbs"]
    namespace = ["unshare", "--map-root-user", "--"]
    for command in ([*namespace, *worker], worker):
        done = _done_by(command, request)
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


def _done_by(command: list[str], request: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return program.run(command, timeout=None, most=ANSWER_BYTES, given=request.encode(), env=_environment())
    except VolumeError as error:
        raise VerbError("crashed", str(error)) from error


def _environment() -> dict[str, str]:
    passed_on = {"PATH", "SLURM_CONF", "BERTH_CRASH_AT", "BERTH_STOP_AT"}
    kept = {name: value for name, value in os.environ.items() if name in passed_on}
    return kept | {"LC_ALL": "C.UTF-8", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def main() -> None:
    """Do the verb that standard input asks for, as whoever this process runs as."""
    request = json.load(sys.stdin)
    os.umask(0o077)
    place = RequestContext(pwd.getpwuid(os.getuid()), request["storage"], "sbatch", "session.sh")
    try:
        answer = _act(place, VOLUME_VERBS[request["verb"]].parse(request["arguments"]))
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


def _image(given: ImageArguments) -> Image:
    return Image(given.profile, given.version, given.digest)


def _note(given: NoteArguments) -> Note:
    return Note(given.label, given.reason, given.automatic)


if __name__ == "__main__":
    main()
