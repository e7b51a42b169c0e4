"""Symbolic links of an image and of session content: what the job does by them happens inside of their tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.session_job import ROOM, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.session_job import Bench, SessionJob

HOME = "/shared/home/alice"
"""Alice's real home, which no session shows."""
SECRET = f"{HOME}/links-secret"


@pytest.fixture(autouse=True)
def secret(bench: Bench) -> Iterator[None]:
    """A file in alice's real home. The test must leave it as it was, and must put no other file there."""
    before = bench.sh(f"echo secret >{SECRET}; ls -lA --time-style=full-iso {HOME}", user="alice")
    yield
    assert bench.sh(f"ls -lA --time-style=full-iso {HOME}; rm {SECRET}", user="alice") == before


def chain(links: int, first: str, *, folder: str, kind: str) -> str:
    """Commands that make `first` the first of so many links, in `folder`, which lead to alice's real home."""
    names = [first, *(f"hop{number}" for number in range(1, links))]
    above, name = HOME.rsplit("/", 1)
    hops = [f"hop1/{name}", *names[2:], above if kind == "absolute" else f"{'../' * 20}{above[1:]}"]
    return ";".join(f"ln -sT {hop} {folder}/{name}" for name, hop in zip(names, hops, strict=True))


def in_layer(session: SessionJob, tree: str, commands: str) -> None:
    session.bench.sh(f"cd {tree}; {commands}", user="alice")


class TestImage:
    """An image whose /etc/skel is a chain of links; it has a folder of its own where they end."""

    def started(self, session: SessionJob, links: int, kind: str) -> tuple[int, list[str]]:
        """The job's exit code, since there is no program in the image, and what lies in the home's volume then."""
        tree, image = f"{ROOM}/links", f"{ROOM}/links.sif"
        session.bench.sh(
            f"rm -rf {tree} {image}; mkdir -p {tree}/etc {tree}{HOME}; echo ours >{tree}{HOME}/of-the-image;"
            f"{chain(links, 'skel', folder=f'{tree}/etc', kind=kind)};"
            f"mksquashfs {tree} {image} -quiet -no-progress >/dev/null"
        )
        session.configure(BERTH_IMAGE=image, BERTH_IMAGE_OFFSET="0", BERTH_IMAGE_SIZE=stat_size(session, image))
        session.submit()
        code = session.ended().code
        return code, session.bench.sh(f"ls -A {session.home_tree}").split()

    @pytest.mark.parametrize("kind", ["absolute", "relative"])
    @pytest.mark.parametrize("links", [39, 40])
    def test_skel_of_up_to_40_links_is_the_images_own(self, session: SessionJob, links: int, kind: str) -> None:
        _, home = self.started(session, links, kind)
        assert home == ["of-the-image"], session.log()

    @pytest.mark.parametrize("kind", ["absolute", "relative"])
    def test_skel_of_41_links_is_refused(self, session: SessionJob, kind: str) -> None:
        assert self.started(session, 41, kind) == (67, [])
        assert "the image: /etc/skel leads through more than 40 symbolic links" in session.log()


def stat_size(session: SessionJob, path: str) -> str:
    return session.bench.sh(f"stat -c %s {path}").strip()


class TestKept:
    """Session content at a path that is kept although its side is fresh."""

    def configure(self, session: SessionJob, path: str) -> None:
        session.configure(BERTH_HOME="fresh", BERTH_SYSTEM="fresh", BERTH_KEEP=path)

    @pytest.mark.parametrize("kind", ["absolute", "relative"])
    def test_chain_of_40_links_leads_into_the_volume(self, session: SessionJob, kind: str) -> None:
        in_layer(session, session.home_tree, chain(40, "x", folder=".", kind=kind))
        self.configure(session, "/home/alice/x")
        session.start()
        assert session.says("ls -A ~/x; echo kept >~/x/kept; ln -s kept ~/x/link; cat ~/x/link") == "kept"
        session.stop()
        assert session.bench.sh(f"cat {session.home_tree}{HOME}/kept") == "kept\n"

    @pytest.mark.parametrize("side", ["home", "system"])
    def test_a_chain_of_41_links_is_refused(self, session: SessionJob, side: str) -> None:
        tree, path = {"home": (session.home_tree, "/home/alice/x"), "system": (session.system_tree, "/x")}[side]
        in_layer(session, tree, chain(41, "x", folder=".", kind="absolute"))
        self.configure(session, path)
        session.submit()
        assert session.ended().code == 74, session.log()
        assert "the volumes: /x leads through more than 40 symbolic links, or in a circle" in session.log()
        assert session.traces(session.job().node) == []

    def test_a_name_with_commas_and_colons_is_one_path(self, session: SessionJob) -> None:
        """To Apptainer these part one bind from the next."""
        name = f"a,{HOME}:/mnt,/tmp"
        in_layer(session, session.home_tree, f"mkdir a; mkdir -p '{name}'; ln -s '{name}' x; echo mine >'{name}/file'")
        self.configure(session, "/home/alice/x")
        session.start()
        assert session.says("cat ~/x/file; ls -A /mnt") == "mine"


class TestAccounts:
    """Apptainer reads the accounts of an image, or volume, before it is in the container."""

    @pytest.mark.parametrize("file", ["passwd", "group"])
    def test_accounts_that_are_a_file_of_the_nodes_are_refused(self, session: SessionJob, file: str) -> None:
        in_layer(session, session.system_tree, f"mkdir -p -m 755 etc; ln -s {SECRET} etc/{file}")
        session.submit()
        assert session.ended().code == 74, session.log()
        assert f"the volumes: /etc/{file} is a link that leads to a file of the node's" in session.log()


class TestOwners:
    def test_record_of_a_path_behind_a_link_is_passed_over(self, session: SessionJob) -> None:
        files = "mkdir -p opt/real; touch opt/real/file opt/real/other; chmod 644 opt/real/*; ln -s real opt/link"
        in_layer(session, session.system_tree, f"umask 022; {files}")
        records = "printf '1 1 4755 opt/link/file\\0001 1 600 opt/real/other\\000' >owners"
        in_layer(session, session.layer(session.system[0]), records)
        session.configure(BERTH_ROOT="yes")
        session.start()
        assert session.says("stat -c %u:%a /opt/real/file /opt/real/other").split() == ["0:644", "1:600"]


class TestRunning:
    def test_links_in_the_jobs_own_folder_are_never_followed(self, session: SessionJob) -> None:
        session.start()
        session.says(f"cd /run/berth/node; for name in look use notice stand go still; do ln -s {SECRET} $name; done")
        wait_until(lambda: session.ssh("test -s /run/berth/node/use").returncode == 0, "a look", session.log)
        assert session.copy(HOME=new_id())["RESULT"] == "frozen"
