"""`berth cluster` fits the terminal, names what is free, and says how old the answer is."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from broker.cli import output
from broker.errors import ExitCode, SlurmUnavailableError
from broker.format import format_time
from broker.schema.cluster import ClusterView, GresView, LargestRequest, QueueView, WaitingSession
from tests.fakes.cluster import cluster_view, node_view, partition_view
from tests.fakes.command_line import command_line, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.controller import ScriptedController

CALL = "GET /v1/cluster"


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        yield running


def test_partitions_nodes_and_what_would_start(controller: ScriptedController) -> None:
    assert controller.answers
    result = run("cluster")
    headings = ["PARTITION", "STATE", "NODES", "CPUS", "MEMORY", "GPUS", "SHARDS", "WAITING", "LIMIT"]
    assert result.stdout.splitlines()[0].split() == headings
    assert result.stdout.splitlines()[1].split() == [
        *("gpu*", "UP", "2/2", "8/16", "4/31", "GiB", "2/4", "6/16", "0", "7", "d")
    ]
    assert result.stdout.splitlines()[4].split() == ["gpu", "4", "13", "GiB", "1", "4"]
    assert result.stdout.splitlines()[7].split() == ["c1", "MIXED", "4/8", "2/15", "GiB", "1/2", "3/8"]
    assert "No job waits." in result.stdout
    assert result.stderr == f"As of {format_time(1_790_000_000.0, time.time())}.\n"


@pytest.mark.parametrize("width", [20, 60, 80, 120])
def test_the_tables_fit_the_terminal(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    many = [GresView(name="gpu", type=f"model{number}", total=8, used=4) for number in range(4)]
    nodes = [node_view("c1", state="IDLE+DRAIN", reason="a reason of many words " * 10), node_view("c2", gres=many)]
    controller.answers[CALL] = cluster_view(nodes=nodes)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(output, "is_terminal", lambda _: True)
    lines = run("cluster").stdout.splitlines()
    assert all(len(line) <= width for line in lines), lines


def test_large_cluster_lists_its_nodes_on_request(controller: ScriptedController) -> None:
    nodes = [node_view(f"n{number}") for number in range(31)]
    controller.answers[CALL] = cluster_view(nodes=nodes, nodes_left_out=5)
    short, long = run("cluster"), run("cluster", "--nodes")
    assert "n30" not in short.stdout
    assert "`berth cluster --nodes` lists the nodes." in short.stderr
    assert sum(line.startswith("n") for line in long.stdout.splitlines()) == 31
    assert "5 nodes left out." in long.stderr


def test_queue_ahead_of_own_sessions(controller: ScriptedController) -> None:
    def waiting(name: str, ahead: int | None, reason: str) -> WaitingSession:
        return WaitingSession(session=name, job_id=7, partitions=["gpu"], ahead=ahead, reason=reason)

    ahead_of = [waiting("dev", 3, "Priority"), waiting("next", 0, "Resources"), waiting("held", None, "JobHeldUser")]
    controller.answers[CALL] = cluster_view(queue=QueueView(pending=9, startable=8, ahead_of=ahead_of))
    lines = run("cluster").stdout.splitlines()
    assert lines[-4:] == [
        "9 jobs waiting, 1 of them held or delayed",
        "dev, job 7: 3 jobs ahead (Priority)",
        "next, job 7: first in line (Resources)",
        "held, job 7: cannot start yet (JobHeldUser)",
    ]


def test_things_that_the_site_hides_are_named(controller: ScriptedController) -> None:
    part = partition_view(usage=None, largest=None)
    controller.answers[CALL] = cluster_view(hidden=["jobs", "nodes"], nodes=[], partitions=[part], largest=None)
    result = run("cluster")
    assert result.stdout.splitlines()[1].split() == ["gpu*", "UP", "2", "-", "-", "0", "7", "d"]
    assert "STARTS NOW" not in result.stdout
    assert "This site does not show nodes to users." in result.stderr
    controller.answers[CALL] = cluster_view(hidden=["partitions"], partitions=[], largest=None)
    result = run("cluster")
    assert "This site does not show partitions to users." in result.stderr
    assert result.stdout.startswith("NODE ")


def test_old_answer_has_its_time_and_no_answer_is_an_error(controller: ScriptedController) -> None:
    controller.answers[CALL] = cluster_view(stale=True, as_of=time.time() - 600)
    result = run("cluster")
    assert result.exit_code == 0
    assert "; Slurm does not answer." in result.stderr
    controller.failures[CALL] = SlurmUnavailableError("Slurm does not answer", hint="try again")
    result = run("cluster")
    assert (result.exit_code, result.stdout) == (ExitCode.SLURM_UNAVAILABLE, "")
    assert "Slurm does not answer" in result.stderr


def test_json_is_the_record_of_the_api(controller: ScriptedController) -> None:
    nodes = [node_view(reason="\x1b[2Jgone", state="IDLE+\u202e")]
    controller.answers[CALL] = view = cluster_view(
        nodes=nodes, largest=LargestRequest(gpus=1, shards=2, cpus=3, memory_mib=4)
    )
    result = run("cluster", "--json")
    assert ClusterView.model_validate(json.loads(result.stdout)) == view
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout


def test_escape_sequences_of_slurm_have_no_effect(controller: ScriptedController) -> None:
    hostile = "\x1b[31m\x07\r\n\u202e"
    queue = QueueView(
        pending=1,
        startable=1,
        ahead_of=[WaitingSession(session="dev", job_id=7, partitions=[hostile], ahead=0, reason=hostile)],
    )
    parts = [partition_view(f"gpu{hostile}", state=hostile)]
    controller.answers[CALL] = cluster_view(
        nodes=[node_view(f"c1{hostile}", state=hostile, reason=hostile)], partitions=parts, queue=queue
    )
    result = run("cluster")
    text = result.stdout + result.stderr
    assert not set("\x1b\x07\r\u202e") & set(text)


def test_memory_below_one_gib_is_in_mib(controller: ScriptedController) -> None:
    part = partition_view(largest=LargestRequest(gpus=0, shards=0, cpus=1, memory_mib=800))
    controller.answers[CALL] = cluster_view(partitions=[part])
    assert controller.answers
    assert run("cluster").stdout.splitlines()[4].split() == ["gpu", "1", "800", "MiB", "0", "0"]
