"""Being root in a session: `sudo` for what needs only the user's own files, and root mode for all the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.session_job import ROOM, SessionJob, in_terminal, new_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.session_job import Bench

PACKAGES = f"{ROOM}/packages"

MAKE = r"""
make() { # NAME VERSION: from the folder build, with the postinst on stdin
  mkdir -p build/DEBIAN
  printf '%s\n' "Package: $1" "Version: $2" Architecture:\ all "Maintainer: Tests <t@example.org>" \
    "Description: $1, for tests" >build/DEBIAN/control
  cat >build/DEBIAN/postinst
  chmod 755 build/DEBIAN/postinst
  dpkg-deb --root-owner-group -b build .
  rm -r build
}
mkdir -p build/usr/bin && echo 'echo hello' >build/usr/bin/berth-hello && chmod 755 build/usr/bin/berth-hello
make berth-hello 1.0 <<'END'
#!/bin/sh
set -e
mkdir -p /var/lib/berth-hello && id -un >/var/lib/berth-hello/configured-by
END
mkdir -p build/var/lib/berth-daemon && echo data >build/var/lib/berth-daemon/data
make berth-daemon 1.0 <<'END'
#!/bin/sh
set -e
grep -q ^berthd: /etc/passwd || {
  echo berthd:x:150:150::/var/lib/berth-daemon:/usr/sbin/nologin >>/etc/passwd
  echo berthd:x:150: >>/etc/group
}
chown -R berthd:berthd /var/lib/berth-daemon
chmod 750 /var/lib/berth-daemon
END
mkdir -p build/usr/bin && echo '#!/bin/sh' >build/usr/bin/berth-setuid && chmod 4755 build/usr/bin/berth-setuid
make berth-setuid 1.0 <<'END'
#!/bin/sh
set -e
chgrp games /usr/bin/berth-setuid
chmod 6755 /usr/bin/berth-setuid
END
"""


@pytest.fixture(scope="module")
def packages(bench: Bench) -> str:
    """A flat repository: an ordinary package, one with an account of its own, one with a setuid file of a group."""
    bench.sh(f"mkdir -m 755 {PACKAGES}; cd {PACKAGES}; umask 022; {MAKE}")
    index = (  # as dpkg-scanpackages writes it
        'for p in *.deb; do dpkg-deb -f "$p"; echo "Filename: ./$p"; echo "Size: $(stat -c %s "$p")";'
        """ echo "SHA256: $(sha256sum "$p" | cut -d' ' -f1)"; echo; done"""
    )
    bench.sh(f"cd {PACKAGES}; {{ {index}; }} >Packages")
    return PACKAGES


def add_repository(session: SessionJob) -> None:
    session.says("echo 'deb [trusted=yes] file:/packages ./' >/etc/apt/sources.list; rm -f /etc/apt/sources.list.d/*")


class TestSudo:
    def test_it_shows_the_user_as_root_and_takes_sudos_words(self, session: SessionJob) -> None:
        session.start()
        for words in ("", "-E ", "-n -H ", "-nEH ", "-u root ", "-uroot ", "--user=root -- "):
            assert session.says(f"sudo {words}id -un") == "root"
        assert session.says("sudo A='two words' sh -c 'echo $A $SUDO_USER $HOME $0' x") == "two words alice /root x"
        shown = session.says("sudo -i pwd; sudo -s 'echo' 'a b'; sudo -E sh -c 'echo $HOME'")
        assert shown == "/root\na b\n/home/alice"
        assert session.says("sudo -v && sudo touch /usr/bin/file && ls -l /usr/bin/file | cut -d' ' -f3") == "alice"
        assert session.ssh("sudo -i", stdin=b"id -u\nexit 5\n").stdout == b"0\n"

    @pytest.mark.parametrize(
        ("command", "code", "words"),
        [
            ("sudo sh -c 'echo mine >&2; exit 7'", 7, "mine"),
            ("sudo chown games /etc/issue", 1, "berth exec --root dev -- chown games /etc/issue"),
            ("sudo -u games id", 1, "it makes you root, or leaves you alice, and knows no other user"),
            ("sudo", 1, "there is no command"),
            ("sudo --other id", 1, "it does not know --other"),
        ],
    )
    def test_a_failure_keeps_its_code_and_shows_the_way(
        self, running_sudo: SessionJob, command: str, code: int, words: str
    ) -> None:
        done = running_sudo.ssh(command)
        assert done.returncode == code
        assert words in done.stderr.decode().splitlines()[-1]

    def test_ordinary_packages_install_and_stay(self, session: SessionJob, packages: str) -> None:
        session.configure(BERTH_BINDS=f"{packages}:/packages:ro")
        session.start()
        add_repository(session)
        done = session.ssh("sudo apt-get update && sudo apt-get install -y berth-hello")
        assert done.returncode == 0, done.stderr
        assert not re.search(rb"^[WE]:", done.stdout + done.stderr, re.MULTILINE), done.stderr + done.stdout
        session.stop()
        session.push()
        session.start()
        shown = session.says("berth-hello; cat /var/lib/berth-hello/configured-by; dpkg -s berth-hello | grep ^Status")
        assert shown == "hello\nroot\nStatus: install ok installed"
        assert session.ssh("sudo dpkg -r berth-hello && ! berth-hello").returncode == 0

    @pytest.mark.parametrize("package", ["berth-daemon", "berth-setuid"])
    def test_packages_with_accounts_or_setuid_fail_and_the_way_is_shown(
        self, session: SessionJob, packages: str, package: str
    ) -> None:
        session.configure(BERTH_BINDS=f"{packages}:/packages:ro")
        session.start()
        add_repository(session)
        session.says("sudo apt-get update")
        done = session.ssh(f"sudo apt-get install -y {package}")
        assert done.returncode == 100
        assert done.stderr.decode().splitlines()[-1].endswith(f"berth exec --root dev -- apt-get install -y {package}")


@pytest.fixture(scope="class")
def running_sudo(bench: Bench) -> Iterator[SessionJob]:
    made = SessionJob(bench)
    made.prepare()
    made.start()
    yield made
    made.stop()


class TestRootMode:
    def commit(self, session: SessionJob) -> None:
        """Commit root mode as the launcher does: the copy of the changes becomes a layer below a new top."""
        layer = new_id()
        assert session.copy(SYSTEM=layer)["RESULT"] == "frozen", session.log()
        session.stop()
        session.configure()
        session.mount("overlay", home=session.home, system=[new_id(), layer, *session.system])

    def test_root_is_let_in_and_nobody_else(self, session: SessionJob) -> None:
        session.configure(BERTH_ROOT="yes")
        session.start("--nodelist=c1")
        assert session.says("id -un; pwd; echo $HOME").split() == ["root", "/root", "/root"]
        assert session.says("ls -A /home/alice | sort | head -1; command -v sudo || echo none") == ".bash_logout\nnone"
        owners = session.says("stat -c %U:%G /home/alice /home/alice/.profile /usr / /tmp /var/mail").split()
        assert owners == [*["root:root"] * 5, "root:mail"]
        written = session.ssh("touch /home/alice/by-root")
        assert (written.returncode, b"Read-only file system" in written.stderr) == (1, True)
        as_alice = session.ssh("id", login="alice")
        assert (as_alice.returncode, b"Permission denied" in as_alice.stderr) == (255, True)
        assert session.ssh("id", key_of="bob").returncode == 255
        session.says("touch /usr/file; chown games:games /usr/file; setsid sleep 1000 >/dev/null 2>&1 </dev/null &")
        session.stop()
        assert session.traces("c1") == []
        assert session.bench.sh(f"ls {session.system_tree}") == ""

    def test_what_root_installed_is_there_afterwards_with_its_owners(self, session: SessionJob, packages: str) -> None:
        session.configure(BERTH_BINDS=f"{packages}:/packages:ro")
        session.start()
        session.says("echo mine >/opt/mine; sudo dpkg -i /packages/berth-hello_1.0_all.deb")
        session.stop()
        session.configure(BERTH_BINDS=f"{packages}:/packages:ro", BERTH_ROOT="yes")
        session.start()
        add_repository(session)
        install = "apt-get update && apt-get install -y berth-daemon && dpkg -i /packages/berth-setuid*"
        done = session.ssh(f"cat /opt/mine && {install}")
        assert done.returncode == 0, done.stderr
        self.commit(session)
        listing = session.bench.sh(f"find {session.layer(session.system[1])}/tree ! -user alice -o ! -group alice")
        assert listing == ""
        session.start()
        assert session.says("dpkg -s berth-daemon berth-setuid berth-hello | grep -c 'install ok installed'") == "3"
        shown = session.says("id -u berthd; cat /var/lib/berth-daemon/data /opt/mine; berth-hello")
        assert shown.split() == ["150", "data", "mine", "hello"]
        session.stop()
        session.configure(BERTH_ROOT="yes")
        session.start()
        rights = "cd /; stat -c '%U:%G %a' var/lib/berth-daemon/data usr/bin/berth-setuid var/lib/berth-hello"
        assert session.says(rights) == "berthd:berthd 644\nroot:games 6755\nroot:root 755"
        session.says("rm -r /var/lib/berth-daemon/data; cd /usr/bin; chown games berth-setuid; chmod 700 berth-setuid")
        self.commit(session)
        session.configure(BERTH_ROOT="yes")
        session.start()
        assert session.says("stat -c '%U:%G %a' /usr/bin/berth-setuid; ls /var/lib/berth-daemon") == "games:games 700"

    def test_a_terminal_works(self, session: SessionJob) -> None:
        session.configure(BERTH_ROOT="yes")
        session.start()
        code, shown = in_terminal(session.ssh_argv("-tt", "tty; exit 3"), rows=24, columns=80)
        assert (code, shown.split()[:1]) == (3, ["/dev/pts/0"])

    def test_what_a_killed_run_left_goes_although_it_is_of_other_ids(self, session: SessionJob, bench: Bench) -> None:
        session.configure(BERTH_ROOT="yes")
        session.start("--nodelist=c1")
        session.says("mkdir -m 700 /opt/d; touch /opt/d/file; chown -R games /opt/d")
        bench.sh(f"scancel --signal=KILL --batch {session.jobs[-1]}")
        session.ended()
        assert len(session.traces("c1")) == 2, "its directories in /tmp and /var/tmp"
        session.configure()
        session.start("--nodelist=c1")
        session.stop()
        assert session.traces("c1") == []

    def test_a_user_without_subordinate_ids_is_told_so(self, session: SessionJob, bench: Bench) -> None:
        session.configure(BERTH_ROOT="yes")
        bench.sh("mv /etc/subuid /etc/subuid.off", node="c3")
        try:
            session.submit("--nodelist=c3")
            ended = session.ended()
        finally:
            bench.sh("mv /etc/subuid.off /etc/subuid", node="c3")
        assert (ended.state, ended.code) == ("FAILED", 70)
        assert "/etc/subuid" in session.log()
