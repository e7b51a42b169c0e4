"""Operations on the volumes of a session without a job: snapshot, rollback, clone, switch and others.

Each operation has an id. It makes new layers beside the old ones, and one rename of volumes.json is its commit point.
Called again with the same id, for example after a crash of the caller, it returns the same answer and does nothing.
Each operation may raise VolumeError and OSError, and has then changed nothing; `collect_garbage` removes unused layers.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from broker.failpoints import failpoint
from broker.volumes import record
from broker.volumes.drivers import OverlayDriver
from broker.volumes.errors import VolumeError
from broker.volumes.files import file_lock
from broker.volumes.flatten import join_layers
from broker.volumes.layers import SYSTEM_MODE
from broker.volumes.probe import NODE_DISK_LIMIT, cached_limits, cached_probe
from broker.volumes.record import Handover, Record, Snapshot, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.volumes.drivers import Driver
    from broker.volumes.record import Stack
    from broker.volumes.storage import SessionVolumes, Storage

Answer = dict[str, Any]

MAX_FAILURE_CHARACTERS = 200
"""Limit for a failure's message in a record: it is shown on one or two lines of a terminal."""
MAX_NUMBERS = 1000
"""Limit for the numbers of snapshots in a description, which the registry stores with each session."""


@dataclass(frozen=True, slots=True)
class ImageVersion:
    """The profile version that a system volume lies over."""

    profile: str
    version: str
    digest: str

    @classmethod
    def of(cls, snapshot: Snapshot) -> ImageVersion:
        return cls(snapshot.profile, snapshot.version, snapshot.digest)


@dataclass(frozen=True, slots=True)
class SnapshotNote:
    """The label and the reason of a snapshot, for users."""

    label: str = ""
    reason: str = ""
    automatic: bool = False


def create_volumes(storage: Storage, session_id: str, driver: str = "auto") -> Answer:
    """Give a session empty volumes, unless it has some. `auto` uses the driver that a probe finds."""
    directory = storage.session(session_id)
    with file_lock(storage.lock, shared=True), file_lock(directory / "volumes.lock"):
        if not (directory / "volumes.json").exists():
            if record.was_started(directory):
                raise VolumeError("files", f"{directory / 'volumes.json'} is missing: it names this session's layers")
            chosen, on_node = choose_driver(storage, driver)
            home, system = chosen.make_volume("home"), chosen.make_volume("system")
            made = Record(driver=chosen.name, home=home, system=system, on_node=on_node)
            failpoint("volumes.made")
            record.commit_record(directory, made)
        return describe_volumes(storage, record.load_record(directory))


def choose_driver(storage: Storage, driver: str) -> tuple[Driver, bool]:
    """Return the driver of a new session, and whether a job has the system volume's top on its node's disk.

    `auto` uses the driver that a probe finds. The caller holds the storage's lock.
    """
    on_node = False
    if driver != OverlayDriver.name:  # forced by the site, wherever the kernel mounts
        found = None
        with contextlib.nullcontext() if driver == "auto" else contextlib.suppress(VolumeError):
            found = cached_probe(storage.layers.root, storage.probe)
        if driver == "auto":
            assert found is not None
            driver = found.driver
        on_node = found is not None and found.on_node and driver != OverlayDriver.name
    return storage.driver(driver, on_node=on_node), on_node


def describe_volumes(storage: Storage, found: Record) -> Answer:
    """Return the facts about a session's volumes that `berth show` prints."""
    return {
        "driver": found.driver,
        "promises": [
            *storage.driver(found.driver).promises,
            *([NODE_DISK_LIMIT] if found.on_node else cached_limits(storage.probe)),
        ],
        "layers": {
            "home": len(found.home.layers),
            "system": len(found.system.layers) + len(found.system.saved),
        },
        "snapshots": len(found.snapshots),
        "numbers": _describe_numbers(found),
    } | ({"unflattened": found.unflattened} if found.unflattened else {})


def _describe_numbers(found: Record) -> Answer:
    """Return the numbers of the newest snapshots, and the range in which every other number has been deleted."""
    numbers = sorted(each.number for each in found.snapshots)
    first = numbers[-MAX_NUMBERS] if len(numbers) > MAX_NUMBERS else 1
    return {"first": first, "last": found.last_number, "existing": numbers[-MAX_NUMBERS:]}


def snapshot(storage: Storage, session_id: str, operation: str, image: ImageVersion, note: SnapshotNote) -> Answer:
    """Take a snapshot of a stopped session. VolumeError `conflict` if another snapshot has that label."""
    with storage.open_session(session_id) as session:
        if (answer := session.record.done.get(operation)) is not None:
            return answer
        with session.jobs_locked_out():
            made = _freeze(session, image, note)
            changed = _continued_record(session, made)
            return commit_answer(session, operation, changed, {"snapshot": asdict(made)})


def prepare_handover(storage: Storage, session_id: str, submission: int, image: ImageVersion, *, most: int) -> Answer:
    """Let the job of `submission`, which waits for the end of the running one, begin with new tops. The previous
    content becomes an automatic snapshot. Only with overlays, where this costs nothing, and below `most` layers.
    """
    with storage.open_session(session_id) as session:
        found = session.record
        there = found.handover is not None and found.handover.submission == submission
        fits = max(len(found.home.layers), len(found.system.layers)) < most
        if session.driver.name == OverlayDriver.name and fits and not there:
            check_image(session, image.digest)
            tops = {
                kind: session.driver.fork(kind, (volume.top,)).top
                for kind, volume in (("home", found.home), ("system", found.system))
            }
            failpoint("volumes.handover-made")
            session.commit(replace(found, handover=Handover(submission, **tops, **asdict(image))))
        return {"volumes": describe_volumes(storage, session.record)}


def rollback(storage: Storage, session_id: str, operation: str, number: int, image: ImageVersion) -> Answer:
    """Return a stopped session to a snapshot. Its present content becomes an automatic snapshot."""
    with storage.open_session(session_id) as session:
        if (answer := session.record.done.get(operation)) is not None:
            return answer
        with session.jobs_locked_out():
            target = session.record.snapshot(number)
            storage.layers.check({*target.home, *target.system})
            before = _freeze(session, image, SnapshotNote(reason=f"before rollback to {number}", automatic=True))
            changed = replace(
                session.record.with_snapshot(before),
                home=session.driver.fork("home", target.home),
                system=session.driver.fork("system", target.system),
                digest=target.digest,
            )
            return commit_answer(session, operation, changed, {"before": asdict(before), "snapshot": asdict(target)})


def switch(
    storage: Storage, session_id: str, operation: str, image: ImageVersion, target: ImageVersion, *, fresh: bool = False
) -> Answer:
    """Put a stopped session's home over another image. Its present content becomes an automatic snapshot.

    The system volume is that of the newest snapshot over the same image. Without one, or with `fresh`, it is empty.
    """
    with storage.open_session(session_id) as session:
        if (answer := session.record.done.get(operation)) is not None:
            return answer
        with session.jobs_locked_out():
            there = f"{target.profile}@{target.version}"
            before = _freeze(session, image, SnapshotNote(reason=f"before switch to {there}", automatic=True))
            been = [each for each in session.record.snapshots if ImageVersion.of(each) == target and not fresh]
            stack = been[-1].system if been else ()
            storage.layers.check(set(stack))
            changed = replace(
                session.record.with_snapshot(before),
                home=session.driver.continue_from("home", session.record.home, before.home),
                system=session.driver.fork("system", stack),
                digest=target.digest,
            )
            kept = {"before": asdict(before), "system": "kept" if stack else "fresh"}
            return commit_answer(session, operation, changed, kept)


def clone(
    storage: Storage,
    session_id: str,
    operation: str,
    *,
    source_id: str,
    number: int | None,
    image: ImageVersion,
    target: ImageVersion | None = None,
) -> Answer:
    """Make the session `session_id` from the present content of another session, or from one of its snapshots.

    The other session must be stopped unless a snapshot is named. With a `target` image the new system volume is empty.
    If there is no snapshot of the cloned content, the source gets one: the two share it.
    """
    directory = storage.session(session_id)
    with storage.open_session(source_id) as source:
        if (directory / "volumes.json").exists():
            return record.load_record(directory).done[operation] | {"source": describe_volumes(storage, source.record)}
        if number is None:
            with source.jobs_locked_out():
                note = SnapshotNote(reason=f"cloned to {session_id}", automatic=True)
                origin = _freeze(source, image, note)
                source.commit(_continued_record(source, origin))
        else:
            origin = source.record.snapshot(number)
        failpoint("clone.source-kept")
        storage.layers.check({*origin.home, *origin.system})
        system: Stack = () if target is not None and target != ImageVersion.of(origin) else origin.system
        made = Record(
            driver=source.record.driver,
            home=source.driver.fork("home", origin.home),
            system=source.driver.fork("system", system),
            digest=origin.digest if target is None else target.digest,
            on_node=source.record.on_node,
        )
        answer = {"snapshot": asdict(origin), "volumes": describe_volumes(storage, made)}
        failpoint("clone.forked")
        for each in (directory, directory / "run"):
            each.mkdir(mode=0o700, exist_ok=True)
        record.commit_record(directory, made.with_answer(operation, answer))
        return answer | {"source": describe_volumes(storage, source.record)}


def delete_snapshot(storage: Storage, session_id: str, number: int) -> Answer:
    """Delete a snapshot. The layers that only it names go with the next `collect_garbage`."""
    with storage.open_session(session_id) as session:
        gone = session.record.snapshot(number)
        kept = tuple(each for each in session.record.snapshots if each.number != number)
        session.commit(replace(session.record, snapshots=kept))
        return {"snapshot": asdict(gone), "volumes": describe_volumes(storage, session.record)}


def snapshots(storage: Storage, session_id: str) -> Answer:
    """Return every snapshot, oldest first."""
    found = record.load_record(storage.session(session_id))
    return {"snapshots": [asdict(each) for each in found.snapshots], "volumes": describe_volumes(storage, found)}


def flatten(storage: Storage, session_id: str, operation: str, *, digest: str, below: Callable[[str], bool]) -> Answer:
    """Join the layers of deep stacks of a session without a job into one each, if the driver has stacks.

    VolumeError `busy`, and nothing is changed, if a job has begun before the layers are joined: mounted layers must
    keep a name. Snapshots keep their layers. Files are linked, not copied, so only folders take space. The call may be
    interrupted at any point. `below` decides whether a path exists in the image under the system volume, whose digest
    is `digest`.
    """
    with storage.open_session(session_id) as session:
        if (answer := session.record.done.get(operation)) is not None:
            return answer
        check_image(session, digest)
        joined = session.record
        before = describe_volumes(storage, joined)["layers"]
        with _note_failure(session), contextlib.ExitStack() as exclusion, contextlib.ExitStack() as undoing:
            home = _join_volume(session, session.record.home, lambda _: False, undoing)
            system = _join_volume(session, session.record.system, below, undoing)
            failpoint("flatten.joined")
            exclusion.enter_context(session.jobs_locked_out())
            if (session.record.home, session.record.system) != (joined.home, joined.system):
                raise VolumeError("busy", "a job has saved the session's system meanwhile")
            undoing.pop_all()  # from here on the record may name them
            changed = replace(session.record, home=home, system=system, unflattened="")
            return commit_answer(session, operation, changed, {"layers_before": before})


@contextlib.contextmanager
def _note_failure(session: SessionVolumes) -> Iterator[None]:
    """Record why layers could not be joined, for users with a deep stack, and raise the error."""
    try:
        yield
    except (OSError, VolumeError) as error:
        if not (isinstance(error, VolumeError) and error.kind == "busy"):  # a job has begun: the next time is soon
            words = (
                f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
            )
            plain = "".join(
                each if each.isascii() and each.isprintable() and each not in '"\\' else "?" for each in words
            )
            with contextlib.suppress(OSError):  # no room: then it is not noted
                session.commit(replace(session.record, unflattened=plain[:MAX_FAILURE_CHARACTERS]))
        raise


def require_unused_label(session: SessionVolumes, label: str) -> None:
    """Require that no other snapshot of the session has that label. VolumeError `conflict`."""
    if label and any(each.label == label for each in session.record.snapshots):
        raise VolumeError("conflict", f"a snapshot is labelled {label} already")


def _freeze(session: SessionVolumes, image: ImageVersion, note: SnapshotNote) -> Snapshot:
    """Return a snapshot of both volumes of a stopped session. It is not in the session's record yet."""
    require_unused_label(session, note.label)
    check_image(session, image.digest)
    home = session.driver.freeze("home", session.record.home)
    system = session.driver.freeze("system", session.record.system)
    failpoint("volumes.frozen")
    return Snapshot(
        number=session.record.last_number + 1,
        at=time.time(),
        consistency="stopped",
        profile=image.profile,
        version=image.version,
        digest=image.digest,
        home=home,
        system=system,
        label=note.label,
        reason=note.reason,
        automatic=note.automatic,
    )


def _continued_record(session: SessionVolumes, made: Snapshot) -> Record:
    """Return the record with that snapshot, and with volumes that continue from it."""
    return replace(
        session.record.with_snapshot(made),
        home=session.driver.continue_from("home", session.record.home, made.home),
        system=session.driver.continue_from("system", session.record.system, made.system),
        digest=made.digest,
    )


def check_image(session: SessionVolumes, digest: str) -> None:
    """Require that the system volume lies over the image with this digest. VolumeError `conflict`."""
    if session.record.digest not in {"", digest}:
        raise VolumeError("conflict", "the session was switched to another image meanwhile")


def commit_answer(session: SessionVolumes, operation: str, changed: Record, answer: Answer) -> Answer:
    """Commit an operation together with its answer."""
    answer = answer | {"volumes": describe_volumes(session.storage, changed)}
    failpoint("volumes.before-commit")
    session.commit(changed.with_answer(operation, answer))
    failpoint("volumes.committed")
    return answer


def _join_volume(
    session: SessionVolumes, volume: Volume, below: Callable[[str], bool], undoing: contextlib.ExitStack
) -> Volume:
    stack = (*volume.layers, *volume.saved)
    if len(stack) < 2:
        return volume
    layers = session.storage.layers
    layer = join_layers(layers, stack, below)
    undoing.callback(layers.discard, layer)
    if not volume.saved:
        return replace(volume, layers=(layer,))
    return Volume(layers.new_top(SYSTEM_MODE, layer), (layer,))
