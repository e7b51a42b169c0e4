"""Long verbs, however many, keep no short one waiting: shown by the order of the answers, not by their times."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pwd
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.controller.launcher_client.client import LauncherClient, _PlaceQueue
from broker.launcher.arguments import LONG_VERBS, CopyArguments
from broker.launcher.places import LONG_AT_ONCE, LONG_PLACES, SHORT_AT_ONCE, SHORT_PLACES, Places
from broker.launcher.volume_verbs import VOLUME_VERBS
from broker.names import new_id
from tests.deadlines import DEADLINE_S
from tests.fakes.launcher import PYTHON
from tests.temporary import let_others_enter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ID = "01jd0000000000000000000000"
USER = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
IMAGE: dict[str, Any] = {"profile": "base", "version": "1", "digest": "sha256:" + "1" * 64}
MANY = 1000


@given(st.lists(st.tuples(st.sampled_from(["copy", "verify", "log", "submit"]), st.integers(0, 60), st.booleans())))
def test_no_user_ever_takes_the_place_of_another(steps: list[tuple[str, int, bool]]) -> None:
    shares, under_way = Places(), list[tuple[str, str]]()
    for verb, number, ends in steps * 20:
        user = f"user{number}"
        if ends and under_way:
            shares.give_back(*under_way.pop(0))
        elif shares.has_room(verb, user):
            shares.take(verb, user)
            under_way.append((verb, user))
        for long, places, most in ((True, LONG_PLACES, LONG_AT_ONCE), (False, SHORT_PLACES, SHORT_AT_ONCE)):
            users = [user for verb, user in under_way if (verb in LONG_VERBS) == long]
            assert len(users) <= places
            assert all(users.count(user) <= most for user in users)
            if len(users) < places:
                assert shares.has_room("copy" if long else "log", "newcomer")


def test_short_places_filled_by_few_users_have_room_for_more() -> None:
    shares = Places()
    for verb, users in (("log", "abcdefghij"), ("copy", "abcdefghi")):
        for user in users:  # each takes whatever it is given, and keeps it
            assert shares.has_room(verb, user)
            while shares.has_room(verb, user):
                shares.take(verb, user)
        assert shares.has_room(verb, "newcomer")


def test_every_long_verb_is_one_of_the_launchers() -> None:
    assert VOLUME_VERBS.keys() >= LONG_VERBS - {"environment", "hold"}


@contextlib.asynccontextmanager
async def launcher_at(base: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, int]]:
    """The lines of a launcher, and its process id: a controller that keeps nothing back is at the other end."""
    let_others_enter(base)
    base.joinpath("shared").mkdir()
    base.joinpath("shared").chmod(0o1777)
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *(
                PYTHON,
                "-m",
                "broker.launcher.server",
                f"--serve-fd={theirs.fileno()}",
                f"--storage={base}/shared/{{user}}",
            ),
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parents[3],
        )
    ours.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours, limit=2**24)
    try:
        await reader.readline()
        yield reader, writer, process.pid
    finally:
        writer.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # its children end with it
        await process.wait()


def ask(writer: asyncio.StreamWriter, number: int, verb: str, **arguments: Any) -> None:  # noqa: ANN401 - JSON
    writer.write(json.dumps({"id": number, "verb": verb, "user": USER, "session": ID, **arguments}).encode() + b"\n")


async def answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await reader.readline())
    return found


def children_of(launcher: int) -> list[int]:
    """The nice values of a launcher's children."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == launcher:
                found.append(int(fields[16]))
    return found


@pytest.mark.parametrize("verb", ["snapshot", "copy"])
def test_a_thousand_long_verbs_leave_the_launcher_free_for_short_ones(verb: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(DEADLINE_S), launcher_at(tmp_path) as (reader, writer, process):
            ask(writer, 1, "prepare", driver="overlay")
            assert "ok" in await answer(reader)
            with (tmp_path / "shared" / USER / "sessions" / ID / "volumes.lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # they wait for it
                for number in range(2, MANY + 2):
                    ask(writer, number, verb, operation=new_id(), job_id=7, timeout=3600, **IMAGE)
                for number, short in enumerate(["log", "manifests", "snapshots"], MANY + 2):
                    ask(writer, number, short, bytes=10)
                    assert (await answer(reader))["id"] == number
                nice = children_of(process)
                assert nice.count(10) == LONG_AT_ONCE
            assert (await answer(reader))["id"] in range(2, MANY + 2), "they go on in their turn"

    asyncio.run(scenario())


@pytest.mark.parametrize("users", [1, MANY // 4, MANY])
def test_the_controller_keeps_long_verbs_back_and_no_short_one(users: int) -> None:
    """The other end of its socket, which answers no long verb, never has more of them than there are places."""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs, limit=2**24)
        writer.write(b'{"id": 0, "ok": {"storage": "/shared/{user}"}}\n')
        async with asyncio.timeout(DEADLINE_S), LauncherClient(ours) as launcher:
            copies = [
                asyncio.ensure_future(
                    launcher.copy(
                        f"u{number % users}", CopyArguments(session=ID, operation=new_id(), job_id=7, **IMAGE)
                    )
                )
                for number in range(MANY)
            ]
            short = asyncio.ensure_future(launcher.log("alice", ID, 10))
            own = asyncio.ensure_future(launcher.keys("u0"))
            seen: list[dict[str, Any]] = []
            while {"log", "keys"} - {each["verb"] for each in seen}:
                seen.append(json.loads(await reader.readline()))
            for each in seen:
                if each["verb"] != "copy":
                    writer.write(b'{"id": %d, "ok": {"text": ""}}\n' % each["id"])
            assert await short == await own == ""
            long = [each for each in seen if each["verb"] == "copy"]
            assert len(long) == (LONG_AT_ONCE if users == 1 else LONG_PLACES if users == MANY else len(long))
            assert LONG_AT_ONCE <= len(long) <= LONG_PLACES
            writer.write(b'{"id": %d, "error": "ended", "message": ""}\n' % long[0]["id"])
            assert json.loads(await reader.readline())["verb"] == "copy", "the next one has its place"
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            assert all_is_free(launcher), "a call that was given up gives its place back"
        writer.close()

    asyncio.run(scenario())


def test_place_given_back_as_its_next_holder_is_cancelled() -> None:
    """The call that has ended keeps its answer: it may be the id of a job."""

    async def scenario() -> None:
        places, go_on = _PlaceQueue(), asyncio.Event()

        async def call() -> str:
            async with places.place("copy", "alice"):
                await go_on.wait()
                return "done"

        calls = [asyncio.ensure_future(call()) for _ in range(LONG_AT_ONCE + 2)]
        await asyncio.sleep(0)
        go_on.set()
        calls[-2].cancel()  # it waits for a place
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [*ended[:-2], ended[-1]] == ["done"] * (LONG_AT_ONCE + 1)
        assert isinstance(ended[-2], asyncio.CancelledError)
        assert not places._waiting
        assert not places._shares._long.taken

    asyncio.run(scenario())


def all_is_free(launcher: LauncherClient) -> bool:
    """Whether every place is free."""
    halves = (launcher._places._shares._short, launcher._places._shares._long)
    return not any(half.taken for half in halves) and not launcher._places._waiting
