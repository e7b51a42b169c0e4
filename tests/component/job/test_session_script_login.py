"""The session script's configuration of sshd: the environment of logins, and the host key."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.gateway.settings import GatewaySettings
from tests.component.job.session_script import bash
from tests.deadlines import DEADLINE_S
from tests.job_scripts import SESSION


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


CODE_VARIABLES = """
BASH_ENV ENV BASH_FUNC_ls%% PS0 PS1 PS4 PROMPT_COMMAND SHELLOPTS BASHOPTS ZDOTDIR LD_AUDIT
GCONV_PATH INPUTRC PYTHONSTARTUP PYTHONPATH PERL5OPT PERL5DB RUBYOPT NODE_OPTIONS JAVA_TOOL_OPTIONS
_JAVA_OPTIONS R_PROFILE_USER EDITOR PAGER LESSOPEN GIT_SSH_COMMAND GIT_EDITOR GIT_SEQUENCE_EDITOR
GIT_EXEC_PATH SSH_ASKPASS
"""
"""Variables whose values programs run."""


class TestClientSettings:
    """The file `environment` of a node's client settings."""

    def login(self, file: Path, **image: str) -> tuple[dict[str, str], str]:
        code = 'read_client_variables "$1"; set_login_environment; printf "SETENV %s" "$SETENV"'
        done = bash(code, str(file), env=image)
        assert done.returncode == 0, done.stderr
        warnings, _, line = done.stdout.partition("SETENV ")
        return dict(word.split("=", 1) for word in sshd_words(line)[1:]), warnings

    def test_logins_get_the_variables(self, tmp_path: Path) -> None:
        file = tmp_path / "environment"
        file.write_text('# of the site\n\nhttps_proxy=http://proxy:3128\nODD=a "b" \\\\c=d')
        seen, warnings = self.login(file)
        assert seen.items() >= {"https_proxy": "http://proxy:3128", "ODD": 'a "b" \\\\c=d'}.items()
        assert not warnings

    def test_the_images_own_value_wins(self, tmp_path: Path) -> None:
        file = tmp_path / "environment"
        file.write_text("https_proxy=http://proxy:3128\n")
        seen, _ = self.login(file, https_proxy="http://own:1")
        assert seen["https_proxy"] == "http://own:1"

    @pytest.mark.parametrize(
        "line", ["PATH=/bad", "LD_PRELOAD=/bad.so", "BERTH_OWNER=bob", "no value", "a b=c", "A=\x1bc", "A=b\x07"]
    )
    def test_a_bad_line_is_left_out_with_a_warning(self, tmp_path: Path, line: str) -> None:
        file = tmp_path / "environment"
        file.write_text(f"GOOD=1\n{line}\n")
        seen, warnings = self.login(file)
        assert seen["GOOD"] == "1"
        assert seen.get(line.partition("=")[0]) != line.partition("=")[2]
        assert "warning: line 2 of /etc/berth/client/environment is not a NAME=VALUE" in warnings

    @pytest.mark.parametrize("name", CODE_VARIABLES.split())
    def test_a_variable_that_programs_run_is_left_out(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / "environment"
        file.write_text(f"{name}=/bad\nGOOD=1\n")
        seen, warnings = self.login(file)
        assert seen["GOOD"] == "1"
        assert "/bad" not in seen.values()
        assert "warning: line 1 of /etc/berth/client/environment is not a NAME=VALUE that sessions take" in warnings

    @pytest.mark.parametrize("name", ["GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "http_proxy", "R_LIBS_SITE"])
    def test_a_variable_of_a_client_is_taken(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / "environment"
        file.write_text(f"{name}=/good\n")
        seen, warnings = self.login(file)
        assert (seen[name], warnings) == ("/good", "")

    def test_a_large_file_is_not_read_whole(self, tmp_path: Path) -> None:
        file = tmp_path / "environment"
        file.write_text("FIRST=1\n" + "#" * 70000 + "\nLAST=1\n")
        seen, _ = self.login(file)
        assert "FIRST" in seen
        assert "LAST" not in seen

    def test_a_node_without_them_changes_nothing(self, tmp_path: Path) -> None:
        assert bash('read_client_variables "$1"; echo ${#CLIENT_VARIABLES[@]}', str(tmp_path / "no")).stdout == "0\n"


def sshd_words(line: str) -> list[str]:
    """Split a configuration line as sshd does: double quotes group, and in them a backslash covers `"` and itself."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line, re.DOTALL)
    return [plain or re.sub(r'\\(["\\])', r"\1", quoted) for quoted, plain in words]


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
