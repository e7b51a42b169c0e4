"""Log lines as journald gets them: entries with priority and name, or prefixed lines where it does not listen."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.service import journal
from tests.fakes.service_manager import Datagrams, fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[3]
LINES = """
import logging, sys
from pathlib import Path
from broker.service import journal
journal.SOCKET = Path(sys.argv[1])
journal.configure_logging("berth-something")
log = logging.getLogger("broker.part")
log.debug("left out")
log.info("an event of %s", "alice")
log.warning("a warning")
log.error("a failure")
log.critical("the end")
logging.getLogger("httpx").info("HTTP Request: GET ...")
try:
    raise ValueError("wrong")
except ValueError:
    log.exception("it failed")
"""
COMMAND = """
import sys
from pathlib import Path
from broker.service import journal
journal.SOCKET = Path(sys.argv.pop(1))
from broker.cli import main
main()
"""


@pytest.fixture
def journald(place: Path) -> Iterator[Datagrams]:
    with Datagrams(place / "journal") as made:
        yield made


def run(script: str, *words: str, attached: bool = True, **environment: str) -> tuple[int, str]:
    """Run a script with a standard error that systemd has made, or with a pipe and the variable inherited."""
    ours, theirs = socket.socketpair()
    status = os.fstat(theirs.fileno())
    with ours, theirs:
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            cwd=CHECKOUT,
            env=os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"} | environment,
            stdout=subprocess.PIPE,
            stderr=theirs.fileno() if attached else subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        theirs.close()
        said = b"".join(iter(lambda: ours.recv(65536), b""))
    return done.returncode, (said if attached else done.stdout).decode()


def entries(journald: Datagrams) -> list[dict[str, str]]:
    return [fields_of(each.encode()) for each in journald.waiting()]


def test_each_entry_has_its_priority_and_the_name_of_the_process(journald: Datagrams) -> None:
    _, said = run(LINES, str(journald.path))
    found = entries(journald)
    assert said == ""
    assert {each["SYSLOG_IDENTIFIER"] for each in found} == {"berth-something"}
    assert [(each["PRIORITY"], each["MESSAGE"].splitlines()[0]) for each in found] == [
        ("6", "INFO broker.part: an event of alice"),
        ("4", "WARNING broker.part: a warning"),
        ("3", "ERROR broker.part: a failure"),
        ("2", "CRITICAL broker.part: the end"),
        ("3", "ERROR broker.part: it failed"),
    ]
    assert found[-1]["MESSAGE"].endswith("\nValueError: wrong")


def test_lines_have_the_priority_where_the_journal_does_not_listen(place: Path) -> None:
    _, said = run(LINES, str(place / "gone"))
    lines = said.splitlines()
    assert lines[:4] == [
        "<6>INFO broker.part: an event of alice",
        "<4>WARNING broker.part: a warning",
        "<3>ERROR broker.part: a failure",
        "<2>CRITICAL broker.part: the end",
    ]
    assert lines[4] == "<3>ERROR broker.part: it failed"
    assert all(line.startswith("<3>") for line in lines[4:])
    assert lines[-1] == "<3>ValueError: wrong"


def test_other_standard_errors_are_left_as_they_are(journald: Datagrams) -> None:
    _, said = run(LINES, str(journald.path), attached=False)
    assert journald.waiting() == []
    assert said.splitlines()[:2] == ["INFO broker.part: an event of alice", "WARNING broker.part: a warning"]


def test_entry_longer_than_a_datagram_goes_to_standard_error(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Datagrams(place / "journal") as journald, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "SOCKET", journald.path)
        journal.write_entry("x" * (8 << 20), 4)
        assert journald.waiting() == []
    assert capfd.readouterr().err.startswith("<4>xxxx")


def test_journal_that_takes_nothing_holds_nobody_up(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Datagrams(place / "journal") as journald, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "SOCKET", journald.path)
        for _ in range(2000):  # far more than a queue of datagrams holds (net.unix.max_dgram_qlen)
            journal.write_entry("a line", 6)
        taken = len(journald.waiting())
    assert taken + capfd.readouterr().err.count("<6>a line\n") == 2000


def test_journal_that_hangs_holds_nobody_up(place: Path) -> None:
    """Neither of its sockets takes anything any more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                theirs.send(b"x" * 4096)
        theirs.setblocking(True)
        status = os.fstat(theirs.fileno())
        done = subprocess.run(
            [sys.executable, "-c", LINES, str(place / "gone")],
            cwd=CHECKOUT,
            env=os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            stderr=theirs.fileno(),
            timeout=60,
            check=False,
        )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "name"), [(["controller"], "berth-controller"), (["--json", "gateway"], "berth-gateway")]
)
def test_service_that_does_not_start_says_why_as_an_error(
    place: Path, journald: Datagrams, words: list[str], name: str
) -> None:
    config = place / "config.yaml"
    state = f"runtime_dir: {place}/run\nstate_dir: {place}/state\ngateway: {{enabled: {name != 'berth-gateway'}}}\n"
    config.write_text(f"mode: site\n{state}")
    code, said = run(COMMAND, str(journald.path), *words, BERTH_CONFIG=str(config))
    (entry,) = entries(journald)
    assert (said, entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("", "3", name)
    assert "berth-launcher" in entry["MESSAGE"] or "gateway.enabled is false" in entry["MESSAGE"]
    assert code != 0


@pytest.mark.parametrize("value", ["", "1:2", "nonsense", ":", "9" * 50])
def test_variable_that_names_something_else_is_no_journal(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", value)
    assert not journal.is_connected()
