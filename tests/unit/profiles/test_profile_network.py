from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from profiles.build import network

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine whose environment says nothing about networks."""
    for name in (*network.BUNDLES, *(each for proxy in network.PROXIES for each in (proxy, proxy.upper()))):
        monkeypatch.delenv(name, raising=False)
    for name in [each for each in os.environ if each.lower().startswith("npm_config_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PIP_CONFIG_FILE", raising=False)
    monkeypatch.delenv(network.MIRROR, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return monkeypatch


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    (tmp_path / "kit").mkdir()
    return tmp_path / "kit"


def test_proxies_and_pip_settings_go_in_and_nothing_else(machine: pytest.MonkeyPatch, kit: Path) -> None:
    machine.setenv("https_proxy", "http://proxy:3128")
    machine.setenv("PIP_INDEX_URL", "https://index/simple")
    machine.setenv("SECRET_TOKEN", "x")
    inside = network.inside_environment(kit)
    assert (inside["https_proxy"], inside["PIP_INDEX_URL"]) == ("http://proxy:3128", "https://index/simple")
    assert network.outside_environment()["https_proxy"] == "http://proxy:3128"
    assert "SECRET_TOKEN" not in inside | network.outside_environment()


def test_the_certificate_bundle_of_the_environment_is_used_by_everything(
    machine: pytest.MonkeyPatch, kit: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "site.crt"
    bundle.write_text("certificates")
    machine.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    inside = network.inside_environment(kit)
    assert (kit / "certificates.crt").read_text() == "certificates"
    assert {inside[name] for name in network.BUNDLES} == {"/run/berth-build/certificates.crt"}
    assert 'Acquire::https::CaInfo "/run/berth-build/certificates.crt";' in (kit / "apt.conf").read_text()
    assert f'"{bundle}"' in network.apt_settings(network.certificates())


def test_what_may_not_be_looked_at_is_passed_over(machine: pytest.MonkeyPatch, kit: Path) -> None:
    """Nothing is closed to root, but a name that is too long is."""
    for name in (*network.BUNDLES, "PIP_CONFIG_FILE"):
        machine.setenv(name, f"/{'x' * 300}/file")
    network.inside_environment(kit)
    assert not (kit / "pip-user/pip/pip.conf").exists()


def test_a_bundle_that_is_not_there_is_passed_over(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    assert network.certificates() != tmp_path / "none"


@pytest.mark.usefixtures("machine")
def test_pips_own_files_are_found_where_the_environment_points(kit: Path, tmp_path: Path) -> None:
    own = tmp_path / "home/.config/pip/pip.conf"
    own.parent.mkdir(parents=True)
    own.write_text("[global]\nindex-url = https://mirror/simple\n")
    folders = network.inside_environment(kit)["XDG_CONFIG_DIRS"].split(":")
    last = kit / folders[-1].removeprefix(f"{network.KIT}/") / "pip/pip.conf"
    assert "https://mirror/simple" in last.read_text()


def test_npm_has_the_machines_settings_and_no_place_on_it(
    machine: pytest.MonkeyPatch, kit: Path, tmp_path: Path
) -> None:
    own = tmp_path / "home/.npmrc"
    own.parent.mkdir(parents=True)
    own.write_text("registry=https://mirror/npm\n")
    bundle = tmp_path / "site.crt"
    bundle.write_text("certificates")
    for name, value in {
        "SSL_CERT_FILE": str(bundle),
        "npm_config_registry": "https://other/npm",
        "npm_config_cache": "/root/cache",
        "NPM_CONFIG_CAFILE": "/root/ca",
    }.items():
        machine.setenv(name, value)
    inside = network.inside_environment(kit)
    found = {name: value for name, value in inside.items() if name.lower().startswith("npm_config_")}
    assert found == {
        "NPM_CONFIG_USERCONFIG": "/run/berth-build/npmrc",
        "NPM_CONFIG_CAFILE": "/run/berth-build/certificates.crt",
        "npm_config_registry": "https://other/npm",
    }
    assert (kit / "npmrc").read_text() == "registry=https://mirror/npm\n"


def test_npms_own_file_is_the_one_that_the_environment_names(
    machine: pytest.MonkeyPatch, kit: Path, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.npmrc").write_text("registry=https://mirror/npm\n")
    machine.setenv("npm_config_userconfig", str(tmp_path / "none"))
    network.inside_environment(kit)
    assert not (kit / "npmrc").exists()


def test_the_mirror_is_the_machines_to_name(machine: pytest.MonkeyPatch) -> None:
    assert network.mirrors() == []
    machine.setenv(network.MIRROR, "http://mirror/debian")
    assert network.mirrors() == ["http://mirror/debian"]
