"""The parts of the benchmarks that are arithmetic: medians, ratios, targets, turns, and times out of Slurm's logs."""

from __future__ import annotations

import json

import pytest

from tests.bench import growth, waiting
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, as_json, result, table

AT_MOST = Target(1.25)
AT_LEAST = Target(0.8, more_is_better=True)


@pytest.mark.parametrize(
    ("target", "ratio", "met"),
    [(AT_MOST, 1.25, True), (AT_MOST, 1.26, False), (AT_LEAST, 0.8, True), (AT_LEAST, 0.79, False)],
)
def test_a_target_has_a_side(target: Target, ratio: float, met: bool) -> None:
    assert target.met(ratio) is met


def test_the_median_of_each_side_counts_and_not_the_outlier() -> None:
    made = result("start", [1.0, 1.2, 1.1, 9.0, 1.1], [1.0, 1.0, 0.1, 1.0, 1.0], "s", AT_MOST)
    assert (made.ours, made.peer, made.runs) == (1.1, 1.0, 5)
    assert made.ratio == pytest.approx(1.1)
    assert made.met


@pytest.mark.parametrize(
    ("ours", "peer"),
    [([1.0] * 4, [1.0] * 4), ([1.0] * 5, [1.0] * 6), ([1.0] * 5, [0.0] * 5), ([1.0] * 5, [-0.1] * 5)],
)
def test_what_cannot_be_measured_is_an_error(ours: list[float], peer: list[float]) -> None:
    with pytest.raises(UnmeasurableError, match="start"):
        result("start", ours, peer, "s", AT_MOST)


RESULTS = [
    Result("start", 1.0, 2.0, "s", AT_MOST, 7),
    Result("bulk-up", 70.0, 100.0, "MB/s", AT_LEAST, 5),
]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.5])
def test_exponent_is_the_power_with_which_times_grow(power: float) -> None:
    assert growth.exponent({size: 0.003 * size**power for size in growth.SIZES}) == pytest.approx(power)


def test_the_table_says_what_was_missed() -> None:
    lines = table(RESULTS).splitlines()
    assert [line.split()[0] for line in lines] == ["benchmark", "start", "bulk-up"]
    assert lines[1].split()[1:] == ["1", "2", "s", "0.50", "<=", "1.25", "7", "met"]
    assert lines[2].split()[1:] == ["70", "100", "MB/s", "0.70", ">=", "0.8", "5", "MISSED"]


def test_the_json_has_the_promised_fields() -> None:
    assert json.loads(as_json(RESULTS[:1])) == [
        {"name": "start", "ours": 1.0, "peer": 2.0, "unit": "s", "ratio": 0.5, "target": 1.25, "runs": 7}
    ]


def test_sides_take_turns_after_a_warm_up_that_does_not_count() -> None:
    order: list[str] = []
    said: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    values = in_turns(
        {"ours": lambda: side("ours"), "peer": lambda: side("peer")}, 3, name="n", unit="s", say=said.append
    )
    assert order == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert values == {"ours": [3.0, 6.0, 7.0], "peer": [4.0, 5.0, 8.0]}
    assert said[-1] == "n: run 3 of 3: ours 7.000   peer 8.000 s"


CONTROLLER = """\
[2026-11-22T07:36:28.900] _slurm_rpc_submit_batch_job: JobId=303 SLUID=s5 InitPrio=1 usec=431
[2026-11-22T07:36:30.412] _slurm_rpc_submit_batch_job: JobId=30 SLUID=s6 InitPrio=1 usec=431
"""
NODES = """\
[2026-11-22T07:36:28.913] Launching batch JobId=303 SLUID=s5 for UID 5001
[2026-11-22T07:36:30.913] Launching batch JobId=30 SLUID=s6 for UID 5001
"""


def test_the_wait_comes_from_slurms_logs() -> None:
    assert waiting.launched(NODES, 30) - waiting.submitted(CONTROLLER, 30) == pytest.approx(0.501)


def test_a_log_without_the_line_is_an_error() -> None:
    with pytest.raises(UnmeasurableError, match="JobId=3"):
        waiting.submitted(CONTROLLER, 3)
