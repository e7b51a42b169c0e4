"""The units are what an operator copies: their commands must be ours, and agree with the configuration's defaults."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from broker.cli.commands.profile_rebuild import profile_rebuild
from broker.config.settings import Config, GatewayConfig, SlurmSettings
from broker.config.web_settings import WebSettings
from broker.gateway.settings import GatewaySettings
from broker.launcher.child import CHILD_BYTES
from broker.launcher.server import _arguments

UNITS = Path(__file__).parents[3] / "broker" / "systemd"


def unit(name: str) -> dict[str, list[str]]:
    """Every setting of a unit with its values, whatever the section."""
    found = defaultdict(list)
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


@pytest.fixture
def berth() -> dict[str, list[str]]:
    return unit("berth.service")


@pytest.fixture
def gateway() -> dict[str, list[str]]:
    return unit("berth-gateway.service")


def test_the_launcher_understands_its_command(berth: dict[str, list[str]]) -> None:
    program, *words = shlex.split(berth["ExecStart"][0])
    options = _arguments(words)
    assert program == "/opt/berth/bin/berth-launcher"
    assert (options.account, options.storage) == ("berth", "/shared/berth/{user}")
    assert options.controller == ["/opt/berth/bin/berth", "controller"]


def test_the_directories_are_those_of_the_configuration(
    berth: dict[str, list[str]], gateway: dict[str, list[str]]
) -> None:
    made = {shlex.split(line)[-1] for line in berth["ExecStartPre"]}
    assert made == {str(Config().runtime_dir), str(Config().state_dir)}
    assert gateway["User"] == [GatewayConfig().account]
    assert str(GatewayConfig().host_key.parent) == f"/var/lib/{gateway['StateDirectory'][0]}"
    assert gateway["StateDirectoryMode"] == ["0700"]


def test_the_launcher_keeps_what_it_needs_and_no_more(berth: dict[str, list[str]]) -> None:
    assert berth["CapabilityBoundingSet"] == ["CAP_SETUID CAP_SETGID CAP_KILL"]
    assert "User" not in berth  # it starts as root and gives that up request by request
    assert "ProtectHome" not in berth  # it reads users' authorized_keys, as them
    # Its children mount overlays to try them, in namespaces of the user's, and copy trees with all their bits.
    assert berth["RestrictNamespaces"] == ["user mnt"]
    assert "@mount" in berth["SystemCallFilter"][0].split()
    assert berth["DeviceAllow"] == ["/dev/fuse rw"]
    assert "RestrictSUIDSGID" not in berth


def test_one_child_that_runs_out_of_memory_ends_alone(berth: dict[str, list[str]]) -> None:
    assert berth["OOMPolicy"] == ["continue"]
    assert int(berth["MemoryMax"][0].removesuffix("G")) * 2**30 >= 4 * CHILD_BYTES


def test_busy_login_node_has_time_to_start_the_services(
    berth: dict[str, list[str]], gateway: dict[str, list[str]]
) -> None:
    """systemd's own limit is 90 s, and it ends what takes longer."""
    assert berth["Type"] == gateway["Type"] == ["notify"]
    assert berth["TimeoutStartSec"] == gateway["TimeoutStartSec"] == ["300"]


def test_a_stop_leaves_time_for_what_is_under_way(berth: dict[str, list[str]], gateway: dict[str, list[str]]) -> None:
    assert berth["KillMode"] == ["mixed"]
    assert gateway["KillMode"] == ["process"], "if the master crashes, its workers finish what stands"
    assert float(berth["TimeoutStopSec"][0]) > SlurmSettings().submit_timeout
    assert float(gateway["TimeoutStopSec"][0]) > _drain_seconds()


def test_the_way_to_another_nodes_controller_is_the_accounts_alone(gateway: dict[str, list[str]]) -> None:
    api = unit("berth-gateway-api.service")
    assert api["User"] == gateway["User"]
    assert api["StateDirectory"] == gateway["StateDirectory"]
    assert api["RuntimeDirectoryMode"] == ["0700"]
    here, there = api["ExecStart"][0].partition(" -L ")[2].split()[0].split(":")
    assert here == f"/run/{api['RuntimeDirectory'][0]}/{Config().api_socket.name}"
    assert there == str(Config().api_socket)


def test_web_gateway_has_its_account_and_keeps_its_grants() -> None:
    web = unit("berth-web.service")
    assert web["User"] == [WebSettings().account]
    assert f"/run/{web['RuntimeDirectory'][0]}" == str(WebSettings().runtime_dir)
    assert web["RuntimeDirectoryPreserve"] == ["yes"]
    assert web["RuntimeDirectoryMode"] == ["0711"], "the controller reaches the control socket"
    assert web["KillMode"] == ["mixed"], "nothing serves without the process that revokes"


def _drain_seconds() -> float:
    return GatewaySettings(
        listen_host="", listen_port=0, api_socket=Path(), host_key=Path(), domain="berth"
    ).drain_seconds


@pytest.mark.parametrize("name", ["berth.service", "berth-gateway.service", "berth-web.service"])
def test_started_is_what_the_service_itself_says(name: str) -> None:
    settings = unit(name)
    assert settings["Type"] == ["notify"]
    assert settings["NotifyAccess"] == ["main"], "children of the launcher run as users"


def test_the_gateway_does_not_wait_for_the_controller(gateway: dict[str, list[str]]) -> None:
    """With Type=notify it would, at boot: a service that is ordered after another one starts when that has started."""
    assert "berth.service" not in " ".join(gateway["After"] + gateway["Wants"] + gateway["Requires"])


@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.glob("*.service")))
def test_lines_without_a_priority_are_seen_among_the_warnings(name: str) -> None:
    assert unit(name)["SyslogLevel"] == ["warning"]


@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.glob("*.service")))
def test_systemd_has_nothing_to_say_of_a_unit(name: str, tmp_path: Path) -> None:
    """But that our programs are not installed where the tests run."""
    text = (UNITS / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(re.sub(r"(?m)^(Exec\w+=\S?)/opt/berth/bin/\S+", r"\1/bin/true", text))
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


MOST_EXPOSURE = {
    "berth.service": 3.5,
    "berth-gateway.service": 1.5,
    "berth-gateway-api.service": 1.5,
    "berth-web.service": 1.7,
}
"""The highest exposure that `systemd-analyze security` may find in each unit."""


@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.glob("*.service")))
def test_exposure_of_a_unit_does_not_grow(name: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = re.search(rf"exposure level for {re.escape(name)}: ([0-9.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) <= MOST_EXPOSURE[name]


@pytest.mark.parametrize("kind", ["service", "timer"])
def test_systemd_has_nothing_to_say_of_the_rebuild_units(kind: str, tmp_path: Path) -> None:
    for path in (UNITS / "user").iterdir():
        text = path.read_text(encoding="utf-8").replace("/opt/berth/bin/berth", "/bin/true")
        (tmp_path / path.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / f"berth-profile-rebuild.{kind}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_rebuild_unit_runs_a_command_that_there_is() -> None:
    settings = unit("user/berth-profile-rebuild.service")
    program, *words = shlex.split(settings["ExecStart"][0])
    assert program == "/opt/berth/bin/berth"
    group, command = words[:2]
    assert group == "profile"
    profile_rebuild.make_context(command, words[2:], resilient_parsing=False)
    assert settings["KillSignal"] == ["SIGINT"], "the session of an interrupted test is deleted"
