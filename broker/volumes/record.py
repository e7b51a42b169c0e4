"""`volumes.json`: the record of one session's volumes and snapshots, and the only way to change it.

It lies beside the data, so that no crash and no lost database can part the two. It changes as a whole, by a file
written beside it, fsync(2), rename(2), and fsync(2) of the directory; who changes it holds the session's lock.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Self

from broker.names import IDENTIFIER
from broker.volumes.errors import VolumeError
from broker.volumes.files import replace_file, sync_path
from profiles.userfile import read_bytes, read_text

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
RECORD = "volumes.json"
SAVED = "saved"
"""File in the directory of a system volume's top on the node's disk: the saves of the jobs."""
MAX_RECORD_BYTES = 4 * 2**20
"""Limit for volumes.json: room for more than 1,000 snapshots of 40 layers each. The worst content takes 25 times as
much memory once it is parsed."""
MAX_BEGUN_BYTES = 4096
"""Limit for `run/begun`, which has one number in it."""
MAX_ANSWERS = 16
"""Answers of so many past operations are kept; only the last one can ever be asked for again."""
MAX_AUTOMATIC_SNAPSHOTS = 20
"""The oldest automatic snapshots beyond this number are deleted."""

MAX_TEXT_CHARACTERS = 256
"""Characters of a label, a reason, or a name of an image."""

_SUBMISSION = re.compile(r"[1-9][0-9]{0,8}")
"""As session.sh reads it too."""

Stack = tuple[str, ...]
"""Ids of immutable layers, the oldest first."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A writable top over a stack."""

    top: str
    layers: Stack = ()
    copied: str = ""
    """The layer that the last live copy of this top made: the next one can build on it."""
    below: Stack = ()
    """Layers that earlier jobs have saved over `layers` since this top was made, for a system volume on the node's
    disk. They come from the file `saved` beside the top, not from this record."""
    own: str = ""
    """The layer that the last job has saved over these, from the same file; empty without a save."""

    @property
    def saved(self) -> Stack:
        """The layers that jobs have saved of this top."""
        return (*self.below, self.own) if self.own else self.below


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Both volumes as they were, and the image that they belong to."""

    number: int
    at: float
    consistency: str
    """`stopped`, `frozen` or `crash-consistent`."""
    profile: str
    version: str
    digest: str
    home: Stack
    system: Stack
    label: str = ""
    reason: str = ""
    automatic: bool = False
    pause: float = 0.0

    @classmethod
    def read(cls, data: dict[str, Any]) -> Self:
        values = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        found = cls(**values | {"home": _parse_stack(data["home"]), "system": _parse_stack(data["system"])})
        words = (found.consistency, found.profile, found.version, found.digest, found.label, found.reason)
        if not all(isinstance(word, str) and len(word) <= MAX_TEXT_CHARACTERS for word in words):
            raise ValueError(f"snapshot {found.number!r:.20} has an invalid or too long text")
        times = (found.at, found.pause)
        if type(found.number) is not int or not all(type(each) in {int, float} and isfinite(each) for each in times):
            raise ValueError(f"snapshot {found.number!r:.20} has an invalid number")
        return found


@dataclass(frozen=True, slots=True)
class Handover:
    """A handover from one job to the next without a stop. The job of `submission` writes to new tops, and the content
    that the job before it leaves becomes a snapshot. Both are valid once that job has written its number to `run/begun`
    (ADR 92).
    """

    submission: int
    home: str
    system: str
    """The new tops."""
    profile: str
    version: str
    digest: str
    """Of the image that the snapshot belongs to."""

    @classmethod
    def read(cls, data: dict[str, Any]) -> Self:
        tops = {"home": _parse_layer(data["home"]), "system": _parse_layer(data["system"])}
        words = {name: str(data[name])[:MAX_TEXT_CHARACTERS] for name in ("profile", "version", "digest")}
        return cls(submission=int(data["submission"]), **words, **tops)


@dataclass(frozen=True, slots=True)
class Record:
    """The content of volumes.json."""

    driver: str
    home: Volume
    system: Volume
    snapshots: tuple[Snapshot, ...] = ()
    digest: str = ""
    """Digest of the image below the system volume; empty until it is first known."""
    last_number: int = 0
    """The number of the newest snapshot ever made, even if it was deleted: numbers are never used twice."""
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The answers of the last operations, by operation id."""
    handover: Handover | None = None
    """The tops of the next job, if it was submitted while the present one still runs."""
    unflattened: str = ""
    """The reason of the last failure to join the layers. It has a line of its own, so that a login can show it."""
    on_node: bool = False
    """Whether a job has the system volume's top on its node's disk and saves it (ADR 120)."""

    def snapshot(self, number: int) -> Snapshot:
        """VolumeError `missing` if there is none of that number."""
        for snapshot in self.snapshots:
            if snapshot.number == number:
                return snapshot
        raise VolumeError("missing", f"there is no snapshot {number}")

    def with_snapshot(self, snapshot: Snapshot) -> Record:
        """Add a snapshot, and delete the oldest automatic ones if there are too many."""
        snapshots = (*self.snapshots, snapshot)
        newest = {each.digest: each.number for each in snapshots}  # the way back to each image that it has been on
        surplus = sum(each.automatic for each in snapshots) - MAX_AUTOMATIC_SNAPSHOTS
        kept = []
        for each in snapshots:
            if each.automatic and surplus > 0 and each.number not in newest.values():
                surplus -= 1
            else:
                kept.append(each)
        return replace(self, snapshots=tuple(kept), last_number=snapshot.number)

    def with_answer(self, operation: str, answer: dict[str, Any]) -> Record:
        """Add the answer of an operation."""
        kept = list(self.done.items())[-(MAX_ANSWERS - 1) :]
        return replace(self, done=dict([*kept, (operation, answer)]))

    def complete_handover(self, at: float) -> Record:
        """Return the record after the next job has begun."""
        to = self.handover
        assert to is not None
        left = Snapshot(
            number=self.last_number + 1,
            at=at,
            consistency="stopped",
            profile=to.profile,
            version=to.version,
            digest=to.digest,
            home=(*self.home.layers, self.home.top),
            system=(*self.system.layers, self.system.top),
            reason="when a job ended",
            automatic=True,
        )
        home, system = Volume(to.home, left.home), Volume(to.system, left.system)
        return replace(self.with_snapshot(left), home=home, system=system, digest=to.digest, handover=None)

    def named_layers(self) -> set[str]:
        """Every layer that this record needs."""
        named = set[str]()
        for volume in (self.home, self.system):
            named.update((volume.top, volume.copied), volume.layers, volume.saved)
        for snapshot in self.snapshots:
            named.update(snapshot.home, snapshot.system)
        if self.handover is not None:
            named.update((self.handover.home, self.handover.system))
        return named - {""}

    def immutable_layers(self) -> set[str]:
        """Every layer that this record needs and nothing writes to any more, nor will, nor replaces."""
        written = {self.home.top, self.system.top, self.system.own}
        if self.handover is not None:
            written |= {self.handover.home, self.handover.system}
        return self.named_layers() - written

    def mount(self) -> str:
        """Return the line that session.sh reads: the driver, each volume as its top and its layers, newest first, and
        `node` if the system volume's top is on the node's disk.
        """
        volumes = (("home", self.home), ("system", self.system))
        stacks = (f"{name}={','.join([each.top, *reversed(each.layers)])}" for name, each in volumes)
        return ";".join([self.driver, *stacks, *(["node"] if self.on_node else [])])

    def newest_line(self) -> str:
        """Return the line for a login: the number of snapshots, and the last one's number, time (s) and label."""
        if not self.snapshots:
            return ""
        last = max(self.snapshots, key=lambda each: each.number)
        return f"{len(self.snapshots)} {last.number} {int(last.at)} {last.label}".rstrip()

    def text(self) -> str:
        snapshots = [asdict(snapshot) for snapshot in self.snapshots]
        derived = {"format": FORMAT, "mount": self.mount(), "newest": self.newest_line()}
        if self.handover is not None:
            derived[f"mount {self.handover.submission}"] = self.complete_handover(0).mount()
        data = {**derived, **asdict(self), "snapshots": snapshots}
        for volume in (data["home"], data["system"]):
            del volume["below"], volume["own"]
        return json.dumps(data, indent=1) + "\n"

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Parse the text of volumes.json. VolumeError `files` if it is not valid."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise VolumeError("files", f"volumes.json has format {data['format']!r}, not {FORMAT}")
            return cls(
                driver=str(data["driver"]),
                home=_parse_volume(data["home"]),
                system=_parse_volume(data["system"]),
                snapshots=tuple(Snapshot.read(each) for each in data["snapshots"]),
                digest=str(data.get("digest", "")),
                last_number=int(data["last_number"]),
                done={str(key): dict(answer) for key, answer in data["done"].items()},
                handover=Handover.read(data["handover"]) if data.get("handover") else None,
                unflattened=str(data.get("unflattened", "")),
                on_node=data.get("on_node") is True,
            )
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise VolumeError("files", f"volumes.json is damaged: {error!s:.200}") from error


def _parse_layer(value: object) -> str:
    if not isinstance(value, str) or IDENTIFIER.fullmatch(value) is None:
        raise ValueError(f"{value!r:.80} is no layer")
    return value


def _parse_stack(values: object) -> Stack:
    if not isinstance(values, list):
        raise TypeError(f"{values!r:.80} is no list of layers")
    return tuple(_parse_layer(value) for value in values)


def _parse_volume(data: dict[str, Any]) -> Volume:
    return Volume(
        _parse_layer(data["top"]), _parse_stack(data["layers"]), _parse_layer(data["copied"]) if data["copied"] else ""
    )


def was_started(session: Path) -> bool:
    """Whether a session has been submitted, so that it had volumes. OSError if that is unknown."""
    try:
        (session / "manifest.json").stat()
    except FileNotFoundError:
        return False
    return True


def load_record(session: Path) -> Record:
    """Return the record in a session's directory, after a handover if the next job has begun; the next change writes
    that down. It includes the saves of a system volume on the node's disk.

    VolumeError `missing` if there is no record.
    """
    try:
        found = Record.parse(read_bytes(session / RECORD, MAX_RECORD_BYTES))
    except FileNotFoundError:
        raise VolumeError("missing", f"{session.name} has no volumes") from None
    submission, at = _read_begun(session / "run/begun")
    if found.handover is not None and submission >= found.handover.submission:
        found = found.complete_handover(at)
    if not found.on_node:
        return found
    save = read_save(session.parents[1] / "layers" / found.system.top)
    return replace(found, system=replace(found.system, below=save.below, own=save.own))


def _read_begun(file: Path) -> tuple[int, float]:
    """Return the last submission with a handover whose job has begun, and the time; 0 if there is none."""
    try:
        said = read_text(file, MAX_BEGUN_BYTES).partition("\n")[0]
        return (int(said) if _SUBMISSION.fullmatch(said) else 0), file.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0, 0.0


@dataclass(frozen=True, slots=True)
class Save:
    """The saves of a system volume's top: the content of the file `saved` in the top's directory."""

    generation: tuple[int, int] = (0, 0)
    """Submission and restart count of the job that has the top, or had it last."""
    below: Stack = ()
    """The layers that earlier jobs have saved, the oldest first."""
    own: str = ""
    """The layer that this job has saved over them; empty if it has saved none."""
    is_kept: bool = False
    """Whether a snapshot may name `own`, so that the job's next save does not remove it."""
    at: float = 0.0
    """Time of the last save, in seconds since the epoch; 0 without a save."""
    replaced: Stack = ()
    """Layers that a later save has replaced, and that could not be removed yet."""

    @property
    def stack(self) -> Stack:
        return (*self.below, self.own) if self.own else self.below

    def check(self, generation: tuple[int, int]) -> None:
        """VolumeError `conflict` if a job has begun after the one of that generation."""
        if self.generation > generation:
            later, own = (".".join(map(str, each)) for each in (self.generation, generation))
            raise VolumeError("conflict", f"start {later} already has the session's system; this is start {own}")


def read_save(top: Path) -> Save:
    """Return the saves of a top. VolumeError `files` if the file is not valid; OSError."""
    try:
        # NFS reads a directory again when it is opened; otherwise it may report a name as missing for a minute.
        os.close(os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        data = json.loads(read_bytes(top / SAVED, MAX_RECORD_BYTES))
        submission, restarts = data["generation"]
        own = _parse_layer(data["own"]) if data["own"] else ""
        generation, at = (int(submission), int(restarts)), float(data["at"])
        if not isfinite(at):
            raise ValueError("the time is invalid")
        below, replaced = _parse_stack(data["below"]), _parse_stack(data["replaced"])
        return Save(generation, below, own, is_kept=data["is_kept"] is True, at=at, replaced=replaced)
    except FileNotFoundError:
        return Save()
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise VolumeError("files", f"{top / SAVED} is damaged: {error!s:.200}") from error


def write_save(top: Path, save: Save) -> None:
    """Replace the saves of a top, on disk. OSError: either the old or the new file is there."""
    replace_file(top / SAVED, json.dumps(asdict(save)).encode() + b"\n")
    sync_path(top)


def commit_record(session: Path, record: Record) -> None:
    """Replace the record of a session as a whole. If this raises, nothing has changed."""
    text = record.text().encode()
    if len(text) > MAX_RECORD_BYTES:
        raise VolumeError(
            "conflict",
            f"the session has too many snapshots to record another change: {len(record.snapshots)}; delete some",
        )
    replace_file(session / RECORD, text)
    sync_path(session)
