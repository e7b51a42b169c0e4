"""The parts of the virtual machine that need none: choosing KVM, the monitor, the cache, the quickstart's text."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from slurm.lab.cache import keep_newest, mark_used
from slurm.lab.errors import LabError
from slurm.vm import image, monitor, qemu
from slurm.vm.guest import identity
from tests.site import guest_site, quickstart, vm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("echo '[    1.2] Kernel panic - not syncing: VFS'", qemu.VIRTUAL),
        ("echo 'failed to set MSR 0x10a' >&2; kill -ABRT $$", qemu.EMULATED),
        ("echo 'no kernel ran'", qemu.EMULATED),
        ("sleep 60", qemu.EMULATED),
    ],
    ids=["works", "aborts", "runs nothing", "hangs"],
)
def test_kvm_is_used_only_where_a_kernel_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, expected: tuple[str, ...]
) -> None:
    fake = tmp_path / qemu.PROGRAM
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(qemu, "PROBE_SECONDS", 2)
    device = tmp_path / "kvm"
    device.touch()
    assert qemu.acceleration(tmp_path / "vmlinuz", device) == expected


def test_without_the_device_the_guest_is_emulated(tmp_path: Path) -> None:
    assert qemu.acceleration(tmp_path / "vmlinuz", tmp_path / "none") == qemu.EMULATED


@contextmanager
def speaking(state: Path, *answers: Mapping[str, object]) -> Iterator[list[str]]:
    """Serve one connection as qemu does: a greeting, then one answer for each command; what was asked is noted."""
    asked: list[str] = []
    directory = os.open(state, os.O_RDONLY)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/proc/self/fd/{directory}/{monitor.SOCKET}")
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            stream.write('{"QMP": {}}\n')
            stream.flush()
            for answer in ({"return": {}}, *answers):
                asked.append(json.loads(stream.readline())["execute"])
                stream.write('{"event": "RESUME"}\n' + json.dumps(answer) + "\n")
                stream.flush()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        thread.join()
        listener.close()
        os.close(directory)


def test_monitor_answers_through_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    state = tmp_path / ("d" * 150)
    state.mkdir()
    with speaking(state, {"return": {"status": "running"}}) as asked:
        assert monitor.execute(state, "query-status") == {"status": "running"}
    assert asked == ["qmp_capabilities", "query-status"]


def test_refused_command_is_an_error_with_qemus_words(tmp_path: Path) -> None:
    refusal = {"error": {"class": "GenericError", "desc": "not now"}}
    with speaking(tmp_path, refusal), pytest.raises(LabError, match="refuses `cont`: not now"):
        monitor.execute(tmp_path, "cont")


def test_monitor_without_qemu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not answer"):
        monitor.execute(tmp_path, "stop")


def test_process_id_of_another_program_is_no_guest(tmp_path: Path) -> None:
    assert qemu.running(tmp_path) is None
    (tmp_path / "qemu.pid").write_text(str(os.getpid()))
    assert qemu.running(tmp_path) is None
    qemu.end(tmp_path)  # and nothing is ended


def test_cache_keeps_what_was_used_last(tmp_path: Path) -> None:
    names = [f"vm-site-{number:016x}" for number in range(4)]
    for age, name in enumerate(names):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    (tmp_path / "vm-site-other-0000000000000000").mkdir()
    mark_used(tmp_path / names[0])
    keep_newest(tmp_path, "vm-site", 2)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {names[0], names[3], "vm-site-other-0000000000000000"}


def test_image_that_is_made_anew_is_another_one(tmp_path: Path) -> None:
    disk = tmp_path / "root.raw"
    disk.touch()
    before = identity(tmp_path)
    assert identity(tmp_path) == before
    disk.unlink()
    disk.touch()
    assert identity(tmp_path) != before


def test_quickstart_has_the_commands_that_the_guest_is_installed_with() -> None:
    assert quickstart.commands(1)[0].startswith("python3 -m venv ")
    assert any(line.startswith("sacctmgr add user berth ") for line in quickstart.commands(2))
    assert all("/shared/" in line for line in quickstart.commands(3))
    assert "login.example.org" in quickstart.block(4, "yaml")
    assert "systemctl enable --now berth berth-gateway" in quickstart.commands(5)
    with pytest.raises(AssertionError, match="step 6"):
        quickstart.commands(6)


def test_every_file_of_the_guests_tests_is_explained() -> None:
    page = (guest_site.CHECKOUT / "docs/howto/vm.md").read_text()
    for file in sorted((guest_site.CHECKOUT / "tests/vm").glob("test_*.py")):
        assert f"`{file.name}`" in page


def test_every_site_has_its_files_where_the_guest_exports_or_binds_them() -> None:
    script = (image.FILES / "usr/local/sbin/mount-shared").read_text()
    for kind in guest_site.SITES.values():
        assert f"{kind.mounted}) backing={kind.backing} ;;" in script


@pytest.mark.parametrize(("command", "is_failure"), [("true", False), ("exit 3", True), ("kill -KILL $$", True)])
def test_run_fails_if_the_command_fails_or_is_killed_on_any_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, is_failure: bool
) -> None:
    monkeypatch.setattr(vm, "STATES", tmp_path)
    monkeypatch.setattr(vm, "start", lambda *_: None)
    monkeypatch.setattr(vm, "check_root", lambda: None)
    monkeypatch.setattr(vm, "check_disk", lambda *_: None)
    monkeypatch.setenv("KEEP_VM", "1")
    on_first = f"if [ ! -e {tmp_path}/done ]; then touch {tmp_path}/done; {command}; fi"
    code = vm.main(["run", "--sites", "ext4,nfs-ext4", "sh", "-c", on_first])
    assert (code != 0) == is_failure
