"""The command line of a build in a job: what srun gets, and what is refused before."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from profiles.image.store import Store
from tests.fakes.command_line import run
from tests.fakes.core import publish
from tests.fakes.signing import key_file, signing_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Became(BaseException):
    """This process became another program."""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The program, words and environment of each srun that would have begun."""
    calls: list[Any] = []

    def execve(program: str, argv: Sequence[str], env: dict[str, str]) -> None:
        calls.append((program, list(argv), env))
        raise Became

    program = tmp_path / "bin/srun"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(sys, "argv", ["/opt/bin/berth"])
    (tmp_path / "mine.yaml").write_text("name: mine\nversion: 1\nbase: debian:sid\n")
    monkeypatch.chdir(tmp_path)
    return calls


def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"mode: personal\nprofiles: {{stores: [{tmp_path / 'store'}]{more}}}\n")
    monkeypatch.setenv("BERTH_CONFIG", str(file))


def build(*words: str) -> Any:  # noqa: ANN401 - click's result
    return run("profile", "build", *words)


def test_job_runs_the_same_command_with_absolute_paths(
    started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, monkeypatch, ", build_options: ['--mem=4G', '--partition=cpu']")
    monkeypatch.setenv("SBATCH_ACCOUNT", "team")
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SLURM_CONF"):
        monkeypatch.setenv(name, "1")
    key_file(tmp_path / "key", signing_key())
    with pytest.raises(Became):
        build("mine.yaml", "--job", "-t", "30", "--sign-key", "key", "--no-cache", "--mem=2G")
    [(program, argv, environment)] = started
    assert program == str(tmp_path / "bin/srun")
    wanted = {"--job-name=berth-build", "--partition=cpu", "--account=team", "--time=30", "--mem=2G"}
    assert wanted <= {*argv}
    assert "--mem=4G" not in argv
    at = argv.index("/opt/bin/berth")
    assert argv[at:] == [
        "/opt/bin/berth", "profile", "build", str(tmp_path / "mine.yaml"), "--store", str(tmp_path / "store"),
        "--sign-key", str(tmp_path / "key"), "--no-cache", "--here",
    ]  # fmt: skip
    assert {name for name in environment if name.startswith("SLURM_")} == {"SLURM_CONF"}


def test_site_can_make_jobs_the_default(started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tmp_path, monkeypatch, ", build_in_job: true")
    with pytest.raises(Became):
        build("mine.yaml")
    assert len(started) == 1
    monkeypatch.setattr("profiles.build.builder.build", lambda *_, **__: pytest.fail("it was built"))
    monkeypatch.setattr("broker.cli.builds.build_profile", lambda *_: (_ for _ in ()).throw(Became))
    with pytest.raises(Became):
        build("mine.yaml", "--here")
    assert len(started) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine.yaml", "--mem=4G"], "options of sbatch need --job"),
        (["mine.yaml", "more"], "unexpected: more"),
        (["--mem=4G", "mine.yaml", "--job"], "options of sbatch come after the profile"),
        (["mine.yaml", "--job", "--output=x"], "--output"),
        (["mine.yaml", "--job", "--no-cahce"], "no-cahce"),
        (["gone.yaml", "--job"], "gone.yaml"),
    ],
)
def test_wrong_words_submit_nothing(
    started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    configure(tmp_path, monkeypatch)
    done = build(*words)
    assert (done.exit_code in {2, 3}, message in done.stderr, started) == (True, True, []), done.stderr


def test_key_that_needs_a_passphrase_is_refused_before_the_job(
    started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, monkeypatch)
    lock = serialization.BestAvailableEncryption(b"secret")
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").write_bytes(pem)
    monkeypatch.setattr("broker.cli.signatures._ask_passphrase", lambda _: pytest.fail("it asks"))
    done = build("mine.yaml", "--job", "--sign-key", "key")
    assert (done.exit_code, "is encrypted" in done.stderr, started) == (2, True, [])


def test_unchanged_recipe_needs_no_job(started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tmp_path, monkeypatch)
    published = publish(Store(tmp_path / "store"), "mine")
    monkeypatch.setattr("profiles.build.published.unchanged_image", lambda *_, **__: published)
    done = build("mine.yaml", "--job")
    assert (done.exit_code, started) == (0, []), done.stderr
    assert "Nothing was built" in done.stderr
