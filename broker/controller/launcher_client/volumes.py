"""The launcher's volume methods as Python calls with typed results.

Each call raises LauncherError. After an `unclear` one the launcher may have completed the call. A call that is repeated
with the same `operation` returns the same answer, and changes nothing again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, TypeAdapter

from broker.controller.launcher_client import answers
from broker.launcher.arguments import (
    EnvironmentsArguments,
    ForgetArguments,
    GcArguments,
    ProbeArguments,
    PurgeArguments,
    SizeArguments,
    SnapshotsArguments,
    TrashArguments,
    UntrashArguments,
    UsageArguments,
    VerifyArguments,
)
from broker.launcher.sharing_arguments import SurveyArguments
from broker.schema.grants import SharedContent
from broker.schema.volumes import DiffReport, SizeReport, VerifyReport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.launcher.argument_types import Arguments
    from broker.launcher.arguments import (
        CloneArguments,
        CommitRootArguments,
        CopyArguments,
        DiffArguments,
        EnvironmentArguments,
        FlattenArguments,
        HandOverArguments,
        PromoteArguments,
        RollbackArguments,
        SnapshotArguments,
        SwitchArguments,
    )
    from broker.launcher.sharing_arguments import ReceiveArguments
    from broker.schema.environments import EnvironmentView
    from broker.schema.volumes import SnapshotView

_Kind = TypeVar("_Kind", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Prepared:
    host_key: str
    """The public one, one line."""
    volumes: dict[str, Any]
    """As schema.Volumes."""


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """The result of an operation: its snapshot, and the volumes as they are now (as VolumesAnswer)."""

    snapshot: SnapshotView
    volumes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cloned:
    """A cloned session: the snapshot that it comes from, its volumes, those of its source, and its host key."""

    taken: SnapshotResult
    source: dict[str, Any]
    host_key: str


@dataclass(frozen=True, slots=True)
class GcResult:
    """The layers that `gc` removed, or would remove."""

    layers: int
    bytes: int
    sessions: list[str]
    """Ids of deleted sessions."""


class VolumeClient(ABC):
    """The launcher's volume verbs, over `_call`. Each call raises LauncherError."""

    @abstractmethod
    async def _call(self, user: str, arguments: Arguments) -> dict[str, Any]:
        """Send one request and return its answer."""

    async def probe(self, user: str) -> tuple[str, str]:
        """Return the driver that a new session of this user would get, and the reason."""
        answer = await self._call(user, ProbeArguments())
        driver = answers.parse(answers.DRIVER, answer.get("driver"), "the driver")
        return driver, answers.parse(answers.WORDS, answer.get("why"), "the reason for the driver")

    async def snapshot(self, user: str, arguments: SnapshotArguments) -> SnapshotResult:
        """Take a snapshot of a session without a job. `busy` while a job has its volumes open."""
        return _parse_snapshot_result(await self._call(user, arguments))

    async def copy(self, user: str, arguments: CopyArguments) -> SnapshotResult:
        """Take a snapshot of a running session, by its job."""
        return _parse_snapshot_result(await self._call(user, arguments))

    async def rollback(self, user: str, arguments: RollbackArguments) -> SnapshotResult:
        """Roll both volumes back to a snapshot. The result's snapshot has their state before that."""
        return _parse_snapshot_result(await self._call(user, arguments), "before")

    async def switch(self, user: str, arguments: SwitchArguments) -> tuple[SnapshotResult, str]:
        """Give the session a system volume for another image: `fresh`, or the one that it had there (`kept`)."""
        answer = await self._call(user, arguments)
        return _parse_snapshot_result(answer, "before"), answers.parse(
            answers.SYSTEM, answer.get("system"), "the system volume"
        )

    async def clone(self, user: str, arguments: CloneArguments) -> Cloned:
        """Make a session whose volumes begin as the source's, at a snapshot or as they are now."""
        answer = await self._call(user, arguments)
        return Cloned(_parse_snapshot_result(answer), volumes(answer, "source"), host_key(answer))

    async def receive(self, user: str, arguments: ReceiveArguments) -> Prepared:
        """Make a session of `user` from a snapshot of another user, which a process of that user sends.

        LauncherError `ended` if that process ended early, `space` if the snapshot is larger than allowed.
        """
        answer = await self._call(user, arguments)
        return Prepared(host_key(answer), volumes(answer))

    async def survey(self, user: str, session_id: str, number: int) -> SharedContent:
        """Return what another user would get of a snapshot, and what is left out."""
        return _report(SharedContent, await self._call(user, SurveyArguments(session=session_id, snapshot=number)))

    async def environment(self, user: str, arguments: EnvironmentArguments) -> str:
        """Make a batch job's environment of a session, at a snapshot or as it is now, or with empty volumes.

        Return its directory.
        """
        answer = await self._call(user, arguments)
        return answers.parse(answers.DIRECTORY, answer.get("directory"), "the directory")

    async def environments(self, user: str) -> list[EnvironmentView]:
        answer = await self._call(user, EnvironmentsArguments())
        return [*answers.parse(answers.ENVIRONMENTS, answer.get("environments"), "an environment")]

    async def promote(self, user: str, arguments: PromoteArguments) -> Prepared:
        """Make a session of the files that a batch job has left in its environment."""
        answer = await self._call(user, arguments)
        return Prepared(host_key(answer), volumes(answer))

    async def commit_root(self, user: str, arguments: CommitRootArguments) -> dict[str, Any]:
        """Keep the changes of root mode as a layer of the system volume; return the volumes as they are now."""
        return volumes(await self._call(user, arguments))

    async def snapshots(self, user: str, session_id: str) -> tuple[list[SnapshotView], dict[str, Any]]:
        """Return all of a session's snapshots, oldest first, and its volumes."""
        answer = await self._call(user, SnapshotsArguments(session=session_id))
        return [*answers.parse(answers.SNAPSHOTS, answer.get("snapshots"), "a snapshot")], volumes(answer)

    async def delete_snapshot(self, user: str, session_id: str, number: int) -> SnapshotResult:
        """Delete a snapshot; the next gc removes its layers if nothing else names them."""
        return _parse_snapshot_result(await self._call(user, ForgetArguments(session=session_id, snapshot=number)))

    async def diff(self, user: str, arguments: DiffArguments, *, base: str) -> DiffReport:
        """Compare with a snapshot or with an image; the report calls it `base`."""
        answer = await self._call(user, arguments)
        return _report(DiffReport, {**answer, "base": base, "content": arguments.content})

    async def prepare_handover(self, user: str, arguments: HandOverArguments) -> dict[str, Any]:
        """Take a snapshot, over which the job of a submission starts with new tops; return the volumes now."""
        return volumes(await self._call(user, arguments))

    async def size(self, user: str, session_id: str) -> SizeReport:
        return _report(SizeReport, await self._call(user, SizeArguments(session=session_id)))

    async def usage(self, user: str) -> int:
        """Return the bytes of disk that the user's sessions take, including deleted ones that are kept."""
        answer = await self._call(user, UsageArguments())
        return answers.parse(answers.BYTES, answer.get("bytes"), "the space taken")

    async def verify(self, user: str, session_id: str) -> VerifyReport:
        return _report(VerifyReport, await self._call(user, VerifyArguments(session=session_id)))

    async def flatten(self, user: str, arguments: FlattenArguments) -> dict[str, Any]:
        """Join the layers of deep stacks; return the volumes as they are now."""
        return volumes(await self._call(user, arguments))

    async def trash(self, user: str, session_id: str) -> None:
        """Set a session's directory aside. Repeating it is harmless."""
        await self._call(user, TrashArguments(session=session_id))

    async def restore(self, user: str, session_id: str) -> Prepared:
        """Bring back a session's directory. Repeating it is harmless."""
        answer = await self._call(user, UntrashArguments(session=session_id))
        return Prepared(host_key(answer), volumes(answer))

    async def purge(self, user: str, session_id: str) -> None:
        """Remove a session's data for good, set aside or not. Repeating it is harmless."""
        await self._call(user, PurgeArguments(session=session_id))

    async def gc(self, user: str, *, over: list[str], dry_run: bool) -> GcResult:
        """Remove the deleted sessions `over`, and every layer that no session names."""
        answer = await self._call(user, GcArguments(over=over, dry_run=dry_run))
        collected = answers.parse(answers.COLLECTED, answer, "the result of gc")
        return GcResult(len(collected.layers), collected.bytes, collected.sessions)


def host_key(answer: Mapping[str, Any]) -> str:
    """Return the session's public host key of an answer."""
    return answers.parse(answers.HOST_KEY, answer.get("host_key"), "the public host key")


def _parse_snapshot_result(answer: Mapping[str, Any], key: str = "snapshot") -> SnapshotResult:
    return SnapshotResult(answers.parse(answers.SNAPSHOT, answer.get(key), "the snapshot"), volumes(answer))


def volumes(answer: Mapping[str, Any], key: str = "volumes") -> dict[str, Any]:
    """Return the volumes of an answer, as VolumesAnswer."""
    return answers.parse(answers.VOLUMES, answer.get(key), "the record of the volumes").model_dump(mode="json")


def _report(kind: type[_Kind], value: object) -> _Kind:
    return answers.parse(TypeAdapter(kind), value, "the report")
