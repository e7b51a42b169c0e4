"""The session script's report of how the session is used."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.component.job.session_script import bash
from tests.deadlines import DEADLINE_S
from tests.job_scripts import SESSION

if TYPE_CHECKING:
    from pathlib import Path


class TestUse:
    """What is measured of how a session is used: time(7)'s ticks of all its processes, and the driver's of its GPU."""

    def test_processor_time_is_kept_when_a_process_has_ended(self) -> None:
        burn = "for ((i = 0; i < 300000; i++)); do :; done"
        done = bash(f"measure_cpu_time; echo $TICKS; ( {burn} ); measure_cpu_time; echo $TICKS")
        before, after = map(int, done.stdout.split())
        assert after > before

    def test_serving_the_job_is_no_use(self) -> None:
        """Else a session with a short idle time is never idle on a slow node: it is looked at every few seconds."""
        node = "mount -t tmpfs none /run; mkdir -p /run/berth/node"
        begin = "SEEN_AT=$EPOCHSECONDS SEEN_WORK=0 USED=0 GPU_USED=0 SEEN_TICKS=0 OWN_TICKS=0 SLURM_GPUS_ON_NODE=1"
        serve = "for i in {1..100}; do >/run/berth/node/look; serve_own serve_requests; done; echo $OWN_TICKS"
        work = "bash -c 'for ((i = 0; i < 300000; i++)); do :; done'"
        look = "measure_cpu_time; echo $((TICKS - OWN_TICKS))"
        code = f"source {SESSION}; {node}; {begin}; {look}; {serve}; {look}; {work}; {look}; cat /run/berth/node/use"
        alone = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "bash", "-euc", code]
        done = subprocess.run(alone, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
        before, own, served, worked, *use = map(int, done.stdout.split())
        assert own > 20
        assert served == before
        assert worked > served
        assert len(use) == 3

    FAKE = (  # stat(1) of a machine whose GPU is 226:128, and of one process with one file open
        'root=$1; stat() { case "$*" in *render*) echo e2:80 ;; *) echo "$DEVICE $root/proc/7/fd/3" ;; esac; }; '
        'measure_gpu_work; echo "<$GPU_WORK>"'
    )

    @pytest.mark.parametrize(
        ("device", "fdinfo", "work"),
        [
            ("e2:80", "pos:\t0\ndrm-driver:\ti915\ndrm-engine-render:\t40 ns\ndrm-engine-copy:\t2 ns\n", "42"),
            ("e2:80", "drm-engine-capacity-video:\t2\ndrm-engine-video:\t7 ns\n", "7"),
            ("e2:80", "drm-driver:\txe\ndrm-cycles-ccs:\t9000\ndrm-total-cycles-ccs:\t99999999\n", "9000"),
            ("e2:80", "pos:\t0\nflags:\t0100002\n", ""),
            ("1:3", "pos:\t0\n", "0"),
            ("e2:80", None, "0"),
        ],
    )
    def test_the_gpus_work_is_what_its_driver_counts(
        self, tmp_path: Path, device: str, fdinfo: str | None, work: str
    ) -> None:
        """Empty if it does not count, so that whoever has it open counts as using it."""
        if fdinfo is not None:
            tmp_path.joinpath("proc/7/fdinfo").mkdir(parents=True)
            tmp_path.joinpath("proc/7/fdinfo/3").write_text(fdinfo)
        done = bash(self.FAKE, str(tmp_path), env={"DEVICE": device})
        assert (done.stdout, done.returncode) == (f"<{work}>\n", 0)

    @pytest.mark.parametrize(
        ("time", "seconds"), [("8h", 28800), ("90m", 5400), ("2d", 172800), ("never", 0), ("", 0), ("m", 0), ("0h", 0)]
    )
    def test_times_are_read_as_the_broker_writes_them(self, time: str, seconds: int) -> None:
        assert bash(f"parse_duration '{time}'; echo $DURATION_S").stdout == f"{seconds}\n"

    WATCH = (
        'DIRECTORY=$1 NODE_DIR=$1 PORT=7 CONTAINER=$$ USAGE_CHECK_AT=0 REPORTED_USAGE=$3 ANNOUNCED_STOP=""; '
        "COMMENT_UPDATE=0 LISTENS=yes; "
        'BERTH_SESSION_NAME=dev; trap "" USR1; update_job_comment() { echo "announced $1$2"; }; '
        "unset EPOCHSECONDS; EPOCHSECONDS=100000; "
        'eval "$2"; report_idle; wait; echo "in $((USAGE_CHECK_AT - EPOCHSECONDS)) s"'
    )

    def watch(self, place: Path, use: str, *, idle: str = "never\n\n", told: str = "") -> list[str]:
        place.joinpath("run").mkdir()
        place.joinpath("run/idle").write_text(idle)
        place.joinpath("run/use").write_text(use)
        done = bash(self.WATCH, str(place), "", told)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if " berth: " not in line]

    @pytest.mark.parametrize(
        ("use", "idle", "said"),
        [
            ("99401 - 99990\n", "never\n\n", ["in 30 s"]),
            ("99400 - 99990\n", "never\n\n", ["announced 7:99400:", "in 30 s"]),
            ("99990 99000 99990\n", "8h\n\n", ["announced 7::99000", "in 30 s"]),
            ("99000 99000 99990\n", "8h\n\n", ["announced 7:99000:99000", "in 30 s"]),
            ("99986 - 99990\n", "1m\n\n", ["in 3 s"]),
            ("99985 - 99990\n", "1m\n\n", ["announced 7:99985:", "in 3 s"]),
            ("", "never\n\n", ["in 30 s"]),
            ("rubbish\n", "", ["in 30 s"]),
        ],
    )
    def test_the_comment_says_since_when_it_is_idle(self, tmp_path: Path, use: str, idle: str, said: list[str]) -> None:
        assert self.watch(tmp_path, use, idle=idle) == said
        assert tmp_path.joinpath("run/look").exists()

    def test_what_nobody_has_looked_at_for_long_counts_as_used(self, tmp_path: Path) -> None:
        assert self.watch(tmp_path, "99000 99000 99600\n", told=":99000:99000") == ["announced 7", "in 30 s"]

    def test_and_that_it_is_used_again(self, tmp_path: Path) -> None:
        assert self.watch(tmp_path, "99990 - 99990\n", told=":99000:") == ["announced 7", "in 30 s"]

    def test_it_says_a_thing_once(self, tmp_path: Path) -> None:
        assert self.watch(tmp_path, "99000 - 99990\n", told=":99000:") == ["in 30 s"]

    def test_the_terminals_are_told_when_it_is_stopped(self, tmp_path: Path) -> None:
        self.watch(tmp_path, "99000 - 99990\n", idle="8h\n100600\n", told=":99000:")
        notice = tmp_path.joinpath("run/notice").read_bytes().decode()
        assert notice.startswith("\r\nberth: dev: this session is idle and will stop at ")
