"""The reason of a session's end, as `berth ssh` and `berth exec` print it after ssh."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from broker import errors
from broker.cli import connection_end
from broker.cli.connection_end import SshConnection
from broker.schema.sessions import JobView, SessionState
from tests.fakes.controller import CREATED, ready, view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.sessions import SessionView
    from tests.fakes.controller import ScriptedController

MEMORY = view(
    state=SessionState.FAILED,
    outcome="OUT_OF_MEMORY",
    reason="out of memory: the session used more than its job requested; start it with a larger --mem",
    options=["--gres=gpu:1", "--mem=1G"],
)
RESTARTED = ready(generation="2.0", job_id=8)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a session that answers as sshd does. The limits for a session's end have passed."""
    monkeypatch.setattr(connection_end, "NOTICE_S", 0)
    monkeypatch.setattr(connection_end, "_LOOK_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as client:  # a test may end without a connection
                client.sendall(b"SSH-2.0-OpenSSH\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1]


def end_of(port: int, code: int = 255) -> None:
    """Run what runs after ssh, as a process would; it keeps ssh's exit code."""
    described = connection_end.explain_command(SshConnection("dev", "1.0", "127.0.0.1", port))[-1]
    assert json.loads(described)["name"] == "dev"
    with pytest.raises(SystemExit) as ended:
        connection_end.main([described, str(code)])
    assert ended.value.code == code


@pytest.mark.parametrize(
    ("session", "jobs", "texts"),
    [
        (
            MEMORY,
            [],
            (
                "dev ran out of memory, and its job ended: its limit was --mem=1G",
                "`berth start dev --mem=2048M` doubles its memory; all files and other options are kept; "
                "`berth explain dev` has more",
            ),
        ),
        (
            MEMORY.model_copy(update={"options": []}),
            [],
            (
                "dev ran out of memory, and its job ended: its limit was the memory of the job, Slurm's default",
                "start it again with a larger `--mem`; all files and other options are kept; "
                "`berth explain dev` has more",
            ),
        ),
        (
            view(state=SessionState.FAILED, outcome="NODE_FAIL", reason="the node failed; start the session again"),
            [],
            (
                "dev failed: the node failed; start the session again",
                "`berth start dev` starts it again with all its files, on another node if possible; "
                "`berth explain dev` has more",
            ),
        ),
        (
            view(state=SessionState.STOPPED, outcome="CANCELLED", reason="the job was cancelled outside Berth"),
            [],
            (
                "dev was stopped: the job was cancelled outside Berth",
                "`berth start dev` starts it again with all its files; `berth explain dev` has more",
            ),
        ),
        (view(state=SessionState.STOPPING), [], ("dev is stopping", "`berth show dev` shows its progress")),
        (
            RESTARTED,
            [JobView(submission=1, asked_at=CREATED, outcome="TIMEOUT", reason="the job reached its time limit")],
            (
                "dev continues in another run: the job reached its time limit; it is ready on c2",
                "`berth ssh dev` connects to it",
            ),
        ),
        (
            view(state=SessionState.QUEUED, generation="", reason="BeginTime"),
            [JobView(submission=1, job_id=7, asked_at=CREATED, restarts=1)],
            (
                "dev continues in another run: Slurm has requeued job 7; "
                "it is queued: BeginTime (its start time has not come)",
                "`berth ssh dev` connects to it",
            ),
        ),
    ],
)
def test_end_of_session_is_explained(
    controller: ScriptedController,
    capsys: pytest.CaptureFixture[str],
    port: int,
    *,
    session: SessionView,
    jobs: list[JobView],
    texts: tuple[str, str],
) -> None:
    """The sshd may still answer: the session's state counts."""
    controller.sessions["dev"], controller.jobs["dev"] = session, jobs
    end_of(port)
    assert capsys.readouterr() == ("", "berth: {}\n  hint: {}\n".format(*texts))
    assert ("GET", "/v1/sessions/dev?refresh", None) in controller.asked


def test_running_session_needs_no_explanation(
    controller: ScriptedController, capsys: pytest.CaptureFixture[str], port: int
) -> None:
    controller.sessions["dev"] = ready()
    end_of(port, 137)
    assert capsys.readouterr() == ("", "")


def test_reason_is_awaited_while_sshd_is_gone(
    controller: ScriptedController, capsys: pytest.CaptureFixture[str]
) -> None:
    controller.sessions["dev"] = ready()
    controller.script["dev"] += [ready(), ready(reason="the job is ending"), MEMORY]
    end_of(1)
    assert capsys.readouterr().err.startswith("berth: dev ran out of memory")


def test_lost_node_is_named_before_slurm_knows(
    controller: ScriptedController,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    port: int,
) -> None:
    monkeypatch.setattr(connection_end, "REASON_S", 0)
    assert port
    controller.sessions["dev"] = ready()
    end_of(1)
    assert capsys.readouterr().err == (
        "berth: dev does not answer on 127.0.0.1; Slurm reports that its job still runs\n"
        "  hint: `berth explain dev` shows its state; `berth ssh dev` tries again\n"
    )


def test_deleted_session_is_named(
    controller: ScriptedController, capsys: pytest.CaptureFixture[str], port: int
) -> None:
    assert not controller.sessions
    end_of(port)
    assert capsys.readouterr().err.startswith("berth: dev was deleted\n")


@pytest.mark.parametrize("alive", [True, False])
def test_end_without_controller(
    controller: ScriptedController, capsys: pytest.CaptureFixture[str], port: int, *, alive: bool
) -> None:
    controller.failures["GET /v1/sessions/dev"] = errors.ControllerUnavailableError("the controller does not answer")
    end_of(port if alive else 1)
    said = capsys.readouterr().err
    assert (
        said == "" if alive else said.startswith("berth: dev no longer answers on 127.0.0.1; the reason is not known")
    )
