"""`make demo` when a step fails: it says which, where its log is and what to do; and a long build is seen to move."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from slurm.lab.errors import LabError
from slurm.lab.paths import LabPaths
from slurm.lab.progress import ProgressLog
from tests.lab_cluster import Lab
from tests.site import demo, deploy

if TYPE_CHECKING:
    from collections.abc import Sequence


class HereLab(Lab):
    """A lab whose nodes are this machine: commands run as they are, found on the PATH."""

    def argv(self, command: Sequence[str], **_: object) -> list[str]:
        return list(command)


@pytest.fixture
def site(tmp_path: Path) -> deploy.Site:
    return deploy.Site(HereLab(LabPaths("here", tmp_path)))


def berth(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program of that name on the PATH."""
    program = directory / "bin" / "berth"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (subprocess.TimeoutExpired(["env", "berth"], 300), "not done within 300 s"),
        (subprocess.CalledProcessError(5, ["env", "berth"]), "ended with 5"),
        (subprocess.CalledProcessError(255, ["ssh-keygen"], stderr="no entropy"), "ended with 255\nno entropy"),
        (subprocess.CalledProcessError(255, ["ssh"], stderr=b"refused\n"), "ended with 255\nrefused"),
        (deploy.SiteError("`berth key list` did not end within 60 s"), "`berth key list` did not end within 60 s"),
        (AssertionError("'cat' ended with 1"), "'cat' ended with 1"),
    ],
)
def test_whatever_a_step_fails_with_names_step_log_and_remedy(error: Exception, how: str) -> None:
    with pytest.raises(demo.DemoError) as caught, demo.step("start", log="cat LOG"):
        raise error
    assert str(caught.value) == f"start: {how}\n  log:    cat LOG\n  remedy: {demo.LOOK}"


def test_what_the_lab_knows_of_log_and_remedy_comes_first() -> None:
    with pytest.raises(demo.DemoError) as caught, demo.step("up", log="cat LOG"):
        raise LabError("no room", hint="make some", log=Path("/lab.log"))
    assert str(caught.value) == "up: no room\n  log:    /lab.log\n  remedy: make some"


def test_a_command_of_alices_that_fails_ends_the_demonstration(
    site: deploy.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    berth(tmp_path, monkeypatch, "echo no such profile >&2; exit 3")
    with pytest.raises(demo.DemoError, match=r"(?s)`berth start dev`: ended with 3.*broker\.log.*berth doctor"):
        demo.show(site, "berth start dev")
    out, err = capfd.readouterr()
    assert "alice@login$ berth start dev" in out
    assert err == "no such profile\n"


def test_a_build_is_seen_to_move(
    site: deploy.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its second step begins only when the first one has been shown."""
    went_on = tmp_path / "went-on"
    berth(tmp_path, monkeypatch, f"[ $2 = build ] || exit 3; echo '[1/2] one' >&2; cat {went_on}; echo '[2/2] two' >&2")
    os.mkfifo(went_on)

    class Watching(ProgressLog):
        def say(self, what: str) -> None:
            super().say(what)
            if "one" in what:
                went_on.write_text("")

    deploy.build_profile(site, "tools", Watching())
    lines = [line.partition("] ")[2] for line in capfd.readouterr().err.splitlines()]
    assert lines[1:] == ["tools: [1/2] one", "tools: [2/2] two", "profile tools built"]


def test_a_build_that_fails_says_its_last_words(
    site: deploy.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    berth(tmp_path, monkeypatch, "[ $2 = build ] || exit 3; seq 100 >&2; echo the log is here >&2; exit 1")
    with pytest.raises(deploy.SiteError) as caught:
        deploy.build_profile(site, "tools", ProgressLog(quiet=True))
    assert caught.value.message.startswith("building the profile tools failed:\n82\n")
    assert caught.value.message.endswith("100\nthe log is here\n")


def test_a_build_that_hangs_is_ended(site: deploy.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    berth(tmp_path, monkeypatch, "[ $2 = build ] || exit 3; exec sleep 60")
    monkeypatch.setattr(deploy, "BUILD_TIMEOUT", 0.2)
    with pytest.raises(deploy.SiteError, match=r"did not end within 0\.2 s"):
        deploy.build_profile(site, "tools", ProgressLog(quiet=True))


def test_a_command_that_hangs_is_a_site_error(site: deploy.Site) -> None:
    with pytest.raises(deploy.SiteError, match=r"`sleep 60` did not end within 0\.1 s"):
        site.run("sleep 60", user="alice", seconds=0.1)


@pytest.mark.parametrize(("options", "reached"), [((), False), (("--offline",), True)])
def test_client_settings_with_credentials_end_the_demonstration_before_it_changes_anything(
    options: tuple[str, ...], reached: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def up(*_: object, **__: object) -> deploy.Site:
        raise LabError("the cluster would change now")

    monkeypatch.setattr(demo, "check_root", lambda: None)
    monkeypatch.setattr(demo, "install_programs", lambda _: 0)
    monkeypatch.setattr(demo, "_checked", lambda port, _setting: port)
    monkeypatch.setattr(deploy, "up", up)
    monkeypatch.setenv("https_proxy", "http://user:SECRET@proxy.invalid:3128")
    assert demo.main(list(options)) == 1
    err = capsys.readouterr().err
    assert ("the cluster would change now" in err) is reached
    assert ("https_proxy: a URL with user:password@" in err) is not reached
    assert ("make demo OFFLINE=1" in err) is not reached
    assert "SECRET" not in err


@pytest.mark.parametrize(("offline", "said"), [(True, True), (False, False)])
def test_last_words_name_the_missing_registries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, offline: bool, said: bool
) -> None:
    class QuietLaptop:
        """An ssh whose every command prints what was written last."""

        config = Path("build/ssh_config")
        written = ""

        @classmethod
        def of(cls, *_: object) -> QuietLaptop:
            return cls()

        def ssh(self, _session: str, script: str, *, seconds: float) -> subprocess.CompletedProcess[bytes]:
            del seconds
            if script.startswith("echo written"):
                type(self).written = script.removeprefix("echo ").partition(" >")[0]
            return subprocess.CompletedProcess([], 0, self.written.encode(), b"")

    lab = SimpleNamespace(argv=lambda *_, **__: ["true"])
    monkeypatch.setattr(demo, "install_programs", lambda _: 0)
    monkeypatch.setattr(demo, "read_client_settings", lambda _: object())
    monkeypatch.setattr(demo, "connect_sessions", lambda *_: None)
    monkeypatch.setattr(demo, "disconnect_sessions", lambda *_: None)
    monkeypatch.setattr(demo, "_checked", lambda port, _: port)
    monkeypatch.setattr(demo, "Laptop", QuietLaptop)
    monkeypatch.setattr(deploy, "up", lambda *_, **__: SimpleNamespace(lab=lab))
    monkeypatch.setattr(deploy, "build_profile", lambda *_: None)
    demo.run(2222, 8443, ProgressLog(), offline=offline)
    printed = capsys.readouterr().out
    assert ("Sessions reach no package registries (OFFLINE=1)" in printed) == said
    assert "{" not in printed
    assert "<script>" not in printed
    assert "'echo written at" in printed


def test_demonstration_has_images_of_its_own(tmp_path: Path) -> None:
    assert deploy.images(tmp_path, "-demo").name == f"{deploy.images(tmp_path).name}-demo"
