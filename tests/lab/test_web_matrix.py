"""The access matrix of web access: every user at every session's services, by every way in, in every state."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from slurm.lab.progress import ProgressLog
from tests.lab.test_web_services import node_directory, open_ports, opened
from tests.lab.web_browser import GRANT, Reply, WebBrowser, origin
from tests.lab.web_sockets import web_socket
from tests.lab_cluster import wait_for
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.site.deploy import Site

NODE = "c1"
SERVICES = {"page": ".berth.localhost", "terminal": "ttyd"}
"""The services, and a word of their pages that none of berth-web's has."""
CONTROL = "/run/berth-web/control.sock"
GUESTS = {("carol", "alice", "runs", "page")}
"""User, owner, session and service of each grant of the role `port`."""
TRY_DOOR = """
cd "$(mktemp -d)"; umask 077
host=$1 port=$2 login=$3 service=$4 source=$5; cp "$source" key; cp "$source-cert.pub" key-cert.pub 2>/dev/null || :
set -- -F none -i key -p "$port" -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=no \
    -o UserKnownHostsFile=known -o LogLevel=ERROR "$login@$host"
ssh -M -S control -f -N -L "$PWD/$service.sock:/run/berth/web/$service.sock" "$@" || exit 1
curl -s -m 10 --unix-socket "$service.sock" http://page.berth.localhost/ || code=$?
ssh -S control -O exit "$@" 2>/dev/null
exit ${code:-0}
"""


@dataclass(frozen=True)
class Target:
    """A session of the matrix."""

    owner: str
    name: str
    state: str
    id: str
    port: int = 0
    directory: str = ""

    @property
    def runs(self) -> bool:
        return self.state == "running"


@dataclass
class World:
    """Sessions in all states, and browsers in all states."""

    site: Site
    people: dict[str, User]
    targets: list[Target] = field(default_factory=list)
    browsers: dict[str, WebBrowser] = field(default_factory=dict)
    """The browsers by their login; `logged out` was alice's and visited everything, `stranger` has never logged in."""

    def target(self, name: str) -> Target:
        return next(each for each in self.targets if each.name == name)

    def other_grants(self, browser: str, url: str) -> list[str]:
        """Cookies that this browser has for other services."""
        return [jar[GRANT] for other, jar in self.browsers[browser].cookies.items() if GRANT in jar and other != url]


STATES = {"alice": {"runs": "running", "rests": "stopped", "went": "deleted"}, "bob": {"works": "running"}}
"""The sessions of the matrix, by their owners."""


@pytest.fixture(scope="module")
def world(site: Site, people: dict[str, User], image: str) -> Iterator[World]:
    assert image
    deploy.build_profile(site, "web", ProgressLog(quiet=True))
    made = World(site, people)
    try:
        for owner, sessions in STATES.items():
            for name in sessions:
                people[owner].ok("start", name, "--profile", "web", f"--nodelist={NODE}", "--mem=300M")
        made.browsers["logged out"] = _former_browser(site, people["alice"])
        for owner, sessions in STATES.items():
            made.targets += [_brought_to(people[owner], name, state) for name, state in sessions.items()]
        for guest, owner, name, service in GUESTS:
            people[owner].ok("share", name, guest, "--role", "port", "--service", service)
        for who, user in people.items():
            made.browsers[who] = WebBrowser(site.lab)
            made.browsers[who].log_in(user)
        made.browsers["stranger"] = WebBrowser(site.lab)
        for target, service in itertools.product(made.targets, SERVICES):
            url = origin(service, target.name, target.owner)
            assert not target.runs or made.browsers[target.owner].opens(f"{url}/").status == HTTPStatus.OK
        yield made
    finally:
        for owner, sessions in STATES.items():
            for name in set(people[owner].sessions()) & sessions.keys():
                people[owner].remove(name)


def _former_browser(site: Site, user: User) -> WebBrowser:
    """A browser that has visited every service of the user's, and is logged out; it has its cookies."""
    browser = WebBrowser(site.lab)
    browser.log_in(user)
    for name, service in itertools.product(STATES[user.name], SERVICES):
        assert browser.opens(f"{origin(service, name, user.name)}/").status == HTTPStatus.OK
    assert json.loads(user.ok("browsers", "--logout-all", "--json"))["closed"]
    return browser


def _brought_to(user: User, name: str, state: str) -> Target:
    """The running session, or one that was stopped, or deleted after that."""
    view = user.show(name)
    if state == "running":
        return Target(user.name, name, state, view["id"], view["endpoint"]["port"], node_directory(user, name))
    user.ok("stop", name)
    if state == "deleted":
        user.ok("delete", name, "--yes")
    return Target(user.name, name, state, view["id"])


def judge(cells: list[tuple[str, bool, bool]]) -> None:
    """Each cell has its name, whether it must be open, and whether it is; both kinds must be there."""
    wrong = [name for name, expected, found in cells if expected != found]
    assert not wrong, f"{len(wrong)} of {len(cells)} cells are wrong"
    assert {expected for _, expected, _ in cells} == {True, False}


def reaches(reply: Reply, url: str, service: str) -> bool:
    """Whether the service itself has answered, and no page of berth-web's."""
    return reply.status == 200 and reply.url.startswith(f"{url}/") and SERVICES[service] in reply.body


def test_portal_origin_and_websocket_open_for_the_browsers_of_owner_and_guest_alone(world: World) -> None:
    cells = []
    for who, target, service in itertools.product(world.browsers, world.targets, SERVICES):
        browser, url = world.browsers[who], origin(service, target.name, target.owner)
        is_guest = (who, target.owner, target.name, service) in GUESTS
        expected = (who == target.owner or is_guest) and target.runs
        cell = f"{who} at {service} of {target.owner}'s {target.name}"
        former = browser.cookies.pop(url, {}).get(GRANT, "")
        reply = browser.opens(f"{url}/") if expected else browser.page(f"{url}/")
        cells.append((f"{cell} by the portal", expected, reaches(reply, url, service)))
        own = browser.grant(url)
        for kind, grants in {"its": [own], "a former": [former], "another": world.other_grants(who, url)}.items():
            for grant in grants:
                fetched = WebBrowser(world.site.lab, {url: {GRANT: grant} if grant else {}}).fetch(f"{url}/")
                right = expected and kind == "its"
                cells.append((f"{cell} by the origin with {kind} cookie", right, reaches(fetched, url, service)))
        if service == "terminal":
            with web_socket(world.site.lab, url, own or "none") as socket:
                cells.append((f"{cell} by a WebSocket", expected, socket.status == 101))
    judge(cells)


def test_control_socket_obeys_the_controller_alone(world: World) -> None:
    cells = []
    body = json.dumps({"visit_ids": ["0" * 26], "delegation_ids": []})
    for account in (
        *world.people,
        "nobody",
        deploy.GATEWAY_ACCOUNT,
        deploy.WEB_ACCOUNT,
        "root",
        deploy.SERVICE_ACCOUNT,
    ):
        argv = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", body, "--unix-socket", CONTROL]
        done = world.site.lab.run([*argv, "http://berth-web/v1/close"], user=account)
        cells.append((account, account in {"root", deploy.SERVICE_ACCOUNT}, done.stdout == b"200"))
    judge(cells)


def test_local_opening_is_the_owners(world: World) -> None:
    cells = []
    for (who, user), target, service in itertools.product(world.people.items(), world.targets, SERVICES):
        if who == target.owner and target.runs:
            with opened(user, target.name, service) as url:
                cells.append((f"{who} {target.name} {service}", True, url.startswith("http://")))
        elif who != target.owner or target.state == "deleted":  # its owner's command starts a stopped one
            for name in {target.name, f"{target.owner}.{target.name}"}:
                done = user.berth("open", name, service, "--local", "--print")
                cells.append((f"{who} {name} {service}", False, done.returncode == 0))
    judge(cells)


def test_certificate_of_berth_web_opens_its_session_alone(world: World) -> None:
    """Each certificate, real or expired, at the sshd of each running session, under both login names."""
    lab = world.site.lab
    keys = lab.sh("mktemp -d")
    lab.sh(f"chmod 755 {keys}")
    kinds: dict[str, str] = {}
    for target in world.targets:
        kinds[f"{target.name} valid"] = f"-n web:{target.id} -V -1m:+5m"
    runs = world.target("runs")
    kinds["runs expired"] = f"-n web:{runs.id} -V -10m:-1m"
    kinds["runs from elsewhere"] = f"-n web:{runs.id} -V -1m:+5m -O source-address=192.0.2.1/32"
    kinds["owner"] = "-n alice,bob -V -1m:+5m"
    for number, options in enumerate(kinds.values()):
        lab.sh(
            f"ssh-keygen -q -t ed25519 -N '' -f {keys}/{number}; ssh-keygen -q -s /var/lib/berth/web_ca_ed25519_key "
            f"-I test {options} -O clear -O permit-port-forwarding {keys}/{number}.pub; chown alice {keys}/{number}*"
        )
    cells = []
    for (number, kind), target in itertools.product(enumerate(kinds), world.targets):
        if not target.runs:
            continue
        for login in ("berth-web", target.owner):
            words = [NODE, str(target.port), login, "page", f"{keys}/{number}"]
            done = lab.run(["timeout", "60", "bash", "-uc", TRY_DOOR, "door", *words], user="alice")
            expected = kind == f"{target.name} valid" and login == "berth-web"
            cells.append((f"{kind} at {target.name} as {login}", expected, b"page.berth.localhost" in done.stdout))
    lab.sh(f"rm -rf {keys}")
    judge(cells)


def test_node_of_several_users_has_no_open_port_but_sshds_and_no_socket_for_others(world: World) -> None:
    lab = world.site.lab
    running = [target for target in world.targets if target.runs]
    assert len({target.owner for target in running}) == 2
    for owner in {target.owner for target in running}:
        assert open_ports(world.people[owner], NODE) == {each.port for each in running if each.owner == owner}
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    cells = []
    for user, target, service in itertools.product(world.people, running, SERVICES):
        path = f"{target.directory}/web/{service}.sock"
        done = lab.run(["python3", "-c", connect, path], user=user, node=NODE)
        cells.append((f"{user} {path}", user == target.owner, done.returncode == 0))
    judge(cells)


def test_no_log_and_no_command_line_has_a_secret(world: World) -> None:
    """The secrets of the whole matrix: cookies of portal, entry and services."""
    lab = world.site.lab
    secrets = set().union(*(browser.secrets() for browser in world.browsers.values()))
    assert len(secrets) > 10
    patterns = "\n".join(secrets).encode()
    for script in (
        "cat /var/log/berth/*.log /var/log/slurm/*.log 2>/dev/null || :",
        "for each in /proc/[0-9]*; do tr '\\0' ' ' <$each/cmdline; cat $each/comm; done 2>/dev/null || :",
    ):
        for node in ("login", NODE):
            text = lab.sh(script, node=node)
            assert text or node == NODE  # which has no log of Berth
            assert not [each for each in secrets if each in text], (node, script)
    assert lab.run(["grep", "-rFqf", "-", "/var/log/berth"], stdin=patterns).returncode == 1


def test_guest_comes_by_a_link_and_is_out_when_the_revocation_is_acknowledged(world: World) -> None:
    alice, carol, url = world.people["alice"], world.people["carol"], origin("page", "runs", "alice")
    listed = json.loads(carol.ok("list", "--shared", "--json"))
    assert (listed["sessions"], [each["service"] for each in listed["services"]]) == ([], ["page"])
    assert carol.berth("open", "alice.runs", "terminal", "--print").returncode == 4
    browser = WebBrowser(world.site.lab)
    browser.log_in(carol, "open", "alice.runs", "page")
    assert reaches(browser.opens(f"{url}/"), url, "page")
    guests = json.loads(alice.ok("who", "runs", "--json"))["guests"]
    assert {(each["user"], each["service"]) for each in guests} == {("carol", "page")}
    assert json.loads(alice.ok("unshare", "runs", "carol", "--json"))["closed"]
    for former in (browser, world.browsers["carol"]):
        assert former.fetch(f"{url}/").status == 403
        assert former.page(f"{url}/").status == 404
    assert world.browsers["alice"].opens(f"{url}/").status == 200
    assert alice.berth("share", "runs", "carol", "--role", "port", "--service", "terminal").returncode == 4


def test_stop_and_start_need_another_visit(world: World) -> None:
    """Last, since it changes the world: the end of a session ends its visits, and they do not come back with it."""
    alice, browser, url = world.people["alice"], world.browsers["alice"], origin("page", "runs", "alice")
    assert browser.opens(f"{url}/").status == 200
    before = browser.grant(url)
    old = WebBrowser(world.site.lab, {url: {GRANT: before}})
    alice.ok("stop", "runs")
    wait_for(lambda: old.fetch(f"{url}/").status == 403, what="the visit to have ended")
    alice.ok("start", "runs", f"--nodelist={NODE}")
    assert old.fetch(f"{url}/").status == 403
    reply = browser.opens(f"{url}/")
    assert reaches(reply, url, "page")
    assert browser.grant(url) != before
