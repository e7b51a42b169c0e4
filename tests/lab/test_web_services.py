"""Services of sessions on the lab: opened through the tunnel, ended, failing, and out of other users' reach."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from slurm.lab.progress import ProgressLog
from tests.deadlines import DEADLINE_S
from tests.lab.web_sockets import CLIENT
from tests.lab_cluster import wait_for
from tests.processes import process_children
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.site.deploy import Site

LISTENS = "0A"
"""The state of a TCP socket in /proc/net/tcp."""


@pytest.fixture(scope="module")
def web(site: Site, image: str) -> str:
    """A profile with services, built."""
    assert image
    deploy.build_profile(site, "web", ProgressLog(quiet=True))
    return "web"


@pytest.fixture(scope="module")
def session(people: dict[str, User], web: str) -> Iterator[str]:
    """A session of alice's with services."""
    alice = people["alice"]
    alice.ok("start", "services", "--profile", web, "--mem=1G")
    yield "services"
    alice.remove("services")


@contextlib.contextmanager
def opened(user: User, session: str, service: str) -> Iterator[str]:
    """Have a service open on the login node; gives its address."""
    argv = user.site.lab.argv(["berth", "open", session, service, "--local"], user=user.name)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), process.stderr.read()
        try:
            yield url
        finally:
            for each in process_children(process.pid):  # nsenter's child
                os.kill(each, signal.SIGINT)
            process.communicate(timeout=DEADLINE_S)


def fetch(user: User, url: str, *options: str) -> tuple[int, str]:
    """Ask as a browser on the login node does. The HTTP status, 0 without an answer, and the body."""
    command = ["curl", "-s", "--connect-to", "::127.0.0.1:", "-w", "\n%{http_code}", *options, url]
    body, _, status = user.site.lab.run(command, user=user.name).stdout.decode().rpartition("\n")
    return int(status), body


def states(user: User, session: str) -> dict[str, str]:
    found = json.loads(user.ok("services", session, "--json"))["services"]
    return {each["name"]: each["state"] for each in found}


def open_ports(user: User, node: str) -> set[int]:
    """The ports of a node on which processes of a user listen."""
    lab = user.site.lab
    uid = lab.sh(f"id -u {user.name}").strip()
    lines = [line.split() for line in lab.sh("cat /proc/net/tcp /proc/net/tcp6", node=node).splitlines()]
    return {int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == LISTENS and line[7] == uid}


def node_directory(user: User, session: str) -> str:
    """The directory of a session's job on its node."""
    view = user.show(session)
    return user.site.lab.sh(f"ls -d /tmp/berth-*-{view['id']}.*/web", node=view["endpoint"]["node"]).removesuffix(
        "/web"
    )


def test_service_is_started_when_it_is_opened_and_found_again(alice: User, session: str) -> None:
    assert states(alice, session) == {"page": "stopped", "broken": "stopped", "terminal": "stopped"}
    with opened(alice, session, "page") as url:
        status, text = fetch(alice, url)
        assert status == 200
        process, host, _ = text.split()
        assert host == urlsplit(url).netloc
        assert states(alice, session)["page"] == "ready"
    assert fetch(alice, url)[0] == 0
    with opened(alice, session, "page") as again:
        assert again != url
        assert fetch(alice, again)[1].split()[0] == process


def test_service_that_dies_comes_back(alice: User, session: str) -> None:
    with opened(alice, session, "page") as url:
        process = fetch(alice, url)[1].split()[0]
        assert fetch(alice, f"{url}crash")[0] == 503
        wait_for(lambda: fetch(alice, url)[0] == 200, what="the service to be back")
        assert fetch(alice, url)[1].split()[0] != process


def test_failing_service_is_shown_with_its_last_lines(alice: User, session: str) -> None:
    done = alice.berth("open", session, "broken", "--local")
    assert done.returncode == 1
    said = done.stderr.decode()
    assert "  there is no configuration\n" in said
    assert f"broken did not start in {session}: broken ended with code 3, 3 times in a row" in said
    assert states(alice, session)["broken"] == "failed"


def test_other_users_of_login_node_and_compute_node_find_nothing(alice: User, bob: User, session: str) -> None:
    lab, view = alice.site.lab, alice.show(session)
    node = view["endpoint"]["node"]
    with opened(alice, session, "page") as url:
        assert fetch(alice, url)[0] == 200
        assert fetch(bob, url) == (0, "")
        assert fetch(alice, url, "-H", "Host: localhost")[0] == 421
        assert fetch(alice, url, "-H", "Host: attacker.test")[0] == 421
        assert open_ports(alice, node) == {view["endpoint"]["port"]}
        path = f"{node_directory(alice, session)}/web/page.sock"
        ask = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        codes = [lab.run(["python3", "-c", ask, path], user=user, node=node).returncode for user in ("root", "bob")]
        assert codes == [0, 1]  # for root, so that the path is right
        assert lab.run(["ls", path], user="bob", node=node).returncode != 0
    assert bob.berth("services", session).returncode == 3
    assert bob.berth("open", session, "page", "--local").returncode == 3


def test_own_service_is_opened_and_a_faulty_one_named(alice: User, session: str) -> None:
    folder = "~/.config/berth/services.d"
    text = "services: [{name: mine, title: Mine, command: exec python3 /opt/web/page.py}]"
    alice.ok("exec", session, "--", "sh", "-c", f"mkdir -p {folder}; echo '{text}' >{folder}/mine.yaml")
    with opened(alice, session, "mine") as url:
        assert fetch(alice, url)[0] == 200
    alice.ok("exec", session, "--", "sh", "-c", f"echo 'services: [{{name: zed}}]' >{folder}/wrong.yaml")
    done = alice.berth("services", session)
    assert re.search(r"^mine +Mine +ready +you$", done.stdout.decode(), re.MULTILINE)
    assert "zed is the name of an IDE" in done.stderr.decode()


def test_web_certificate_opens_a_service_and_no_shell(alice: User, session: str) -> None:
    view = alice.show(session)
    script = """
        cd "$(mktemp -d)"; for name in web key; do ssh-keygen -q -t ed25519 -N '' -f $name; done
        cp web.pub /shared/berth/alice/sessions/$1/run/web_authority
        ssh-keygen -q -s web -I web -n web:$1 -V -1m:+5m -O clear -O permit-port-forwarding key.pub
        set -- -F none -i key -p $3 -o StrictHostKeyChecking=no -o UserKnownHostsFile=known berth-web@$2
        mkfifo report
        { grep -m 1 "state ready" report; } | ssh "$@" start page | tee report >/dev/null
        ssh "$@" id || echo "code $?"
        ssh -M -S control -f -N -L "$PWD/page.sock:/run/berth/web/page.sock" "$@"
        curl -s --unix-socket page.sock http://page/
        ssh -S control -O exit "$@"
    """
    words = [view["id"], view["endpoint"]["node"], str(view["endpoint"]["port"])]
    done = alice.site.lab.run(["timeout", "100", "bash", "-euc", script, "door", *words], user="alice")
    assert done.returncode == 0, done.stderr.decode()
    refusal, code, page_text = done.stdout.decode().splitlines()
    assert (refusal, code) == ("refused berth-web can only run: start NAME", "code 1")
    assert page_text.split()[1:] == ["page", "/"]


def test_terminal_keeps_its_shell_over_connections(alice: User, session: str) -> None:
    def typed(url: str, command: str, end: str, origin: str = "") -> list[str]:
        parts = urlsplit(url)
        words = [str(parts.port), parts.netloc, origin or f"http://{parts.netloc}", command, end]
        done = alice.site.lab.run(["python3", CLIENT, "type", *words], user="alice")
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().splitlines()

    with opened(alice, session, "terminal") as url:
        assert fetch(alice, url)[0] == 200
        assert typed(url, "mark=of-$((40 + 2)); echo FIRST-''END", "FIRST-END")[0] == "101"
        shown = typed(url, "echo it is $mark; echo SECOND-''END", "SECOND-END")
        assert any("it is of-42" in line for line in shown)
        assert typed(url, "true", "", origin="http://attacker.test")[0] != "101"


def test_open_page_counts_as_use(alice: User, session: str) -> None:
    lab, node = alice.site.lab, alice.show(session)["endpoint"]["node"]
    directory, looks = node_directory(alice, session), set[str]()
    alice.ok("set", session, "--idle", "1m")

    def idle_for() -> int:
        """Seconds between the last use and the latest look."""
        used, _, looked, _ = lab.sh(f"cat {directory}/use", node=node).split()
        looks.add(looked)
        return int(looked) - int(used)

    def is_there(path: str) -> bool:
        return lab.run(["test", "-e", path], node=node).returncode == 0

    try:
        with opened(alice, session, "page") as url:
            wait_for(lambda: is_there(f"{directory}/use"), what="a look at the session")
            wait_for(lambda: idle_for() > 12, what="the session to be idle although the service runs")
            with page(alice, url):
                wait_for(lambda: idle_for() == 0, what="the page to count as use")
                looks.clear()
                wait_for(lambda: idle_for() > 0 or len(looks) > 5, what="six looks at the session")
                assert idle_for() == 0
            wait_for(lambda: idle_for() > 12, what="the session to be idle again")
    finally:
        alice.ok("set", session, "--idle", "never")


@contextlib.contextmanager
def page(user: User, url: str) -> Iterator[None]:
    """Keep a connection open, as a page with a WebSocket does."""
    parts = urlsplit(url)
    ask = f"GET / HTTP/1.1\\r\\nHost: {parts.netloc}\\r\\n\\r\\n"
    script = (
        f"exec 3<>/dev/tcp/127.0.0.1/{parts.port}; printf '{ask}' >&3; read -r line <&3; echo $line; exec sleep 600"
    )
    argv: list[Any] = user.site.lab.argv(["bash", "-c", script], user=user.name)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b" 200 " in process.stdout.readline()
        try:
            yield
        finally:
            process.terminate()
