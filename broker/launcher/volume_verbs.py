"""The launcher's verbs for volumes: each calls broker.volumes with the arguments of its request.

No third-party package, as in session_verbs. Each runs as the user, in a process of its own.

Users make folders that they cannot enter themselves (mode 000), and overlayfs leaves some. A verb that reads or removes
trees therefore runs in a user namespace, in which the user is root over their own files only (user_namespaces(7)). That
takes a new program: a process that has given up root cannot make a namespace for itself unless the user may read its
memory (PR_SET_DUMPABLE in prctl(2)), which is a copy of the launcher's.
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
from broker.launcher.sharing_arguments import ReceiveArguments, SendArguments, SurveyArguments
from broker.volumes import (
    environments,
    garbage,
    inspection,
    live_snapshot,
    operations,
    program,
    progress,
    record,
    sizes,
    snapshot_receiver,
    snapshot_sender,
    verification,
)
from broker.volumes.errors import VolumeError, from_os_error
from broker.volumes.files import file_lock
from broker.volumes.image import ImageFiles
from broker.volumes.operations import ImageVersion, SnapshotNote
from broker.volumes.probe import NODE_DISK_LIMIT, refresh_probe
from broker.volumes.storage import Storage

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from broker.launcher.argument_bases import ImageArguments, NoteArguments
    from broker.launcher.argument_types import Arguments

Answer = dict[str, Any]

TOO_LARGE = "the request needs more memory than it may have: a file that it reads is too large, or nested too deep"
ANSWER_BYTES = 8 * 2**20
"""Limit for the answer of a verb in a namespace. The largest is a diff of inspection.MAX_CHARACTERS in escapes."""


def make_volumes(context: RequestContext, session_id: str, driver: str) -> Answer:
    """Give a session volumes if it has none: part of `prepare`."""
    storage = _storage(context)
    return _translate_errors(lambda: operations.create_volumes(storage, session_id, driver))


def chosen_driver(context: RequestContext, driver: str) -> str:
    """Return the driver of a new session, and remember it for the verb's process, where no probe is possible."""
    storage = _storage(context)

    def choose() -> Answer:
        with file_lock(storage.lock, shared=True):
            return {"driver": operations.choose_driver(storage, driver)[0].name}

    return str(_translate_errors(choose)["driver"])


def _snapshot(storage: Storage, arguments: SnapshotArguments) -> Answer:
    return operations.snapshot(storage, arguments.session, arguments.operation, _image(arguments), _note(arguments))


def _copy(storage: Storage, arguments: CopyArguments) -> Answer:
    image, note = _image(arguments), _note(arguments)
    return live_snapshot.snapshot_running(
        storage, arguments.session, arguments.operation, job_id=arguments.job_id, image=image, note=note
    )


def _commit_root(storage: Storage, arguments: CommitRootArguments) -> Answer:
    return live_snapshot.commit_root_layer(storage, arguments.session, arguments.operation, job_id=arguments.job_id)


def _hand_over(storage: Storage, arguments: HandOverArguments) -> Answer:
    return operations.prepare_handover(
        storage, arguments.session, arguments.submission, _image(arguments), most=arguments.most
    )


def _rollback(storage: Storage, arguments: RollbackArguments) -> Answer:
    return operations.rollback(storage, arguments.session, arguments.operation, arguments.snapshot, _image(arguments))


def _switch(storage: Storage, arguments: SwitchArguments) -> Answer:
    image, target = _image(arguments), _image(arguments.to)
    return operations.switch(storage, arguments.session, arguments.operation, image, target, fresh=arguments.fresh)


def _clone(storage: Storage, arguments: CloneArguments) -> Answer:
    image, target = _image(arguments), None if arguments.to is None else _image(arguments.to)
    return operations.clone(
        *(storage, arguments.session, arguments.operation),
        source_id=arguments.source,
        number=arguments.snapshot,
        image=image,
        target=target,
    )


def _receive(storage: Storage, arguments: ReceiveArguments, stream: int) -> Answer:
    return snapshot_receiver.receive_snapshot(
        *(storage, arguments.session, arguments.operation, stream),
        driver=arguments.driver,
        digest=arguments.digest,
        with_system=arguments.system,
        most_bytes=arguments.most_bytes,
    )


def _send(storage: Storage, arguments: SendArguments, stream: int) -> Answer:
    return snapshot_sender.send_snapshot(
        storage, arguments.session, arguments.snapshot, stream, with_system=arguments.system
    )


def _survey(storage: Storage, arguments: SurveyArguments) -> Answer:
    return snapshot_sender.survey_snapshot(storage, arguments.session, arguments.snapshot)


def _environments(storage: Storage, _: EnvironmentsArguments) -> Answer:
    return environments.list_environments(storage)


def _promote(storage: Storage, arguments: PromoteArguments) -> Answer:
    return environments.promote_job(
        storage, arguments.session, arguments.operation, source_id=arguments.source, key=arguments.job
    )


def _flatten(storage: Storage, arguments: FlattenArguments) -> Answer:
    below = ImageFiles(arguments.image, arguments.offset).has
    return operations.flatten(storage, arguments.session, arguments.operation, digest=arguments.digest, below=below)


def _snapshots(storage: Storage, arguments: SnapshotsArguments) -> Answer:
    return operations.snapshots(storage, arguments.session)


def _forget(storage: Storage, arguments: ForgetArguments) -> Answer:
    return operations.delete_snapshot(storage, arguments.session, arguments.snapshot)


def _diff(storage: Storage, arguments: DiffArguments) -> Answer:
    return inspection.diff(
        *(storage, arguments.session, arguments.snapshot),
        base_packages=arguments.base_packages,
        until=arguments.until,
        image=ImageFiles(arguments.image, arguments.offset),
        content=arguments.content,
        own=arguments.own,
    )


def _size(storage: Storage, arguments: SizeArguments) -> Answer:
    return sizes.session_size(storage, arguments.session)


def _usage(storage: Storage, _: UsageArguments) -> Answer:
    return sizes.user_usage(storage)


def _verify(storage: Storage, arguments: VerifyArguments) -> Answer:
    return verification.verify(storage, arguments.session)


def _probe(storage: Storage, _: ProbeArguments) -> Answer:
    with file_lock(storage.lock, shared=True):
        found = refresh_probe(storage.layers.root, storage.probe)
    is_on_node = found.on_node and found.driver != "overlay"
    promises = [*storage.driver(found.driver).promises, *([NODE_DISK_LIMIT] if is_on_node else found.limits)]
    return {"driver": found.driver, "why": found.why, "promises": promises}


def _trash(storage: Storage, arguments: TrashArguments) -> Answer:
    return garbage.trash_session(storage, arguments.session)


def _untrash(storage: Storage, arguments: UntrashArguments) -> Answer:
    return garbage.restore_session(storage, arguments.session)


def _purge(storage: Storage, arguments: PurgeArguments) -> Answer:
    return garbage.purge_session(storage, arguments.session)


def _gc(storage: Storage, arguments: GcArguments) -> Answer:
    return garbage.collect_garbage(storage, dry_run=arguments.dry_run, over=arguments.over)


_VOLUME_HANDLERS: dict[type[Arguments], Callable[[Storage, Any], Answer]] = {
    SnapshotArguments: _snapshot,
    CopyArguments: _copy,
    CommitRootArguments: _commit_root,
    HandOverArguments: _hand_over,
    RollbackArguments: _rollback,
    SwitchArguments: _switch,
    CloneArguments: _clone,
    SurveyArguments: _survey,
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
_STREAM_HANDLERS: dict[type[Arguments], Callable[[Storage, Any, int], Answer]] = {
    ReceiveArguments: _receive,
    SendArguments: _send,
}
"""Those of the two processes between which a snapshot flows; each gets its end of the pipe."""
VOLUME_VERBS = {kind.VERB: kind for kind in (*_VOLUME_HANDLERS, *_STREAM_HANDLERS)}


def change_volumes(context: RequestContext, arguments: Arguments) -> Answer:
    """Run one of VOLUME_VERBS, in a user namespace if it walks through trees. VerbError if it fails."""
    if arguments.WALKS_TREES == "always" or (
        arguments.WALKS_TREES == "if copied" and _driver(context, arguments) != "overlay"
    ):
        return _in_user_namespace(context, arguments)
    return _act(context, arguments)


def _act(context: RequestContext, arguments: Arguments) -> Answer:
    storage = _storage(context)
    with progress.report_progress(_progress_path(context, arguments)):
        if (streaming := _STREAM_HANDLERS.get(type(arguments))) is None:
            return _translate_errors(lambda: _VOLUME_HANDLERS[type(arguments)](storage, arguments))
        if context.stream < 0:
            raise VerbError("invalid", "there is no process at the other end")
        return _translate_errors(lambda: streaming(storage, arguments, context.stream))


def _progress_path(context: RequestContext, arguments: Arguments) -> str:
    """Return the file for reports about the session whose files are handled; empty for a short verb."""
    if isinstance(arguments, ReceiveArguments):  # the source is not this user's
        return progress.progress_path(context.root, arguments.session)
    if isinstance(arguments, SendArguments):
        return ""
    session = getattr(arguments, "source", None) or getattr(arguments, "session", None) or arguments.VERB
    return progress.progress_path(context.root, str(session)) if arguments.IS_LONG else ""


def _driver(context: RequestContext, arguments: Arguments) -> str:
    """Return the driver of the session that is changed or cloned."""
    session = getattr(arguments, "source", None) or arguments.request()["session"]
    return str(
        _translate_errors(lambda: {"driver": record.load_record(_storage(context).session(session)).driver})["driver"]
    )


def _in_user_namespace(context: RequestContext, arguments: Arguments) -> Answer:
    """Run a verb as root over the user's own files, or as the user if the kernel allows no user namespace."""
    _storage(context)
    request = json.dumps(
        {
            "parent": os.getpid(),
            "storage": str(context.root),
            "verb": arguments.VERB,
            "arguments": arguments.request(),
            "stream": context.stream,
        }
    )
    as_user = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-P", "-m", "broker.launcher.volume_verbs"]
    namespace = ["unshare", "--map-root-user", "--"]
    for command in ([*namespace, *as_user], as_user):
        done = _run_program(command, request, context.stream)
        if done.returncode < 0:  # the verb may have completed
            raise VerbError("crashed", f"the verb's process was killed by signal {-done.returncode}")
        if done.stdout:
            break
    else:
        words = done.stderr.decode(errors="replace").strip()[-500:]
        raise VerbError("files", words or f"the verb's process exited with status {done.returncode}")
    try:
        answer: Answer = json.loads(done.stdout)
        if "error" in answer:
            raise VerbError(str(answer["error"]), str(answer["message"]))
    except (ValueError, TypeError, LookupError, RecursionError) as error:  # the user may have tampered with the process
        raise VerbError("crashed", "invalid response from the verb's process") from error
    return answer


def _run_program(command: list[str], request: str, stream: int) -> subprocess.CompletedProcess[bytes]:
    kept = (stream,) if stream >= 0 else ()
    try:
        return program.run_program(
            command, timeout=None, most=ANSWER_BYTES, given=request.encode(), env=_environment(), pass_fds=kept
        )
    except VolumeError as error:
        raise VerbError("crashed", str(error)) from error


def _environment() -> dict[str, str]:
    inherited = {"PATH", "SLURM_CONF", "BERTH_CRASH_AT", "BERTH_STOP_AT"}
    kept = {name: value for name, value in os.environ.items() if name in inherited}
    return kept | {"LC_ALL": "C.UTF-8", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def main() -> None:
    """Run the verb that standard input names, as the user of this process."""
    request = json.load(sys.stdin)
    if os.getppid() != request.get("parent", os.getppid()):  # it ended before setpriv(1) tied this process to it
        os._exit(1)
    os.umask(0o077)
    context = RequestContext(
        pwd.getpwuid(os.getuid()), request["storage"], "sbatch", "session.sh", int(request.get("stream", -1))
    )
    try:
        answer = _act(context, VOLUME_VERBS[request["verb"]].parse(request["arguments"]))
        text = json.dumps(answer)
    except VerbError as error:
        text = json.dumps({"error": error.kind, "message": str(error)})
    except OSError as error:
        failed = from_os_error(error)
        text = json.dumps({"error": failed.kind, "message": str(failed)})
    except (MemoryError, RecursionError):
        text = json.dumps({"error": "files", "message": TOO_LARGE})
    except Exception as error:  # noqa: BLE001 - reported by the launcher's child like its own
        text = json.dumps({"error": "crashed", "message": f"{type(error).__name__}: {error}"})
    print(text)


def _translate_errors(work: Callable[[], Answer]) -> Answer:
    try:
        return work()
    except VolumeError as error:
        raise VerbError(error.kind, str(error)) from error
    except OSError as error:
        failed = from_os_error(error)
        raise VerbError(failed.kind, str(failed)) from error
    except (MemoryError, RecursionError) as error:
        raise VerbError("files", TOO_LARGE) from error


def _storage(context: RequestContext) -> Storage:
    """Return the user's storage, created if missing. VerbError if others can access it."""
    storage = Storage(context.root)
    own_directory(context.root, context.user.pw_uid)
    for name in ("layers", "sessions", "trash"):
        own_directory(context.root / name, context.user.pw_uid)
    return storage


def _image(arguments: ImageArguments) -> ImageVersion:
    return ImageVersion(arguments.profile, arguments.version, arguments.digest)


def _note(arguments: NoteArguments) -> SnapshotNote:
    return SnapshotNote(arguments.label, arguments.reason, arguments.automatic)


if __name__ == "__main__":
    main()
