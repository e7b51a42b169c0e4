"""`berth sbatch --env SESSION --at SNAPSHOT`, and `--json`, against a scripted controller and a recording sbatch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.fakes.recording_sbatch import SCRIPT, given, install_recording_sbatch, sbatch

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.controller import ScriptedController

MAKE = ("POST", "/v1/environments")


@pytest.fixture
def controller(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedController:
    install_recording_sbatch(tmp_path, monkeypatch)
    return controller


@pytest.mark.parametrize(
    ("words", "variable", "directive", "of", "at"),
    [
        (("--env", "dev", "--at", "3"), "", "", "dev", "3"),
        (("--at=green", "--env=dev"), "", "", "dev", "green"),
        (("--at", "3"), "dev", "", "dev", "3"),
        ((), "", "--env dev --at 3", "dev", "3"),
        (("--at", "4"), "", "--env dev --at 3", "dev", "4"),
        (("--env", "other"), "", "--env dev --at 3", "other", None),
    ],
)
def test_snapshot_belongs_to_the_environment_that_counts(  # noqa: PLR0917 - fixtures and cases
    controller: ScriptedController,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
    variable: str,
    directive: str,
    of: str,
    at: str | None,
) -> None:
    monkeypatch.setenv("BERTH_ENV", variable)
    if directive:
        (tmp_path / "job.sh").write_text(SCRIPT.replace("# more", f"#BERTH {directive}"))
    assert sbatch(*words, "job.sh").returncode == 0
    (asked,) = [body for method, path, body in controller.asked if (method, path) == MAKE]
    assert (asked["of"], asked.get("at")) == (of, at)
    assert "--at" not in given(tmp_path)[0]


@pytest.mark.parametrize(
    ("words", "directive", "says"),
    [
        (("--at", "3", "job.sh"), "", "--at needs --env"),
        (("--json", "job.sh"), "", "--json needs --env"),
        (("--env=dev", "--at=a/b", "job.sh"), "", "'a/b' cannot be a snapshot"),
        (("--env=dev", "--at=", "job.sh"), "", "'' cannot be a snapshot"),
        (("job.sh",), "--env dev --json", "takes --env and --at, and nothing else"),
        (("--env=a b", "--at=3", "job.sh"), "", "can be neither a session nor a profile"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(
    controller: ScriptedController, tmp_path: Path, words: tuple[str, ...], directive: str, says: str
) -> None:
    if directive:
        (tmp_path / "job.sh").write_text(SCRIPT.replace("# more", f"#BERTH {directive}"))
    done = sbatch(*words)
    assert (done.returncode, says in done.stderr, done.stdout) == (2, True, ""), done.stderr
    assert not (tmp_path / "words").exists()
    assert controller.environments == []


@pytest.mark.parametrize("abbreviation", ["--js=x", "--a", "--j=x"])
def test_options_of_berth_have_no_abbreviations(
    controller: ScriptedController, tmp_path: Path, abbreviation: str
) -> None:
    """So `--j` stays sbatch's --job-name. sbatch decides on the others."""
    assert sbatch(abbreviation, "job.sh").returncode == 0
    assert given(tmp_path)[0].endswith(f"[{abbreviation}][job.sh]")
    assert controller.environments == []


@pytest.mark.parametrize(("words", "code", "exit_code"), [(("--wait",), "3", 3), (("-W",), "0", 0), ((), "0", None)])
@pytest.mark.usefixtures("controller")
def test_report_is_one_json_object_with_job_log_and_environment(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
    code: str,
    exit_code: int | None,
) -> None:
    scontrol = tmp_path / "bin/scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show job 42" ] && echo "   StdOut=/srv/slurm-42.out"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("CODE", code)
    done = sbatch("--env=dev", "--at", "3", "--json", *words, "job.sh")
    assert done.returncode == int(code)
    report = json.loads(done.stdout)
    assert (report["job_id"], report["exit_code"], report["log"]) == (42, exit_code, "/srv/slurm-42.out")
    assert report["environment"]["of"] == "dev"
    assert "--json" not in given(tmp_path)[0]


def test_report_of_a_submission_that_sbatch_refuses_has_no_job(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAYS", "")
    monkeypatch.setenv("CODE", "1")
    done = sbatch("--env=dev", "--json", "job.sh")
    report = json.loads(done.stdout)
    assert (done.returncode, report["job_id"], report["exit_code"], report["log"]) == (1, None, 1, None)
    assert "sbatch: what it says" in done.stderr
    assert controller.environments == []
