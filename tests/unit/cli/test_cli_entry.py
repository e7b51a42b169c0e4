"""`berth` as a whole: every command loads, failures end in one place, little is imported, the shell can complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from broker import __version__, errors
from broker.client.client import Client
from broker.client.records import parse_records
from broker.errors import ExitCode
from broker.format import escape_controls, format_duration, format_size, format_time
from broker.schema import volumes
from broker.text.session import session_page, session_table
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import run
from tests.fakes.controller import operation, ready, view

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.controller import ScriptedController


@pytest.mark.parametrize(("words", "says"), [(("lsit",), "lsit"), (("show",), "NAME"), (("list", "--jso"), "--jso")])
def test_usage_errors(words: tuple[str, ...], says: str) -> None:
    result = run(*words)
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.startswith("berth: ")
    assert says in result.stderr
    assert "--help` shows" in result.stderr


def test_usage_errors_as_json() -> None:
    result = run("show", "--json")
    assert json.loads(result.stderr)["error"]["exit_code"] == ExitCode.USAGE


def test_a_fault_of_ours_is_kept_for_the_report(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("broker.client.client.Client.sessions", lambda _: 1 // 0)
    result = run("list")
    kept = tmp_path / ".local/state/berth/traceback.txt"
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.stderr
    assert "Traceback" not in result.stderr
    assert str(kept) in result.stderr
    assert "Traceback" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("BERTH_DEBUG", "1")
    assert "Traceback" in run("list").stderr
    assert controller.asked == []


def test_a_reader_that_leaves_is_no_fault(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # Python would forget the rest of a partial write
    controller.logs["dev"].append("line\n" * 100_000)
    controller.sessions["dev"] = view()
    with subprocess.Popen(
        [sys.executable, "-m", "broker.cli", "logs", "dev"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(DEADLINE_S) == ExitCode.FAILED


def test_another_configuration(controller: ScriptedController, tmp_path: Path) -> None:
    result = run("--config", str(tmp_path / "none.yaml"), "list")
    assert result.exit_code == ExitCode.USAGE
    assert "none.yaml" in result.stderr
    assert controller.asked == []


SLOW = {
    "pydantic",
    "asyncio",
    "asyncssh",
    "sqlmodel",
    "fastapi",
    "http.client",
    "email",
    "rich",
    "profiles.image.store",
}
"""Modules that take long to import, and what needs them."""


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--version"], SLOW | {"yaml", "json", "socket", "shutil", "broker.client.client"}),
        (["version"], SLOW | {"yaml", "json", "socket", "shutil", "broker.client.client"}),
        (["--help"], SLOW | {"yaml", "json", "socket", "broker.client.client", "broker.cli.commands", "click"}),
        (["list"], SLOW | {"typing_extensions", "broker.schema.sessions", "click", "yaml", "dataclasses"}),
        (["list", "--json"], SLOW | {"typing_extensions", "broker.schema.sessions", "broker.text.session"}),
        (["show", "dev"], SLOW | {"typing_extensions", "broker.schema.sessions", "broker.cli.commands.start"}),
    ],
)
def test_slow_modules_are_not_imported(controller: ScriptedController, words: list[str], absent: set[str]) -> None:
    """Start-up time is a promise (ADR 0071); what would break it first is an import at the top of a module."""
    controller.sessions = {"dev": ready(options=["--gres=gpu:1"], volumes={"driver": "overlay", "layers": {"home": 2}})}
    code = "import sys; from broker.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    assert not absent & set(done.stderr.split())


def test_a_record_is_as_the_model(controller: ScriptedController) -> None:
    """`list` and `show` read responses without the models, and must see the same in them."""
    shown = ready(
        volumes={"driver": "overlay", "layers": {"home": 2}, "snapshots": 1},
        operation=operation("snapshot", "done", snapshot=1),
        persistence={"home": "fresh", "keep": ["~/x"]},
        stop_at=2e9,
        image="/profiles/base/1/image.sif",
    )
    controller.sessions = {"dev": shown}
    controller.site = controller.site.model_copy(update={"profile_stores": ["/profiles"]})
    record = Client(controller.socket).read_session("dev")
    assert record.model_dump(mode="json") == shown.model_dump(mode="json")
    site = Client(controller.socket).read_site()
    assert site.model_dump(mode="json") == controller.site.model_dump(mode="json")
    stores = site.profile_stores
    assert list(session_page(record, site.domain, 1e9, stores)) == list(
        session_page(shown, controller.site.domain, 1e9, stores)
    )
    assert session_table([record], 1e9, wide=True, stores=stores) == session_table(
        [shown], 1e9, wide=True, stores=stores
    )


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"sessions": 1}', b'{"sessions": [1]}', b"\xff"])
def test_a_response_that_is_no_list_of_records(content: bytes) -> None:
    with pytest.raises(errors.BerthError, match="the controller's response is invalid"):
        parse_records(content, "sessions")


def test_a_record_without_a_field_or_with_an_unknown_state() -> None:
    (record,) = parse_records(b'{"sessions": [{"state": "new"}]}', "sessions")
    for name in ("state", "name"):
        with pytest.raises(errors.BerthError, match="the controller's response is invalid"):
            getattr(record, name)


def test_version() -> None:
    assert run("--version").stdout == f"berth {__version__}\n"


def complete(line: str) -> list[str]:
    """Return bash's completions for the last word of `line`."""
    words = line.split(" ")
    environment = os.environ | {
        "_BERTH_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "broker.cli"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    return [row.split(",", 1)[1] for row in done.stdout.splitlines() if row]


def test_the_shell_completes_commands_sessions_and_options(controller: ScriptedController) -> None:
    controller.sessions = {name: view(name) for name in ("dev", "demo", "old")}
    assert complete("berth sto") == ["stop"]
    assert complete("berth stop de") == ["dev", "demo"]
    assert complete("berth profile ver") == ["verify"]
    assert complete("berth stop --no") == ["--no-wait"]
    assert complete("berth start dev --time-") == ["--time-min"]
    assert complete("berth resize dev --cpus-per-t") == ["--cpus-per-task"]
    assert complete("berth start d") == ["dev", "demo"]
    controller.deleted = {"gone": view("gone")}
    controller.snapshots["dev"] = [
        volumes.SnapshotView(number=3, label="good", at=1.0, consistency="stopped", profile="base", version="1"),
        volumes.SnapshotView(number=12, at=2.0, consistency="stopped", profile="base", version="1"),
    ]
    assert complete("berth restore ") == ["gone"]
    assert complete("berth rollback dev ") == ["3", "good", "12"]
    assert complete("berth diff dev --from 1") == ["12"]
    controller.socket.unlink()
    assert complete("berth stop de") == []
    assert complete("berth rollback dev ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "_BERTH_COMPLETE" in run("completion", shell).stdout


def test_printable() -> None:
    assert escape_controls("plain ünïcödé") == "plain ünïcödé"
    assert escape_controls("\x1b[2J\u202eab\x00\x9b") == "\\x1b[2J\\u202eab\\x00\\x9b"
    assert escape_controls("a\tb\n", keep="\n\t") == "a\tb\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (90000, "1 d 1 h"),
        (86400, "1 d"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_clock_and_size() -> None:
    assert len(format_time(1_790_000_000, 1_790_000_001)) == 5
    assert len(format_time(1_790_000_000, 1_790_090_000)) == 16
    assert [format_size(each) for each in (0, 1023, 1024, 3 * 1024**3)] == ["0 B", "1023 B", "1.0 KiB", "3.0 GiB"]


def test_ctrl_c_anywhere(monkeypatch: pytest.MonkeyPatch, controller: ScriptedController) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("broker.client.client.Client.sessions", interrupted)
    result = run("list")
    assert result.exit_code == ExitCode.INTERRUPTED
    assert result.stderr.strip() == "berth: interrupted"
    assert controller.asked == []


def test_every_error_keeps_its_exit_code(controller: ScriptedController) -> None:
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.BerthError)]
    assert len(ours) == 14
    for kind in ours:
        controller.failures["GET /v1/sessions"] = kind("said")
        result = run("list")
        assert (result.exit_code, result.stderr) == (kind.exit_code, "berth: said\n")
