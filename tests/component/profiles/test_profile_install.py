"""install.sh, with the machine's own apt and a mirror that cannot be reached."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from profiles.build.command import CommandFailed
from profiles.build.namespace import INSIDE
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path

INSTALL = f"mount -t tmpfs tmpfs /usr/sbin; exec sh {INSIDE / 'install.sh'} no-such-package"
"""The command that runs install.sh where it may write /usr/sbin/policy-rc.d."""


@pytest.fixture
def apt_settings(tmp_path: Path) -> Path:
    """Settings of apt with directories of its own, for a mirror where nothing listens."""
    for folder in ("lists/partial", "cache/archives/partial", "dpkg"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dpkg/status").touch()
    (tmp_path / "sources.list").write_text("deb http://127.0.0.1:9/debian sid main\n")
    settings = tmp_path / "apt.conf"
    settings.write_text(
        f'Dir::State "{tmp_path}"; Dir::State::status "{tmp_path}/dpkg/status"; Dir::Cache "{tmp_path}/cache";\n'
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list"; Dir::Etc::sourceparts "/dev/null";\n'
        'APT::Sandbox::User "root"; Acquire::Retries "0"; Acquire::http::Proxy "false";\n'
    )
    return settings


def test_unreached_mirror_is_the_reason_of_a_failed_installation(apt_settings: Path) -> None:
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", INSTALL]
    env = {"PATH": os.environ["PATH"], "APT_CONFIG": str(apt_settings)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=env, check=False)
    output = done.stdout + done.stderr
    complaint = CommandFailed(command, "ended", output).complaint
    assert done.returncode != 0
    assert "Failed to fetch http://127.0.0.1:9/" in complaint, output
    assert "Unable to locate package" not in output
