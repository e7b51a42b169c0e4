"""The launcher's volume verbs as Python calls: arguments in, typed results out.

`image` is what volumes belong to: `profile`, `version` and `digest`. Each call raises LauncherError, of which an
`unclear` one may have been done all the same; made again with the same `operation` it then answers the same and does
nothing twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, TypeAdapter

from broker.controller.launcher_client import answers
from broker.launcher.shares import LONG_VERBS
from broker.schema.volumes import DiffReport, SizeReport, VerifyReport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.schema.environments import EnvironmentView
    from broker.schema.volumes import SnapshotView

READS_ALL = 3600.0
"""Seconds for a verb that may have to read or write everything in a session's volumes."""


_Kind = TypeVar("_Kind", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Prepared:
    host_key: str
    """The public one, one line."""
    volumes: dict[str, Any]
    """As schema.Volumes."""


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """The result of an operation: its snapshot, and the volumes as they are now (as schema.Volumes)."""

    snapshot: SnapshotView
    volumes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cloned:
    """A cloned session: the snapshot that it comes from, its volumes, those of its source, and its host key."""

    taken: SnapshotResult
    source: dict[str, Any]
    host_key: str


@dataclass(frozen=True, slots=True)
class SifImage:
    """The place of an image's squashfs: its SIF file, and the offset in it."""

    path: str
    offset: int

    @property
    def arguments(self) -> dict[str, object]:
        return {"image": self.path, "offset": self.offset}


@dataclass(frozen=True, slots=True)
class GcResult:
    """The layers that `gc` removed, or would remove."""

    layers: int
    bytes: int
    sessions: list[str]
    """Ids of deleted sessions."""


class VolumeClient(ABC):
    """The launcher's volume verbs, over `_call`."""

    @abstractmethod
    async def _call(self, verb: str, user: str, **arguments: object) -> dict[str, Any]:
        """One request and its answer."""

    async def probe(self, user: str) -> tuple[str, str]:
        """The driver that a new session of this user's would get, and why."""
        answer = await self._call("probe", user)
        driver = answers.parse(answers.DRIVER, answer.get("driver"), "the driver")
        return driver, answers.parse(answers.WORDS, answer.get("why"), "the reason for the driver")

    async def snapshot(
        self, user: str, session_id: str, operation: str, *, image: Mapping[str, str], what: Mapping[str, Any]
    ) -> SnapshotResult:
        """Of a session without a job; `what`: label, reason, automatic. `busy` while a job has it open."""
        return _taken(await self._long("snapshot", user, session=session_id, operation=operation, **what, **image))

    async def copy(
        self,
        user: str,
        session_id: str,
        operation: str,
        job_id: int,
        *,
        image: Mapping[str, str],
        what: Mapping[str, Any],
    ) -> SnapshotResult:
        """The same of a running session, by its own job."""
        arguments = {"session": session_id, "operation": operation, "job_id": job_id}
        return _taken(await self._long("copy", user, **arguments, **what, **image))

    async def rollback(
        self, user: str, session_id: str, operation: str, number: int, image: Mapping[str, str]
    ) -> SnapshotResult:
        """Make both volumes what they were in that snapshot; the answer's snapshot is of what was before."""
        answer = await self._long("rollback", user, session=session_id, operation=operation, snapshot=number, **image)
        return _taken(answer, "before")

    async def switch(
        self,
        user: str,
        session_id: str,
        operation: str,
        *,
        image: Mapping[str, str],
        to: Mapping[str, str],
        fresh: bool,
    ) -> tuple[SnapshotResult, str]:
        """Give the session a system volume for another image: `fresh`, or the one it had there (`kept`)."""
        answer = await self._long(
            "switch", user, session=session_id, operation=operation, to=dict(to), fresh=fresh, **image
        )
        return _taken(answer, "before"), answers.parse(answers.SYSTEM, answer.get("system"), "the system volume")

    async def clone(
        self,
        user: str,
        session_id: str,
        operation: str,
        *,
        source: str,
        number: int | None,
        image: Mapping[str, str],
        to: Mapping[str, str] | None,
        files: Mapping[str, str],
    ) -> Cloned:
        """Make a session whose volumes begin as the source's, at a snapshot or as they are now, with `files` of
        session_verbs.FILES.
        """
        answer = await self._long(
            "clone",
            user,
            session=session_id,
            operation=operation,
            source=source,
            snapshot=number,
            to=None if to is None else dict(to),
            files=dict(files),
            **image,
        )
        return Cloned(_taken(answer), volumes(answer, "source"), host_key(answer))

    async def environment(
        self,
        user: str,
        session_id: str,
        operation: str,
        *,
        source: str | None,
        number: int | None,
        image: Mapping[str, str],
        driver: str,
        files: Mapping[str, str],
    ) -> str:
        """Make a batch job's environment of a session, at a snapshot or as it is now, or with empty volumes; its
        directory.
        """
        answer = await self._long(
            "environment",
            user,
            session=session_id,
            operation=operation,
            source=source,
            snapshot=number,
            driver=driver,
            files=dict(files),
            **image,
        )
        return answers.parse(answers.DIRECTORY, answer.get("directory"), "the directory")

    async def environments(self, user: str) -> list[EnvironmentView]:
        answer = await self._call("environments", user)
        return [*answers.parse(answers.ENVIRONMENTS, answer.get("environments"), "an environment")]

    async def promote(
        self, user: str, session_id: str, operation: str, *, source: str, job: str, files: Mapping[str, str]
    ) -> Prepared:
        """Make a session of what a batch job has left in its environment `source`, with `files` as for `clone`."""
        arguments = {"session": session_id, "operation": operation, "source": source, "job": job, "files": dict(files)}
        answer = await self._long("promote", user, **arguments)
        return Prepared(host_key(answer), volumes(answer))

    async def commit_root(self, user: str, session_id: str, operation: str, job_id: int) -> dict[str, Any]:
        """Keep what was changed in root mode as a layer of the system volume; the volumes as they are now."""
        answer = await self._long("commit_root", user, session=session_id, operation=operation, job_id=job_id)
        return volumes(answer)

    async def snapshots(self, user: str, session_id: str) -> tuple[list[SnapshotView], dict[str, Any]]:
        """All of a session's snapshots, oldest first, and its volumes."""
        answer = await self._call("snapshots", user, session=session_id)
        return [*answers.parse(answers.SNAPSHOTS, answer.get("snapshots"), "a snapshot")], volumes(answer)

    async def forget(self, user: str, session_id: str, number: int) -> SnapshotResult:
        """Delete a snapshot; its layers go with the next gc, if nothing else names them."""
        return _taken(await self._call("forget", user, session=session_id, snapshot=number))

    async def diff(
        self,
        user: str,
        session_id: str,
        number: int | None,
        *,
        base: str,
        base_packages: str,
        sif: SifImage,
        content: bool = False,
    ) -> DiffReport:
        """Compare with a snapshot, or with the image `sif`, whose packages are `base_packages`.

        With `content`, files that look the same are read.
        """
        arguments = {"session": session_id, "snapshot": number, "base_packages": base_packages, **sif.arguments}
        answer = await self._long("diff", user, **arguments, content=content)
        return _report(DiffReport, {**answer, "base": base, "content": content})

    async def hand_over(
        self, user: str, session_id: str, submission: int, *, image: Mapping[str, str], most: int
    ) -> dict[str, Any]:
        """Have the job of that submission begin with new tops over a snapshot, as long as there are fewer than `most`
        layers. The volumes as they are now.
        """
        arguments = {"session": session_id, "submission": submission, "most": most, **image}
        return volumes(await self._call("hand_over", user, **arguments))

    async def size(self, user: str, session_id: str) -> SizeReport:
        return _report(SizeReport, await self._long("size", user, session=session_id))

    async def usage(self, user: str) -> int:
        """How many bytes of disk the user's sessions take, deleted ones that are kept included."""
        return answers.parse(answers.BYTES, (await self._long("usage", user)).get("bytes"), "the space taken")

    async def verify(self, user: str, session_id: str) -> VerifyReport:
        return _report(VerifyReport, await self._long("verify", user, session=session_id))

    async def flatten(self, user: str, session_id: str, operation: str, sif: SifImage, digest: str) -> dict[str, Any]:
        """Make one layer of many, over the image `sif`. The volumes as they are now."""
        answer = await self._long(
            "flatten", user, session=session_id, operation=operation, digest=digest, **sif.arguments
        )
        return volumes(answer)

    async def trash(self, user: str, session_id: str) -> None:
        """Set a session's directory aside; done already is done."""
        await self._call("trash", user, session=session_id)

    async def untrash(self, user: str, session_id: str) -> Prepared:
        """Bring it back; its volumes. Done already is done."""
        answer = await self._call("untrash", user, session=session_id)
        return Prepared(host_key(answer), volumes(answer))

    async def purge(self, user: str, session_id: str) -> None:
        """Remove a session's data for good, set aside or not; done already is done."""
        await self._long("purge", user, session=session_id)

    async def gc(self, user: str, *, over: list[str], dry_run: bool) -> GcResult:
        """Remove what was set aside of sessions that are `over`, and every layer that nothing names."""
        answer = await self._long("gc", user, over=over, dry_run=dry_run)
        found = answers.parse(answers.COLLECTED, answer, "what was collected")
        return GcResult(len(found.layers), found.bytes, found.sessions)

    async def _long(self, verb: str, user: str, **arguments: object) -> dict[str, Any]:
        assert verb in LONG_VERBS
        return await self._call(verb, user, timeout=READS_ALL, **arguments)


def host_key(answer: Mapping[str, Any]) -> str:
    """Return the session's public host key of an answer."""
    return answers.parse(answers.HOST_KEY, answer.get("host_key"), "the public host key")


def _taken(answer: Mapping[str, Any], key: str = "snapshot") -> SnapshotResult:
    return SnapshotResult(answers.parse(answers.SNAPSHOT, answer.get(key), "the snapshot"), volumes(answer))


def volumes(answer: Mapping[str, Any], key: str = "volumes") -> dict[str, Any]:
    """Return what volumes are, of an answer, as schema.Volumes has it."""
    return answers.parse(answers.VOLUMES, answer.get(key), "what is noted of the volumes").model_dump(mode="json")


def _report(kind: type[_Kind], value: object) -> _Kind:
    return answers.parse(TypeAdapter(kind), value, "the report")
