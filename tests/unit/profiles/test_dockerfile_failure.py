"""The error of a failed Dockerfile, from what buildah prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from profiles.build.command import CommandFailed
from profiles.build.dockerfile_failure import failure_of
from profiles.dockerfile.instructions import read_dockerfile
from profiles.dockerfile.spec import DockerfileBuild

if TYPE_CHECKING:
    from pathlib import Path

RUN = "RUN make; exit 7"
ERROR = f'Error: building at STEP "{RUN}": exit status 7'
EXITED = "subprocess exited with status 7"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["cc: no such file", EXITED, EXITED, ERROR], "cc: no such file"),
        ([EXITED, EXITED, ERROR], "exit status 7"),
        ([ERROR], "exit status 7"),
        (["cc: done", f'Error: building at STEP "{RUN}": no space left on device'], "no space left on device"),
    ],
)
def test_reason_is_the_programs_last_line_or_else_its_exit_code(tmp_path: Path, lines: list[str], why: str) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(f"FROM scratch\n{RUN}\n")
    output = "\n".join(["STEP 1/2: FROM scratch", f"STEP 2/2: {RUN}", *lines])
    error = failure_of(
        CommandFailed(["buildah"], "ended with 7", output), DockerfileBuild(file, tmp_path), read_dockerfile(file)
    )
    assert error.message == f"{file}:2: {RUN} failed: {why}"
