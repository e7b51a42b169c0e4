"""The use of a session, and the stop of an idle one: on the lab, with everything real."""

from __future__ import annotations

import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from broker.schema.connections import CONNECTION_TIMEOUT_S
from tests.lab.test_explain import told
from tests.lab.test_greeting import typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User

pytestmark = pytest.mark.waits

SETTLED = CONNECTION_TIMEOUT_S + 150
"""Seconds: a controller that has just begun waits first, and then comes the idle time."""


@contextmanager
def connected(user: User, session: str, command: str, every: float, data: bytes, *options: str) -> Iterator[None]:
    """A connection in which this command runs and gets these bytes again and again."""
    over = threading.Event()
    argv = user.laptop.argv(session, [command], options=options)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        assert client.stdin is not None
        into = client.stdin

        def send() -> None:
            while not over.wait(every):
                into.write(data)
                into.flush()

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        try:
            yield
        finally:
            over.set()
            sender.join()
            client.kill()


def test_what_nothing_uses_is_warned_and_stopped_and_nothing_else(
    alice: User, new_name: Callable[[str], str], name: str
) -> None:
    """An open terminal is no use, and an open connection is none; a build, typing, and an open GPU are."""
    builds, typing, has_gpu = new_name("builds"), new_name("typing"), new_name("gpu")
    for session in (name, builds, typing, has_gpu):
        gres = ["--gres=gpu:intel:1"] if session == has_gpu else []
        alice.ok("start", session, "--profile", "base", "--mem=200M", "--time=2:00:00", *gres)
        alice.ok("set", session, "--idle", "1m")
    with ExitStack() as connections:
        terminal = connections.enter_context(ThreadPoolExecutor(1)).submit(
            alice.laptop.ssh, name, "sleep 600", options=["-tt"], seconds=SETTLED + 200
        )
        busy = "while :; do n=0; while [ $n -lt 100000 ]; do n=$((n + 1)); done; sleep 0.2; done"
        connections.enter_context(connected(alice, builds, busy, 600, b""))
        connections.enter_context(connected(alice, typing, "cat >/dev/null", 3, b"\n", "-tt"))
        connections.enter_context(connected(alice, has_gpu, "exec sleep 600 3</dev/dri/renderD128", 600, b""))
        soon = alice.until(name, lambda view: view["idle_stop_at"] is not None, what="a warning", seconds=SETTLED)
        assert soon["idle_since"] is not None
        assert "idle since " in alice.ok("show", name)
        alice.wait(name, "stopped", seconds=120)
        said = terminal.result().stdout.decode()
        assert f"berth: {name}: this session is idle and will stop at " in said
        assert f"berth: {name}: Berth ends the session: idle for " in said
        for session in (builds, typing, has_gpu):
            view = alice.show(session)
            assert (view["state"], view["idle_stop_at"]) == ("ready", None), session
    because = alice.show(name)["reason"]
    assert re.fullmatch(r"idle for \d+ min", because)  # a controller that has just begun waits first
    assert told(alice, name)["state"] == f"stopped: {because}"
    assert f"CANCELLED ({because})" in alice.ok("history", name)
    assert because in alice.ok("events", name)
    alice.ok("start", name)
    assert f": {because}\n" in typed(alice, name, "exit\n")
