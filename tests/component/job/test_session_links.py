"""Symbolic links of an image or a volume do not lead the session script out of their tree, also not one that appears
between two commands.

The tests run in a user and mount namespace, as the job's `namespace_main` does. `real` stands for the user's real home.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.deadlines import DEADLINE_S
from tests.job_scripts import SESSION

if TYPE_CHECKING:
    from pathlib import Path

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
SETTINGS = (
    "room=$1 NODE_DIR=$1/node VOLUME=$1/volume HOME_DIR=$1/volume IMAGE=$1/node/image\n"
    "BERTH_OWNER=alice BERTH_HOME=fresh BERTH_SYSTEM=fresh BERTH_ROOT='' BERTH_KEEP='' BERTH_FRESH='' DRIVER=plain\n"
    "LAYERS=$1 HOME_STACK=(volume) POINTS=() EXCEPTIONS=() MOUNTED=() BINDS=(); declare -A VIEWS=()\n"
)
BAD_IMAGE, BAD_VOLUMES = 67, 74
FROM = "from=${EXCEPTIONS[0]%%:*}"


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """An image with a /etc/skel, a volume, and a real home with one file."""
    for folder in ("node/image/etc/skel", "node/fresh/home", "node/root", "node/run", "real", "volume"):
        tmp_path.joinpath(folder).mkdir(parents=True)
    for number in range(5):
        tmp_path.joinpath(f"node/view/{number}").mkdir(parents=True)
    tmp_path.joinpath("node/image/etc/skel/rc").write_text("of the image\n")
    tmp_path.joinpath("real/secret").write_text("secret\n")
    return tmp_path


def job(room: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code with the script's functions in reach; it may find the real home unchanged afterwards."""
    program = f"source {SESSION}\n{SETTINGS}{code}"
    command = [*NAMESPACE, "bash", "-c", program, "test", str(room)]
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=env, check=False)
    assert [path.name for path in room.joinpath("real").iterdir()] == ["secret"], done.stdout + done.stderr
    assert room.joinpath("real/secret").read_text() == "secret\n", done.stdout + done.stderr
    return done


def after(function: str, swap: str) -> str:
    """Code that makes the function, once it has done its work, swap something."""
    renamed = f'eval "checked_{function}() $(declare -f {function} | tail -n +2)"'
    return f'{renamed}; {function}() {{ checked_{function} "$@"; {swap}; }}\n'


def before_mount(swap: str) -> str:
    """Code that swaps something right before the last bind mount, which pins what was found."""
    return f'mount() {{ [[ "$*" != *--no-canonicalize* ]] || {{ {swap}; }}; command mount "$@"; }}\n'


def make_chain(folder: Path, first: str, links: int, end: str) -> None:
    """Make `first` the first of so many links in the folder, the last one to `end`."""
    names = [first, *(f"hop{number}" for number in range(1, links))]
    for name, target in zip(names, [*names[1:], end], strict=True):
        folder.joinpath(name).symlink_to(target)


class TestInside:
    @pytest.mark.parametrize("end", ["/etc/real", "real", "../../../etc/real", "/../etc/./real"])
    @pytest.mark.parametrize("links", [39, 40])
    def test_up_to_40_links_are_followed_inside(self, room: Path, links: int, end: str) -> None:
        make_chain(room / "node/image/etc", "x", links, end)
        assert job(room, 'resolve_path "$IMAGE" /etc/x/y; echo "$RESOLVED"').stdout == "/etc/real/y\n"

    @pytest.mark.parametrize("end", ["/etc/real", "../../../etc/real"])
    @pytest.mark.parametrize(
        ("tree", "code", "whose"),
        [("node/image", BAD_IMAGE, "the image"), ("volume", BAD_VOLUMES, "the volumes")],
    )
    def test_41_links_are_refused(self, room: Path, tree: str, code: int, whose: str, end: str) -> None:
        make_chain(room / tree, "x", 41, end)
        done = job(room, f'resolve_path "$room/{tree}" /x; echo "$RESOLVED"')
        assert done.returncode == code
        assert f"{whose}: /x leads through more than 40 symbolic links" in done.stdout

    @pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "/a"}, {"a": "./a/a"}, {"a": "/a/.."}])
    def test_circles_are_refused(self, room: Path, links: dict[str, str]) -> None:
        for name, target in links.items():
            room.joinpath("volume", name).symlink_to(target)
        assert job(room, 'resolve_path "$VOLUME" /a').returncode == BAD_VOLUMES

    def test_target_keeps_line_ends(self, room: Path) -> None:
        room.joinpath("volume/x").symlink_to("two\nlines\n\n")
        assert job(room, 'resolve_path "$VOLUME" /x; echo "$RESOLVED."').stdout == "/two\nlines\n\n.\n"

    def test_link_that_vanishes_is_refused(self, room: Path) -> None:
        room.joinpath("volume/x").symlink_to("y")
        done = job(room, 'readlink() { rm "$3"; command readlink "$@"; }; resolve_path "$VOLUME" /x')
        assert done.returncode == BAD_VOLUMES


class TestView:
    """A mount where neither bash nor another program follows a link."""

    @pytest.mark.parametrize(
        "use",
        [
            "cat $VIEW/x/secret",
            "cd $VIEW/x",
            ": >$VIEW/x/file",
            ": >$VIEW/file",
            "mkdir -p $VIEW/x/folder",
            "cp -aT $IMAGE/etc $VIEW/x/new",
            "cp -RT $VIEW/x/ $room/copy",
        ],
    )
    def test_no_program_follows_a_link(self, room: Path, use: str) -> None:
        room.joinpath("volume/x").symlink_to(room / "real")
        room.joinpath("volume/file").symlink_to(room / "real/file")
        assert job(room, f'mount_view "$VOLUME"; {use}').returncode != 0
        assert not room.joinpath("copy").exists()

    def test_flags_that_the_namespace_may_not_take_away_stay(self, room: Path) -> None:
        """As on a file system that the node has mounted with nosuid."""
        room.joinpath("inner").write_text(
            f"source {SESSION}\n{SETTINGS}mount_view $VOLUME; bind_from_volume $VOLUME /y $NODE_DIR/y; pwd\n"
        )
        room.joinpath("volume/y").mkdir()
        fixed = 'mount --bind "$VOLUME" "$VOLUME"; mount -o remount,bind,nosuid,nodev "$VOLUME"'
        done = job(room, f'{fixed}; {" ".join(NAMESPACE)} bash "$room/inner" "$room"')
        assert (done.returncode, done.stderr) == (0, "")

    def test_node_that_lacks_the_option_is_unfit(self, room: Path) -> None:
        old = 'mount() { command mount "${@/nosymfollow/noatime}"; }'
        done = job(room, f'{old}; mount_view "$VOLUME"; touch "$VIEW/file"')
        assert done.returncode == 70
        assert "Linux 5.10" in done.stdout
        assert not room.joinpath("volume/file").exists()


class TestSkel:
    def fill(self, swap: str = ":") -> str:
        """Fill the home of a session that keeps it; the swap happens when /etc/skel has been found."""
        start = 'BERTH_HOME=keep; mkdir "$VOLUME/tree"; '
        return f'{start}{after("resolve_path", swap)}umask 022; mount_home; ls -A "$VOLUME"'

    def test_empty_home_begins_as_the_images(self, room: Path) -> None:
        done = job(room, self.fill())
        assert done.stdout == "rc\n", done.stderr

    @pytest.mark.parametrize("part", ["etc", "etc/skel"])
    def test_skel_that_becomes_a_link_is_refused(self, room: Path, part: str) -> None:
        room.joinpath("elsewhere").mkdir()
        room.joinpath("elsewhere/skel").symlink_to(room / "real")
        outside = {"etc": "elsewhere", "etc/skel": "real"}[part]
        swap = f'rm -r "$IMAGE/{part}"; ln -s "$room/{outside}" "$IMAGE/{part}"'
        done = job(room, self.fill(swap))
        assert done.returncode == BAD_VOLUMES
        assert list(room.joinpath("volume/tree").iterdir()) == []

    def test_home_that_gets_a_link_meanwhile_is_refused(self, room: Path) -> None:
        done = job(room, self.fill('ln -s "$room/real/rc" "$room/volume/tree/rc"'))
        assert done.returncode == BAD_VOLUMES
        assert "the home could not be filled" in done.stdout


class TestKept:
    def keep(self, path: str, swap: str = "") -> str:
        return f'BERTH_KEEP=/home/alice/{path}; {swap}add_exceptions home "$VOLUME" /etc/skel; {FROM}; '

    def test_target_of_a_link_is_kept_with_its_links(self, room: Path) -> None:
        room.joinpath("volume/y").mkdir()
        room.joinpath("volume/y/file").write_text("kept\n")
        room.joinpath("volume/y/link").symlink_to("file")
        room.joinpath("volume/x").symlink_to("/y")
        done = job(room, self.keep("x") + 'cat "$from/link"; echo new >"$from/new"; echo "${EXCEPTIONS[@]}"')
        assert done.stdout == f"kept\n{room}/node/fresh/home-0:/home/alice/x\n", done.stderr
        assert room.joinpath("volume/y/new").read_text() == "new\n"

    @pytest.mark.parametrize(("path", "shown"), [("rc", "of the image"), ("a/b/c", "")])
    def test_what_is_not_there_yet_begins_as_the_images(self, room: Path, path: str, shown: str) -> None:
        done = job(room, self.keep(path) + '[[ -d $from ]] || cat "$from"')
        assert (done.returncode, done.stdout.rstrip("\n")) == (0, shown), done.stderr
        assert room.joinpath("volume", path).exists()

    def test_what_is_fresh_is_copied_from_the_image_alone(self, room: Path) -> None:
        room.joinpath("node/image/etc/skel/conf").symlink_to(room / "real")
        done = job(room, 'BERTH_HOME=keep BERTH_FRESH=/home/alice/conf/secret; add_exceptions home "$VOLUME" /etc/skel')
        assert done.returncode == 0
        assert list(room.joinpath("node/fresh/home-0").iterdir()) == []

    @pytest.mark.parametrize("kind", ["folder", "file"])
    @pytest.mark.parametrize("part", ["a", "a/x"])
    def test_path_that_becomes_a_link_before_the_mount_is_refused(self, room: Path, part: str, kind: str) -> None:
        room.joinpath("volume/a").mkdir()
        place = room / "volume/a/x"
        place.mkdir() if kind == "folder" else place.touch()
        outside = "real/secret" if (kind, part) == ("file", "a/x") else "real"
        room.joinpath("elsewhere").mkdir()
        target = room / outside
        if part == "a":  # the link's folder must have an x, too
            target = room / "elsewhere"
            target.joinpath("x").symlink_to(room / ("real" if kind == "folder" else "real/secret"))
        swap = before_mount(f'mv "$VOLUME/{part}" "$room/gone"; ln -s "{target}" "$VOLUME/{part}"')
        done = job(room, self.keep("a/x", swap) + 'ls -R "$from"')
        assert done.returncode == BAD_VOLUMES
        assert "changes while the session starts" in done.stdout
        assert "secret" not in done.stdout

    def test_folder_that_becomes_a_link_before_it_is_filled_is_refused(self, room: Path) -> None:
        room.joinpath("volume/a").mkdir()
        swap = after(
            "resolve_path",
            '[[ ! -d $VOLUME/a || -L $VOLUME/a ]] || { rmdir "$VOLUME/a"; ln -s "$room/real" "$VOLUME/a"; }',
        )
        done = job(room, self.keep("a/b/c", swap))
        assert done.returncode == BAD_VOLUMES

    def test_commas_and_colons_of_a_name_reach_nobody(self, room: Path) -> None:
        """Apptainer's --bind would take them for the next bind."""
        name = "a,/real:/mnt,/tmp"
        room.joinpath("volume", name).mkdir(parents=True)
        room.joinpath("volume/x").symlink_to(name)
        done = job(room, self.keep("x") + 'echo "${EXCEPTIONS[@]}"')
        assert done.stdout == f"{room}/node/fresh/home-0:/home/alice/x\n"


class TestMountPoints:
    def test_missing_ones_are_made_where_links_lead_inside(self, room: Path) -> None:
        room.joinpath("volume/data").symlink_to("/kept/data")
        points = 'POINTS=("d /home/alice/data/deep" "f /home/alice/data/file")'
        assert job(room, f'{points}; restore_mount_points home "$VOLUME"').returncode == 0
        assert room.joinpath("volume/kept/data/deep").is_dir()
        assert room.joinpath("volume/kept/data/file").is_file()

    @pytest.mark.parametrize("point", ["d /home/alice/a/b", "f /home/alice/a/b"])
    def test_place_that_becomes_a_link_is_refused(self, room: Path, point: str) -> None:
        swap = after("resolve_path", 'ln -sfT "$room/real" "$VOLUME/a"')
        done = job(room, f'{swap}POINTS=("{point}"); restore_mount_points home "$VOLUME"')
        assert done.returncode == BAD_VOLUMES
        assert "there is no place for" in done.stdout


class TestAccounts:
    @pytest.mark.parametrize("tree", ["image", "root"])
    @pytest.mark.parametrize("link", ["etc/passwd", "etc"])
    def test_accounts_of_the_nodes_are_refused(self, room: Path, tree: str, link: str) -> None:
        """As the link of the root that the job has mounted, which it may have from the image."""
        outside = room / "outside"
        outside.mkdir()
        outside.joinpath("passwd").touch()
        room.joinpath("node/image/etc").rename(room / "node/image/usr")
        for each in {tree, "root"}:
            place = room.joinpath("node", each, link)
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(outside if link == "etc" else outside / "passwd")
        done = job(room, "check_account_files")
        assert done.returncode == (BAD_IMAGE if tree == "image" else BAD_VOLUMES)
        assert "/etc/passwd is a link that leads to a file of the node's" in done.stdout

    def test_links_between_files_of_the_tree_are_fine(self, room: Path) -> None:
        for folder in ("usr", "etc"):
            room.joinpath("node/root", folder).mkdir()
        room.joinpath("node/root/usr/passwd").touch()
        room.joinpath("node/root/etc/passwd").symlink_to("../usr/passwd")
        assert job(room, "check_account_files").returncode == 0


class TestJobsFolder:
    """$NODE_DIR/run, which the session may write in, and which the job reads and writes on the node."""

    @pytest.mark.parametrize("name", ["look", "notice"])
    def test_link_of_the_sessions_is_replaced_and_not_followed(self, room: Path, name: str) -> None:
        room.joinpath("node/run", name).symlink_to(room / "real/secret")
        running = 'BERTH_SESSION_NAME=dev CONTAINER=$$ PORT=1 DIRECTORY=$room; trap "" USR1'
        watched = "USAGE_CHECK_AT=0 REPORTED_USAGE='' ANNOUNCED_STOP=''"
        assert (
            job(room, f'{running}; {watched}; announce_idle_stop 100; mkdir "$room/run"; report_idle').returncode == 0
        )
        assert not room.joinpath("node/run", name).is_symlink()

    @pytest.mark.parametrize(
        ("put", "published"),
        [
            ("printf 'berth-services 1\\n' >listed", "7.2\nberth-services 1\n"),
            ("printf 'a\\0b\\n\\n' >listed", "7.2\nab\n\n"),
            ('ln -s "$room/real/secret" listed', ""),
            ("ln -s /dev/zero listed", ""),
            ("mkfifo listed", ""),
            ("mkdir listed", ""),
            ("head -c 1M /dev/zero | tr '\\0' x >listed", "7.2\n" + "x" * 65536),
            (":", ""),
        ],
    )
    def test_list_of_services_is_passed_on_whole_once(self, room: Path, put: str, published: str) -> None:
        begin = 'mkdir "$room/run"; DIRECTORY=$room BERTH_SUBMISSION=7 SLURM_RESTART_COUNT=2; cd "$NODE_DIR/run"'
        done = job(room, f'{begin}; {put}; publish_services; cat "$room/run/listed" 2>/dev/null || :')
        assert (done.stdout, done.returncode) == (published, 0), done.stderr
        again = f'{put}; publish_services; rm -f "$room/run/listed"; {put}; publish_services; ls "$room/run"'
        room.joinpath("run/listed").unlink(missing_ok=True)
        room.joinpath("run").rmdir()
        assert job(room, f"{begin}; {again}").stdout == ""  # the same again is not written

    @pytest.mark.parametrize(
        "put",
        [
            'ln -s "$room/real/secret" use',
            "ln -s /dev/zero use",
            "mkfifo use",
            "mkdir use",
            "truncate -s 1T use",
            "printf %01000000d 7 >use",
            ":",
        ],
    )
    def test_what_is_no_word_of_use_is_passed_over(self, room: Path, put: str) -> None:
        start = 'cd "$NODE_DIR/run"; used="" gpu="" looked=""'
        done = job(
            room, f'{start}; {put}; read_usage; echo "$((${{#used}} <= 60)) $gpu.$looked"; [[ $used != secret ]]'
        )
        assert (done.stdout, done.returncode) == ("1 .\n", 0), done.stderr
