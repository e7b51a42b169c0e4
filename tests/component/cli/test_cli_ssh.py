"""`berth ssh`, `exec` and `ssh-config`: with a real sshd that has a host certificate, and the real ssh and `ssh -G`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker import errors
from broker.cli import login_key
from broker.client import ssh_config
from broker.client.client import Client
from broker.schema.sessions import SessionState
from tests.fakes import openssh
from tests.fakes.command_line import run
from tests.fakes.controller import ready, view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fakes.controller import ScriptedController

BERTH = (sys.executable, "-m", "broker.cli")


@contextlib.asynccontextmanager
async def session(controller: ScriptedController, tmp_path: Path, *, principal: str = "") -> AsyncIterator[None]:
    """A real sshd in place of the session `dev`, with a host certificate of the site's CA for `principal`."""
    me = openssh.me()
    authority, host = openssh.make_key(tmp_path / "ca"), openssh.make_key(tmp_path / "host")
    names = principal or f"{me}.dev.berth"
    await openssh.run(["ssh-keygen", "-q", "-s", authority, "-I", "dev", "-h", "-n", names, f"{host}.pub"])
    controller.site = controller.site.model_copy(update={"user": me, "ca_public_keys": [openssh.public(authority)]})
    key = await asyncio.to_thread(login_key.ensure_certificate, Client(controller.socket), "keys")
    async with openssh.sshd(tmp_path, openssh.public(key)) as port:
        controller.resolved = controller.resolved.model_copy(update={"owner": me, "port": port})
        yield


def test_exec_passes_arguments_bytes_and_exit_codes(controller: ScriptedController, tmp_path: Path) -> None:
    every_byte = bytes(range(256)) * 64

    async def scene() -> None:
        async with session(controller, tmp_path):
            copied = await openssh.run([*BERTH, "exec", "dev", "--", "cat"], every_byte)
            assert (copied.code, copied.out, copied.err) == (0, every_byte, "")
            words = ["", "two words", "$HOME", "a'b\"c", "*", "-n", ";", "new\nline", "ü"]
            argv = ["exec", "dev", "--", sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *words]
            echoed = await openssh.run([*BERTH, *argv])
            assert echoed.out.decode().strip() == ascii(words)
            assert (await openssh.run([*BERTH, "exec", "dev", "sh", "-c", "exit 37"])).code == 37
            terminal = await openssh.run([*BERTH, "exec", "-t", "dev", "--", "tty"])
            assert terminal.code != 0  # without a terminal of our own, ssh gives none for a single -t
            assert (await openssh.run([*BERTH, "ssh", "dev", "-tt", "tty"])).out.startswith(b"/dev/pts/")

    asyncio.run(scene())
    assert [path for _, path, _ in controller.asked].count("/v1/keys") >= 2


def test_exec_names_an_out_of_memory_end(controller: ScriptedController, tmp_path: Path) -> None:
    """A kill for memory ends the command by a signal, which is ssh's 255; the session ends some seconds later."""
    controller.sessions["dev"] = ready()
    ended = view(state=SessionState.FAILED, outcome="OUT_OF_MEMORY", options=["--mem=1G"])

    async def scene() -> None:
        async with session(controller, tmp_path):
            controller.script["dev"] += [ready(), ended]
            done = await openssh.run([*BERTH, "exec", "dev", "--", "sh", "-c", "echo begun; kill -KILL $$"])
            assert (done.code, done.out) == (255, b"begun\n")
            assert done.err == (
                "berth: dev ran out of memory, and its job ended: its limit was --mem=1G\n"
                "  hint: `berth start dev --mem=2048M` doubles its memory; all files and other options are kept; "
                "`berth explain dev` has more\n"
            )

    asyncio.run(scene())


def test_command_that_ends_with_255_needs_no_explanation(controller: ScriptedController, tmp_path: Path) -> None:
    controller.sessions["dev"] = ready()

    async def scene() -> None:
        async with session(controller, tmp_path):
            done = await openssh.run([*BERTH, "exec", "dev", "--", "sh", "-c", "exit 255"])
            assert (done.code, done.out, done.err) == (255, b"", "")

    asyncio.run(scene())


def test_a_host_that_is_not_this_session_is_refused(controller: ScriptedController, tmp_path: Path) -> None:
    """Even with a certificate of the right authority: another user's session may not pass for this one."""

    async def scene() -> None:
        async with session(controller, tmp_path, principal="mallory.dev.berth"):
            refused = await openssh.run([*BERTH, "exec", "dev", "--", "cat"], b"secret")
            assert refused.code == 255
            assert refused.out == b""

    asyncio.run(scene())


def test_what_the_controller_refuses_is_said_before_ssh_runs(controller: ScriptedController) -> None:
    controller.failures["POST /v1/resolve"] = errors.ConflictError("dev is stopped; `berth start dev` starts it")
    for words in (("ssh", "dev"), ("exec", "dev", "--", "true")):
        result = run(*words)
        assert result.exit_code == 5
        assert result.stderr == "berth: dev is stopped; `berth start dev` starts it\n"


def test_connect_asks_and_relays_without_loading_the_whole_configuration(
    controller: ScriptedController, tmp_path: Path
) -> None:
    """It runs once a connection: what checks settings and answers takes longer to load than all else that it does."""

    async def scene() -> None:
        async with session(controller, tmp_path):
            proxy = f"ProxyCommand={sys.executable} -X importtime -m broker.cli connect %h 2>{tmp_path / 'loaded'}"
            config = ssh_config.write_ssh_config(
                tmp_path / "ssh", controller.site, ssh_config.Route.LOCAL, identity_file=key()
            )
            copied = await openssh.run(["ssh", "-F", config, "-o", proxy, "dev.berth", "cat"], b"to and fro")
            assert (copied.code, copied.out, copied.err) == (0, b"to and fro", "")

    def key() -> Path:
        return login_key.ensure_certificate(Client(controller.socket), "keys")

    asyncio.run(scene())
    [asked] = [body for method, path, body in controller.asked if path == "/v1/resolve"]
    assert asked == {"user": openssh.me(), "target": f"{openssh.me()}.dev.berth", "patient": True, "shown": ""}
    loaded = {line.rpartition("|")[2].strip() for line in (tmp_path / "loaded").read_text().splitlines()}
    assert "broker.client.http" in loaded
    assert not {"pydantic", "broker.config.settings", "broker.schema.sessions", "asyncio"} & loaded


@pytest.mark.parametrize("words", [("exec", "dev"), ("exec", "dev", "--"), ("exec", "dev", "-t", "--", "top")])
def test_exec_without_a_command(controller: ScriptedController, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2
    assert controller.asked == []


def test_the_key_is_made_once_and_added_again_when_it_was_lost(controller: ScriptedController) -> None:
    client = Client(controller.socket)
    key = login_key.ensure_certificate(client, "keys")
    assert key.stat().st_mode & 0o777 == 0o600
    made = key.read_bytes()
    [view] = controller.keys.values()
    printed = subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True).stdout.split()
    assert (view.fingerprint, view.comment) == (printed[1], f"berth@{os.uname().nodename}")
    controller.keys.clear()
    assert login_key.ensure_certificate(client, "keys").read_bytes() == made
    assert list(controller.keys) == [view.fingerprint]


def settings(config: Path, host: str) -> dict[str, str]:
    """Return the settings for the host, as the real ssh reads the file."""
    done = subprocess.run(["ssh", "-G", "-F", config, host], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_ssh_config_output_for_every_way(controller: ScriptedController, tmp_path: Path) -> None:
    for words, key, value in (
        ((), "proxyjump", "berth-gateway"),
        (("--via", "login", "--login", "host.example"), "proxycommand", "host.example berth connect %h"),
        (("--via", "local"), "proxycommand", "-m broker.cli connect %h"),
    ):
        directory = tmp_path / f"out{len(words)}"
        result = run("ssh-config", "--output", str(directory), *words)
        assert result.exit_code == 0, result.output
        seen = settings(directory / "ssh_config", "dev.berth")
        assert seen["hostname"] == "alice.dev.berth"
        assert value in seen[key]
    assert controller.keys  # the local way brings its key


def test_ssh_config_as_seen_from_elsewhere(controller: ScriptedController, tmp_path: Path) -> None:
    run("ssh-config", "--output", str(tmp_path / "o"), "--gateway", "127.0.0.1:4022", "--identity", "/keys/mine")
    jump = settings(tmp_path / "o" / "ssh_config", "berth-gateway")
    assert (jump["hostname"], jump["port"], jump["identityfile"]) == ("127.0.0.1", "4022", "/keys/mine")
    assert run("ssh-config", "--gateway", "host:port").exit_code == 2
    assert run("ssh-config", "--gateway", "host:99999").exit_code == 2
    assert controller.asked


def test_ssh_config_install_is_idempotent(controller: ScriptedController, tmp_path: Path) -> None:
    mine = tmp_path / ".ssh" / "config"
    mine.parent.mkdir()
    mine.write_text("Host other\n  User me\n")
    assert "now works" in run("ssh-config", "--install").stderr
    first = mine.read_bytes()
    assert first.endswith(b"Host other\n  User me\n")
    assert "already" in run("ssh-config", "--install").stderr
    assert mine.read_bytes() == first
    assert run("ssh-config", "--install", "--known-hosts").exit_code == 2
    key = settings(tmp_path / ".config" / "berth" / "ssh_config", "dev.berth")["identityfile"]
    [known] = controller.keys.values()
    assert login_key.fingerprint(Path(f"{key}.pub").read_text()) == known.fingerprint


def test_ssh_config_printed(controller: ScriptedController) -> None:
    both = json.loads(run("ssh-config", "--json").stdout)
    assert both["ssh_config"] == run("ssh-config").stdout
    assert both["known_hosts"] == run("ssh-config", "--known-hosts").stdout
    assert f"@cert-authority *.berth {controller.site.ca_public_keys[0].rsplit(' ', 2)[0]}" in both["known_hosts"]


def test_a_site_without_a_gateway(controller: ScriptedController) -> None:
    controller.site = controller.site.model_copy(update={"gateway_host": "", "mode": "personal"})
    assert run("ssh-config", "--via", "gateway").exit_code == 2
    assert "login.example berth connect %h" in run("ssh-config").stdout
