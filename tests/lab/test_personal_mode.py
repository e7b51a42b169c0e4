"""Personal mode, end to end: carol has Berth to herself on a login node whose administrator knows nothing of it.

Node c3 plays that login node: it has the programs and no site configuration. Its sshd is a stock one. The laptop is a
process on the lab's login node that has another home directory in carol's place, and nothing of Berth.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import struct
import subprocess
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.deadlines import DEADLINE_S
from tests.lab.personal import BOB, CAROL, LAPTOP, NODE, OTHER, Carol, Laptop
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.site.deploy import Site

SETTINGS = "profiles: {stores: [/profiles]}\nidle_exit: 300\nslurm: {options: ['--mem=1G']}\n"
OWN = "~/.config/berth ~/.local/state/berth ~/.local/share/berth"
RUNTIME = "/tmp/berth-$(id -u carol)"  # noqa: S108 - the product's own fallback, which is under test


@pytest.fixture(scope="module")
def carol(site: Site, image: str) -> Iterator[Carol]:
    """Carol with nothing but a settings file."""
    assert image
    assert site.lab.run(["test", "-e", "/etc/berth"], node=NODE).returncode == 1
    made = Carol(site.lab)
    made.sh(f'rm -rf {OWN}; mkdir -p ~/.config/berth; printf %s "{SETTINGS}" >~/.config/berth/config.yaml')
    yield made
    for line in made.ok("list").splitlines()[1:]:
        made.ok("stop", line.split()[0])
        made.ok("delete", line.split()[0], "--yes")
    made.kill()
    made.sh(f"rm -rf {OWN}")


@pytest.fixture(scope="module")
def sshd(site: Site) -> Iterator[str]:
    """The site's own sshd on c3, as its administrator set it up; the line that names its key."""
    place = site.lab.sh("mktemp -d /run/sshd-personal.XXXXXX && mkdir -p /run/sshd", node=NODE)
    site.lab.sh(
        f"ssh-keygen -q -t ed25519 -N '' -f {place}/key\n"
        f"printf 'HostKey {place}/key\\nPidFile none\\nPasswordAuthentication no\\n' >{place}/config",
        node=NODE,
    )
    daemon = site.lab.popen(["/usr/sbin/sshd", "-D", "-f", f"{place}/config"], node=NODE)
    try:
        probe = ["bash", "-c", f"exec 3<>/dev/tcp/{NODE}/22"]
        wait_for(lambda: site.lab.run(probe).returncode == 0, what="sshd to listen")
        yield f"{NODE} " + site.lab.sh(f"cat {place}/key.pub", node=NODE)
    finally:
        daemon.kill()
        daemon.communicate(timeout=DEADLINE_S)
        site.lab.sh(f"rm -rf {place}", node=NODE)


@pytest.fixture(scope="module")
def laptop(carol: Carol, sshd: str) -> Iterator[Laptop]:
    """A laptop that knows the login node's key, is let in there, and was set up as docs/howto/ssh.md says."""
    home = carol.lab.sh("mktemp -d /tmp/laptop.XXXXXX", user=CAROL, node=LAPTOP)
    made = Laptop(carol.lab, home)
    public = made.ok(
        "umask 077; mkdir .ssh; ssh-keygen -q -t ed25519 -N '' -C berth-laptop -f .ssh/id_ed25519; "
        f"echo '{sshd}' >.ssh/known_hosts; cat .ssh/id_ed25519.pub"
    )
    carol.sh(f"umask 077; mkdir -p ~/.ssh; echo '{public.decode().strip()}' >>~/.ssh/authorized_keys")
    carol.kill()  # it may have read that file some seconds ago (CACHE_TTL_S in credentials/authorized_keys.py)
    made.ok(
        f"mkdir -p ~/.config/berth; ssh {NODE} berth ssh-config --known-hosts >~/.config/berth/known_hosts; "
        f"ssh {NODE} berth ssh-config --via login --login {NODE} >~/.config/berth/ssh_config; "
        "echo 'Include ~/.config/berth/ssh_config' >~/.ssh/config"
    )
    yield made
    carol.sh("sed -i /berth-laptop/d ~/.ssh/authorized_keys")
    carol.lab.sh(f"rm -rf {home}", node=LAPTOP)


@pytest.fixture(scope="module")
def dev(carol: Carol) -> str:
    """A session that runs."""
    carol.ok("start", "dev", "--profile", "base")
    return "dev"


@contextmanager
def nobody_at_work(carol: Carol) -> Iterator[None]:
    """No controller, and no runtime directory, before and after."""
    carol.kill()
    carol.lab.sh(f"rm -rf {RUNTIME}", node=NODE)
    yield
    carol.kill()
    carol.lab.sh(f"rm -rf {RUNTIME}", node=NODE)


@contextmanager
def leaving_soon(carol: Carol) -> Iterator[None]:
    """Let the controller leave after a second without use during the block; others outlast a busy machine."""
    carol.kill()
    carol.sh("sed -i 's/^idle_exit: .*/idle_exit: 1/' ~/.config/berth/config.yaml")
    try:
        yield
    finally:
        carol.sh("sed -i 's/^idle_exit: .*/idle_exit: 300/' ~/.config/berth/config.yaml")
        carol.kill()


def test_of_several_first_commands_one_starts_the_controller_and_all_of_it_is_carols(carol: Carol) -> None:
    carol.kill()
    first = [carol.lab.popen(["berth", "list", "--json"], user=CAROL, node=NODE) for _ in range(5)]
    for command in first:
        said = command.communicate(timeout=60)
        assert command.returncode == 0, said
    assert carol.sh("grep -c ' ready: ' ~/.local/state/berth/controller.log") == "1"
    processes = carol.processes()
    assert {user for _, user, _ in processes} == {CAROL}
    assert sum("broker.launcher.server" in words for _, _, words in processes) == 1
    (controller,) = carol.controllers()
    # The command that started it is gone, and it has no terminal or session of anybody's.
    assert carol.sh(f"ps -o ppid=,sid=,tty= {controller}").split() == ["1", str(controller), "?"]


def test_a_session_is_started_listed_used_and_stopped(carol: Carol) -> None:
    carol.ok("start", "short", "--profile", "base")
    assert "short" in carol.ok("list")
    content = bytes(range(256)) * 1024
    assert carol.berth("exec", "short", "--", "cat", stdin=content).stdout == content
    assert carol.berth("exec", "short", "--", "sh", "-c", "exit 42").returncode == 42
    said = carol.berth("ssh", "short", "echo", "$SLURM_JOB_ID", "$USER")
    job = carol.lab.sh("squeue -h -u carol -o %i").split()
    assert said.stdout.decode().split() == [*job, CAROL], said
    carol.ok("stop", "short")
    assert carol.lab.sh("squeue -h -u carol") == ""
    carol.ok("delete", "short", "--yes")


def test_the_laptops_ssh_needs_no_answer_and_remarks_nothing(carol: Carol, laptop: Laptop, dev: str) -> None:
    assert (
        f"ProxyCommand ssh -a -x -T -l carol {NODE} berth connect %h"
        in laptop.ok("cat .config/berth/ssh_config").decode()
    )
    assert laptop.ok("command -v berth || echo none") == b"none\n"
    assert laptop.ok(f"ssh {dev}.berth 'echo $USER; hostname'").decode().split() == [CAROL, _node(carol, dev)]
    content = os.urandom(8 * 2**20)
    received = laptop.ok(f"ssh {dev}.berth 'tee copy | sha256sum'", stdin=content)
    assert received.split()[0].decode() == hashlib.sha256(content).hexdigest()
    assert laptop.ok(f"ssh {dev}.berth cat copy") == content
    assert laptop.run(f"ssh {dev}.berth exit 7").returncode == 7
    refused = laptop.run("ssh nothing.berth true")
    assert refused.returncode == 255
    assert b"you have no session named nothing" in refused.stderr


def test_the_laptops_terminal_is_one(laptop: Laptop, dev: str) -> None:
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
    argv = laptop.argv(f"ssh -tt {dev}.berth 'tty; stty size; echo TERM=$TERM; echo end'")
    process = subprocess.Popen(argv, stdin=far, stdout=far, stderr=far)
    os.close(far)
    seen = bytearray()
    try:
        while b"end\r\n" not in seen:
            seen += os.read(near, 4096)
    finally:
        process.wait(timeout=DEADLINE_S)
        os.close(near)
    lines = seen.decode().split()
    assert lines[0].startswith("/dev/pts/")
    assert lines[1:4] == ["31", "97", "TERM=xterm-256color"]


def test_the_controller_leaves_when_idle_and_the_next_command_finds_all_as_it_was(
    carol: Carol, laptop: Laptop, dev: str
) -> None:
    with leaving_soon(carol):
        connection = subprocess.Popen(
            laptop.argv(f"ssh {dev}.berth cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert connection.stdin is not None
            assert connection.stdout is not None

            def echoes(line: bytes) -> bool:
                assert connection.stdin is not None
                assert connection.stdout is not None
                connection.stdin.write(line)
                connection.stdin.flush()
                return connection.stdout.readline() == line

            assert echoes(b"before\n")
            wait_for(lambda: not carol.controllers(), what="the controller to leave")
            assert carol.lab.run(["test", "-e", f"{_runtime(carol)}/api.sock"], node=NODE).returncode == 1
            # What is left is the way in of the connection that stands.
            assert {words.split()[-2] for _, _, words in carol.processes()} <= {"connect"}
            assert echoes(b"without a controller\n")
            assert carol.lab.sh("squeue -h -u carol -o %T") == "RUNNING"
            assert '"state": "ready"' in carol.ok("show", dev, "--json")
            assert len(carol.controllers()) == 1
            assert echoes(b"after\n")
        finally:
            _, said = connection.communicate(timeout=DEADLINE_S)
        assert (connection.returncode, said) == (0, b"")


def test_a_killed_controller_is_replaced_also_for_a_command_that_waits(carol: Carol, dev: str) -> None:
    waiting = carol.lab.popen(["berth", "start", "late", "--profile", "base", "--begin=now+4"], user=CAROL, node=NODE)
    assert waiting.stderr is not None
    assert any(b"queued" in line for line in waiting.stderr)  # it waits for the job now, no longer for Slurm's answer
    (old,) = carol.controllers()
    carol.sh(f"kill -9 {old}")
    assert '"state": "ready"' in carol.ok("show", dev, "--json")
    (new,) = carol.controllers()
    assert new != old
    said = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, said
    assert len(carol.lab.sh("squeue -h -u carol -o %i").split()) == 2
    carol.ok("stop", "late")
    carol.ok("delete", "late", "--yes")


def test_a_lost_registry_comes_back_from_the_manifests(carol: Carol, dev: str) -> None:
    carol.kill()
    carol.sh("rm ~/.local/state/berth/registry.db*")
    done = carol.berth("registry", "rebuild")
    assert f"{CAROL}/{dev}" in done.stdout.decode().splitlines()  # beside deleted ones in their grace time
    assert b" 0 manifests skipped" in done.stderr
    assert carol.berth("exec", dev, "--", "true").returncode == 0


def test_bob_can_use_neither_carols_socket_nor_her_files(carol: Carol, dev: str) -> None:
    carol.ok("show", dev)
    socket = f"{_runtime(carol)}/api.sock"
    curl = ["curl", "-s", "-w", "%{http_code}", "--unix-socket", socket, "http://localhost/v1/sessions"]
    assert carol.lab.run(curl, user=CAROL, node=NODE).stdout.endswith(b"200")
    assert carol.lab.run(curl, user=BOB, node=NODE).stdout == b"000"
    # Whom no directory keeps out is not served either.
    assert carol.lab.run(curl, node=NODE).stdout.endswith(b"403")
    places = "~/.local/state/berth ~/.local/share/berth"
    # Overlayfs keeps everybody out of its own working directory.
    files = carol.sh(f"find {places} -path '*/work/work' -prune -o ! -type l -print").splitlines()
    assert any(file.endswith("registry.db") for file in files)
    for file in files:
        assert carol.lab.run(["test", "-r", file], user=BOB, node=NODE).returncode == 1, file
    as_hers = carol.lab.sh("mktemp -d", user=BOB, node=NODE)
    carol.lab.sh(f"echo 'mode: personal\nruntime_dir: {_runtime(carol)}' >{as_hers}/c.yaml", user=BOB, node=NODE)
    done = carol.lab.run(["berth", "--config", f"{as_hers}/c.yaml", "list"], user=BOB, node=NODE)
    carol.lab.sh(f"rm -r {as_hers}", node=NODE)
    assert done.returncode == 2
    assert b"belongs to another user" in done.stderr


@pytest.mark.parametrize(
    "squat", ["mkdir -m 777", "mkdir -m 700", "ln -s /shared/home/carol/.local/state/berth", "touch"]
)
def test_a_runtime_directory_that_bob_made_first_is_refused(carol: Carol, squat: str) -> None:
    with nobody_at_work(carol):
        carol.lab.sh(f"{squat} {RUNTIME}", user=BOB, node=NODE)
        done = carol.berth("list")
        assert done.returncode == 2, done
        assert f"{_runtime(carol)} ".encode() in done.stderr
        assert b"hint: set XDG_RUNTIME_DIR" in done.stderr
        assert carol.controllers() == []
        elsewhere = carol.sh("mktemp -d")
        carol.ok("list", env={"XDG_RUNTIME_DIR": elsewhere})  # the remedy
        carol.kill()
        carol.sh(f"rm -r {elsewhere}")


def test_a_runtime_directory_that_is_not_there_or_goes_is_borne(carol: Carol) -> None:
    with nobody_at_work(carol):
        login = f"/run/user/{carol.sh('id -u')}"
        carol.ok("list", env={"XDG_RUNTIME_DIR": login})  # as after `su`: named, but nobody made it
        (controller,) = carol.controllers()
        carol.ok("list")
        assert carol.controllers() == [controller]
    with nobody_at_work(carol):
        carol.lab.sh(f"install -d -m 755 /run/user; install -d -m 700 -o carol {login}", node=NODE)
        carol.ok("list", env={"XDG_RUNTIME_DIR": login})
        (controller,) = carol.controllers()
        carol.ok("list")  # a login without the variable finds the same one
        assert carol.controllers() == [controller]
        carol.lab.sh("rm -r /run/user", node=NODE)  # as logind does when carol's last login ends
        carol.ok("list")
        assert carol.controllers() != [controller]


def test_from_another_login_node_it_says_where_the_controller_is(carol: Carol) -> None:
    carol.ok("list")
    (controller,) = carol.controllers()
    carol.sh(f"kill -STOP {controller}")  # so that it does not leave meanwhile
    done = carol.lab.run(["berth", "list"], user=CAROL, node=OTHER)
    carol.sh(f"kill -CONT {controller}")
    assert done.returncode == 5
    assert f"your controller runs on {NODE}".encode() in done.stderr
    carol.kill()
    done = carol.lab.run(["berth", "list"], user=CAROL, node=OTHER)
    assert (done.returncode, done.stderr) == (0, b"")
    carol.kill(OTHER)
    carol.lab.sh(f"rm -rf {RUNTIME}", node=OTHER)


def test_the_doctor_says_what_is_missing_and_how_to_mend_it(carol: Carol) -> None:
    carol.ok("list")
    assert "ok    controller" in carol.berth("doctor").stdout.decode()
    with nobody_at_work(carol):
        carol.sh("printf 'mode: personal\\nslurm: {backend: commands}\\nidle_exit: 1\\n' >~/.config/berth/bare.yaml")
        bare = """
            mount --bind /dev/null /etc/subuid
            mount --bind /dev/null /etc/subgid
            exec setpriv --reuid=carol --regid=carol --init-groups env -i HOME=/shared/home/carol PATH=/nowhere \
                /usr/local/bin/berth --config /shared/home/carol/.config/berth/bare.yaml doctor
        """
        unshare = ["unshare", "--mount", "--propagation=private", "sh", "-euc", bare]
        done = carol.lab.run(unshare, node=NODE)
        said = done.stdout.decode()
        assert done.returncode == 1, done
        wait_for(lambda: not carol.processes(), what="a controller without Slurm to leave")
    for name, mark, remedy in (
        ("ssh", "FAIL", "install OpenSSH's client"),
        ("apptainer", "note", "Apptainer 1.4.4 or newer"),
        ("subuid", "note", "usermod --add-subuids"),
        ("subgid", "note", "usermod --add-subgids"),
        ("slurm", "FAIL", "install Slurm's client programs"),
        ("sbatch", "FAIL", "put Slurm's programs on the PATH"),
        ("profiles", "FAIL", "`berth profile build base` makes one"),
    ):
        lines = iter(said.splitlines())
        assert any(line.split()[:2] == [mark, name] for line in lines), f"no {mark} {name} in:\n{said}"
        assert remedy in next(lines), said


def _runtime(carol: Carol) -> str:
    return f"/tmp/berth-{carol.sh('id -u')}"  # noqa: S108 - as RUNTIME


def _node(carol: Carol, session: str) -> str:
    return carol.sh(f"berth exec {session} -- hostname")
