"""The lab's knowledge of its machine, with files in place of the machine's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest

from slurm.lab import cgroups, conf, host_settings, preflight, publish, site
from slurm.lab.errors import LabError
from slurm.lab.paths import LabPaths, cache_root
from slurm.lab.spec import LabAccount, LabSpec
from tests.deadlines import DEADLINE_S

V1 = "{n} 1 0:{n} / /sys/fs/cgroup/{dir} rw shared:1 - cgroup cgroup rw,{options}\n"


def mountinfo(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mountinfo"
    file.write_text(text)
    return file


def v1(*options: str) -> str:
    return "".join(V1.format(n=30 + i, dir=each, options=each) for i, each in enumerate(options))


def test_cgroup_v1_hierarchies_are_found_also_where_controllers_share_one(tmp_path: Path) -> None:
    text = v1("devices", "memory", "freezer", "cpuset", "cpu,cpuacct", "pids")
    found = {each.controllers: each.mount for each in cgroups.hierarchies(mountinfo(tmp_path, text))}
    assert set(found) == {"devices", "memory", "freezer", "cpuset", "cpu,cpuacct"}
    assert found["cpu,cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")


def test_missing_controllers_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no cgroup controllers freezer, cpuset$"):
        cgroups.hierarchies(mountinfo(tmp_path, v1("devices", "memory", "cpu,cpuacct")))


@pytest.mark.parametrize(("controllers", "unified"), [("cpuset cpu io memory pids", True), ("", False)])
def test_cgroup_v2_is_taken_if_it_has_the_controllers(tmp_path: Path, controllers: str, *, unified: bool) -> None:
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2/cgroup.controllers").write_text(controllers + "\n")
    line = f"29 1 0:29 / {tmp_path}/v2 rw - cgroup2 cgroup2 rw\n"
    text = line + v1("devices", "memory", "freezer", "cpuset", "cpu", "cpuacct")
    found = cgroups.hierarchies(mountinfo(tmp_path, text))
    assert (found == (cgroups.Hierarchy(tmp_path / "v2", "unified"),)) is unified


def test_cgroup_conf_follows_the_hierarchy() -> None:
    assert "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n" in conf.cgroup_conf(unified=True)
    assert "CgroupPlugin=cgroup/v1\nConstrainDevices=yes\n" in conf.cgroup_conf(unified=False)


def test_slurm_conf_carries_the_labs_name() -> None:
    assert conf.slurm_conf(LabSpec(name="other")).startswith("ClusterName=other\n")


def test_simulated_nodes_are_in_a_partition_of_their_own() -> None:
    lines = conf.slurm_conf(LabSpec(simulated=1000)).splitlines()
    assert "NodeName=s[1-1000] CPUs=64 RealMemory=256000 State=CLOUD" in lines
    assert "PartitionName=simulated Nodes=s[1-1000] MaxTime=7-0 State=UP" in lines
    assert "simulated" not in conf.slurm_conf(LabSpec())


@pytest.mark.parametrize("count", [-1, 10_000])
def test_impossible_numbers_of_simulated_nodes_are_refused(count: int) -> None:
    with pytest.raises(LabError, match="simulated nodes are not possible"):
        LabSpec(simulated=count)


def test_specification_with_simulated_nodes_is_read_again() -> None:
    spec = LabSpec(simulated=7)
    assert LabSpec.from_json(json.loads(json.dumps(asdict(spec)))) == spec


def test_pip_settings_that_mean_something_elsewhere_are_carried_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config/pip").mkdir(parents=True)
    (tmp_path / ".config/pip/pip.conf").write_text(
        "[global]\nindex-url = https://mirror.example/simple\nextra-index-url = file:///opt/x https://two.example/simple\n"
    )
    monkeypatch.setenv("PIP_TIMEOUT", "77")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    host_settings.write_host_settings(tmp_path / "tree")
    text = (tmp_path / "tree/etc/pip.conf").read_text()
    assert "index-url = https://mirror.example/simple\n" in text
    assert "extra-index-url = https://two.example/simple\n" in text
    assert "timeout = 77\n" in text
    assert host_settings.network_variables()["https_proxy"] == "http://proxy.example:3128"
    assert (tmp_path / "tree/etc/resolv.conf").exists()


def test_accounts_are_added_to_what_the_topmost_layer_says(tmp_path: Path) -> None:
    for layer, line in (("low", "root:x:0:0::/root:/bin/sh\n"), ("high", "root:x:0:0::/root:/bin/bash\n")):
        (tmp_path / layer / "etc").mkdir(parents=True)
        for name in ("passwd", "group", "shadow"):
            (tmp_path / layer / "etc" / name).write_text(line)
    (tmp_path / "high/etc/group").unlink()
    etc = tmp_path / "site/etc"
    etc.mkdir(parents=True)
    accounts = [
        LabAccount("alice", 5001, "/shared/home/alice", "/bin/bash"),
        LabAccount("service", 901, "/var/lib/service", "/x"),
    ]
    site.write_accounts(etc, accounts, [tmp_path / "low", tmp_path / "high"])
    assert (etc / "passwd").read_text().splitlines()[:2] == [
        "root:x:0:0::/root:/bin/bash",
        "alice:x:5001:5001:alice:/shared/home/alice:/bin/bash",
    ]
    assert "service:x:901:" in (etc / "group").read_text()
    assert (etc / "subuid").read_text() == "alice:200000:65536\n"


def test_place_takes_its_directories_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAB_STATE", raising=False)
    monkeypatch.delenv("LAB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert LabPaths.find("unit-none").state == tmp_path / "build/lab/unit-none"
    assert cache_root() == Path("/x/slurm-lab")
    monkeypatch.setenv("LAB_STATE", str(tmp_path / "here"))
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    assert LabPaths.find("unit-none").state == tmp_path / "here"
    assert cache_root() == tmp_path / "cache"


def test_too_little_disk_is_told_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"GiB of free disk space, and the lab needs 99999$") as caught:
        preflight.check_disk([tmp_path / "not/there/yet"], 99_999)
    assert "--state" in caught.value.hint


def test_an_old_python_is_told_before_anything_is_imported() -> None:
    script = "import sys, runpy; sys.version_info = (3, 10, 2); sys.version = '3.10.2 x'; runpy.run_module('slurm.lab')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "slurm.lab: Python 3.10.2 is too old")


def test_errors_render_message_log_and_remedy() -> None:
    text = LabError("it broke", hint="mend it", log=Path("/logs/x.log")).render()
    assert text.splitlines() == ["slurm.lab: it broke", "  log:    /logs/x.log", "  remedy: mend it"]


def test_forwarder_carries_both_directions_and_their_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as target:
        address = target.getsockname()
        threading.Thread(target=publish.forward, args=(listener, address), daemon=True).start()
        client = socket.create_connection(listener.getsockname(), timeout=DEADLINE_S)
        server, _ = target.accept()
        server.settimeout(10)
        with closing(client), closing(server):
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert read_all(server) == b"question"
            data = os.urandom(1_000_000)
            threading.Thread(target=send_all, args=(server, data)).start()
            assert read_all(client) == data
        target.close()
        with socket.create_connection(listener.getsockname(), timeout=DEADLINE_S) as refused:
            assert refused.recv(1) == b""


def send_all(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data
