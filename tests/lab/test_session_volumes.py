"""The volumes of a session as its job mounts them: stacks of layers, and a fresh part at each start.

No controller runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.session_job import ROOM, new_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.session_job import Bench, SessionJob

REFUSING = b"""#!/bin/sh
case " $* " in *" -t overlay "*) echo "mount: not permitted" >&2; exit 32 ;; esac
exec /usr/bin/mount "$@"
"""


@pytest.fixture
def refusing_kernel(bench: Bench) -> Iterator[str]:
    """A node whose kernel seems to refuse overlayfs to users."""
    wrapper = "/usr/local/sbin/mount"
    bench.sh(f"cat >{wrapper}; chmod 755 {wrapper}", node="c3", stdin=REFUSING)
    yield "c3"
    bench.sh(f"rm {wrapper}", node="c3")


def entries(session: SessionJob, tree: str) -> list[str]:
    """Return the paths in the tree of a layer, relative to it."""
    return sorted(session.bench.sh(f"cd {tree}; find . -mindepth 1 -printf '%P\\n'").splitlines())


class TestStacks:
    def test_the_system_is_writable_and_kept_over_jobs_and_nodes(self, session: SessionJob) -> None:
        session.start("--nodelist=c1")
        session.says("echo new >/opt/tool; rm /etc/motd; sed -i s/Debian/Mine/ /etc/issue")
        session.says("rm -r /usr/share/bug; mkdir /usr/share/bug")
        session.stop()
        session.start("--nodelist=c2")
        assert session.says("cat /opt/tool; grep -c Mine /etc/issue; ls /usr/share/bug; ! ls /etc/motd") == "new\n1"

    def test_a_start_and_a_stop_write_nothing_into_the_volumes(self, session: SessionJob) -> None:
        session.start("--nodelist=c1")
        session.stop()
        assert entries(session, session.system_tree) == []
        first = entries(session, session.home_tree)
        assert ".profile" in first
        session.push()
        session.start("--nodelist=c1")
        session.says("cat /etc/passwd ~/.profile; ls -lR /usr/local /etc/apt >/dev/null")
        session.stop()
        assert entries(session, session.system_tree) == []
        assert entries(session, session.home_tree) == []

    def test_a_new_top_over_a_layer_shows_the_layer_and_leaves_it_alone(self, session: SessionJob) -> None:
        session.start()
        session.says("echo one | tee ~/file /opt/file; mkdir ~/folder; echo kept >~/folder/a; echo gone >~/folder/b")
        session.stop()
        session.push()
        session.start()
        assert session.says("cat ~/file /opt/file ~/folder/a") == "one\none\nkept"
        session.says("echo two >~/file; rm /opt/file ~/folder/b")
        session.stop()
        session.push()
        session.start()
        assert session.says("cat ~/file; ls ~/folder; ls /opt") == "two\na"
        session.stop()
        below = session.layer(session.home[2])
        assert session.bench.sh(f"cat {below}/tree/file; ls {below}/tree/folder") == "one\na\nb\n"

    def test_sixty_layers_fit(self, session: SessionJob) -> None:
        home, system = ([new_id() for _ in range(60)] for _ in range(2))
        session.mount("overlay", home=home, system=system)
        for number in (1, 30, 59):
            session.bench.sh(f"echo {number} >{session.layer(home[number])}/tree/{number}", user="alice")
            session.bench.sh(f"mkdir {session.layer(system[number])}/tree/opt", user="alice")
            session.bench.sh(f"echo {number} >{session.layer(system[number])}/tree/opt/{number}", user="alice")
        session.start()
        assert session.says("cat ~/1 ~/30 ~/59 /opt/1 /opt/30 /opt/59").split() == ["1", "30", "59"] * 2
        assert "root: an overlay of 62 layers, mounted by kernel" in session.log()

    def test_fuse_takes_over_where_the_kernel_refuses(self, session: SessionJob, refusing_kernel: str) -> None:
        session.start(f"--nodelist={refusing_kernel}")
        assert "home: an overlay of 2 layers, mounted by fuse" in session.log()
        session.says("rm /etc/motd; echo mine >/opt/file; echo mine >~/file; rm ~/.profile")
        copy = new_id()
        assert session.copy(HOME=copy)["RESULT"] == "frozen"
        assert session.bench.sh(f"cat {session.layer(copy)}/tree/file; ls {session.layer(copy)}").split() == [
            "mine", "fuse", "index", "tree"
        ]  # fmt: skip
        session.stop()
        assert session.traces(refusing_kernel) == []
        session.push()
        session.start("--nodelist=c1")  # whose kernel would do it
        assert session.says("cat /opt/file ~/file; ls -A ~; test ! -e /etc/motd").split()[:2] == ["mine", "mine"]
        assert "root: an overlay of 4 layers, mounted by fuse" in session.log()
        assert session.says("test ! -e ~/.profile && echo gone") == "gone"

    @pytest.mark.parametrize("driver", ["reflink", "plain"])
    def test_a_plain_home_is_the_tops_own_tree(self, session: SessionJob, driver: str) -> None:
        session.mount(driver, home=session.home, system=session.system)
        session.start()
        assert session.says("echo there >~/file; echo there >/opt/file; stat -fc %T ~") != "overlayfs"
        session.stop()
        assert session.bench.sh(f"cat {session.home_tree}/file {session.system_tree}/opt/file") == "there\nthere\n"

    def test_mount_points_that_the_user_has_deleted_come_back(self, session: SessionJob, bench: Bench) -> None:
        session.start()
        session.stop()
        for path in ("home", "run", "etc/localtime", "proc"):  # as a package installed by `exec --root` could
            bench.sh(f"cd {session.system_tree}; mkdir -p $(dirname {path}); mknod {path} c 0 0", user="alice")
        session.start()
        assert session.says("pwd; id -un") == "/home/alice\nalice"

    def test_binds_find_a_place_wherever_they_go(self, session: SessionJob, bench: Bench) -> None:
        bench.sh(f"mkdir -p {ROOM}/bound; echo bound >{ROOM}/bound/file; echo bound >{ROOM}/bound.txt")
        places = {
            f"{ROOM}/bound": ("/data/deep", "/home/alice/data", "/etc/ssl/bound"),
            f"{ROOM}/bound.txt": ("/opt/a.txt",),
        }
        binds = ",".join(f"{source}:{place}" for source, there in places.items() for place in there)
        session.configure(BERTH_BINDS=binds)
        session.start()
        shown = session.says("cat /data/deep/file ~/data/file /etc/ssl/bound/file /opt/a.txt")
        assert shown.split() == ["bound"] * 4
        session.stop()
        assert entries(session, session.system_tree) == []

    def test_what_the_node_gives_is_there(self, session: SessionJob, bench: Bench) -> None:
        session.start("--nodelist=c2")
        for file in ("/etc/resolv.conf", "/etc/hosts"):
            assert session.says(f"cat {file}") + "\n" == bench.sh(f"cat {file}", node="c2")
        assert session.says("date +%Z") == bench.sh("date +%Z", node="c2").strip()
        assert session.says("getent passwd alice; id -gn") == "alice:x:5001:5001:alice:/home/alice:/bin/bash\nalice"


class TestPersistence:
    def test_a_fresh_system_and_home_are_the_profiles_at_each_start(self, session: SessionJob) -> None:
        session.configure(BERTH_HOME="fresh", BERTH_SYSTEM="fresh")
        session.start("--nodelist=c1")
        session.says("echo x >~/file; echo x >/opt/file; echo x >>~/.profile; mkdir -m 0 ~/odd")
        session.stop()
        assert session.traces("c1") == []
        session.start("--nodelist=c1")
        assert session.says("ls ~ /opt; grep -c ^x ~/.profile || :") == "/home/alice:\n\n/opt:\n0"
        session.stop()
        assert entries(session, session.home_tree) == entries(session, session.system_tree) == []

    def test_paths_of_a_fresh_side_may_be_kept(self, session: SessionJob) -> None:
        kept = "/opt/cache,/etc/issue,/usr/share/bug,/home/alice/.cache/ccache,/home/alice/.bashrc"
        session.configure(BERTH_HOME="fresh", BERTH_SYSTEM="fresh", BERTH_KEEP=kept)
        session.start()
        session.says("echo kept | tee /opt/cache/mine /usr/share/bug/mine ~/.cache/ccache/mine >>/etc/issue")
        session.says("echo lost | tee ~/file /opt/file; echo kept >>~/.bashrc")
        session.stop()
        session.start()
        shown = session.says("tail -qn 1 /opt/cache/mine /usr/share/bug/mine ~/.cache/ccache/mine ~/.bashrc /etc/issue")
        assert shown.split() == ["kept"] * 5
        assert session.says("grep -c Debian /etc/issue; ls /opt; ls -A ~").split() == [
            "1", "cache", ".bash_logout", ".bashrc", ".cache", ".profile"
        ]  # fmt: skip

    def test_paths_of_a_kept_side_may_be_fresh(self, session: SessionJob) -> None:
        session.start()
        session.says("mkdir -p ~/.config/app; echo old | tee -a ~/.config/app/rc /opt/file /etc/issue ~/.profile")
        session.says("rm -r /usr/share/bug; echo old >/etc/skel/new")
        session.stop()
        fresh = "/home/alice/.config/app,/home/alice/.profile,/etc/issue,/usr/share/bug,/opt/new"
        session.configure(BERTH_FRESH=fresh)
        for _ in range(2):
            session.start()
            shown = session.says("ls -A ~/.config/app /opt/new; cat /opt/file; grep -c old /etc/issue ~/.profile || :")
            empty = ["/home/alice/.config/app:", "/opt/new:"]
            assert shown.split() == [*empty, "old", "/etc/issue:0", "/home/alice/.profile:0"]
            assert "vim-tiny" in session.says("find /usr/share/bug")
            session.says("echo x | tee -a ~/.config/app/rc /opt/new/x /etc/issue /usr/share/bug/x ~/.profile")
            session.stop()
        session.configure()
        session.start()
        assert session.says("tail -qn 1 ~/.config/app/rc /etc/issue ~/.profile").split() == ["old"] * 3

    def test_a_path_that_has_become_something_else_stays_and_the_log_says_so(self, session: SessionJob) -> None:
        session.start()
        session.says("rm /etc/issue; mkdir /etc/issue; echo mine >/etc/issue/file")
        session.stop()
        session.configure(BERTH_FRESH="/etc/issue")
        session.start()
        assert session.says("cat /etc/issue/file") == "mine"
        assert "warning: /etc/issue stays as it is" in session.log()


class TestRefusals:
    def refused(self, session: SessionJob, code: int, words: str, submission: str = "1") -> None:
        session.submit(submission=submission)
        ended = session.ended()
        assert (ended.state, ended.code) == ("FAILED", code), session.log()
        assert words in session.log()

    def test_a_job_whose_session_has_a_later_one(self, session: SessionJob, bench: Bench) -> None:
        session.configure(BERTH_SUBMISSION="2")
        self.refused(session, 73, "this is submission 1, and the session is at 2")
        assert bench.sh(f"ls {session.directory}/run").split().count("lock") == 0

    def test_a_layer_that_is_not_there_is_named(self, session: SessionJob, bench: Bench) -> None:
        below = new_id()
        session.mount("overlay", home=[*session.home, below], system=session.system)
        bench.sh(f"rm -r {session.layer(below)}")
        self.refused(session, 74, f"the layer {session.layer(below)} is missing")

    @pytest.mark.parametrize(
        "text", ["{}\n", '{\n "mount": "overlay;home=../../x;system=a",\n}\n', ' "mount": "tape;home=a;system=a"\n']
    )
    def test_volumes_that_say_nothing_sensible(self, session: SessionJob, bench: Bench, text: str) -> None:
        bench.sh(f"cat >{session.directory}/volumes.json", user="alice", stdin=text.encode())
        self.refused(session, 74, 'has no line "mount"')

    def test_no_volumes(self, session: SessionJob, bench: Bench) -> None:
        bench.sh(f"rm {session.directory}/volumes.json")
        self.refused(session, 74, "there is no")

    def test_an_image_without_a_squashfs_there(self, session: SessionJob) -> None:
        session.configure(BERTH_IMAGE_OFFSET="4096")
        self.refused(session, 67, "could not be mounted")
        assert session.traces(session.job().node) == []
