"""Packages: ordinary ones by `sudo` in the session, those with accounts and setuid files by `berth exec --root`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.lab.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.conftest import User

MAKE = r"""
umask 022
make() { # NAME: from the folder build, with the postinst on stdin
  mkdir -p build/DEBIAN
  printf '%s\n' "Package: $1" 'Version: 1.0' 'Architecture: all' 'Maintainer: Tests <tests@example.org>' \
    "Description: $1, for tests" >build/DEBIAN/control
  cat >build/DEBIAN/postinst
  chmod 755 build/DEBIAN/postinst
  dpkg-deb --root-owner-group -b build ~/$1.deb >/dev/null
  rm -r build
}
cd $(mktemp -d)
mkdir -p build/usr/bin
printf '#!/bin/sh\necho an ordinary one\n' >build/usr/bin/ordinary
chmod 755 build/usr/bin/ordinary
make ordinary <<'.'
#!/bin/sh
mkdir -p /var/lib/ordinary && echo configured >/var/lib/ordinary/state
.
mkdir -p build/usr/bin build/usr/lib/ticker
printf '#!/bin/sh\nread -r what </var/lib/ticker/state && echo "tick $what"\n' >build/usr/bin/ticker
cp /bin/true build/usr/lib/ticker/as-ticker
chmod 755 build/usr/bin/ticker
chmod 4755 build/usr/lib/ticker/as-ticker
make ticker <<'.'
#!/bin/sh
set -e
if ! grep -q ^ticker: /etc/passwd; then
  echo 'ticker:x:151:151::/var/lib/ticker:/usr/sbin/nologin' >>/etc/passwd
  echo 'ticker:x:151:' >>/etc/group
fi
mkdir -p /var/lib/ticker
echo tock >/var/lib/ticker/state
chown -R ticker:ticker /var/lib/ticker /usr/lib/ticker/as-ticker
chmod 750 /var/lib/ticker
chmod 4755 /usr/lib/ticker/as-ticker
.
"""
"""Two packages in the home. The second has an account of its own, a folder and a setuid file that belong to it."""

WORKS = "ticker; id -u ticker; getent group ticker; dpkg-query -W -f '${Status}' ticker; /usr/lib/ticker/as-ticker"
WORKING = ["tick tock", "151", "ticker:x:151:", "install ok installed"]
TRACES = (
    "set +e; command -v ticker; getent passwd ticker; getent group ticker; ls -d /var/lib/ticker /usr/lib/ticker; :"
)
OWNERS = "stat -c '%U:%G %a' /var/lib/ticker /var/lib/ticker/state /usr/lib/ticker/as-ticker"
OWNED = ["ticker:ticker 750", "ticker:ticker 644", "ticker:ticker 4755"]


@pytest.fixture
def kept(alice: User, name: str) -> Kept:
    """A session that runs, with the packages in its home."""
    made = Kept(alice, name)
    made.start()
    made.says("bash -eu", stdin=MAKE.encode())
    return made


def as_root(session: Kept, *command: str) -> str:
    return session.user.ok("exec", "--root", "--yes", session.name, "--", *command, seconds=120)


def command(session: Kept, verb: str, *words: str) -> None:
    """A command that stops the session and starts it again."""
    session.user.ok(verb, session.name, *words, "--yes", "--timeout", "60", seconds=90)


def works(session: Kept) -> bool:
    return session.says(WORKS).splitlines() == WORKING


def has_gone(session: Kept) -> bool:
    return session.says(f"({TRACES}) 2>/dev/null") == ""


def install(session: Kept) -> None:
    as_root(session, "dpkg", "-i", f"/home/{session.user.name}/ticker.deb")


def test_a_package_with_a_system_user_works_wherever_the_session_goes(
    kept: Kept, new_name: Callable[[str], str], other: str
) -> None:
    before = kept.view()
    assert has_gone(kept)
    install(kept)
    after = kept.view()
    assert (after["state"], after["root"]) == ("ready", False)
    assert after["host_key_fingerprint"] == before["host_key_fingerprint"]
    assert works(kept)
    kept.snapshot("with")
    kept.stop()
    kept.again()
    assert works(kept), "after stop and start"

    clone = Kept(kept.user, new_name("c"))
    kept.user.ok("clone", kept.name, clone.name, "--start", seconds=120)
    assert works(clone), "in a clone of the running session"
    assert as_root(clone, "sh", "-c", OWNERS).splitlines() == OWNED
    clone.stop()

    (automatic,) = (each for each in kept.snapshots() if each["reason"] == "before exec --root")
    command(kept, "rollback", str(automatic["number"]))
    assert has_gone(kept), "after a rollback to before"
    command(kept, "rollback", "with")
    assert works(kept), "after a rollback to a live snapshot with it"
    assert as_root(kept, "sh", "-c", OWNERS).splitlines() == OWNED

    command(kept, "switch", other)
    assert has_gone(kept), "on another image"
    assert kept.says("ls ~/ticker.deb") == f"/home/{kept.user.name}/ticker.deb"
    command(kept, "switch", "base")
    assert works(kept), "back on the image that it was installed over"
    kept.verified()


def test_in_an_ordinary_session_it_fails_and_the_way_is_shown(kept: Kept) -> None:
    done = kept.user.berth("exec", kept.name, "--", "sh", "-c", "sudo dpkg -i ~/ticker.deb")
    assert done.returncode == 1
    way = f"berth exec --root {kept.name} -- dpkg -i /home/{kept.user.name}/ticker.deb"
    assert done.stderr.decode().splitlines()[-1].endswith(way)


def test_an_ordinary_package_is_installed_by_sudo_and_stays(kept: Kept) -> None:
    kept.says("sudo dpkg -i ~/ordinary.deb >&2")
    kept.stop()
    kept.again()
    look = "ordinary; cat /var/lib/ordinary/state; dpkg-query -W -f '${Status}' ordinary"
    assert kept.says(look).splitlines() == ["an ordinary one", "configured", "install ok installed"]
    told = json.loads(kept.user.ok("diff", kept.name, "--json"))["packages"]
    assert told == [{"name": "ordinary", "before": "", "after": "1.0"}]


class TestNothingIsChanged:
    @pytest.fixture
    def frozen(self, kept: Kept) -> Kept:
        """The session with marks in a snapshot, and nothing written since."""
        kept.mark("one")
        kept.stop()
        kept.snapshot()
        kept.again()
        return kept

    def test_by_a_command_that_fails(self, frozen: Kept) -> None:
        disk = frozen.disk()
        before = disk.record()["system"]
        script = "echo two >/opt/mark; echo new >/opt/new; chown games /opt/new; exit 3"
        done = frozen.user.berth("exec", "--root", "--yes", frozen.name, "--", "sh", "-c", script, seconds=120)
        assert (done.returncode, b"its changes are discarded" in done.stderr) == (3, True)
        assert disk.record()["system"] == before
        assert (frozen.view()["state"], frozen.view()["root"]) == ("ready", False)
        assert frozen.marks() == ["one", "one"]
        assert frozen.says("ls /opt") == "mark"

    def test_by_one_whose_job_is_killed_and_the_session_starts_again(self, frozen: Kept) -> None:
        disk, lab = frozen.disk(), frozen.user.site.lab
        before = disk.record()["system"]
        script = "echo two >/opt/mark; echo begun; exec sleep 1000"
        words = ["berth", "exec", "--root", "--yes", frozen.name, "--", "sh", "-c", script]
        with lab.popen(words, user=frozen.user.name) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == b"begun\n"
            view = frozen.view()
            assert view["root"]
            lab.sh(f"scancel --full --signal=KILL {view['job_id']}", user=frozen.user.name)
            _, told = running.communicate(timeout=120)
        assert running.returncode == 255, told
        view = frozen.user.wait(frozen.name, "ready")
        assert (view["root"], frozen.user.jobs(view["id"])) == (False, [str(view["job_id"])])
        assert disk.record()["system"] == before
        assert frozen.marks() == ["one", "one"]
        frozen.verified()
