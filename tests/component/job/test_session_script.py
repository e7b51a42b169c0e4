"""The session script without a cluster: its call, the file run/job.env, its log, and its reference page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.component.job.session_script import bash
from tests.deadlines import DEADLINE_S
from tests.job_scripts import SESSION

CHECKOUT = Path(__file__).parents[3]
REFERENCE = CHECKOUT / "docs/reference/session-job.md"

GOOD = {
    "BERTH_SESSION_ID": "01hx",
    "BERTH_SESSION_NAME": "dev",
    "BERTH_OWNER": "alice",
    "BERTH_SUBMISSION": "3",
    "BERTH_IMAGE": "/profiles/base/1/image.sif",
    "BERTH_IMAGE_SIZE": "4096",
    "BERTH_IMAGE_OFFSET": "32768",
    "BERTH_BINDS": "/data:/data:ro,/work space:/work",
    "BERTH_PROFILE": "base",
    "BERTH_PROFILE_VERSION": "1.0~rc+1",
}


def read(text: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """Read and check this job.env, then run the code."""
    return bash(f"read_job_env /dev/stdin; check_job_env; {code}", stdin=text)


def job_env(**changes: str) -> str:
    return "".join(f"{key}={value}\n" for key, value in (GOOD | changes).items())


class TestJobEnv:
    def test_known_keys_are_taken_as_they_are(self) -> None:
        shown = " ".join(f'"${key}"' for key in GOOD)
        done = read(job_env(), f"printf '%s\\n' {shown}")
        assert done.stdout.splitlines() == list(GOOD.values()), done.stdout

    @pytest.mark.parametrize("value", ["$(touch /tmp/x)", "`id`", "a b", "'", '"', "\\", "a=b", "~", "*", "ü"])
    def test_a_value_is_never_evaluated(self, value: str) -> None:
        done = read(job_env(BERTH_PROFILE=value), 'printf %s "$BERTH_PROFILE"')
        assert done.stdout == value

    def test_unknown_keys_are_passed_over(self) -> None:
        done = read(job_env() + "BERTH_FUTURE=1\nPATH=/evil\nIFS=x\n", 'printf %s "${BERTH_FUTURE-unset}:$PATH"')
        assert done.stdout == "unset:/usr/bin:/bin"

    def test_the_last_line_may_lack_its_end(self) -> None:
        assert read(job_env().rstrip("\n"), "echo ok").stdout == "ok\n"

    @pytest.mark.parametrize(
        "line", ["", "# comment", "no equals", "lower=1", "=1", "1A=1", " A=1", "A=\t", "export A=1", "A=\r"]
    )
    def test_a_malformed_line_ends_the_job_and_is_named(self, line: str) -> None:
        done = read(job_env() + line + "\nBERTH_X=1\n")
        assert done.returncode == 65
        assert f"run/job.env, line {len(GOOD) + 1}: not KEY=VALUE" in done.stdout

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("BERTH_SESSION_ID", ""),
            ("BERTH_SESSION_ID", "a/../b"),
            ("BERTH_OWNER", "bob"),
            ("BERTH_SUBMISSION", "1:2"),
            ("BERTH_IMAGE", "image.sif"),
            ("BERTH_IMAGE", "docker://debian"),
            ("BERTH_IMAGE", "--writable"),
            ("BERTH_IMAGE_SIZE", "4k"),
            ("BERTH_IMAGE_OFFSET", "-1"),
            ("BERTH_HOME", "lost"),
            ("BERTH_SYSTEM", ""),
            ("BERTH_KEEP", "opt"),
            ("BERTH_FRESH", "/opt,"),
            ("BERTH_FRESH", "/opt:ro"),
            ("BERTH_FRESH", "/opt,/home/alice"),
            ("BERTH_KEEP", "/"),
            ("BERTH_ROOT", "no"),
            ("BERTH_BINDS", "/data"),
            ("BERTH_BINDS", "/data:/data:exec"),
            ("BERTH_BINDS", "data:/data"),
            ("BERTH_BINDS", "/data:/data,"),
            ("BERTH_SAVE_EVERY", "0"),
            ("BERTH_SHOW_NAME", "no"),
            ("BERTH_TMP_DIRECTORIES", "tmp"),
            ("BERTH_TMP_DIRECTORIES", "/scratch,"),
            ("BERTH_PORTS", "80-90"),
            ("BERTH_PORTS", "3000-2000"),
            ("BERTH_PORTS", "60000-70000"),
            ("BERTH_PORTS", "2000-3000x"),
        ],
    )
    def test_a_wrong_value_ends_the_job_and_its_key_is_named(self, key: str, value: str) -> None:
        done = read(job_env(**{key: value}))
        assert done.returncode == 65
        assert key in done.stdout or "the owner is bob, not you" in done.stdout


class TestLog:
    def trim(self, tmp_path: Path, size: int) -> bytes:
        log = tmp_path / "run/job.log"
        log.parent.mkdir()
        log.write_bytes(b"x" * size + b"the end\n")
        done = bash('DIRECTORY=$1 NODE_DIR=$1; exec >>"$1/run/job.log"; trim_log; echo more', str(tmp_path))
        assert done.returncode == 0, done.stderr
        return log.read_bytes()

    def test_a_small_log_stays(self, tmp_path: Path) -> None:
        assert self.trim(tmp_path, 1000) == b"x" * 1000 + b"the end\nmore\n"

    def test_a_large_one_keeps_its_end_and_goes_on(self, tmp_path: Path) -> None:
        left = self.trim(tmp_path, 5 << 20)
        assert left.endswith(b"xthe end\nmore\n")
        assert len(left) == (1 << 20) + len(b"more\n")


class TestReference:
    def test_every_exit_code_is_in_the_reference(self) -> None:
        script = dict(re.findall(r"^readonly ([A-Z_]+)=(6[4-9]|7\d) +#", SESSION.read_text(), re.MULTILINE))
        page = dict(re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", REFERENCE.read_text(), re.MULTILINE))
        assert {code: name for name, code in script.items()} == page
        assert len(page) == 13

    def test_every_key_is_in_the_reference(self) -> None:
        cases = SESSION.read_text().split("case ${BASH_REMATCH[1]} in")[1].split("printf -v")[0]
        page = REFERENCE.read_text().split("## run/job.env")[1].split("\n## ")[0]
        assert set(re.findall(r"BERTH_[A-Z_]+", cases)) == set(re.findall(r"^\| `(BERTH_[A-Z_]+)`", page, re.MULTILINE))


@pytest.mark.parametrize("arguments", [(), ("relative", "1"), ("/a",), ("/a", "1", "/b"), ("/with,comma", "1")])
def test_a_wrong_call_is_refused(arguments: tuple[str, ...]) -> None:
    command = ["bash", str(SESSION), *arguments]
    env = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "c1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=env, check=False)
    assert done.returncode == 64
    assert "usage: sbatch" in done.stdout
