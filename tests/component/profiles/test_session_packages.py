"""packages.sh, with package managers that only say what they were asked for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from profiles.build.namespace import INSIDE
from tests.deadlines import DEADLINE_S

SESSION = ("bash", "openssh-server")
KIT = "mount -t tmpfs tmpfs /run; mkdir /run/berth-build; cp {inside}/*.sh /run/berth-build"
RUN = "PATH={path}; exec /bin/sh {inside}/packages.sh"


def run(programs: dict[str, str], tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Run the script where only the given programs are found; their code is in the language of sh."""
    for name, code in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    script = f'{KIT}; {RUN} "$@"'.format(inside=INSIDE, path=tmp_path)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("manager", ["dnf", "microdnf", "yum"])
def test_rpm_image_gets_what_it_lacks_from_its_own_manager(tmp_path: Path, manager: str) -> None:
    programs = {manager: f"echo {manager} $*", "rpm": "case $3 in bash | less) ;; *) exit 1 ;; esac"}
    code, output = run(programs, tmp_path, *SESSION, "--")
    assert code == 0, output
    installed = next(line for line in output.splitlines() if line.startswith(f"{manager} install"))
    assert {"openssh-server", "openssh-clients", "procps-ng"} <= set(installed.split())
    assert not {"bash", "less", "python3"} & set(installed.split())


def test_alpine_image_gets_what_it_lacks_and_python_for_pip(tmp_path: Path) -> None:
    programs = {"apk": 'case $1 in info) [ "$3" = bash ] ;; *) echo "apk $*" ;; esac'}
    code, output = run(programs, tmp_path, *SESSION, "python3-venv", "--")
    assert code == 0, output
    assert output.startswith("apk add --no-cache ")
    assert {"openssh-server", "openssh-sftp-server", "python3"} <= set(output.split())
    assert "bash" not in output.split()


def test_nothing_is_installed_where_all_is_there(tmp_path: Path) -> None:
    for programs in ({"dnf": "exit 9", "rpm": "exit 0"}, {"apk": '[ "$1" = info ]'}):
        place = tmp_path / "-".join(programs)
        place.mkdir()
        assert run(programs, place, *SESSION, "--") == (0, "")


def test_debian_packages_are_refused_without_apt(tmp_path: Path) -> None:
    code, output = run({"dnf": "echo ran"}, tmp_path, *SESSION, "--", "git", "jq")
    assert code == 1
    assert "`apt` cannot add git jq" in output
    assert "ran" not in output


def test_image_without_a_package_manager_must_have_sshd_already(tmp_path: Path) -> None:
    code, output = run({}, tmp_path, *SESSION, "--")
    expected = all(Path(program).exists() for program in ("/usr/sbin/sshd", "/bin/bash"))
    assert (code, "no package manager" in output) == (0 if expected else 1, not expected)
