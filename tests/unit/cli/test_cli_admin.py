"""`berth key`, `profile`, `doctor`, `config`, `registry` and the services."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from broker import errors
from broker.job.bundle import session_script
from broker.launcher.session_verbs import KEYS_LIMIT
from broker.schema.sessions import LIVE, SessionState, Volumes
from broker.schema.site import DoctorCheck, RebuildReport
from broker.text.advice import TMP_IN_MEMORY, TMP_REFUSED
from profiles.errors import BuildError
from profiles.image import store as profile_store
from profiles.image.store import IMAGE, Image, Store, file_digest
from profiles.recipe.spec import load_profile
from tests.fakes.command_line import run
from tests.fakes.controller import ready, view

if TYPE_CHECKING:
    from pathlib import Path

    from broker.config.settings import Config
    from tests.fakes.controller import ScriptedController

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5o0mKIvqRkL7qs1Y8k2NVLI4sYrM0QZQ0dKz8UgQ0b alice@laptop"


def test_keys_are_added_listed_and_removed(controller: ScriptedController, tmp_path: Path) -> None:
    file = tmp_path / "id.pub"
    file.write_text(f"# mine\n{PUBLIC}\n")
    added = run("key", "add", str(file)).stdout.split()
    assert added[1:] == ["ssh-ed25519", "alice@laptop"]
    [fingerprint] = controller.keys
    assert fingerprint in run("key", "list").stdout
    assert json.loads(run("key", "list", "--json").stdout)["keys"][0]["source"] == "berth"
    assert run("key", "remove", fingerprint).exit_code == 0
    assert run("key", "remove", fingerprint).exit_code == 3
    assert run("key", "add", "-", input=PUBLIC).exit_code == 0
    assert list(controller.keys) == [fingerprint]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "private key"),
        ("", "found 0"),
        (f"{PUBLIC}\n{PUBLIC}\n", "found 2"),
        (f"# of my old laptop\r{PUBLIC}\n", "found 0"),
        (f"{PUBLIC}\n{'#' * 16384}\n{PUBLIC}\n", "at most 16384 bytes"),
    ],
)
def test_what_is_not_one_public_key_stays_here(controller: ScriptedController, text: str, says: str) -> None:
    result = run("key", "add", "-", input=text)
    assert result.exit_code == 2
    assert says in result.stderr
    assert controller.asked == []


def recipe(directory: Path, version: str = "1") -> Path:
    file = directory / f"tools-{version}.yaml"
    file.write_text(f"name: tools\nversion: '{version}'\ndescription: what we use\nbase: debian:trixie\n")
    return file


def published(store: Store, file: Path) -> Image:
    """An image whose SIF file is only some bytes: enough for all that does not run it."""
    profile = load_profile(file)
    stage = store.stage(profile.name, profile.version)
    sif = stage / IMAGE
    sif.write_bytes(b"squashfs " * 100)
    image = Image(
        profile.name, profile.version, sif, file_digest(sif), sif.stat().st_size, 1_790_000_000.0, {}, profile, 4096
    )
    (stage / profile_store.DESCRIPTION).write_text(json.dumps(image.description()))
    return store.publish(stage, profile.name, profile.version)


@pytest.fixture
def store(controller: ScriptedController, tmp_path: Path) -> Store:
    assert controller.asked == []
    store = Store(tmp_path / "store")
    for version in ("1.9", "1.10"):
        published(store, recipe(tmp_path, version))
    return store


@pytest.mark.usefixtures("controller")
def test_profile_file_that_may_not_be_looked_at_is_said_to_be_unreadable() -> None:
    """Nothing is closed to root, but a name that is too long is."""
    result = run("profile", "build", f"/{'x' * 300}/tools.yaml")
    assert result.exit_code == errors.ExitCode.USAGE, result.stderr
    assert "cannot be read" in result.stderr


def test_profile_list_marks_the_newest(store: Store) -> None:
    result = run("profile", "list")
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["tools", "1.9"], ["tools", "1.10"]]
    assert ["newest" in row for row in rows] == [False, True]
    assert "base, triton-cpu" in result.stderr  # shipped, not built
    listed = json.loads(run("profile", "list", "--json").stdout)["profiles"]
    assert [(each["version"], each["newest"]) for each in listed] == [("1.9", False), ("1.10", True)]
    assert store.versions("tools") == ["1.9", "1.10"]


def test_profile_show_gives_the_whole_recipe(store: Store) -> None:
    shown = yaml.safe_load(run("profile", "show", "tools").stdout)
    assert (shown["version"], shown["profile"]["base"]) == ("1.10", "debian:trixie")
    assert shown["digest"] == store.find("tools").digest
    built = time.strftime("%Y-%m-%d %H:%M", time.localtime(store.find("tools").created))
    assert shown["created"] == built, "a date, though JSON has seconds"
    assert json.loads(run("profile", "show", "tools", "--json").stdout)["created"] == store.find("tools").created
    assert run("profile", "show", "tools@7").exit_code == 3


def test_profile_verify(store: Store) -> None:
    assert run("profile", "verify", "tools@1.9").exit_code == 0
    sif = store.find("tools", "1.9").path
    sif.write_bytes(sif.read_bytes().replace(b"s", b"S", 1))
    result = run("profile", "verify", "tools@1.9")
    assert result.exit_code == 1
    assert "digest" in result.stderr


def test_profile_delete(store: Store) -> None:
    assert run("profile", "delete", "tools", "--yes").exit_code == 2  # which version?
    assert run("profile", "delete", "tools@1.9").exit_code == 2  # nobody to ask
    assert run("profile", "delete", "tools@1.9", "--yes").exit_code == 0
    assert store.versions("tools") == ["1.10"]


@pytest.mark.parametrize("state", list(SessionState))
def test_profile_delete_leaves_what_ones_own_sessions_use(
    store: Store, controller: ScriptedController, state: SessionState
) -> None:
    used = store.find("tools", "1.9")
    controller.sessions["dev"] = view("dev", state, profile="tools", version="1.9", digest=used.digest)
    refused = run("profile", "delete", "tools@1.9", "--yes")
    if state in LIVE:
        assert refused.exit_code == 5
        assert "berth stop dev" in refused.stderr
        assert store.versions("tools") == ["1.9", "1.10"]
        assert run("profile", "delete", "tools@1.9", "--yes", "--force").exit_code == 0
    assert store.versions("tools") == ["1.10"]


def test_profile_delete_without_a_controller(store: Store, controller: ScriptedController) -> None:
    controller.failures["GET /v1/sessions"] = errors.ControllerUnavailableError("it does not answer")
    refused = run("profile", "delete", "tools@1.9", "--yes")
    assert refused.exit_code == 7
    assert "--force" in refused.stderr
    assert run("profile", "delete", "tools@1.9", "--yes", "--force").exit_code == 0
    assert store.versions("tools") == ["1.10"]


def test_profile_build_finds_the_recipe_and_shows_its_errors(store: Store, tmp_path: Path) -> None:
    assert "did you mean base" in run("profile", "build", "bse").stderr
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: tools\nversion: '3'\nbase: debian:trixie\npacakges: []\n")
    result = run("profile", "build", str(wrong))
    assert result.exit_code == 2
    assert "wrong.yaml:4" in result.stderr
    taken = run("profile", "build", str(tmp_path / "tools-1.10.yaml"))
    assert taken.exit_code == 5
    assert store.versions("tools") == ["1.9", "1.10"]


def test_profile_build_refuses_wrong_options_with_all_other_faults(store: Store, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: gpu\nversion: 1\nbase: debian:sid\napt: [Git]\nresources: {gpuss: 1}\n")
    result = run("profile", "build", str(wrong))
    assert result.exit_code == 2
    assert "2 faults\n  line 4: `apt.0`: must be the name of a Debian package" in result.stderr
    assert "line 5: `resources.gpuss`: --gpuss is not an option of sbatch; did you mean --gpus?" in result.stderr
    assert store.versions("gpu") == []


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("base: debian:sid\nresources: {mem: 1G}\n", 0, "the profile gpu@1 is valid"),
        ("base: debian:sid\napt: [Git]\nresources: {gpuss: 1}\n", 2, "2 faults"),
        ("base: profile:nosuch@1\n", 3, "no profile is called nosuch"),
        ("base: sif:nosuch.sif\n", 3, "nosuch.sif is not there"),
    ],
)
def test_profile_check_builds_nothing(store: Store, tmp_path: Path, text: str, code: int, says: str) -> None:
    file = tmp_path / "gpu.yaml"
    file.write_text(f"name: gpu\nversion: 1\n{text}")
    before = sorted(store.path.rglob("*"))
    result = run("profile", "check", str(file))
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr
    assert sorted(store.path.rglob("*")) == before
    if code == 0:
        assert json.loads(run("profile", "check", "base", "--json").stdout)["name"] == "base"


def test_profile_that_cannot_be_deleted_is_not_asked_about(
    store: Store, monkeypatch: pytest.MonkeyPatch, controller: ScriptedController
) -> None:
    monkeypatch.setattr("profiles.image.store.os.access", lambda _path, mode: not mode & os.W_OK)
    result = run("profile", "delete", "tools@1.10")
    assert (result.exit_code, "cannot write to the store" in result.stderr) == (4, True), result.stderr
    assert "terminal" not in result.stderr
    assert store.versions("tools")
    assert controller.asked == []


def test_profile_build_names_the_log_of_a_failed_build(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> Image:
        raise BuildError("step post failed", step="post", log=store.path / "tools" / "2.failed.log", hint="look")

    monkeypatch.setattr("profiles.build.builder.build", fail)
    result = run("profile", "build", str(recipe(tmp_path, "2")))
    assert result.exit_code == 1
    assert "look; the build's log is " in result.stderr
    assert "2.failed.log" in result.stderr


def test_a_store_that_cannot_be_written(controller: ScriptedController, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("profile", "build", str(recipe(tmp_path)), "--store", str(tmp_path / "file"))
    assert result.exit_code == 4
    assert "cannot write to the store" in result.stderr
    assert controller.asked == []


def test_doctor_says_what_fails_and_how_to_mend_it(controller: ScriptedController, tmp_path: Path) -> None:
    controller.checks = [DoctorCheck(name="slurm", ok=False, detail="no answer", hint="ask slurmctld")]
    result = run("doctor")
    assert result.exit_code == 1
    assert "FAIL  slurm          no answer" in result.stdout
    assert "ask slurmctld" in result.stdout
    assert "note  keys" in result.stdout
    assert "note  ssh-config" in result.stdout
    controller.checks = []
    assert run("doctor").exit_code == 0, "a new user without keys lacks nothing"
    run("key", "add", "-", input=PUBLIC)
    (tmp_path / ".ssh").mkdir()
    run("ssh-config", "--install")
    well = json.loads(run("doctor", "--json").stdout)["checks"]
    assert {check["name"]: check["ok"] for check in well if check["name"] in {"keys", "ssh-config", "ssh"}} == {
        "keys": True,
        "ssh-config": True,
        "ssh": True,
    }


def test_doctor_reports_an_authorized_keys_file_above_the_limit(
    controller: ScriptedController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del controller
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ssh/authorized_keys"
    file.parent.mkdir(exist_ok=True)
    file.write_text("#" * KEYS_LIMIT)
    assert "authorized_keys has" not in run("doctor").stdout
    file.write_text("#" * (KEYS_LIMIT + 1))
    assert "authorized_keys has 262145 bytes" in run("doctor").stdout


def test_doctor_names_sessions_whose_layers_cannot_be_joined(controller: ScriptedController) -> None:
    assert "layers" not in run("doctor").stdout
    controller.sessions["dev"] = view(volumes=Volumes(driver="overlay", unflattened="Input/output error: file"))
    result = run("doctor")
    assert result.exit_code == 1
    assert "FAIL  layers         the layers of dev cannot be merged: Input/output error: file" in result.stdout
    assert "berth flatten dev" in result.stdout


def test_doctor_notes_sessions_whose_tmp_is_in_memory(controller: ScriptedController) -> None:
    begun = "2027-01-15T08:00:00+0000 berth: job 7, start 0, on c2\n"
    warned = f"{begun}2027-01-15T08:00:01+0000 berth: warning: {TMP_IN_MEMORY} on c2: no directory …\n"
    controller.sessions["dev"] = ready("dev")
    for log, noted in ((warned, True), (warned + begun, False)):
        controller.logs["dev"].clear()
        controller.logs["dev"].append(log)
        result = run("doctor")
        assert ("note  tmp            on c2, files in /tmp of dev count as" in result.stdout) == noted
        assert ("storage.tmp_directories" in result.stdout) == noted
        assert (TMP_IN_MEMORY in run("explain", "dev").stdout) == noted
    assert TMP_IN_MEMORY in session_script().decode()


def test_doctor_notes_directories_that_are_not_safe_for_tmp(controller: ScriptedController) -> None:
    begun = "2027-01-15T08:00:00+0000 berth: job 7, start 0, on c2\n"
    words = f"/scratch/alice{TMP_REFUSED}other users may change /scratch"
    warned = f"{begun}2027-01-15T08:00:00+0000 berth: warning: {words}\n"
    controller.sessions["dev"] = ready("dev")
    for log, noted in ((warned, True), (warned + begun, False)):
        controller.logs["dev"].clear()
        controller.logs["dev"].append(log)
        assert (f"note  tmp            on c2, {words}" in run("doctor").stdout) == noted
    assert TMP_REFUSED in session_script().decode()


def test_doctor_without_a_controller_or_a_configuration(controller: ScriptedController, tmp_path: Path) -> None:
    controller.socket.unlink()
    result = run("doctor")
    assert result.exit_code == 1
    assert "FAIL  controller" in result.stdout
    assert "systemctl status berth" in result.stdout
    assert "berth doctor" not in result.stdout
    assert "ok    configuration" in result.stdout
    (tmp_path / "config.yaml").write_text("storag: {}\n")
    result = run("doctor")
    assert "FAIL  configuration" in result.stdout
    assert "did you mean storage?" in result.stdout


def test_config_show_is_a_configuration(controller: ScriptedController, tmp_path: Path) -> None:
    file = tmp_path / "shown.yaml"
    file.write_text(run("config", "show").stdout)
    assert run("config", "check", str(file)).exit_code == 0
    assert json.loads(run("config", "show", "--json").stdout) == yaml.safe_load(file.read_text())
    file.write_text("mode: site\nslurm: {query_timeout: -1}\n")
    result = run("config", "check", str(file))
    assert result.exit_code == 2
    assert "slurm.query_timeout" in result.stderr
    assert controller.asked == []


def test_config_check_reads_the_files_of_the_openid_client(controller: ScriptedController, tmp_path: Path) -> None:
    file, accounts, secret = (tmp_path / name for name in ("checked.yaml", "accounts", "secret"))
    oidc = {"issuer": "https://login.example.org", "client_id": "berth", "accounts_file": str(accounts)}
    web = {"url": "https://apps.example.org", "oidc": oidc | {"client_secret_file": str(secret)}}
    file.write_text(yaml.safe_dump({"mode": "site", "storage": {"root": "/s/{user}"}, "web": web}))
    accounts.write_text("alice\n")
    result = run("config", "check", str(file))
    assert result.exit_code == 2
    assert f"{accounts}: line 1: must be ACCOUNT ISSUER SUBJECT" in result.stderr
    assert f"cannot read {secret}: No such file or directory" in result.stderr
    accounts.write_text("alice https://login.example.org 7\n")
    secret.write_text("secret\n")
    assert run("config", "check", str(file)).exit_code == 0
    assert controller.asked == []


def test_registry_rebuild(controller: ScriptedController) -> None:
    controller.rebuilt = RebuildReport(restored=["alice/dev"], skipped=["/s/bob/x: damaged\x1b[2J"])
    result = run("registry", "rebuild")
    assert result.stdout == "alice/dev\n"
    assert result.stderr == "skipped /s/bob/x: damaged\\x1b[2J\n1 session restored, 1 manifest skipped\n"


def test_the_gateway_is_not_run_where_it_is_off(controller: ScriptedController, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text() + "gateway: {enabled: false}\n")
    assert run("gateway").exit_code == 5
    assert controller.asked == []


def test_services_get_the_configuration(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def run_controller(config: Config) -> int:
        seen.append(config.api_socket)
        return 3

    monkeypatch.setattr("broker.controller.process.run_controller", run_controller)
    monkeypatch.setattr("broker.gateway.worker.run_worker", lambda settings: seen.append(settings.api_socket))
    assert run("controller").exit_code == 3
    assert run("gateway", "--check").exit_code == 0
    assert seen == [controller.socket]
    assert run("gateway", "--worker").exit_code == 0
    assert seen == [controller.socket, controller.socket]
