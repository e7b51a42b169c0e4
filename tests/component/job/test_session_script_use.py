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
    """The measured use of a session: ticks (time(7)) of all its processes, and the driver's count for its GPU."""

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
        before, own, served, worked, *use, terminals = map(int, done.stdout.split())
        assert own > 20
        assert served == before
        assert worked > served
        assert (len(use), terminals) == (3, 0)

    def test_service_is_open_while_a_client_of_this_session_is_connected(self) -> None:
        """Sockets of all sessions of the node are in /proc/net/unix, at the same paths."""
        serve = (
            "import socket; s = socket.create_server('/run/berth/web/x.sock', family=socket.AF_UNIX); "
            "a = s.accept()[0]; a.recv(1); a.close()"  # as every server does whose client has gone
        )
        ask = "import socket; c = socket.socket(socket.AF_UNIX); c.connect('/run/berth/web/x.sock'); print(flush=True)"
        wait = "; import time; time.sleep(600)"
        look = 'find_open_services; echo "<$OPEN>"'
        own = f"unshare --pid --fork --mount-proc --kill-child bash -c 'source {SESSION}; {look}'"
        code = (
            f"source {SESSION}; mount -t tmpfs none /run; {look}; mkdir -p /run/berth/web; {look}; "
            f'python3 -c "{serve}{wait}" & until [[ -S /run/berth/web/x.sock ]]; do sleep 0.02; done; {look}; '
            f'exec {{CLIENT}}< <(exec python3 -c "{ask}{wait}"); read -ru "$CLIENT" _; '
            "until find_open_services && [[ -n $OPEN ]]; do sleep 0.02; done; echo open; "
            f"{own}; kill $! && wait $! || :; "
            "until find_open_services && [[ -z $OPEN ]]; do sleep 0.02; done; echo closed"
        )
        alone = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        done = subprocess.run(
            [*alone, "bash", "-euc", code], capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert (done.stdout.split(), done.stderr) == (["<>", "<>", "<>", "open", "<>", "closed"], "")

    def test_open_files_of_any_number_and_name_hide_no_client(self) -> None:
        """In the session's first process, an error of the shell would end the session."""
        serve = (
            "import socket; s = socket.create_server('/run/berth/web/x.sock', family=socket.AF_UNIX); a = s.accept(); "
            "c = [open('/dev/null') for _ in range(6000)]; open('/run/ready', 'w'); o = open('/run/a\\n\\nb', 'w')"
        )
        ask = "import socket; c = socket.socket(socket.AF_UNIX); c.connect('/run/berth/web/x.sock')"
        wait = "; import time; time.sleep(600)"
        code = (
            f"source {SESSION}; mount -t tmpfs none /run; mkdir -p /run/berth/web; "
            f'ulimit -n 7000; python3 -c "{serve}{wait}" & until [[ -S /run/berth/web/x.sock ]]; do sleep 0.02; done; '
            f'python3 -c "{ask}{wait}" & until [[ -e /run/ready ]]; do sleep 0.02; done; '
            "until [[ -e $'/run/a\n\nb' ]]; do sleep 0.02; done; "
            "ulimit -s 512; "  # and with that 128 KiB for the arguments of a command: execve(2)
            'find_open_services; echo "<$OPEN>"; '
            "(($(run_on_descriptors stat -Lc '%t:%T %n' | grep -c '^1:3 /proc/') >= 6000)); echo all"
        )
        alone = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        done = subprocess.run(
            [*alone, "bash", "-euc", code], capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert (done.stdout.split(), done.stderr) == (["<yes>", "all"], "")

    FAKE = (  # stat(1) of a machine whose GPU is 226:128, and of one process with one file open
        'root=$1; stat() { case "$* " in *render*) echo e2:80 ;; '
        '*" /proc/$$/fd/1 "*) echo "$DEVICE $root/proc/7/fd/3" ;; esac; }; '
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
        """Empty if it does not count, so that a process that has it open counts as using it."""
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

    def watch(self, place: Path, use: str, *, idle: str = "never\n\n", told: str = "", before: str = "") -> list[str]:
        place.joinpath("run").mkdir()
        place.joinpath("run/idle").write_text(idle)
        place.joinpath("run/use").write_text(use)
        done = bash(self.WATCH, str(place), before, told)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if " berth: " not in line]

    @pytest.mark.parametrize(("shows", "name"), [("", ""), ("yes", " dev")])
    def test_comment_ends_with_the_session_name_if_the_site_shows_names(self, shows: str, name: str) -> None:
        done = bash(
            f"BERTH_SHOW_NAME={shows} BERTH_SESSION_NAME=dev BERTH_SESSION_ID=01x BERTH_SUBMISSION=3;"
            ' FINGERPRINT=SHA256:f; timeout() { shift; "$@"; }; BERTH_SCONTROL=echo; update_job_comment 4242 :5:'
        )
        assert done.stdout.splitlines()[0] == f"update JobId=7 Comment=berth:01x:3:0:c1:4242:SHA256:f:5:{name}"

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

    def message(self, place: Path, text: str, before: str = "") -> str:
        """Return the notice for the terminals after one look, with this content of run/message."""
        place.joinpath("run").mkdir()
        place.joinpath("run/idle").write_text("never\n\n")
        place.joinpath("run/message").write_text(text)
        done = bash(self.WATCH, str(place), f"BERTH_SUBMISSION=4; {before}", "")
        assert done.returncode == 0, done.stderr
        notice = place.joinpath("run/notice")
        return notice.read_bytes().decode() if notice.exists() else ""

    def test_an_operators_message_is_for_the_terminals_and_not_for_the_log(self, tmp_path: Path) -> None:
        notice = self.message(tmp_path, "4\n100.5\noperator carol: new kernel \x1b[2Jat 18:00 \\n %s\n")
        assert notice == "\r\nberth: dev: operator carol: new kernel [2Jat 18:00 \\n %s\r\n"

    @pytest.mark.parametrize(
        ("text", "before"),
        [("3\n100.5\nearlier\n", ""), ("4\n100.5\nshown\n", "SHOWN_MESSAGE=100.5"), ("4\n", ""), ("", "")],
    )
    def test_a_message_is_shown_once_and_in_its_run(self, tmp_path: Path, text: str, before: str) -> None:
        assert self.message(tmp_path, text, before) == ""

    def test_open_terminals_are_in_a_file_of_this_run(self, tmp_path: Path) -> None:
        self.watch(tmp_path, "99990 - 99990 2\n", before="BERTH_SUBMISSION=4 SLURM_RESTART_COUNT=1")
        assert tmp_path.joinpath("run/terminals").read_text() == "4.1 2\n"

    @pytest.mark.parametrize("use", ["99990 - 99990 0\n", "99990 - 99990\n", "99990 - 99990 2x\n"])
    def test_nothing_is_written_without_an_open_terminal(self, tmp_path: Path, use: str) -> None:
        self.watch(tmp_path, use)
        assert not tmp_path.joinpath("run/terminals").exists()

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("Accepted publickey for alice from 10.0.0.9 port 40000 ssh2: ED25519 SHA256:abc", "in 2 s"),
            ("Disconnected from user alice 10.0.0.9 port 40000", "in 2 s"),
            ("Connection closed by user alice 10.0.0.9 port 40000", "in 2 s"),
            ("Connection closed by 10.0.0.9 port 40000", "in 30 s"),
        ],
    )
    def test_login_and_its_end_are_looked_at_twice_at_once(self, tmp_path: Path, line: str, said: str) -> None:
        before = f"look_after_login '{line}'; report_idle"
        assert self.watch(tmp_path, "99990 - 99990 1\n", before=f"BERTH_SUBMISSION=4; {before}") == [said]

    def test_terminals_are_those_of_sshds_processes(self, tmp_path: Path) -> None:
        titles = [
            b"sshd-session: alice@pts/0,pts/12\0\0",
            b"sshd: alice@notty\0",
            b"sshd: alice [priv]\0",
            b"sshd: alice@pts/3\0",
            b"",
            b"tmux: server pts/4\0",
        ]
        for number, title in enumerate(titles):
            tmp_path.joinpath(str(number)).write_bytes(title)
        code = 'LOGINS=0; for file in "$1"/*; do count_logins "$file"; done; echo $LOGINS'
        assert bash(code, str(tmp_path)).stdout == "3\n"
