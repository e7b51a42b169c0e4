"""The session script without a cluster: the files it reads, its refusals, and its configuration of sshd."""

from __future__ import annotations

import os
import re
import shlex
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.gateway.settings import GatewaySettings
from tests.deadlines import DEADLINE_S
from tests.job_scripts import SESSION
from tests.lab_cluster import wait_for

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
DEFAULTS = (
    "BERTH_BINDS='' BERTH_LOCK_WAIT=10 BERTH_PORTS=20000-32767 "
    "BERTH_HOME=keep BERTH_SYSTEM=keep BERTH_KEEP='' BERTH_FRESH='' "
    "BERTH_ROOT='' BERTH_BEFORE='' BERTH_SAVE_EVERY=600 SLURM_JOB_ID=7 SLURMD_NODENAME=c1\n"
)


def bash(
    code: str, *arguments: str, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code with the script's functions in reach; `id -un` says alice."""
    program = f"source {SESSION}\nid() {{ echo alice; }}\n{DEFAULTS}{code}"
    variables = {"PATH": "/usr/bin:/bin", **(env or {})}
    command = ["bash", "-c", program, "test", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=DEADLINE_S, env=variables, check=False
    )


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


class TestSkeleton:
    """What goes between image and volume: nothing there may hide anything of the image."""

    @pytest.mark.parametrize(
        ("path", "leads_to"),
        [
            ("/plain/file", "/plain/file"),
            ("/plain/none/below", "/plain/none/below"),
            ("/absolute/x", "/plain/x"),
            ("/relative/x", "/plain/x"),
            ("/up/x", "/x"),
            ("/chain", "/plain/dangling"),
            ("//plain/./../plain/", "/plain"),
        ],
    )
    def test_links_lead_to_where_they_would_in_the_container(self, tmp_path: Path, path: str, leads_to: str) -> None:
        tmp_path.joinpath("plain").mkdir()
        for name, target in {
            "absolute": "/plain",
            "relative": "./plain",
            "up": "../../../",
            "chain": "absolute/next",
            "plain/next": "dangling",
        }.items():
            tmp_path.joinpath(name).symlink_to(target)
        assert bash('resolve_path "$1" "$2"; echo "$RESOLVED"', str(tmp_path), path).stdout == f"{leads_to}\n"

    def skeleton(self, tmp_path: Path, code: str = "") -> Path:
        (tmp_path / "skeleton").mkdir()
        points = '"d /run/berth/node" "d /mnt/made" "d /home/alice/data" "f /etc/resolv.conf" "f /etc/hosts" "d /proc"'
        start = f"NODE_DIR=$1 BERTH_OWNER=alice POINTS=({points}); umask 022;"
        done = bash(f"{start} {code} make_skeleton", str(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        return tmp_path / "skeleton"

    def test_it_has_what_the_image_lacks_and_folders_have_the_images_rights(self, tmp_path: Path) -> None:
        image = tmp_path / "image"
        for folder, mode in {"run": 0o755, "etc/apt/apt.conf.d": 0o755, "mnt": 0o1777, "usr/local/bin": 0o2775}.items():
            (image / folder).mkdir(parents=True)
            (image / folder).chmod(mode)
        (image / "proc").mkdir()
        (image / "etc/hosts").touch()
        (image / "etc/resolv.conf").symlink_to("../run/resolved/resolv.conf")
        made = self.skeleton(tmp_path)
        files = {str(path.relative_to(made)) for path in made.rglob("*") if not path.is_dir()}
        assert files == {"run/resolved/resolv.conf", "etc/apt/apt.conf.d/95berth", "usr/local/bin/sudo"}
        assert (made / "run/berth/node").is_dir()
        assert not (made / "proc").exists()
        assert [(made / name).stat().st_mode & 0o7777 for name in ("mnt", "usr/local/bin")] == [0o1777, 0o2775]

    def test_in_root_mode_there_is_neither_sudo_nor_a_setting_of_apts(self, tmp_path: Path) -> None:
        for folder in ("etc/apt/apt.conf.d", "usr/local/bin"):
            (tmp_path / "image" / folder).mkdir(parents=True)
        made = self.skeleton(tmp_path, "BERTH_ROOT=yes;")
        assert not [path for path in made.rglob("*") if path.name in {"sudo", "95berth"}]

    def test_the_images_own_sudo_stays(self, tmp_path: Path) -> None:
        (tmp_path / "image/usr/local/bin").mkdir(parents=True)
        (tmp_path / "image/usr/local/bin/sudo").touch()
        assert not (self.skeleton(tmp_path) / "usr").exists()


class TestSudo:
    def test_shellcheck_has_nothing_to_say(self, tmp_path: Path) -> None:
        assert bash('write_sudo "$1"', str(tmp_path / "sudo")).returncode == 0
        done = subprocess.run(
            ["shellcheck", str(tmp_path / "sudo")], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout == ""

    @pytest.mark.parametrize(
        ("command", "ran"),
        [
            ("apt-get install -y htop", False),
            ("/usr/bin/dpkg -i tool.deb", False),
            ("DEBIAN_FRONTEND=noninteractive apt full-upgrade", False),
            ("apt-get update", True),
            ("dpkg --list", True),
            ("install file /opt", True),
        ],
    )
    def test_sudo_begins_no_package_where_dpkg_would_leave_it_half_installed(
        self, tmp_path: Path, command: str, ran: bool
    ) -> None:
        stubs = {
            "mkdir": '[ "$1" != -m ]',  # as fuse-overlayfs on NFS
            "rmdir": ":",
            "unshare": 'echo "ran $*"',
        }
        for name, text in stubs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        assert bash('write_sudo "$1"', str(tmp_path / "sudo")).returncode == 0
        path = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BERTH_SESSION_NAME": "dev"}
        done = subprocess.run(
            [tmp_path / "sudo", *command.split()], capture_output=True, text=True, timeout=60, check=False, env=path
        )
        if ran:
            assert (done.returncode, done.stdout) == (0, f"ran --map-root-user -- {command}\n")
        else:
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.endswith(f"Do it from outside of the session: berth exec --root dev -- {command}\n")


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


def test_sshd_takes_as_many_keys_as_the_gateway() -> None:
    (tries,) = re.findall(r'"MaxAuthTries (\d+)"', SESSION.read_text())
    assert int(tries) == GatewaySettings.__dataclass_fields__["max_auth_tries"].default


class TestLoginEnvironment:
    def setenv(self, **variables: str) -> dict[str, str]:
        done = bash('set_login_environment; printf %s "$SETENV"', env=variables)
        assert done.returncode == 0, done.stderr
        assert "\n" not in done.stdout
        keyword, *words = sshd_words(done.stdout)
        assert keyword == "SetEnv"
        return dict(word.split("=", 1) for word in words)

    # NUL cannot be in an environment, and surrogates cannot be written.
    @given(st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), max_size=60))
    def test_any_value_of_one_line_comes_through_sshds_parser(self, value: str) -> None:
        assert self.setenv(WORDS=value)["WORDS"] == value

    def test_a_value_of_several_lines_is_left_out_alone(self) -> None:
        seen = self.setenv(LINES_="one\ntwo", AFTER="there")
        assert "LINES_" not in seen
        assert seen["AFTER"] == "there"

    def test_variables_of_the_image_keep_their_values_though_the_script_has_some_of_that_name(self) -> None:
        seen = self.setenv(USAGE="of the image", LOG_STYLE="colours", LOCKED="no", ODD="a=b")
        assert seen.items() >= {"USAGE": "of the image", "LOG_STYLE": "colours", "LOCKED": "no", "ODD": "a=b"}.items()

    def test_slurms_tasks_steps_and_launchers_stay_behind(self) -> None:
        gone = dict.fromkeys(
            (
                *("SLURM_JOBID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID"),
                *("SLURM_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NNODES", "SLURM_TASKS_PER_NODE", "SLURM_STEP_ID"),
                *("SLURM_SUBMIT_DIR", "SLURM_EXPORT_ENV", "SLURM_NAME_OF_A_LATER_VERSION", "PMI_RANK", "PMIX_RANK"),
                *("HYDRA_BOOTSTRAP", "HYDRA_LAUNCHER_EXTRA_ARGS", "I_MPI_HYDRA_BOOTSTRAP"),
                *("I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS", "OMPI_MCA_plm_slurm_args", "PRTE_MCA_plm_slurm_args"),
            ),
            "x",
        )
        kept = {"SLURM_CPUS_PER_TASK": "4", "SLURM_MEM_PER_NODE": "8", "SLURM_JOB_GPUS": "1", "OMPI_MCA_btl": "self"}
        seen = self.setenv(**gone, **kept)
        assert not seen.keys() & gone.keys()
        assert kept.items() <= seen.items()

    def test_what_belongs_to_the_login_the_node_or_apptainer_stays_behind(self) -> None:
        gone = dict.fromkeys(
            (
                "HOME",
                "USER",
                "SHELL",
                "APPTAINER_BIND",
                "SINGULARITY_NAME",
                "TMPDIR",
                "PS1",
                "SSH_AUTH_SOCK",
                "LD_PRELOAD",
            ),
            "x",
        )
        assert gone.keys().isdisjoint(self.setenv(**gone))

    def test_what_the_job_and_the_image_say_is_there(self) -> None:
        kept = {"SLURM_JOB_ID": "7", "ZE_AFFINITY_MASK": "0", "LANG": "C.UTF-8", "EMPTY": ""}
        assert kept.items() <= self.setenv(**kept).items()

    def test_the_locale_is_the_images_or_else_c(self) -> None:
        assert self.setenv()["LANG"] == "C.UTF-8"
        assert self.setenv(LANG="de_DE.UTF-8")["LANG"] == "de_DE.UTF-8"

    @pytest.mark.parametrize(("locales", "choice"), [("C\nC.utf8\nPOSIX", False), ("C\nde_DE.utf8", True), ("", False)])
    def test_clients_choose_a_locale_where_there_is_a_choice(self, locales: str, choice: bool) -> None:
        code = f"locale() {{ printf '%s\\n' '{locales}'; }}; SSHD=/dev/null BERTH_OWNER=alice; write_sshd_config"
        done = bash(code, env={"LANG": "C.UTF-8"})
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert ("AcceptEnv LANG LC_*" in lines) == choice
        words = sshd_words(lines[-1])
        assert ("LANG=C.UTF-8" in words) != choice
        assert ("BERTH_LANG=C.UTF-8" in words) == choice

    def test_path_comes_twice_since_login_shells_overwrite_it(self) -> None:
        seen = self.setenv(PATH="/opt/tool:/usr/bin:/bin")
        assert seen["PATH"] == seen["BERTH_PATH"] == "/opt/tool:/usr/bin:/bin"

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("/.singularity.d/libs", None),
            ("/opt/lib:/.singularity.d/libs", "/opt/lib"),
            ("/opt/a:/opt/b", "/opt/a:/opt/b"),
        ],
    )
    def test_apptainers_library_folder_is_taken_out(self, value: str, expected: str | None) -> None:
        assert self.setenv(LD_LIBRARY_PATH=value).get("LD_LIBRARY_PATH") == expected


def sshd_words(line: str) -> list[str]:
    """Split a configuration line as sshd does: double quotes group, and in them a backslash covers `"` and itself."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line, re.DOTALL)
    return [plain or re.sub(r'\\(["\\])', r"\1", quoted) for quoted, plain in words]


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


class TestMemoryCounter:
    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("low 0\nhigh 3\nmax 9\noom 0\noom_kill 0\n", 0),
            ("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n", 72),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", 0),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", 72),
        ],
    )
    def test_a_kill_ends_the_session_whatever_the_version_of_cgroups(
        self, tmp_path: Path, text: str, code: int
    ) -> None:
        counter = tmp_path / "counter"
        counter.write_text(text)
        assert bash("OOM_COUNTER=$1; check_memory", str(counter)).returncode == code


class TestReference:
    def test_every_exit_code_is_in_the_reference(self) -> None:
        script = dict(re.findall(r"^readonly ([A-Z_]+)=(6[4-9]|7\d) +#", SESSION.read_text(), re.MULTILINE))
        page = dict(re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", REFERENCE.read_text(), re.MULTILINE))
        assert {code: name for name, code in script.items()} == page
        assert len(page) == 11

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


def test_fingerprint_is_of_the_key_that_sshd_proves(tmp_path: Path) -> None:
    """The file .pub beside it is another key's, or is not there; without a private key the job says so and ends."""
    key = tmp_path / "run/ssh_host_ed25519_key"
    key.parent.mkdir()
    for path in (key, tmp_path / "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, timeout=DEADLINE_S)
    listed = subprocess.check_output(["ssh-keygen", "-lf", f"{key}.pub"], text=True, timeout=DEADLINE_S)
    code = f"DIRECTORY={tmp_path}; read_host_key; echo $FINGERPRINT"
    (tmp_path / "other.pub").rename(f"{key}.pub")
    assert bash(code).stdout.split() == [listed.split()[1]]
    Path(f"{key}.pub").unlink()
    assert bash(code).stdout.split() == [listed.split()[1]]
    key.write_text("no key\n")
    done = bash(code)
    assert done.returncode == 66
    assert "a stop and a start of the session make another" in done.stdout + done.stderr


SLUID = "s5KQ2M8Z7V3TXR"
V2 = "system.slice/{scope}/{job}/step_batch/user/{task}"
CGROUPS = {
    "v1": ("4:memory:/slurm/uid_1000/job_7/step_batch/task_0", "memory/slurm/uid_1000/job_7/step_batch/task_0"),
    "v1 without tasks": ("4:memory:/slurm/uid_1000/job_7/step_batch", "memory/slurm/uid_1000/job_7/step_batch"),
    "v1 with node names": (
        "7:cpu,memory:/slurm_c1/uid_1000/job_7/step_batch/task_0",
        "memory/slurm_c1/uid_1000/job_7",
    ),
    "v2 of 22.05": (
        "0::/" + V2.format(scope="slurmstepd.scope", job="job_7", task="task_0"),
        V2.format(scope="slurmstepd.scope", job="job_7", task="task_0"),
    ),
    "v2, its leaf without the controller": (
        "0::/" + V2.format(scope="slurmstepd.scope", job="job_7", task="task_special"),
        "system.slice/slurmstepd.scope/job_7/step_batch/user",
    ),
    "v2 with node names": (
        "0::/" + V2.format(scope="c1_slurmstepd.scope", job="job_7", task="task_4294967293"),
        "system.slice/c1_slurmstepd.scope/job_7/step_batch",
    ),
    "v2 of 26.05": (
        "0::/" + V2.format(scope="c1_slurmstepd.scope", job=SLUID, task="task_0"),
        V2.format(scope="c1_slurmstepd.scope", job=SLUID, task="task_0"),
    ),
    "v2 of 26.05, counted for the job alone": (
        "0::/" + V2.format(scope="slurmstepd.scope", job=SLUID, task="task_0"),
        f"system.slice/slurmstepd.scope/{SLUID}",
    ),
    "v2 in another slice": (f"0::/hpc.slice/{SLUID}/step_batch/user/task_0", f"hpc.slice/{SLUID}/step_batch/user"),
}
"""Lines of /proc/self/cgroup in batch jobs, and the lowest directory of the job with a counter: the plugins cgroup/v1
and cgroup/v2 of Slurm 22.05 to 26.05 (cgroup_p_step_create in its sources)."""


class TestCgroups:
    def found(self, tmp_path: Path, line: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Find the counter, and look once whether a process was killed."""
        code = 'find_oom_counter "$1"; echo "$OOM_COUNTER"; check_memory; echo whole'
        return bash(code, str(tmp_path), stdin=f"12:cpuset:/elsewhere\n{line}\n1:name=systemd:/\n", env=env)

    def count(self, tmp_path: Path, directory: str, kills: int) -> Path:
        """Write a counter, and another one above the jobs, which is not this job's."""
        name = "memory.oom_control" if directory.startswith("memory") else "memory.events"
        above = re.sub("/(job_|s5).*", "", directory)
        for place, number in ((tmp_path / directory, kills), (tmp_path / above, 9)):
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(f"low 0\noom 5\noom_kill {number}\n")
        return tmp_path / directory / name

    @pytest.mark.parametrize("shape", CGROUPS)
    @pytest.mark.parametrize("sluid", [{"SLURM_JOB_SLUID": SLUID}, {}], ids=["with SLUID", "without"])
    def test_kill_is_noticed_wherever_slurm_counts_it(self, tmp_path: Path, shape: str, sluid: dict[str, str]) -> None:
        line, directory = CGROUPS[shape]
        counter = self.count(tmp_path, directory, 0)
        assert self.found(tmp_path, line, **sluid).stdout == f"{counter}\nwhole\n"
        self.count(tmp_path, directory, 1)
        done = self.found(tmp_path, line, **sluid)
        assert done.returncode == 72
        assert "out of memory: a process of the session was killed" in done.stdout

    @pytest.mark.parametrize(
        "line",
        [
            "4:memory:/slurm/uid_1000/job_70/step_batch",
            "0::/system.slice/slurmstepd.scope/job_77/step_batch/user/task_0",
            "0::/user.slice/user-1000.slice/session-1.scope",
            "0::/",
        ],
    )
    def test_counters_that_are_not_the_jobs_are_left_alone(self, tmp_path: Path, line: str) -> None:
        path = line.rpartition(":")[2].strip("/")
        self.count(tmp_path, f"memory/{path}" if ":memory:" in line else path, 3)
        assert self.found(tmp_path, line).stdout == "/dev/null\nwhole\n"

    def test_job_without_a_counter_says_so(self, tmp_path: Path) -> None:
        line = f"0::/system.slice/slurmstepd.scope/{SLUID}/step_batch/user/task_0"
        (tmp_path / "system.slice/slurmstepd.scope").mkdir(parents=True)
        (tmp_path / "system.slice/slurmstepd.scope/memory.events").write_text("oom_kill 4\n")
        said = self.found(tmp_path, line).stdout
        assert said.splitlines()[1:] == ["/dev/null", "whole"]
        assert "warning: nothing counts out-of-memory kills in /system.slice/slurmstepd.scope" in said


class TestSlurmstepd:
    def test_session_ends_and_cancels_its_job_when_its_parent_has_ended(self, tmp_path: Path) -> None:
        scancel = tmp_path / "scancel"
        scancel.write_text(
            f'#!/bin/sh\necho "$@" >{tmp_path}/cancelled.new; mv {tmp_path}/cancelled.new {tmp_path}/cancelled\n'
        )
        scancel.chmod(0o755)
        code = (
            f"source {SESSION}; BERTH_SCONTROL={tmp_path}/scontrol SLURM_JOB_ID=7; trap clean_up EXIT; "
            f"check_slurmstepd; echo alive >{tmp_path}/checked; read -r _ <{tmp_path}/go; "
            "until ! kill -0 $PPID 2>/dev/null; do read -rt 0.01 _ <> <(:) || :; done; check_slurmstepd; echo missed"
        )
        os.mkfifo(tmp_path / "go")
        parent = ["bash", "-c", f"bash -c {shlex.quote(code)} & read -r _ <{tmp_path}/end"]
        os.mkfifo(tmp_path / "end")
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for((tmp_path / "checked").exists, what="a check while the parent lives")
        (tmp_path / "end").write_text("end\n")
        process.wait(DEADLINE_S)
        (tmp_path / "go").write_text("go\n")
        wait_for((tmp_path / "cancelled").exists, what="the job to be cancelled")
        assert (tmp_path / "cancelled").read_text() == "7\n"
        said = (tmp_path / "log").read_text()
        assert "the slurmstepd of this job has ended" in said
        assert "missed" not in said


class TestFinish:
    def finished(self, tmp_path: Path, container: str) -> tuple[int, int]:
        """Run clean_up() with this container; return the script's exit code, and the processes that are left of it."""
        code = f"exec {{OUT}}< <(exec bash -c {container!r}); CONTAINER=$!; read -ru $OUT; trap clean_up EXIT; exit 9"
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"source {SESSION}\n{code}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        code_of_end = process.wait(60)
        left = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text(errors="replace").rpartition(")")[2].split()[:4]
                left += session == str(process.pid) and state != "Z"
            except OSError:
                continue
        assert "run_pending_traps" not in (tmp_path / "log").read_text()
        return code_of_end, left

    @pytest.mark.parametrize(
        "container",
        [
            "echo there; exec sleep 600",
            "echo there",
            'trap "" TERM; exec {p}<> <(:); echo there; while :; do read -rt 1 -u "$p"; done',
        ],
        ids=["ends at TERM", "has ended", "ends at KILL alone"],
    )
    def test_nothing_outlives_the_script(self, tmp_path: Path, container: str) -> None:
        assert self.finished(tmp_path, container) == (9, 0)
