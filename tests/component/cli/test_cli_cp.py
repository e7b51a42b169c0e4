"""`berth cp` with a real sshd and the real scp: names that a shell, scp or a pattern could mistake, and exit codes."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from broker import errors
from tests.component.cli.test_cli_ssh import session
from tests.fakes import openssh
from tests.fakes.command_line import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.controller import ScriptedController

BERTH = (sys.executable, "-m", "broker.cli")
NAMES = [
    "plain",
    "two words",
    "-rf",
    "a:b",
    "$HOME",
    "a'b\"c",
    "a[1].txt",
    "*",
    "tab\there",
    "ü",
    "`id`",
    "back\\slash",
]


def content(directory: Path) -> dict[str, bytes]:
    """The files below the directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_files_of_all_names_go_there_and_back(
    controller: ScriptedController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, back = tmp_path / "here", tmp_path / "there", tmp_path / "back"
    for directory in (here / "tree/below", there, back):
        directory.mkdir(parents=True)
    for name in NAMES:
        (here / name).write_bytes(os.urandom(100))
        (here / "tree/below" / name).write_bytes(os.urandom(100))
    monkeypatch.chdir(here)

    async def scene() -> None:
        async with session(controller, tmp_path):
            sources = [name if ":" not in name else f"./{name}" for name in NAMES]
            sent = await openssh.run([*BERTH, "cp", "-q", "--", *sources, "tree", f"dev:{there}"])
            assert (sent.code, sent.out, sent.err) == (0, b"", "")
            assert content(there) == content(here)
            got = await openssh.run([*BERTH, "cp", f"dev:{there}/tree", str(back)])
            assert got.code == 0
            assert content(back / "tree") == content(here / "tree")
            for name in NAMES:
                got = await openssh.run([*BERTH, "cp", f"dev:{there}/{name}", str(back / "one")])
                assert (got.code, (back / "one").read_bytes()) == (0, (here / name).read_bytes()), name
            got = await openssh.run([*BERTH, "cp", f"dev:{there}/t*", str(back)])
            assert got.code == 1, "this is no pattern"

    asyncio.run(scene())


def test_a_file_that_is_missing_there_gives_the_exit_code_of_scp(
    controller: ScriptedController, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with session(controller, tmp_path):
            failed = await openssh.run([*BERTH, "cp", "dev:/nosuch/file", str(tmp_path)])
            assert failed.code == 1
            assert "/nosuch/file" in failed.err

    asyncio.run(scene())


@pytest.mark.parametrize("path", ["no such/", "no such/file"])
def test_missing_directory_of_the_session_has_a_remedy(
    controller: ScriptedController, tmp_path: Path, path: str
) -> None:
    file = tmp_path / "file"
    file.touch()

    async def scene() -> None:
        async with session(controller, tmp_path):
            failed = await openssh.run([*BERTH, "cp", "-q", str(file), f"dev:{tmp_path}/{path}"])
            assert failed.code == 1
            place = f"{tmp_path}/no such"
            assert failed.err.endswith(
                f"  hint: if {place} does not exist in dev, `berth exec dev -- mkdir -p '{place}'` creates it\n"
            )

    asyncio.run(scene())


def test_times_and_modes_are_kept_on_request(controller: ScriptedController, tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o750)
    os.utime(file, (1, 1))

    async def scene() -> None:
        async with session(controller, tmp_path):
            assert (await openssh.run([*BERTH, "cp", "-rp", str(file), f"dev:{tmp_path}/copy"])).code == 0

    asyncio.run(scene())
    status = (tmp_path / "copy").stat()
    assert (status.st_mtime, status.st_mode & 0o777) == (1, 0o750)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "missing argument"),
        (("dev:x",), "the destination is missing"),
        (("x", "y"), "no path is in a session"),
        (("dev:x", "old:y"), "source and destination are both in a session"),
        (("dev:x", "y", "old:z"), "the sources are in several places"),
        (("dev:x", "old:x", "y"), "the sources are in several places"),
        (("Dev:x", "y"), "'Dev' is not the name of a session; write ./Dev:x for a file here"),
        (("dev:a\nb", "y"), "without line breaks"),
        (("", "dev:"), "a path is empty"),
    ],
)
def test_wrong_paths_are_refused_before_any_request(
    controller: ScriptedController, words: tuple[str, ...], says: str
) -> None:
    result = run("cp", *words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert controller.asked == []


def test_what_the_controller_refuses_is_said_before_scp_runs(controller: ScriptedController) -> None:
    controller.failures["POST /v1/resolve"] = errors.ConflictError("dev is stopped; `berth start dev` starts it")
    result = run("cp", "dev:x", ".")
    assert result.exit_code == 5
    assert result.stderr == "berth: dev is stopped; `berth start dev` starts it\n"


def test_an_scp_that_would_give_paths_to_a_shell_is_not_used(
    controller: ScriptedController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "ssh"
    old.write_text("#!/bin/sh\necho OpenSSH_8.0p1 >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    result = run("cp", "dev:x", ".")
    assert result.exit_code == 1
    assert "scp of OpenSSH 8.0 cannot use SFTP" in result.stderr
    assert controller.asked == []
