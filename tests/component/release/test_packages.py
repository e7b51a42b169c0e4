"""The Debian package on a copy of this machine's root: installation, upgrade, refused downgrade, removal."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker import __version__
from tests.component.release.spare_root import SpareRoot
from tests.release.packages.debian import build_deb
from tests.release.packages.rpm import build_rpm
from tests.release.packages.tree import Release, make_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

NEWER = f"{__version__}+newer"
MEMORY = "/dev/shm"  # noqa: S108 - a directory of an unpredictable name is made in it
SYSTEMCTL = """#!/bin/sh
echo "$*" >>/var/log/systemctl.log
"""
"""Records what it is asked for. tests/vm has the real one."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, Path]:
    """The release of this checkout, and the tree of what its packages install."""
    release = Release.of_checkout("/usr/bin/python3")
    made = tmp_path_factory.mktemp("release") / "tree"
    made.mkdir(0o755)
    make_tree(release, made)
    return release, made


@pytest.fixture(scope="module")
def packages(tree: tuple[Release, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package, `berth.deb`, and the same with a later version, `newer.deb`."""
    out = tmp_path_factory.mktemp("packages")
    deb = build_deb(*tree, out).rename(out / "berth.deb")
    contents = out / "contents"
    _say("dpkg-deb", "-R", str(deb), str(contents))
    for file in ("DEBIAN/control", "DEBIAN/preinst"):
        path = contents / file
        path.write_text(path.read_text().replace(__version__, NEWER))
    (contents / "opt/berth/new").touch()
    _say("dpkg-deb", "--root-owner-group", "-Znone", "-b", str(contents), str(out / "newer.deb"))
    return out


def _say(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that is not on the file system of `/`."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def installed(place: Path, packages: Path) -> tuple[SpareRoot, str]:
    """A root with the package, and what its installation printed."""
    root = SpareRoot.make(place / "installed", packages)
    return root, root.ok(f"{INSTALL} /mnt/berth.deb")


@pytest.fixture
def root(place: Path, packages: Path, installed: tuple[SpareRoot, str], request: pytest.FixtureRequest) -> SpareRoot:
    """A root with the package for one test."""
    return SpareRoot.make(place / request.node.name, packages, installed[0])


INSTALL = "dpkg -i --force-unsafe-io"
UPGRADE = f"{INSTALL} /mnt/newer.deb"
VERSION = "dpkg-query -W -f '${Version}' berth"


def test_fresh_installation_has_programs_accounts_and_the_next_steps(
    root: SpareRoot, installed: tuple[SpareRoot, str]
) -> None:
    assert "no service runs yet" in installed[1]
    assert root.ok("berth --version").split()[-1] == __version__
    assert root.ok("berth config check /etc/berth/config.yaml; ls /usr/share/man/man1/berth-start.1.gz")
    accounts = "for user in berth berth-gateway berth-web; do getent passwd $user; done"
    shells = [line.split(":")[0::6] for line in root.ok(accounts).splitlines()]
    assert shells == [[user, "/usr/sbin/nologin"] for user in ("berth", "berth-gateway", "berth-web")]
    assert root.ok("dpkg -V berth") == ""
    assert root.ok("find /opt/berth /etc/berth -not -user root -o -perm /022 -not -type l") == ""
    assert root.ok("grep -h ^ExecStart= /usr/lib/systemd/system/berth.service").count("/opt/berth/bin/") == 2


@pytest.mark.soak
def test_existing_accounts_are_kept(place: Path, packages: Path) -> None:
    root = SpareRoot.make(place / "accounts", packages)
    root.ok("useradd --system --uid 877 --home-dir /srv/berth berth")
    root.ok(f"{INSTALL} /mnt/berth.deb")
    assert root.ok("getent passwd berth").split(":")[2:6:3] == ["877", "/srv/berth"]


def test_upgrade_keeps_configuration_data_and_added_packages(root: SpareRoot) -> None:
    site = "/opt/berth/lib/python3*/site-packages"
    root.ok(f"echo 'login_host_of_the_site: x' >/etc/berth/config.yaml; cd {site}; touch pyslurm_of_the_site.py")
    root.ok("mkdir -p /var/lib/berth; echo registry >/var/lib/berth/registry.db")
    root.ok(UPGRADE)
    assert root.ok(VERSION) == NEWER
    assert root.ok("cat /etc/berth/config.yaml /var/lib/berth/registry.db") == "login_host_of_the_site: x\nregistry\n"
    assert root.ok(f"ls {site}/pyslurm_of_the_site.py /opt/berth/new")


def test_downgrade_is_refused_and_changes_nothing(root: SpareRoot) -> None:
    root.ok(UPGRADE)
    done = root.run(f"{INSTALL} /mnt/berth.deb")
    assert done.returncode != 0
    assert f"version {NEWER} is installed" in done.stdout
    assert "restore the backup of the registry" in done.stdout
    assert root.ok(VERSION) == NEWER
    assert root.ok("dpkg-query -W -f '${Status}' berth; dpkg -V berth; ls /opt/berth/new") == (
        "install ok installed/opt/berth/new\n"
    )


@pytest.mark.parametrize("option", ["-r", pytest.param("-P", marks=pytest.mark.soak)])
def test_removal_keeps_data_and_says_where(root: SpareRoot, option: str) -> None:
    root.ok("mkdir -p /var/lib/berth; echo key >/var/lib/berth/ca_ed25519_key; berth --version")
    said = root.ok(f"dpkg {option} berth")
    assert "/var/lib/berth " in said
    assert "running sessions continue" in said
    assert root.ok("cat /var/lib/berth/ca_ed25519_key; getent passwd berth").startswith("key\nberth:")
    assert (
        root.run("ls -d /opt/berth /usr/bin/berth /usr/lib/systemd/system/berth.service").stdout.count("No such") == 3
    )
    assert (root.run("ls /etc/berth/config.yaml").returncode == 0) is (option == "-r")
    root.ok(f"{INSTALL} /mnt/berth.deb")  # once more


def with_services(script: str, *, enabled: str = "true") -> str:
    """Return a script that runs on a machine with a running systemd, and prints what was asked of it."""
    systemctl = SYSTEMCTL + f'[ "$2" != is-enabled ] || {enabled}\n'
    install = (
        f"mkdir -p /run/systemd/system; cat >/usr/bin/systemctl <<'END'\n{systemctl}END\nchmod 755 /usr/bin/systemctl"
    )
    return f"{install}\n{script}; cat /var/log/systemctl.log"


def asked(output: str) -> list[str]:
    words = ("stop", "start", "reload-or-restart", "disable", "daemon-reload")
    return [line for line in output.splitlines() if line.startswith(words)]


def test_upgrade_starts_the_controller_before_the_gateways(root: SpareRoot) -> None:
    said = root.ok(with_services(f"echo 'mode: site' >/etc/berth/config.yaml; {UPGRADE}"))
    assert asked(said) == [
        "stop berth.service",
        "daemon-reload",
        "start berth.service",
        "reload-or-restart berth-gateway.service",
        "reload-or-restart berth-web.service",
    ]


def test_upgrade_starts_nothing_with_a_configuration_that_has_errors(root: SpareRoot) -> None:
    said = root.ok(with_services(f"echo 'no_such_setting: 1' >/etc/berth/config.yaml; {UPGRADE}"))
    assert asked(said) == ["stop berth.service", "daemon-reload"]
    assert "no_such_setting" in said
    assert "correct the configuration" in said


@pytest.mark.soak
def test_upgrade_starts_nothing_that_the_site_has_not_enabled(root: SpareRoot) -> None:
    assert asked(root.ok(with_services(UPGRADE, enabled="false"))) == [
        "stop berth.service",
        "daemon-reload",
    ]


def test_removal_stops_the_services(root: SpareRoot) -> None:
    said = root.ok(with_services("dpkg -r berth"))
    assert asked(said) == ["disable --now berth-web berth-gateway berth-gateway-api berth", "daemon-reload"]


@pytest.mark.soak
def test_rpm_has_the_same_files_and_names_what_it_needs(tree: tuple[Release, Path], tmp_path: Path) -> None:
    """Its installation is not tested: no distribution with rpm can be reached."""
    release, made = tree
    rpm = str(build_rpm(release, made, tmp_path))
    listed = set(_say("rpm", "-qp", "--list", rpm).splitlines())
    files = {f"/{path.relative_to(made)}" for path in made.rglob("*") if path.is_symlink() or not path.is_dir()}
    assert files <= listed
    assert {release.interpreter, "openssh-clients"} <= {*_say("rpm", "-qp", "--requires", rpm).splitlines()}
    assert _say("rpm", "-qp", "--configfiles", rpm) == "/etc/berth/config.yaml\n"
    scripts = _say("rpm", "-qp", "--scripts", rpm)
    assert all(step in scripts for step in ("before-upgrade", "upgraded", "before-removal", "kept", __version__))
    assert "@" not in scripts
    assert json.dumps(str(made.parent)).strip('"') not in scripts
