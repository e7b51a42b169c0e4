"""The answer of the launcher's child is its user's word: nothing of it is stored, shown or counted unchecked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.launcher_client.client import LauncherClient
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.metrics import LAUNCHER_SECONDS
from broker.errors import BerthError
from broker.launcher.argument_bases import ImageArguments
from broker.launcher.arguments import (
    CloneArguments,
    DiffArguments,
    EnvironmentArguments,
    OwnImageArguments,
    PromoteArguments,
    SnapshotArguments,
    SwitchArguments,
)
from broker.schema.sessions import SessionState
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.rows import HOST_KEY
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from broker.controller.launcher_client.volumes import Prepared
    from broker.launcher.argument_types import Arguments

    Call = Callable[[LauncherClient], Coroutine[Any, Any, object]]

ID = "01jd0000000000000000000000"
IMAGE: dict[str, Any] = {"profile": "base", "version": "1", "digest": ""}
PLAIN: dict[str, Any] = {"label": "", "reason": "", "automatic": False}
VOLUMES = {"driver": "overlay", "promises": ["one"], "layers": {"home": 1, "system": 0}, "snapshots": 1}
SNAPSHOT = {"number": 1, "at": 1.0, "consistency": "stopped", **IMAGE, "home": [ID], "system": []}
BATCH_JOB = {"key": "7", "top": "/top", "node": "c1", "work": "/", "inside": "/", "running": False}
ENVIRONMENT = {
    "id": ID,
    "of": "dev",
    "profile": "base",
    "version": "1",
    "directory": "/x",
    "created_at": 1,
    "used_at": 1,
}
LONG = "x" * 1_100_000
NAN, INFINITE = float("nan"), float("inf")
GOOD: dict[str, tuple[Call, dict[str, Any]]] = {
    "prepare": (lambda it: it.prepare("alice", ID, "auto"), {"host_key": HOST_KEY, "volumes": VOLUMES}),
    "submit": (lambda it: it.submit("alice", ID, 1, options=[], files={}, limit=9), {"job_id": 7}),
    "keys": (lambda it: it.keys("alice"), {"text": "a key\n"}),
    "log": (lambda it: it.log("alice", ID, 100), {"text": "said\n"}),
    "terminals": (lambda it: it.terminals("alice", ID), {"text": "1.0 2\n"}),
    "listed_services": (lambda it: it.listed_services("alice", ID), {"text": "1.0\nberth-services 1\n"}),
    "manifests": (lambda it: it.manifests("alice"), {"manifests": {ID: "{}"}, "trash": {}}),
    "trashed": (lambda it: it.trashed_manifests("alice"), {"manifests": {}, "trash": {ID: "{}"}}),
    "probe": (lambda it: it.probe("alice"), {"driver": "overlay", "why": "it works"}),
    "snapshot": (
        lambda it: it.snapshot("alice", SnapshotArguments(session=ID, operation=ID, **IMAGE, **PLAIN)),
        {"snapshot": SNAPSHOT, "volumes": VOLUMES},
    ),
    "switch": (
        lambda it: it.switch(
            "alice", SwitchArguments(session=ID, operation=ID, to=ImageArguments(**IMAGE), fresh=False, **IMAGE)
        ),
        {"before": SNAPSHOT, "volumes": VOLUMES, "system": "kept"},
    ),
    "clone": (
        lambda it: it.clone(
            "alice", CloneArguments(session=ID, operation=ID, source=ID, snapshot=None, files={}, **IMAGE)
        ),
        {"snapshot": SNAPSHOT, "volumes": VOLUMES, "source": VOLUMES, "host_key": HOST_KEY},
    ),
    "promote": (
        lambda it: it.promote("alice", PromoteArguments(session=ID, operation=ID, source=ID, job="7", files={})),
        {"volumes": VOLUMES, "host_key": HOST_KEY},
    ),
    "renew": (lambda it: it.renew_host_key("alice", ID), {"host_key": HOST_KEY}),
    "untrash": (lambda it: it.restore("alice", ID), {"volumes": VOLUMES, "host_key": HOST_KEY}),
    "snapshots": (lambda it: it.snapshots("alice", ID), {"snapshots": [SNAPSHOT], "volumes": VOLUMES}),
    "environment": (
        lambda it: it.environment(
            "alice", EnvironmentArguments(session=ID, operation=ID, source=None, files={}, **IMAGE)
        ),
        {"directory": "/x"},
    ),
    "environments": (
        lambda it: it.environments("alice"),
        {"environments": [{**ENVIRONMENT, "job_id": 7, "jobs": [BATCH_JOB]}]},
    ),
    "own_image": (
        lambda it: it.own_image("alice", OwnImageArguments(profile="mine", packages=True)),
        {"store": "/x", "names": ["mine"], "versions": ["1"], "version": "1", "description": "{}", "size": 1},
    ),
    "usage": (lambda it: it.usage("alice"), {"bytes": 1}),
    "gc": (
        lambda it: it.gc("alice", over=[], dry_run=True),
        {"layers": [{"id": ID, "bytes": 1}], "bytes": 1, "sessions": [ID]},
    ),
    "size": (lambda it: it.size("alice", ID), {"lines": [], "bytes": 1, "free": 1}),
    "verify": (lambda it: it.verify("alice", ID), {"layers": 1, "recorded": 0, "problems": []}),
    "diff": (
        lambda it: it.diff("alice", DiffArguments(session=ID, snapshot=None, image="/x", offset=0), base="b"),
        {"packages": [], "files": [], "truncated": False},
    ),
}  # fmt: skip
"""By verb: a call, and an answer that it takes."""

Place = tuple[str | int, ...]
BAD_KEYS: list[Any] = [
    LONG, HOST_KEY + " " + LONG, "ssh-ed25519 AAAA", "", HOST_KEY + "\n" + HOST_KEY, 7, None, []
]  # fmt: skip
BAD_VOLUMES: list[tuple[Place, Any]] = [
    (("driver",), LONG), (("driver",), "other"), (("promises",), ["x"] * 1000), (("promises", 0), LONG),
    (("promises", 0), "\x1b[2J"), (("promises", 0), "\ud800"), (("layers", "home"), 10**30), (("layers", LONG), 1),
    (("snapshots",), 2**70), (("snapshots",), INFINITE), (("more",), LONG), ((), None),
]  # fmt: skip
BAD_SNAPSHOTS: list[tuple[Place, Any]] = [
    (("number",), 10**30), (("number",), -1), (("label",), LONG), (("label",), "a\nb"), (("reason",), LONG),
    (("at",), NAN), (("at",), INFINITE), (("pause",), NAN), (("profile",), LONG), (("version",), LONG),
    (("digest",), LONG), (("home",), ["../up"]), (("home",), [ID] * 200_000), (("consistency",), LONG), ((), 7),
]  # fmt: skip
BAD_JOBS: list[Any] = [0, -1, 2**40, 10**30, "x", None, [], INFINITE]
BAD_MANIFESTS: list[Any] = [{"../up": ""}, {ID: LONG}, {ID: 7}, [], None]
BAD_TEXTS: list[Any] = [LONG, 7, None, ["x"], "\ud800"]
BAD: list[tuple[str, Place, Any]] = [
    *((verb, ("host_key",), each) for verb in ("prepare", "clone", "promote", "untrash", "renew") for each in BAD_KEYS),
    *((verb, ("volumes", *place), each)
      for verb in ("prepare", "snapshot", "clone", "promote", "untrash", "snapshots") for place, each in BAD_VOLUMES),
    ("clone", ("source", "driver"), LONG),
    *((verb, (*of, *place), each)
      for verb, of in (("snapshot", ("snapshot",)), ("switch", ("before",)), ("snapshots", ("snapshots", 0)))
      for place, each in BAD_SNAPSHOTS),
    *(("submit", ("job_id",), each) for each in BAD_JOBS),
    *((verb, ("text",), each) for verb in ("keys", "log", "terminals", "listed_services") for each in BAD_TEXTS),
    *(("manifests", ("manifests",), each) for each in BAD_MANIFESTS),
    ("trashed", ("trash",), {ID: LONG}),
    *(("probe", ("driver",), value) for value in ("other", LONG, None)),
    ("probe", ("why",), LONG),
    *(("switch", ("system",), value) for value in ("other", LONG, None)),
    *(("environment", ("directory",), value) for value in (LONG, None, 7)),
    *(("environments", ("environments", 0, *path), value) for path, value in (
        (("id",), "../up"), (("of",), LONG), (("directory",), LONG), (("driver",), "x"), (("used_at",), NAN),
        (("created_at",), INFINITE), (("job_id",), 10**30), (("jobs", 0, "work"), LONG), (("jobs", 0, "key"), "x"),
    )),
    *(("own_image", path, value) for path, value in (
        (("store",), "/x\nBERTH_ROOT=yes"), (("store",), "relative"), (("store",), LONG), (("names",), ["../up"]),
        (("names",), ["x"] * 2000), (("versions", 0), "../1"), (("version",), "1/2"), (("description",), LONG * 5),
        (("size",), 2**70), (("offset",), -1), (("packages",), LONG * 3), (("problem",), LONG),
    )),
    *(("usage", ("bytes",), value) for value in (-1, 2**63, 10**30, INFINITE, "x", None)),
    ("gc", ("sessions",), ["../up"]),
    ("gc", ("layers",), 7),
    *((verb, ("bytes",), 2**70) for verb in ("gc",)),
    ("size", ("lines",), 7),
    ("verify", ("problems",), [7]),
    ("diff", ("files",), [{"change": "X", "volume": "home", "path": "x"}]),
]  # fmt: skip
"""Replacements in those answers; each of them is refused."""


@contextlib.asynccontextmanager
async def answered(line: bytes) -> AsyncIterator[LauncherClient]:
    """A launcher that answers everything with what follows the id in `line`."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs, limit=2**24)
    writer.write(b'{"id": 0, "ok": {"storage": "/shared/{user}"}}\n')

    async def serve() -> None:
        while request := await reader.readline():
            writer.write(b'{"id": %d, %s\n' % (json.loads(request)["id"], line))

    serving = asyncio.create_task(serve())
    try:
        async with asyncio.timeout(DEADLINE_S), LauncherClient(ours) as launcher:
            yield launcher
            assert not launcher.gone.is_set()
    finally:
        await serving
        writer.close()


def ok(answer: object) -> bytes:
    return b'"ok": %s}' % json.dumps(answer).encode()


def changed(answer: Any, path: tuple[str | int, ...], value: object) -> Any:  # noqa: ANN401 - JSON
    """The answer with another value at that place."""
    if not path:
        return value
    if isinstance(answer, list):
        assert isinstance(path[0], int)
        return [*answer[: path[0]], changed(answer[path[0]], path[1:], value), *answer[path[0] + 1 :]]
    return {**answer, path[0]: changed(answer.get(path[0]), path[1:], value)}


@pytest.mark.parametrize("verb", GOOD)
def test_an_answer_of_the_right_form_is_taken(verb: str) -> None:
    call, answer = GOOD[verb]

    async def scenario() -> None:
        async with answered(ok(answer)) as launcher:
            await call(launcher)

    asyncio.run(scenario())


@pytest.mark.parametrize("verb", GOOD)
def test_an_answer_that_does_not_fit_is_refused(verb: str) -> None:
    call, answer = GOOD[verb]
    cases = [changed(answer, path, value) for each, path, value in BAD if each == verb]

    async def scenario() -> None:
        for case in [*cases, *([] if verb == "diff" else [{}])]:  # all of a diff may be missing
            async with answered(ok(case)) as launcher:
                with pytest.raises(LauncherError) as failure:
                    await call(launcher)
            assert failure.value.kind == ("unclear" if verb == "submit" else "files"), f"{case!r:.300}"
            assert len(failure.value.message) < 1000
            assert failure.value.message.isprintable()

    asyncio.run(scenario())


NESTED = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("line", [b'"ok": {"text": %s}}' % NESTED, b'"ok": [1]}', b'"ok": {', b'"other": 1}', b"\xff}"])
def test_an_answer_that_cannot_be_parsed_ends_its_own_call_only(line: bytes) -> None:
    async def scenario() -> None:
        async with answered(line) as launcher:
            for _ in range(2):
                with pytest.raises(LauncherError) as failure:
                    await launcher.keys("alice")
                assert failure.value.unclear
                assert not launcher.gone.is_set()

    asyncio.run(scenario())


def test_an_error_is_one_of_few_kinds_in_few_words() -> None:
    def outcomes() -> set[str]:
        return {sample.labels["outcome"] for metric in LAUNCHER_SECONDS.collect() for sample in metric.samples}

    async def scenario() -> None:
        before = outcomes()
        for kind in ("made-up", LONG, 7, None, [1], "gone"):
            error = json.dumps({"error": kind, "message": LONG + "\x1b[2J\ud800"}).encode()
            async with answered(error[1:]) as launcher:
                with pytest.raises(LauncherError) as failure:
                    await launcher.keys("alice")
            assert failure.value.kind == "crashed"
            assert len(failure.value.message) <= 2000
        async with answered(b'"error": "files", "message": "a\\u001b[2J\\nb"}') as launcher:
            with pytest.raises(LauncherError) as failure:
                await launcher.keys("alice")
        assert (failure.value.kind, failure.value.message) == ("files", "a?[2J\nb")
        assert outcomes() - before <= {"crashed", "files"}

    asyncio.run(scenario())


class LyingLauncher(FakeLauncher):
    """Its children answer `prepare` with `host_key`."""

    host_key = HOST_KEY.rsplit(" ", 1)[0] + " " + "x" * 20_000_000

    async def prepare(self, user: str, session_id: str, driver: str) -> Prepared:
        return await LauncherClient.prepare(self, user, session_id, driver)

    async def _call(self, user: str, arguments: Arguments) -> dict[str, Any]:
        if arguments.VERB == "prepare":
            return {"host_key": self.host_key, "volumes": VOLUMES}
        return await super()._call(user, arguments)


@pytest.mark.parametrize("host_key", [LyingLauncher.host_key, "ssh-ed25519 AAAA", "x" * 20_000_000])
def test_a_host_key_is_checked_before_the_registry_has_it(host_key: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        launcher = LyingLauncher(FakeScheduler())
        launcher.host_key = host_key
        core = Core.make(site_config(tmp_path), launcher)
        with pytest.raises(BerthError, match="public host key"):
            await core.start()
        stored = [each.host_key for each in core.registry.in_states(SessionState)]
        assert not any(stored)

    asyncio.run(scenario())
    sizes = [file.stat().st_size for file in tmp_path.rglob("registry.db*")]
    assert 0 < sum(sizes) < 5_000_000
