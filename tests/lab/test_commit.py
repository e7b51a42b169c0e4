"""Images made of a session's layers: what goes in, what does not, and the recipe that is recorded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from profiles.recipe.spec import parse_profile
from tests.lab import images
from tests.lab.images import APPTAINER, ROOM, SITE_STORE, STORE, inside, workspaces

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

PYTHON = "/opt/berth/venv/bin/python"
LAYERS = f"{ROOM}/layers"

ROOT_MODE = """
import os, pathlib, subprocess, sys, tempfile
from broker.volumes.copy_archive import copy_archive
from profiles.build import namespace, network
from profiles.image import sif
image, layer, script = sys.argv[1:]
top = pathlib.Path(tempfile.mkdtemp(dir="/shared/profile-tests"))
program = top / "copying.pyz"
program.write_bytes(copy_archive())
for name in ("kit", "work", "merged"):
    (top / name).mkdir()
(top / "upper").mkdir()
pathlib.Path(layer).parent.mkdir(exist_ok=True)
outside = f'''set -eu
cd {top}
unsquashfs -q -n -d base -o {sif.squashfs_offset(pathlib.Path(image))} {image}
mount -t overlay -o userxattr,lowerdir=base,upperdir=upper,workdir=work overlay merged
sh {namespace.INSIDE}/enter.sh merged kit sh -euc "$1"
umount -R merged
echo | {sys.executable} -I {program} --squash upper {layer} ''
'''
environment = network.inside_environment(top / "kit") | {"DEBIAN_FRONTEND": "noninteractive"}
done = subprocess.run(
    namespace.as_root("sh", "-c", outside, "sh", script), env=environment | {"TMPDIR": "/tmp"}, check=False
)
namespace.remove_as_root(top)
sys.exit(done.returncode)
"""
"""Makes the layer argv[2] as `berth exec --root` does: argv[3] runs as root over the image argv[1], and what it has
changed is copied as the user's own, with the owners written beside it."""

INSTALL = """
apt-get -q update
apt-get -q -y --no-install-recommends install hello adduser
apt-get -q -y purge less
adduser --system --group --no-create-home --home /var/lib/daemon --uid 450 daemond
install -d -o daemond -g daemond -m 750 /var/lib/daemon
install -o daemond -g daemond -m 640 /dev/null /var/lib/daemon/state
install -m 4755 /bin/true /opt/set-uid
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
ssh-keygen -q -t ed25519 -N '' -f /opt/deploy
mkdir -p /root/.ssh /root/.cache/pip /var/log/daemon /home/alice
echo secret >/root/.ssh/id
echo 'apt-get install' >/root/.bash_history
echo x >/root/.cache/pip/x
echo x >/var/log/daemon/log
echo x >/home/alice/file
echo x >/tmp/file
echo machine login x password y >/opt/.netrc
printf '#!/bin/sh\\necho tool\\n' >/opt/tool
chmod 755 /opt/tool
"""

BY_HAND = """
import os, pathlib, subprocess, sys
tree = pathlib.Path(sys.argv[1]) / "tree"
for folder in ("etc/opaque", "etc/ssh", "opt/data", "usr/share"):
    (tree / folder).mkdir(parents=True)
(tree / "etc/motd").write_text("welcome\\n")
os.mknod(tree / "etc/debian_version", 0o020000, 0)
os.setxattr(tree / "etc/opaque", "user.overlay.opaque", b"y")
(tree / "opt/data/binary").write_bytes(bytes(range(256)))
(tree / "opt/link").symlink_to("data/binary")
(tree / "etc/.pgpass").write_text("x")
(tree / "etc/harmless.token").write_text("no secret")
"""
"""Makes the layer argv[1] as a session without root does; its owner can make whiteouts (mknod(2), device 0:0)."""

COMMIT = """
import json, sys
from pathlib import Path
from profiles.commit.commit import Source, commit_session
from profiles.errors import ProfilesError
from profiles.commit.filters import PathFilter
from profiles.image.store import Store, read_image
asked = json.loads(sys.argv[1])
def tell(**what): print(json.dumps(what, default=str), flush=True)
class No(Exception): pass
def approve(findings):
    tell(findings=json.loads(findings.to_json()))
    if asked.get("no"):
        raise No
try:
    image = commit_session(
        Source("dev", read_image(Path(asked["base"]).parent), [Path(layer) for layer in asked["layers"]]),
        name=asked["name"], version=asked["version"], approve=approve,
        path_filter=PathFilter(asked.get("include", []), asked.get("exclude", [])),
        store=Store(Path("/shared/profile-tests/store")),
    )
    tell(path=image.path, digest=image.digest, labels=image.labels, offset=image.offset)
except ProfilesError as error:
    tell(error=type(error).__name__, message=error.message, hint=error.hint, log=getattr(error, "log", None))
except No:
    tell(error="No")
"""


@dataclass(frozen=True)
class Committed:
    """The report of a commit."""

    findings: dict[str, Any]
    end: dict[str, Any]

    @property
    def image(self) -> str:
        assert "path" in self.end, f"the commit failed: {self.end}"
        return str(self.end["path"])

    def paths(self, change: str) -> list[str]:
        return [each["path"] for each in self.findings["files"] if each["change"] == change]

    @property
    def left_out(self) -> dict[str, str]:
        return {each["path"]: each["why"] for each in self.findings["left_out"]}


def run(lab: Lab, program: str, *arguments: str) -> str:
    """Run a Python program as alice on the login node, with the machine's network."""
    done = lab.run([PYTHON, "-B", "-c", program, *arguments], user="alice", seconds=images.SECONDS, host_network=True)
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()[-2000:]
    return done.stdout.decode()


def commit(lab: Lab, base: str, layers: list[str], version: str, **more: object) -> Committed:
    asked = {"base": base, "layers": layers, "name": "grown", "version": version, **more}
    records = [json.loads(line) for line in run(lab, COMMIT, json.dumps(asked)).splitlines()]
    findings: dict[str, Any] = next((each["findings"] for each in records if "findings" in each), {})
    return Committed(findings, records[-1])


@pytest.fixture(scope="module")
def base(lab: Lab, room: str) -> str:
    assert room == ROOM
    return images.published(lab, "base")


@pytest.fixture(scope="module")
def layers(lab: Lab, base: str) -> list[str]:
    """Two layers of a session, oldest first: one by root, one without; the second one packed."""
    first, second = f"{LAYERS}/01", f"{LAYERS}/02"
    run(lab, ROOT_MODE, base, first, INSTALL)
    run(lab, BY_HAND, second)
    lab.sh(f"cd {second}; mksquashfs tree layer.squashfs -comp zstd -quiet -no-progress; rm -r tree", user="alice")
    return [first, second]


@pytest.fixture(scope="module")
def grown(lab: Lab, base: str, layers: list[str]) -> Committed:
    """The session's image."""
    return commit(lab, base, layers, "1", include=["/etc/harmless.token"], exclude=["/opt/set-uid"])


class TestWhatGoesIn:
    """Packages, files, deletions and owners."""

    def test_what_was_found_is_told(self, grown: Committed) -> None:
        findings = grown.findings
        assert {"hello", "adduser"} <= {name for name, _ in findings["added"]}
        assert [name for name, _ in findings["removed"]] == ["less"]
        assert {"hello", "adduser"} <= {name for name, _ in findings["by_hand"]}
        assert {"/etc/motd", "/opt/tool", "/opt/data/binary", "/opt/link"} <= {*grown.paths("A"), *grown.paths("M")}
        assert grown.paths("D") == ["/etc/debian_version"]
        assert not any("hello" in each["path"] for each in findings["files"]), "a package's files are its own"
        assert not any("dpkg" in each["path"] for each in findings["files"])
        assert findings["of_packages"] > 10

    def test_packages_and_files_are_in_the_image(self, lab: Lab, grown: Committed) -> None:
        assert inside(lab, grown.image, "hello; /opt/tool; cat /etc/motd") == "Hello, world!\ntool\nwelcome\n"
        assert (
            inside(lab, grown.image, "readlink /opt/link; sha256sum </opt/link | cut -c1-8")
            == "data/binary\n40aff2e9\n"
        )
        packages = lab.sh(f"cat {grown.image.removesuffix('image.sif')}packages.txt")
        assert re.search(r"^apt hello \d", packages, re.MULTILINE)
        assert "apt less " not in packages
        assert inside(lab, grown.image, "dpkg --verify adduser hello | grep -v /usr/share/ || id -u daemond") == "450\n"

    def test_what_was_deleted_is_gone(self, lab: Lab, grown: Committed) -> None:
        assert inside(lab, grown.image, "ls /etc/debian_version /usr/bin/less 2>/dev/null || :") == ""

    def test_owners_are_those_that_root_of_the_session_saw(self, lab: Lab, grown: Committed) -> None:
        listed = lab.sh(
            f"unsquashfs -lln -o {grown.end['offset']} {grown.image} "
            "var/lib/daemon etc/motd etc/shadow opt/tool usr/bin/chage"
        )
        owners = {
            name: (mode, owner)
            for mode, owner, name in re.findall(r"^(\S+) (\S+) .*squashfs-root/(\S+)", listed, re.MULTILINE)
        }
        assert owners["var/lib/daemon"] == ("drwxr-x---", "450/450")
        assert owners["var/lib/daemon/state"] == ("-rw-r-----", "450/450")
        assert owners["etc/motd"][1] == owners["opt/tool"][1] == "0/0"
        assert owners["usr/bin/chage"] == ("-rwxr-sr-x", "0/42")
        assert owners["etc/shadow"] == ("-rw-r-----", "0/42")

    def test_its_labels_tell_where_it_comes_from(self, lab: Lab, base: str, grown: Committed) -> None:
        labels = grown.end["labels"]
        assert labels["berth.commit"] == "dev"
        assert labels["berth.base.digest"] == "sha256:" + lab.sh(f"sha256sum {base}").split()[0]
        shown = lab.sh(f"{APPTAINER} inspect {grown.image}", user="bob")
        assert dict(re.findall(r"(berth\.[a-z.]+): (.*)", shown)) == labels

    def test_nothing_is_left_where_it_was_made(self, lab: Lab, grown: Committed) -> None:
        assert grown.image
        assert workspaces(lab) == ""


class TestWhatStaysBehind:
    """Secrets, the home, and what is of the moment."""

    SECRETS = (
        "/etc/ssh/ssh_host_ed25519_key",
        "/opt/deploy",
        "/root/.ssh/id",
        "/root/.bash_history",
        "/opt/.netrc",
        "/etc/.pgpass",
    )

    def test_it_is_told(self, grown: Committed) -> None:
        assert {path for path, why in grown.left_out.items() if why.startswith("may be secret")} >= set(self.SECRETS)
        assert grown.left_out["/home"] == "never part of an image"
        assert grown.left_out["/var/log/daemon/log"] == "a log"
        assert grown.left_out["/root/.cache/pip/x"] == "a cache"
        assert grown.left_out["/opt/set-uid"] == "excluded"
        assert "/etc/harmless.token" not in grown.left_out, "it was asked for"
        assert "/opt/deploy.pub" not in grown.left_out

    def test_it_is_not_in_the_image(self, lab: Lab, grown: Committed) -> None:
        everything = lab.sh(f"unsquashfs -l -o {grown.end['offset']} {grown.image}")
        for path in (
            *self.SECRETS,
            "/home/alice",
            "/var/log/daemon/log",
            "/root/.cache/pip",
            "/tmp/file",  # noqa: S108 - not here, but in the image
            "/opt/set-uid",
        ):
            assert f"squashfs-root{path}\n" not in everything, path
        assert "squashfs-root/opt/deploy.pub\n" in everything
        assert "squashfs-root/etc/harmless.token\n" in everything
        assert "squashfs-root/var/log/daemon\n" in everything, "programs may want the folder"

    def test_it_is_not_in_the_recipe(self, lab: Lab, grown: Committed) -> None:
        recipe = lab.sh(f"cat {grown.image.removesuffix('image.sif')}profile.yaml")
        assert "PRIVATE KEY" not in recipe
        assert "password" not in recipe


class TestRecipe:
    """The profile that is recorded with the image."""

    def test_it_says_as_code_what_it_can(self, lab: Lab, grown: Committed, tmp_path: Path) -> None:
        text = lab.sh(f"cat {grown.image.removesuffix('image.sif')}profile.yaml")
        profile = parse_profile(text, tmp_path / "profile.yaml")
        assert (profile.name, profile.version, str(profile.base)) == ("grown", "1", "profile:base@2")
        assert {each.partition("=")[0] for each in profile.apt} >= {"hello", "adduser"}
        assert {file.destination: file.content for file in profile.files}["/etc/motd"] == "welcome\n"
        assert "purge less" in profile.post
        assert "/opt/data/binary (256 bytes)" in text
        assert text.startswith("# Committed from the session dev")

    @pytest.mark.soak
    def test_it_builds(self, lab: Lab, grown: Committed) -> None:
        """From the recipe comes what the session had, but for what it says it does not make."""
        text = lab.sh(f"cat {grown.image.removesuffix('image.sif')}profile.yaml").replace(
            "version: '1'", "version: again"
        )
        lab.sh(f"install -d -o alice {STORE}/base; cp -r {SITE_STORE}/base/2 {STORE}/base/", user="root")
        again = images.built(lab, "again", text + "\n")
        assert inside(lab, again.image, "hello; /opt/tool; cat /etc/motd") == "Hello, world!\ntool\nwelcome\n"
        assert inside(lab, again.image, "ls /etc/debian_version /usr/bin/less 2>/dev/null || :") == ""
        assert inside(lab, again.image, "id -u daemond") == "450\n"


class TestRefusals:
    """Nothing is published, and the reason is shown."""

    def test_without_approval_nothing_is_left(self, lab: Lab, base: str, layers: list[str]) -> None:
        refused = commit(lab, base, layers, "no", no=True)
        assert refused.findings["added"]
        assert refused.end == {"error": "No"}
        assert (workspaces(lab), lab.sh(f"ls -d {STORE}/grown/no* || :")) == ("", "")

    def test_nothing_new_is_no_image(self, lab: Lab, base: str) -> None:
        run(lab, "import os, sys; os.makedirs(sys.argv[1] + '/tree/home/x')", f"{LAYERS}/03")
        refused = commit(lab, base, [f"{LAYERS}/03"], "same").end
        assert refused["error"] == "NothingChangedError"
        assert "differs from base@2" in refused["message"]

    def test_a_version_is_never_overwritten(self, lab: Lab, base: str, grown: Committed, layers: list[str]) -> None:
        assert grown.image
        assert commit(lab, base, layers, "1").end["error"] == "ImageExistsError"

    def test_a_layer_that_is_gone_is_named(self, lab: Lab, base: str) -> None:
        refused = commit(lab, base, [f"{LAYERS}/99"], "gone").end
        assert "layers/99 is missing" in refused["message"]

    def test_patterns_without_effect_are_told(self, lab: Lab, base: str, layers: list[str]) -> None:
        refused = commit(lab, base, layers, "typo", include=["/opt/nothing"]).end
        assert "no changed path matches /opt/nothing" in refused["message"]


@pytest.mark.soak
class TestSession:
    """The whole way, from a session's own changes to a session of the new image."""

    def test_from_a_session_to_a_session(
        self, alice: User, bob: User, room: str, new_name: Callable[[str], str]
    ) -> None:
        """Alice may not write to the site's store: the image goes to her own, which sessions of hers search."""
        assert room == ROOM
        lab, old, new = alice.site.lab, new_name("old"), new_name("new")
        version = f"{old}.{lab.sh('date +%s')}"
        alice.ok("start", old, "--profile", "base", "--timeout", "60", seconds=90)
        alice.ok("exec", old, "--", "sh", "-c", "echo hello >/etc/motd; echo x >/root/.netrc; echo x >~/mine")
        alice.ok(
            "exec",
            "--root",
            "--yes",
            old,
            "--",
            "install",
            "-o",
            "42",
            "-m",
            "640",
            "/dev/null",
            "/opt/owned",
            seconds=180,
        )
        looked = alice.berth("profile", "commit", old, f"grown@{version}", seconds=120)
        assert looked.returncode == 2
        assert "A /opt/owned" in looked.stderr.decode()
        said = alice.ok("profile", "commit", old, f"grown@{version}", "--yes", "--json", seconds=120)
        image = json.loads(said)
        assert [each["path"] for each in image["committed"]["files"]] == ["/etc/motd", "/opt/owned"]
        assert "/root/.netrc" in [each["path"] for each in image["committed"]["left_out"]]
        kept = json.loads(alice.ok("snapshots", old, "--json"))["snapshots"]
        assert all(each["automatic"] for each in kept), "those that were made for the commits are gone"
        listed = lab.sh(f"unsquashfs -lln -o {image['offset']} {image['path']} opt/owned")
        assert re.search(r"^-rw-r----- 42/0 ", listed, re.MULTILINE)
        assert (image["owner"], image["path"].startswith("/shared/berth/alice/profiles/")) == ("own", True)
        alice.ok("start", new, "--profile", f"grown@{version}", "--timeout", "60", seconds=90)
        rows = {words[0]: words[2] for words in map(str.split, alice.ok("list", "-o", "wide").splitlines())}
        assert (rows[old].partition("/")[0], rows[new]) == ("site", f"own/grown@{version}")
        assert f"  profile    own/grown@{version} (" in alice.ok("show", new)
        assert alice.ok("exec", new, "--", "cat", "/etc/motd") == "hello\n"
        assert alice.ok("exec", new, "--", "sh", "-c", "ls /root/.netrc ~/mine 2>/dev/null || :") == ""
        refused = bob.berth("start", new, "--profile", f"grown@{version}")
        assert (refused.returncode, b"no profile is called grown" in refused.stderr) == (3, True)
        assert bob.berth("profile", "show", f"own/grown@{version}").returncode == 3
        alice.ok("stop", new)
        alice.ok("start", new, "--timeout", "60", seconds=90)
        assert alice.ok("exec", new, "--", "cat", "/etc/motd") == "hello\n"
        alice.ok("stop", new)
        alice.ok("profile", "delete", f"own/grown@{version}", "--yes")
        assert b"is not available" in alice.berth("start", new).stderr
