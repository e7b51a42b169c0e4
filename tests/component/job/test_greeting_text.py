"""The greeting of a login, run by a shell over files of this test."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

GREETING = Path(__file__).parents[3] / "broker/job/inside/greeting.sh"


def greeting(folder: Path, **variables: str) -> list[str]:
    """Return the lines of the greeting for a session whose directory `run` is `folder`."""
    text = GREETING.read_text(encoding="utf-8").replace("/run/berth/session", str(folder))
    function = text[text.index("berth_greeting()") : text.index("case $- in")]
    environment = {"PATH": "/usr/bin:/bin", "BERTH_SESSION_NAME": "dev", "SLURMD_NODENAME": "c2"} | variables
    done = subprocess.run(
        ["sh", "-c", f"{function}\nberth_greeting"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not done.stderr
    return done.stdout.splitlines()


def test_remark_names_node_loss_and_drain(tmp_path: Path) -> None:
    assert "before    job 6 ended" in greeting(tmp_path, BERTH_BEFORE="job 6 ended")
    (tmp_path / "remark").write_text("before=interrupted 12:03: node c1 failed\nnotice=node c2 takes no new jobs\n")
    lines = greeting(tmp_path, BERTH_BEFORE="job 6 ended")
    assert "before    interrupted 12:03: node c1 failed" in lines
    assert "before    job 6 ended" not in lines
    assert "notice    node c2 takes no new jobs" in lines


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"SLURM_MEM_PER_NODE": "1024", "BERTH_TMP": "memory"}, r"1 GiB; files in /tmp count as memory"),
        ({"SLURM_MEM_PER_NODE": "1500", "BERTH_TMP": "disk"}, r"1500 MiB; /tmp is on the node's disk, \d+ GiB free"),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "3"}, r"6 GiB"),
        ({"SLURM_MEM_PER_NODE": "0", "BERTH_TMP": "network"}, r"the node's"),
        ({}, r"the node's"),
    ],
)
def test_memory_limit_is_shown_with_the_place_of_tmp(tmp_path: Path, variables: dict[str, str], line: str) -> None:
    (shown,) = [each for each in greeting(tmp_path, **variables) if each.startswith("memory ")]
    assert re.fullmatch(rf"memory    {line}", shown)


def test_empty_remark_leaves_the_end_of_the_last_job(tmp_path: Path) -> None:
    (tmp_path / "remark").touch()
    assert "before    job 6 ended" in greeting(tmp_path, BERTH_BEFORE="job 6 ended")
    assert not [line for line in greeting(tmp_path) if line.startswith(("before", "notice"))]
