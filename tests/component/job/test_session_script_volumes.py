"""The session script and the session's volumes: the stacks that it reads, and requests for a copy."""

from __future__ import annotations

import os
import re
import struct
from typing import TYPE_CHECKING

import pytest

from tests.component.job.session_script import bash

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

A, B, C, D = "a" * 26, "b" * 26, "c" * 26, "d" * 26


class TestVolumes:
    def volumes(self, tmp_path: Path, line: str) -> subprocess.CompletedProcess[str]:
        for layer in (A, B, C):
            tmp_path.joinpath("layers", layer, "tree").mkdir(parents=True, exist_ok=True)
        tmp_path.joinpath("volumes.json").write_text(f'{{\n "format": 1,\n{line}\n "done": {{}}\n}}\n')
        shown = 'echo "$DRIVER ${HOME_STACK[*]} / ${SYSTEM_STACK[*]}"'
        return bash(f"DIRECTORY=$1 LAYERS=$1/layers; read_volumes; {shown}", str(tmp_path))

    def test_stacks_are_read_from_their_line(self, tmp_path: Path) -> None:
        done = self.volumes(tmp_path, f' "mount": "overlay;home={A},{B};system={C}",')
        assert done.stdout == f"overlay {A} {B} / {C}\n"

    @pytest.mark.parametrize(
        "value",
        [
            "",
            f"overlay;home={A}",
            f"zfs;home={A};system={B}",
            f"overlay;home=;system={B}",
            f"plain;home=../{A};system={B}",
        ],
    )
    def test_anything_else_is_refused(self, tmp_path: Path, value: str) -> None:
        done = self.volumes(tmp_path, f' "mount": "{value}",')
        assert done.returncode == 74
        assert "no line" in done.stdout

    def handed_over(self, tmp_path: Path, submission: int, begun: str = "", code: str = "") -> list[str]:
        """The stacks of that submission's job, where there is a handover to the third, and what `begun` says then."""
        run = tmp_path / "run"
        run.mkdir()
        if begun:
            run.joinpath("begun").write_text(begun)
        lines = f' "mount": "overlay;home={A};system={B}",\n "mount 3": "overlay;home={C},{A};system={D},{B}",'
        for layer in (A, B, C, D):
            tmp_path.joinpath("layers", layer, "tree").mkdir(parents=True, exist_ok=True)
        tmp_path.joinpath("layers", A, "tree").chmod(0o750)
        tmp_path.joinpath("volumes.json").write_text(f'{{\n "format": 1,\n{lines}\n "done": {{}}\n}}\n')
        program = f"DIRECTORY=$1 LAYERS=$1/layers BERTH_SUBMISSION={submission}; {code} read_volumes"
        done = bash(f'{program}; echo "${{HOME_STACK[*]}} / ${{SYSTEM_STACK[*]}}"', str(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        return [done.stdout.rstrip("\n"), run.joinpath("begun").read_text() if run.joinpath("begun").exists() else ""]

    def test_the_job_that_is_handed_over_to_says_so_first(self, tmp_path: Path) -> None:
        assert self.handed_over(tmp_path, 3) == [f"{C} {A} / {D} {B}", "3\n"]
        assert tmp_path.joinpath("layers", C, "tree").stat().st_mode & 0o777 == 0o750

    def test_root_of_a_new_top_is_as_the_old_one_ended(self, tmp_path: Path) -> None:
        old, new = (tmp_path / "layers" / layer / "tree" for layer in (A, C))
        for path in (old, new):
            path.mkdir(parents=True)
        os.setxattr(old, "user.test", b"value")
        os.setxattr(old, "user.overlay.opaque", b"y")
        lists = struct.pack("<I", 2) + b"".join(
            struct.pack("<HHI", *entry) for entry in [(1, 7, 2**32 - 1), (4, 5, 2**32 - 1), (32, 0, 2**32 - 1)]
        )
        os.setxattr(old, "system.posix_acl_default", lists)
        os.utime(old, (1000, 1000))
        self.handed_over(tmp_path, 3)
        assert os.getxattr(new, "user.test") == b"value"
        assert os.getxattr(new, "system.posix_acl_default") == lists
        assert new.stat().st_mtime == 1000
        assert "user.overlay.opaque" not in os.listxattr(new)

    @pytest.mark.parametrize(
        ("submission", "begun", "new", "after"),
        [
            (2, "", False, ""),
            (4, "", False, ""),
            (4, "3\n", True, "3\n"),
            (4, "2\n", False, "2\n"),
            (3, "x\n", True, "3\n"),
        ],
    )
    def test_others_find_what_was_begun(
        self, tmp_path: Path, submission: int, begun: str, new: bool, after: str
    ) -> None:
        stacks = f"{C} {A} / {D} {B}" if new else f"{A} / {B}"
        assert self.handed_over(tmp_path, submission, begun) == [stacks, after]

    def test_without_room_to_say_so_it_goes_on_with_what_there_is(self, tmp_path: Path) -> None:
        full = "sync() { [[ $1 != *.new ]]; };"
        assert self.handed_over(tmp_path, 3, code=full) == [f"{A} / {B}", ""]

    def test_a_missing_layer_is_named(self, tmp_path: Path) -> None:
        gone = "e" * 26
        done = self.volumes(tmp_path, f' "mount": "overlay;home={A},{gone};system={C}",')
        assert done.returncode == 74
        assert f"/layers/{gone} is missing" in done.stdout


class TestRequest:
    def test_only_ids_are_taken(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/copy.request").write_text(f"ID=op\nHOME={A}\nSYSTEM=../x\nHOME_PREVIOUS=\nPATH=/evil\n")
        done = bash(
            'DIRECTORY=$1; declare -A REQUEST; read_copy_request; declare -p REQUEST; echo "$PATH"', str(tmp_path)
        )
        taken, path = done.stdout.splitlines()
        assert set(re.findall(r"\[(\w+)\]=\"?(\w+)", taken)) == {("ID", "op"), ("HOME", A)}
        assert path == "/usr/bin:/bin"

    @pytest.mark.parametrize(
        ("code", "words"), [("", "the session has only begun to start"), ("LISTENS=yes BERTH_ROOT=yes", "in root mode")]
    )
    def test_what_cannot_be_copied_is_answered_at_once(self, tmp_path: Path, code: str, words: str) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/copy.request").write_text(f"ID=op\nHOME={A}\n")
        stacks = f"HOME_STACK=({B}) SYSTEM_STACK=({C})"
        done = bash(f"DIRECTORY=$1 NODE_DIR=$1 LAYERS=$1 {stacks} {code}; copy_live & wait", str(tmp_path))
        outcome = (tmp_path / "run/copy.outcome").read_text().splitlines()
        assert outcome[:2] == ["RESULT=failed", "PAUSE=0.000"], done.stderr
        assert words in outcome[2]
        assert outcome[3] == "ID=op"
