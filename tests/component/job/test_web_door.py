"""The door of a session for berth-web, with real sshd: what its certificates open, and all that they do not."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from profiles.recipe.service import Service, format_services
from tests.component.job.session_script import bash
from tests.deadlines import DEADLINE_S
from tests.fakes.openssh import SSHD, free_port, make_key, public
from tests.fakes.session_container import OWNER, SERVE, WEB_LOGIN, SessionContainer
from tests.job_scripts import SESSION
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

OTHER_SESSION = "0" * 26
"""The id of another session."""
SOCKETS = "/run/berth/web"
PAGE = Service(name="page", command=f"env >~/environment; {SERVE}", socket="page.sock")
LOUD = Service(name="loud", command="head -c 3000000 /dev/zero | tr '\\0' x; exit 3", socket="loud.sock")
MINE = Service(name="mine", command=SERVE, socket="own.sock")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionContainer]:
    """A session whose profile declares `page`, and where the owner also runs a server that is no service."""
    made = SessionContainer(tmp_path_factory.mktemp("session"))
    made.prepare(PAGE, LOUD)
    with made.running():
        serve = f"BERTH_SOCKET={SOCKETS}/private.sock setsid sh -c {shlex.quote(SERVE)} >~/private.log 2>&1 &"
        assert made.run(made.base / "owner", serve, login=OWNER).returncode == 0
        wait_for((made.base / "run/berth/web/private.sock").exists, what="the server that is no service")
        yield made


@pytest.fixture
def key(session: SessionContainer) -> Path:
    """A key with a certificate for this session."""
    return session.certificate(f"web:{session.id}", options=["source-address=127.0.0.1/32"])


@contextlib.contextmanager
def opened(
    session: SessionContainer,
    key: Path,
    *command: str,
    login: str = WEB_LOGIN,
    stdin: str = "",
    options: Sequence[str] = (),
) -> Iterator[list[str]]:
    """Keep a service open; gives the report up to the line `state ready`."""
    argv = [*session.ssh(key, *options, login=login), *command]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(stdin)
        process.stdin.flush()
        lines: list[str] = []
        while not lines or lines[-1] != "state ready":
            line = process.stdout.readline()
            assert line, lines
            lines.append(line.rstrip("\n"))
        yield lines
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0


@contextlib.contextmanager
def master(session: SessionContainer, key: Path) -> Iterator[list[str]]:
    """Keep a connection open; gives the options with which ssh uses it."""
    control = session.base / "control"
    process = subprocess.Popen(session.ssh(key, "-N", "-M", "-S", str(control)), stdin=subprocess.DEVNULL)
    try:
        wait_for(control.exists, what="the connection")
        yield ["-S", str(control)]
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


class TestServices:
    def test_certificate_starts_a_service_and_opens_its_socket(self, session: SessionContainer, key: Path) -> None:
        with opened(session, key, "start", "page") as report:
            assert report[0] == "socket page.sock"
            assert "reconnect" not in report
            assert session.ask(key, f"{SOCKETS}/page.sock").startswith("HTTP/1.1 200 ")
        assert session.ask(key, f"{SOCKETS}/page.sock").startswith("HTTP/1.1 200 ")  # the service goes on

    def test_service_has_the_environment_of_the_owners_logins(self, session: SessionContainer, key: Path) -> None:
        with opened(session, key, "start", "page"):
            text = (session.base / "home/environment").read_text()
        found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        assert {found[name] for name in ("USER", "LOGNAME")} == {OWNER}
        assert (found["SHELL"], found["MAIL"]) == ("/bin/bash", f"/var/mail/{OWNER}")
        assert WEB_LOGIN not in text
        assert "SSH_" not in text

    def test_uid_keeps_the_name_of_the_owner(self, session: SessionContainer) -> None:
        assert session.run(session.base / "owner", "id", "-un", login=OWNER).stdout == f"{OWNER}\n"

    def test_service_of_the_owner_is_open_once_it_is_defined(self, session: SessionContainer, key: Path) -> None:
        before = session.run(key, "start", "mine")
        assert (before.returncode, before.stdout) == (1, "refused there is no service mine in this session\n")
        assert session.ask(key, f"{SOCKETS}/own.sock") == ""
        attach = ["bash", "/run/berth/node/service", "attach", "mine"]
        with master(session, key) as control:
            with opened(session, session.base / "owner", *attach, login=OWNER, stdin=format_services([MINE])):
                assert session.ask(key, f"{SOCKETS}/own.sock").startswith("HTTP/1.1 200 ")
            with opened(session, key, "start", "mine", options=control) as report:
                assert report == ["socket own.sock", "reconnect", "state ready"]
        with opened(session, key, "start", "mine") as report:
            assert report == ["socket own.sock", "state ready"]
            assert session.ask(key, f"{SOCKETS}/own.sock").startswith("HTTP/1.1 200 ")
        assert session.ask(key, f"{SOCKETS}/page.sock").startswith("HTTP/1.1 200 ")

    def test_report_is_bounded(self, session: SessionContainer, key: Path) -> None:
        with subprocess.Popen(
            [*session.ssh(key), "start", "loud"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            report = process.stdout.read() if process.stdout else b""
        assert b"state failed\n" in report
        assert b"output xxx" in report
        assert len(report) < 20 * 520
        flooded = session.run(key, "start", "page", stdin="\n" * 1_000_000)
        assert (flooded.returncode, len(flooded.stdout) < 20 * 520) == (0, True)

    def test_open_socket_is_use_and_an_open_report_is_none(self, session: SessionContainer, key: Path) -> None:
        look = f'source {SESSION}; find_open_services; echo "<$OPEN>"'

        def is_used() -> bool:
            done = session.run(session.base / "owner", look, login=OWNER)
            assert done.stdout in {"<>\n", "<yes>\n"}, done.stderr
            return done.stdout == "<yes>\n"

        with opened(session, key, "start", "page"):
            wait_for(lambda: not is_used(), what="clients of earlier tests to be gone")
            with session.connected(key, f"{SOCKETS}/page.sock"):
                wait_for(is_used, what="the client to be counted")
            wait_for(lambda: not is_used(), what="the client to be gone")


class TestRefusals:
    @pytest.mark.parametrize("name", ["private.sock", "../web/private.sock", "none.sock", "../node/service"])
    def test_other_socket(self, session: SessionContainer, key: Path, name: str) -> None:
        assert session.ask(key, f"{SOCKETS}/{name}") == ""
        if name == "private.sock":  # it answers its owner
            assert session.ask(session.base / "owner", f"{SOCKETS}/{name}", login=OWNER).startswith("HTTP/1.1 200 ")

    def test_tcp(self, session: SessionContainer, key: Path) -> None:
        class Page(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the class calls it
                del format, args

        with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            target = f"127.0.0.1:{server.server_address[1]}"
            assert session.ask(session.base / "owner", target, login=OWNER).startswith("HTTP/1.1 200 ")
            assert session.ask(key, target) == ""
            server.shutdown()

    def test_remote_forward_of_a_port(self, session: SessionContainer, key: Path) -> None:
        options = ["-N", "-R", f"127.0.0.1:{free_port()}:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes"]
        done = session.run(key, options=options)
        assert done.returncode == 255
        assert "remote port forwarding failed" in done.stderr

    def test_remote_forward_of_a_path_removes_no_file(self, session: SessionContainer, key: Path) -> None:
        victim = session.base / "home/thesis"
        victim.write_text("years of work")
        options = ["-N", "-R", f"{victim}:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes"]
        done = session.run(key, options=options)
        assert done.returncode == 255
        assert "remote port forwarding failed" in done.stderr
        assert victim.read_text() == "years of work"

    def test_agent_x11_files_and_variables_of_the_client(self, session: SessionContainer) -> None:
        """The certificate allows all of it here, so that the session's sshd alone refuses."""
        rights = ["permit-agent-forwarding", "permit-X11-forwarding", "permit-user-rc"]
        wide = session.certificate(f"web:{session.id}", options=rights)
        (session.base / "home/.ssh").mkdir()
        (session.base / "home/.ssh/rc").write_text("touch ~/rc-ran\n")
        (session.base / "home/.bashrc").write_text("touch ~/bashrc-ran\n")
        program = session.node / "service"
        text = program.read_text()
        program.write_text("env")
        agent = str(session.base / "agent")
        sent = {"COLORTERM": "odd", "LC_ODD": "odd", "DISPLAY": "127.0.0.1:9", "SSH_AUTH_SOCK": agent}
        options = ["-A", "-Y", "-o", "SendEnv=COLORTERM LC_ODD"]
        try:
            with subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL) as process:
                wait_for((session.base / "agent").exists, what="the agent")
                done = session.run(wide, "start", "x", options=options, **sent)
                ran = [name for name in ("rc-ran", "bashrc-ran") if (session.base / "home" / name).exists()]
                owners = session.run(session.base / "owner", "env", options=options, login=OWNER, **sent)
                process.terminate()
        finally:
            program.write_text(text)
            shutil.rmtree(session.base / "home/.ssh")
            (session.base / "home/.bashrc").unlink()
        assert "SSH_ORIGINAL_COMMAND=start x\n" in done.stdout
        assert re.findall(r"(?m)^(?:SSH_AUTH_SOCK|DISPLAY|COLORTERM|LC_ODD)=.*$", done.stdout) == []
        assert "X11 forwarding request failed" in done.stderr
        assert ran == []
        assert {"SSH_AUTH_SOCK", "COLORTERM"} <= {line.split("=")[0] for line in owners.stdout.splitlines()}
        assert {path.name for path in (session.base / "home").glob("*-ran")} == {"rc-ran", "bashrc-ran"}

    def test_terminal(self, session: SessionContainer, key: Path) -> None:
        wide = session.certificate(f"web:{session.id}", options=["permit-pty"])
        for each in (key, wide):
            done = session.run(each, "start", "none", options=["-tt"])
            assert "PTY allocation request failed" in done.stderr

    @pytest.mark.parametrize("subsystem", [["-s", "sftp"], ["scp", "-t", "/etc"], ["scp", "-f", "/etc/passwd"], []])
    def test_copies_and_shells(self, session: SessionContainer, key: Path, subsystem: list[str]) -> None:
        options, command = (subsystem[:1], subsystem[1:]) if subsystem[:1] == ["-s"] else ([], subsystem)
        done = session.run(key, *command, options=options, stdin="id\n")
        assert (done.returncode, done.stdout) == (1, "refused berth-web can only run: start NAME\n")

    @pytest.mark.parametrize(
        "command",
        [
            "id",
            "start",
            "start ",
            "start page; touch ~/injected",
            "start page\ntouch ~/injected",
            "\nstart page",
            "start page\n",
            "start page ",
            " start page",
            "start\tpage",
            "start  page",
            "start page page",
            "start $(touch ~/injected)",
            "start `touch ~/injected`",
            "start page & touch ~/injected",
            "start -h",
            "start --help",
            "start ../page",
            "start page/../page",
            "start *",
            "start Page",
            "start páge",
            "start page\\",
            "start 'page'",
            "START page",
            "attach page",
            "list",
            "run page 0",
            "admit",
            "door",
            f"start {'a' * 40}",
            f"start {'a' * 100_000}",
        ],
    )
    def test_other_commands(self, session: SessionContainer, key: Path, command: str) -> None:
        done = session.run(key, command)
        assert (done.returncode, done.stdout) == (1, "refused berth-web can only run: start NAME\n")
        assert not (session.base / "home/injected").exists()
        assert {each.name for each in (session.node / "services").glob("*/")} <= {"loud", "mine", "page"}

    def test_command_that_no_program_could_be_given_ends_its_channel_alone(
        self, session: SessionContainer, key: Path
    ) -> None:
        """execve(2) takes 128 KiB in one variable, and in one argument of the ssh that sends it."""
        done = session.run(key, f"start {'a' * 131_060}")
        assert done.returncode != 0
        assert "state" not in done.stdout
        assert session.lets_in(key)


class TestLogins:
    def test_owner_gets_in_and_the_gateway_with_its_certificate(self, session: SessionContainer, key: Path) -> None:
        assert session.lets_in(key)
        assert session.lets_in(session.base / "owner", login=OWNER)
        assert session.lets_in(session.certificate(OWNER, by="user"), login=OWNER)

    def test_certificate_of_the_gateway_is_none_of_the_owner(self, session: SessionContainer, key: Path) -> None:
        assert not session.lets_in(key, login=OWNER)
        assert not session.lets_in(session.certificate(f"web:{session.id},{OWNER}"), login=OWNER)

    def test_keys_and_certificates_of_the_owner_are_none_of_the_gateway(self, session: SessionContainer) -> None:
        assert not session.lets_in(session.base / "owner")
        assert not session.lets_in(session.certificate(OWNER, by="user"))

    @pytest.mark.parametrize("by", ["user", "owner"])
    def test_certificate_of_another_authority(self, session: SessionContainer, by: str) -> None:
        assert not session.lets_in(session.certificate(f"web:{session.id}", by=by))

    @pytest.mark.parametrize("principals", [f"web:{OTHER_SESSION}", WEB_LOGIN, OWNER, "web:", "web:*", "*", ""])
    def test_certificate_for_another_principal(self, session: SessionContainer, principals: str) -> None:
        assert not session.lets_in(session.certificate(principals))

    @pytest.mark.parametrize("valid", ["-10m:-5m", "+5m:+10m"])
    def test_certificate_of_another_time(self, session: SessionContainer, valid: str) -> None:
        assert not session.lets_in(session.certificate(f"web:{session.id}", valid=valid))

    def test_certificate_for_another_address(self, session: SessionContainer) -> None:
        key = session.certificate(f"web:{session.id}", options=["source-address=192.0.2.1/32"])
        assert not session.lets_in(key)

    def test_key_without_a_certificate(self, session: SessionContainer, key: Path) -> None:
        key.with_name(f"{key.name}-cert.pub").unlink()
        assert not session.lets_in(key)
        assert not session.lets_in(session.base / "web")  # not the authority itself either

    def test_revoked_key(self, session: SessionContainer, key: Path) -> None:
        revoked = session.files / "revoked_keys"
        revoked.write_text(f"{public(key)}\n")
        try:
            assert not session.lets_in(key)
        finally:
            revoked.write_text("")

    def test_authority_is_replaced_while_the_session_runs(self, session: SessionContainer, key: Path) -> None:
        file, old = session.files / "web_authority", public(session.base / "web")
        make_key(session.base / "next")
        new = session.certificate(f"web:{session.id}", by="next")
        try:
            file.write_text(f"{old}\n{public(session.base / 'next')}\n")
            assert session.lets_in(key)
            assert session.lets_in(new)
            file.write_text(f"{public(session.base / 'next')}\n")
            assert not session.lets_in(key)
            assert session.lets_in(new)
            file.write_text("")
            assert not session.lets_in(new)
            file.unlink()
            assert not session.lets_in(new)
        finally:
            file.write_text(f"{old}\n")


class TestNoDoor:
    """Sessions start without web access, and owners get in, where the door cannot be made."""

    def shut(self, made: SessionContainer, before: str = "") -> str:
        with made.running(before):
            assert made.lets_in(made.base / "owner", login=OWNER)
            assert not made.lets_in(made.certificate(f"web:{made.id}"))
            return made.log

    def test_profile_without_services(self, tmp_path: Path) -> None:
        made = SessionContainer(tmp_path)
        made.prepare()
        assert "warning" not in self.shut(made)

    def test_image_with_an_account_of_that_name(self, tmp_path: Path) -> None:
        made = SessionContainer(tmp_path, image_accounts=f"root:x:0:0::/root:/bin/sh\n{WEB_LOGIN}:x:33:33::/:/bin/sh\n")
        made.prepare(PAGE)
        assert f"warning: no web access: the image has an account {WEB_LOGIN}" in self.shut(made)

    def test_root_mode(self) -> None:
        doors = 'adapt_accounts; prepare_doors; complete_doors; echo "${#DOORS[@]}"'
        done = bash(f"BERTH_ROOT=yes BERTH_OWNER=alice; grep() {{ return 1; }}; {doors}")
        assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")

    def test_sshd_that_lacks_an_option(self, tmp_path: Path) -> None:
        old = tmp_path / "sshd"
        old.write_text(
            '#!/bin/bash\nfile=$(while [[ $1 != -f ]]; do shift; done; echo "$2")\n'
            'grep -q "^AuthorizedPrincipalsFile" "$file" && { echo Bad configuration option >&2; exit 255; }\n'
            f'exec {tmp_path}/real "$@"\n'
        )
        old.chmod(0o755)
        made = SessionContainer(tmp_path)
        made.prepare(PAGE)
        place = f"cp {SSHD} {tmp_path}/real; mount --bind {old} /usr/sbin/sshd;"
        assert "warning: no web access: the image's sshd does not take the rules of berth-web" in self.shut(made, place)
