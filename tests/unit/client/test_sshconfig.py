"""The generated ssh configuration, as OpenSSH itself understands it."""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.client import ssh_config
from broker.client.ssh_config import BEGIN, END, Route
from broker.errors import InvalidInputError
from broker.schema.site import SiteView
from tests.deadlines import DEADLINE_S
from tests.fakes import openssh

if TYPE_CHECKING:
    from pathlib import Path

CA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5o0mKIvqRkL7qs1Y8k2NVLI4sYrM0QZQ0dKz8UgQ0b the CA"


def site(**changes: object) -> SiteView:
    values = {
        "user": "alice",
        "domain": "berth",
        "gateway_host": "gw.example.org",
        "gateway_port": 2222,
        "login_host": "login.example.org",
        "ca_public_keys": [CA],
        "mode": "site",
    }
    return SiteView.model_validate(values | changes)


def understood(config: Path, host: str, *options: str) -> dict[str, str]:
    """Return the settings that ssh(1) would use, by name, as `ssh -G` prints them."""
    openssh.require()
    done = subprocess.run(
        ["ssh", "-G", "-T", "-F", config, *options, host], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


@pytest.mark.parametrize("way", Route)
@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("dev.berth", "alice.dev.berth"),
        ("alice.dev.berth", "alice.dev.berth"),
        ("bob.dev.berth", "bob.dev.berth"),
        ("b.smith.dev.berth", "b.smith.dev.berth"),
    ],
)
def test_a_session_is_verified_under_its_canonical_name(tmp_path: Path, way: Route, asked: str, meant: str) -> None:
    config = ssh_config.write_ssh_config(tmp_path, site(), way)
    settings = understood(config, asked)
    assert settings["hostname"] == meant
    assert settings["user"] == ("alice" if meant.startswith("alice.") else "berth-guest")
    assert settings["port"] == "22"
    assert settings["stricthostkeychecking"] == "true"
    assert settings["userknownhostsfile"] == str(tmp_path / "known_hosts")
    assert settings["forwardagent"] == "no"
    assert settings["updatehostkeys"] == "false"


@pytest.mark.parametrize("way", Route)
@pytest.mark.parametrize("name", ["x`touch {}`.berth", "x$(touch {}).berth", "x;touch {};.berth", "'x;touch {};.berth"])
def test_a_host_name_with_shell_characters_runs_nothing(tmp_path: Path, way: Route, name: str) -> None:
    """ssh itself refuses it, as versions before 9.6 do only with a distribution's fix."""
    openssh.require()
    config = ssh_config.write_ssh_config(tmp_path, site(login_host="127.0.0.1", gateway_host="127.0.0.1"), way)
    sign = tmp_path / "sign"
    done = subprocess.run(
        ["ssh", "-F", config, "-o", "BatchMode=yes", name.format(sign), "true"],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 255
    assert "hostname contains invalid characters" in done.stderr
    assert not sign.exists()


def test_through_the_gateway(tmp_path: Path) -> None:
    config = ssh_config.write_ssh_config(tmp_path, site(), Route.GATEWAY)
    assert understood(config, "dev.berth")["proxyjump"] == "alice+%h@berth-gateway"
    jump = understood(config, "berth-gateway")
    assert jump["hostname"] == "gw.example.org"
    assert jump["port"] == "2222"
    assert jump["hostkeyalias"] == "_gateway.berth"
    assert jump["stricthostkeychecking"] == "true"
    assert "proxyjump" not in jump


def test_through_the_login_node_and_on_it(tmp_path: Path) -> None:
    config = ssh_config.write_ssh_config(tmp_path, site(gateway_host=""), Route.LOGIN)
    command = understood(config, "dev.berth")["proxycommand"]
    assert command == "ssh -a -x -T -l alice login.example.org berth connect %h"
    config = ssh_config.write_ssh_config(tmp_path, site(), Route.LOCAL, berth="/opt/berth/bin/berth")
    assert understood(config, "dev.berth")["proxycommand"] == "/opt/berth/bin/berth connect %h"
    assert "gateway" not in config.read_text()


def test_other_hosts_are_left_alone(tmp_path: Path) -> None:
    config = ssh_config.write_ssh_config(tmp_path, site(), Route.GATEWAY)
    (tmp_path / "empty").touch()
    for host in ("example.org", "berth", "berth.example.org", "gw.example.org"):
        assert understood(config, host) == understood(tmp_path / "empty", host)


def test_the_users_own_settings_cannot_weaken_it(tmp_path: Path) -> None:
    config = ssh_config.write_ssh_config(tmp_path, site(), Route.GATEWAY)
    theirs = tmp_path / "theirs"
    theirs.write_text(
        f"Include {config}\nHost *\n  StrictHostKeyChecking no\n  ForwardAgent yes\n  User bob\n  Port 2200\n"
        "  ProxyCommand nc %h %p\n  CanonicalizeHostname always\n  IdentityFile ~/.ssh/mine\n"
    )
    settings = understood(theirs, "dev.berth")
    assert settings["stricthostkeychecking"] == "true"
    assert settings["forwardagent"] == "no"
    assert settings["user"] == "alice"
    assert settings["port"] == "22"
    assert settings["proxyjump"] == "alice+%h@berth-gateway"
    assert settings["identityfile"].endswith("/.ssh/mine")  # keys, multiplexing and the like stay the user's choice


def test_a_shared_connections_socket_has_a_short_name(tmp_path: Path) -> None:
    config = ssh_config.write_ssh_config(tmp_path, site(), Route.GATEWAY)
    theirs = tmp_path / "theirs"
    theirs.write_text(f"Include {config}\nHost *\n  ControlMaster auto\n  ControlPath ~/.ssh/cm-%r@%h:%p\n")
    name = "a" * 39
    settings = understood(theirs, f"{name}.berth")
    assert settings["controlmaster"] == "auto"
    path = settings["controlpath"]
    assert name not in path
    assert len(path.rpartition("/.ssh/")[2]) <= 40  # a socket's path has 108 bytes in all: unix(7)


def test_one_key_and_no_other_where_that_is_asked_for(tmp_path: Path) -> None:
    key = tmp_path / "a key with 100%"
    config = ssh_config.write_ssh_config(tmp_path / "a directory with 100%", site(), Route.GATEWAY, identity_file=key)
    for host in ("dev.berth", "berth-gateway"):
        settings = understood(config, host)
        assert settings["identityfile"].replace("%%", "%") == str(key)
        assert settings["identitiesonly"] == "yes"


def test_a_path_that_ssh_cannot_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="quotation mark"):
        ssh_config.write_ssh_config(tmp_path / 'a "quoted" directory', site(), Route.GATEWAY)


def test_known_hosts_believes_the_authority_about_sessions_only(tmp_path: Path) -> None:
    config = ssh_config.write_ssh_config(tmp_path, site(), Route.GATEWAY)
    hosts = config.with_name("known_hosts")
    assert hosts.read_text().splitlines()[-1] == "@cert-authority *.berth " + " ".join(CA.split()[:2])
    for host, found in [("alice.dev.berth", 0), ("_gateway.berth", 0), ("example.org", 1), ("berth", 1)]:
        done = subprocess.run(["ssh-keygen", "-F", host, "-f", hosts], capture_output=True, check=False)
        assert done.returncode == found, host


# Installing


def test_installing_into_nothing(tmp_path: Path) -> None:
    assert ssh_config.install_ssh_config(tmp_path, site(), Route.GATEWAY)
    config = tmp_path / ".ssh" / "config"
    assert config.stat().st_mode & 0o777 == 0o600
    assert config.parent.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / ".config" / "berth" / "ssh_config").stat().st_mode & 0o777 == 0o600
    assert understood(config, "dev.berth")["hostname"] == "alice.dev.berth"


def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / ".ssh" / "config"
    config.parent.mkdir()
    config.write_text("Host x\n  User y")
    assert ssh_config.install_ssh_config(tmp_path, site(), Route.GATEWAY)
    before = config.stat()
    text = config.read_bytes()
    assert text.endswith(b"Host x\n  User y")
    assert not ssh_config.install_ssh_config(tmp_path, site(), Route.GATEWAY)
    assert config.stat() == before
    assert understood(config, "x")["user"] == "y"


def test_a_changed_site_reaches_an_installed_configuration(tmp_path: Path) -> None:
    ssh_config.install_ssh_config(tmp_path, site(), Route.GATEWAY)
    assert not ssh_config.install_ssh_config(tmp_path, site(gateway_port=2200), Route.GATEWAY)
    assert understood(tmp_path / ".ssh" / "config", "berth-gateway")["port"] == "2200"


def test_mode_and_link_are_kept(tmp_path: Path) -> None:
    dotfiles = tmp_path / "dotfiles"
    dotfiles.mkdir()
    real = dotfiles / "sshconfig"
    real.write_text("Host x\n")
    real.chmod(0o644)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").symlink_to("../dotfiles/sshconfig")
    ssh_config.install_ssh_config(tmp_path, site(), Route.LOGIN)
    assert (tmp_path / ".ssh" / "config").is_symlink()
    assert real.read_bytes().startswith(BEGIN)
    assert real.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in dotfiles.iterdir()] == ["sshconfig"]


def test_a_block_further_down_is_moved_to_the_top(tmp_path: Path) -> None:
    config = tmp_path / ".ssh" / "config"
    config.parent.mkdir()
    config.write_text("Host x\n  User y\n# >>> berth >>>\nInclude old\n# <<< berth <<<\nHost z\n")
    ssh_config.install_ssh_config(tmp_path, site(), Route.GATEWAY)
    assert config.read_text().endswith("# <<< berth <<<\nHost x\n  User y\nHost z\n")
    assert config.read_text().count("Include") == 1


@pytest.mark.parametrize("damaged", [BEGIN, END, END + b"\n" + BEGIN, BEGIN + b"\n" + BEGIN + b"\n" + END])
def test_a_damaged_block_is_not_guessed_at(tmp_path: Path, damaged: bytes) -> None:
    config = tmp_path / ".ssh" / "config"
    config.parent.mkdir()
    content = b"Host x\n" + damaged + b"\nHost y\n"
    config.write_bytes(content)
    with pytest.raises(InvalidInputError, match="without its counterpart") as caught:
        ssh_config.install_ssh_config(tmp_path, site(), Route.GATEWAY)
    assert "remove the lines" in caught.value.hint
    assert config.read_bytes() == content


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / ".ssh" / "config"
    config.parent.mkdir()
    config.write_text("Host x\n")
    ssh_config.write_ssh_config(tmp_path / ".config" / "berth", site(), Route.GATEWAY)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ssh_config.install_ssh_config(tmp_path, site(), Route.GATEWAY)
    assert config.read_text() == "Host x\n"
    assert [each.name for each in config.parent.iterdir()] == ["config"]


LINES = st.lists(
    st.one_of(st.binary(max_size=20), st.sampled_from([BEGIN, END, BEGIN + b"\r", b"Include x", b"Host *"])),
    max_size=12,
)


@given(LINES.map(b"\n".join))
def test_other_peoples_bytes_are_never_touched(content: bytes) -> None:
    try:
        bare = ssh_config.without_block(content)
    except ValueError:
        with pytest.raises(ValueError, match="counterpart"):
            ssh_config.with_block(content, "Include x")
        return
    once = ssh_config.with_block(content, "Include x")
    assert ssh_config.without_block(once) == bare
    assert ssh_config.with_block(once, "Include x") == once
    if BEGIN not in content:
        assert bare == content
    assert once.endswith(bare)


def test_below_the_real_home_paths_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.getpwuid(os.getuid())
    mine = pwd.struct_passwd((*entry[:5], str(tmp_path), entry[6]))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: mine)
    monkeypatch.setenv("HOME", str(tmp_path))
    ssh_config.install_ssh_config(tmp_path, site(), Route.GATEWAY)
    assert b'Include "~/.config/berth/ssh_config"' in (tmp_path / ".ssh" / "config").read_bytes()
    assert '"~/.config/berth/known_hosts"' in (tmp_path / ".config" / "berth" / "ssh_config").read_text()
    monkeypatch.setenv("HOME", "/elsewhere")
    ssh_config.install_ssh_config(tmp_path, site(), Route.GATEWAY)
    assert f'Include "{tmp_path}/.config'.encode() in (tmp_path / ".ssh" / "config").read_bytes()
