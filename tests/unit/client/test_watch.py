"""The client of the stream of sessions, against servers that stream, fall silent, stop and refuse."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from broker.client.watch import SessionWatch
from broker.errors import BerthError, ControllerUnavailableError, TooManyError
from broker.schema.states import SessionState
from broker.schema.watch import SessionsChange, SessionsSnapshot
from tests.deadlines import DEADLINE_S
from tests.unit.client.test_wire import answering

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nBerth-Heartbeat: 15\r\n\r\n"
SNAPSHOT = b'event: sessions\nid: a-1\ndata: {"revision":"a-1","sessions":[{"name":"dev","state":"ready"}]}\n\n'
CHANGE = b'event: change\nid: a-2\ndata: {"revision":"a-2","changed":[],"removed":["01dev"]}\n\n'


def test_events_are_typed_and_in_order() -> None:
    parts = (HEAD, SNAPSHOT[:20], SNAPSHOT[20:] + b": alive\n\n" + CHANGE)
    with answering(*parts) as (path, heard), SessionWatch(path, "a-0") as watch:
        snapshot, change = next(watch), next(watch)
        with pytest.raises(ControllerUnavailableError, match="ended the stream"):
            next(watch)
    assert isinstance(snapshot, SessionsSnapshot)
    assert (snapshot.revision, snapshot.sessions[0].name, snapshot.sessions[0].state) == (
        "a-1",
        "dev",
        SessionState.READY,
    )
    assert change == SessionsChange("a-2", [], ["01dev"])
    assert heard[0].startswith(b"GET /v1/sessions/watch?since=a-0 HTTP/1.0\r\n")
    assert b"Accept: text/event-stream\r\n" in heard[0]


def test_events_of_a_later_version_are_ignored() -> None:
    with (
        answering(HEAD + b"event: nodes\nid: 1\ndata: 7\n\nretry: 5\n\n" + CHANGE) as (path, _),
        SessionWatch(path) as watch,
    ):
        assert next(watch).revision == "a-2"


def test_a_silent_stream_counts_as_lost_after_three_heartbeats() -> None:
    end = threading.Event()

    def parts() -> Iterator[bytes]:
        yield HEAD.replace(b"15", b"0.05") + SNAPSHOT
        end.wait(DEADLINE_S)

    with answering(then=parts()) as (path, _), SessionWatch(path) as watch:
        next(watch)
        with pytest.raises(ControllerUnavailableError, match="timed out"):
            next(watch)
        end.set()


def test_close_ends_an_iteration_in_another_thread() -> None:
    end, seen = threading.Event(), []

    def parts() -> Iterator[bytes]:
        yield HEAD + SNAPSHOT
        end.wait(DEADLINE_S)

    with answering(then=parts()) as (path, _):
        watch = SessionWatch(path)
        seen.append(next(watch))
        reader = threading.Thread(target=lambda: seen.extend(watch))
        reader.start()
        watch.close()
        reader.join(DEADLINE_S)
        assert not reader.is_alive()
        end.set()
        watch.close()
    assert len(seen) == 1
    assert list(watch) == []


def test_a_refusal_is_raised_by_the_constructor() -> None:
    body = b'{"reason": "refused", "message": "limit of watches reached (2 of 2)", "hint": "end some"}'
    head = b"HTTP/1.1 429 Too Many\r\nContent-Length: %d\r\n\r\n" % len(body)
    with answering(head + body) as (path, _), pytest.raises(BerthError, match="2 of 2") as caught:
        SessionWatch(path)
    assert caught.value.reason == TooManyError.reason


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0-x\r\n", HEAD.replace(b"15", b"soon"), HEAD + b"event: change\n\n"]
)
def test_a_wrong_answer_is_a_failure_of_the_controller(answer: bytes) -> None:
    with answering(answer) as (path, _), pytest.raises(BerthError), SessionWatch(path) as watch:
        next(watch)
