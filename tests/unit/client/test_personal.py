"""The checks of personal mode: directories of others, homes on network file systems, a second start."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

import broker
from broker.client import autostart
from broker.client.autostart import open_client, passive_client
from broker.client.client import Client
from broker.config.directories import make_private
from broker.config.file import Mode, personal_defaults
from broker.config.settings import Config
from broker.controller import process
from broker.controller.registry import database
from broker.controller.registry.database import open_registry
from broker.controller.registry.registry import EventEntry, JobChange
from broker.controller.registry.transactions import RegistryError
from broker.errors import BerthError, ConflictError, ControllerUnavailableError, InvalidInputError
from tests.fakes.rows import make_session

pytestmark = pytest.mark.usefixtures("nothing_of_ours")


@pytest.fixture
def nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "BERTH_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate(
        personal_defaults() | {"runtime_dir": tmp_path / "run" / "berth", "state_dir": tmp_path / "state" / "berth"}
    )


def test_runtime_and_state_become_private_directories(config: Config) -> None:
    config.state_dir.mkdir(parents=True, mode=0o755)
    make_private(config)
    for directory in (config.runtime_dir, config.state_dir):
        assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("squat", ["file", "dangling link", "writable", "foreign", "foreign link"])
def test_what_somebody_else_made_first_is_refused(config: Config, tmp_path: Path, squat: str) -> None:
    place = config.runtime_dir
    place.parent.mkdir()
    if squat == "file":
        place.touch()
    elif squat == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    elif squat == "writable":
        place.mkdir()
        place.chmod(0o770)
    elif os.getuid() != 0:
        pytest.skip("only root can make something in another user's name; tests/lab does as well")
    elif squat == "foreign":
        place.mkdir()
        os.chown(place, 12345, 12345)
    else:
        (tmp_path / "mine").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "mine")
        os.chown(place, 12345, 12345, follow_symlinks=False)
    with pytest.raises(InvalidInputError, match=str(place)) as refused:
        open_client(config)
    assert "XDG_RUNTIME_DIR" in refused.value.hint
    with pytest.raises(BerthError):
        passive_client(config).sessions()


def test_a_link_of_ones_own_is_followed(config: Config, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir(mode=0o700)
    config.state_dir.parent.mkdir()
    config.state_dir.symlink_to(tmp_path / "scratch")
    make_private(config)


def test_a_runtime_directory_that_does_not_exist_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = personal_defaults()["runtime_dir"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    assert personal_defaults()["runtime_dir"] == usual
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert personal_defaults()["runtime_dir"] == usual
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert personal_defaults()["runtime_dir"] == tmp_path / "berth"


def test_a_call_that_nobody_takes_is_made_again_once_somebody_was_called(tmp_path: Path) -> None:
    called = []
    with pytest.raises(ControllerUnavailableError):
        Client(tmp_path / "api.sock", revive=lambda: called.append(1)).sessions()
    assert called == [1]


def test_a_controller_that_does_not_start_says_why_in_its_own_words(config: Config, tmp_path: Path) -> None:
    """It reads its own configuration, and refuses it: the user sees that, with its exit code, and no traceback."""
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        f"mode: personal\nruntime_dir: {config.runtime_dir}\nstate_dir: {config.state_dir}\n"
        "registry: {url: 'nonsense'}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTH_CONFIG", str(broken))
        patch.setenv("PYTHONPATH", str(Path(broker.__file__).parent.parent))
        with pytest.raises(InvalidInputError, match="is not an SQLAlchemy URL"):
            open_client(config)


def test_a_controller_that_takes_long_is_not_said_to_have_failed(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def start_slowly(_: object, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - as Popen's
        processes.append(real(["sleep", "1000"], **options))
        return processes[-1]

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start_slowly)
    monkeypatch.setattr(autostart, "START_TIMEOUT_S", 0.1)
    try:
        with pytest.raises(ControllerUnavailableError, match="is still starting") as refused:
            open_client(config)
    finally:
        for started in processes:
            started.kill()
            started.wait()
    assert str(config.state_dir / "controller.log") in str(refused.value.hint)


# The registry on a network file system


@pytest.fixture
def on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "network_file_system", lambda _: "nfs4")


def _url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'registry.db'}"


@pytest.mark.usefixtures("on_nfs")
def test_sqlite_on_nfs_is_for_one_controller_alone(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="nfs4"):
        open_registry(_url(tmp_path))
    with contextlib.closing(open_registry(_url(tmp_path), alone=True)) as made:
        session = made.create(make_session(restarts=0), EventEntry("alice", "start"))
        assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(("-wal", "-shm"))]
        errors: list[BaseException] = []

        def count() -> None:
            try:
                for _ in range(5):
                    made.update(session.id, lambda now: JobChange({}, None, job={"restarts": now.job.restarts + 1}))
            except BaseException as error:  # noqa: BLE001 - reported by the assertion below
                errors.append(error)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = made.get(session.id)
        assert not errors
        assert after is not None
        assert after.job.restarts == 20


@pytest.mark.usefixtures("on_nfs")
def test_sqlite_on_nfs_lets_no_second_one_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(open_registry(_url(tmp_path), alone=True)) as made:
        made.create(make_session(), EventEntry("alice", "start"))
        monkeypatch.setattr(database, "_NETWORK", ("busy_timeout=1", *database._NETWORK))
        with pytest.raises(RegistryError, match="locked"):
            open_registry(_url(tmp_path), alone=True)


def test_a_registry_that_moves_to_nfs_and_back_keeps_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(open_registry(_url(tmp_path))) as local:
        session = local.create(make_session(), EventEntry("alice", "start"))
    with monkeypatch.context() as patch:
        patch.setattr(database, "network_file_system", lambda _: "nfs4")
        with contextlib.closing(open_registry(_url(tmp_path), alone=True)) as remote:
            assert remote.get(session.id) is not None
    with contextlib.closing(open_registry(_url(tmp_path))) as local:
        assert local.get(session.id) is not None


# One controller


def test_a_controller_on_another_login_node_is_named(config: Config) -> None:
    make_private(config)
    with (config.state_dir / "controller.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("login7")
        lock.flush()
        with pytest.raises(ConflictError, match="runs on login7"), process._exclusive_lock(config):
            pass
    with process._exclusive_lock(config):
        assert (config.state_dir / "controller.lock").read_text() == os.uname().nodename


def test_a_controller_that_is_just_leaving_is_waited_for(config: Config) -> None:
    assert config.mode is Mode.PERSONAL
    make_private(config)
    lock = (config.state_dir / "controller.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    leaving = threading.Timer(0.3, lock.close)
    leaving.start()
    with process._exclusive_lock(config):
        assert lock.closed
    leaving.join()
