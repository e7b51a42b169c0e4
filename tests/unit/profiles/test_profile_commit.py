"""The changes of layers on an image's tree, their application to it, and the recipe for them."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import md5
from pathlib import Path

import pytest

from profiles.commit import commit, generate_recipe, tree_worker
from profiles.commit.commit import Source
from profiles.commit.compare import compare_system
from profiles.commit.filters import PathFilter
from profiles.commit.findings import ChangedPath, Findings, LeftOut
from profiles.errors import BuildError, ImageExistsError
from profiles.image import dpkg
from profiles.image.layered_tree import LayeredTree, Owner, read_owners
from profiles.image.overlayfs import FUSE_WRITTEN
from profiles.image.store import Image, Store
from profiles.recipe.spec import Profile, parse_profile
from tests.fakes.core import publish

ROOT = Path(__file__).parents[3]


def files(root: Path, contents: dict[str, str]) -> Path:
    """A tree of these files; `.wh.NAME` deletes, as fuse-overlayfs does it, and a name that ends with a slash is a
    directory.
    """
    root.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(text)
        if ".wh." in name:
            (root.parent / FUSE_WRITTEN).touch()
    return root


def status(*packages: str) -> str:
    """dpkg's status file; a package is `name version`, or with a third word the MD5 of its /etc/NAME.conf."""
    paragraphs = []
    for package in packages:
        name, version, *conffile = package.split()
        extra = f"Conffiles:\n /etc/{name}.conf {conffile[0]}\n" if conffile else ""
        paragraphs.append(
            f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n{extra}"
            "Description: short\n Status: no field of ours\n"
        )
    return "\n".join([*paragraphs, "Package: rest\nStatus: deinstall ok config-files\nVersion: 1\n"])


def digest(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An image with two packages, `old` and `gone`, and some files of its own."""
    root = files(
        tmp_path / "tree",
        {
            "usr/bin/old": "old 1",
            "usr/bin/gone": "gone",
            "usr/share/gone/x": "x",
            "etc/old.conf": "default",
            "etc/same": "same",
            "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
            "etc/group": "root:x:0:\n",
            "opt/d/a": "a",
            "opt/d/b": "b",
            "opt/file": "file",
            "var/lib/dpkg/status": status("old 1", "gone 2", "dependency 1"),
            "var/lib/dpkg/info/old.list": "/.\n/bin\n/bin/old\n/etc/old.conf\n",
            "var/lib/dpkg/info/gone.list": "/.\n/bin/gone\n/usr/share/gone\n/usr/share/gone/x\n",
            "var/lib/apt/extended_states": "Package: dependency\nAuto-Installed: 1\n\n",
        },
    )
    (root / "bin").symlink_to("usr/bin")
    return root


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A session that upgraded, removed and added packages, and did some things by hand."""
    files(
        tmp_path / "layer/tree",
        {
            "usr/bin/old": "old 2",
            "usr/bin/.wh.gone": "",
            "usr/share/.wh.gone": "",
            "etc/old.conf": "mine",
            "etc/new.conf": "as packed",
            "etc/same": "same",
            "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnewd:x:450:450::/var/lib/newd:/usr/sbin/nologin\n",
            "etc/group": "root:x:0:\nnewd:x:450:\n",
            "usr/bin/new": "new",
            "usr/lib/x86_64-linux-gnu/libdep.so.1": "lib",
            "var/lib/dpkg/status": status(
                f"old 2 {digest('default')}", f"new 1:3 {digest('as packed')}", "needed 4", "dependency 1"
            ),
            "var/lib/dpkg/info/old.list": "/.\n/bin/old\n/etc/old.conf\n",
            "var/lib/dpkg/info/old.md5sums": f"{digest('old 2')}  bin/old\n",
            "var/lib/dpkg/info/new.list": "/.\n/usr/bin/new\n/etc/new.conf\n",
            "var/lib/dpkg/info/new.md5sums": f"{digest('new')}  usr/bin/new\n",
            "var/lib/dpkg/info/needed:amd64.list": "/usr/lib/x86_64-linux-gnu/libdep.so.1\n",
            "var/lib/apt/extended_states": "Package: needed\nArchitecture: amd64\nAuto-Installed: 1\n\n",
            "etc/alternatives/x": "",
            "var/cache/ldconfig/aux-cache": "x",
            "opt/d/.wh.a": "",
            "opt/.wh.file": "",
            "opt/new/tool": "#!/bin/sh\n",
            "opt/new/__pycache__/x.pyc": "x",
            "opt/venv/lib/python3.13/site-packages/idna-3.10.dist-info/RECORD": "idna/core.py,sha256=x,1\n"
            "idna-3.10.dist-info/RECORD,,\n../../../bin/idna,,\n",
            "opt/venv/lib/python3.13/site-packages/idna/core.py": "x",
            "opt/venv/bin/idna": "x",
            "root/.netrc": "machine x",
            "home/alice/x": "x",
            "home/alice/y": "y",
            "var/log/x": "x",
        },
    )
    return tmp_path / "layer"


def test_packages_files_and_the_rest_are_told_apart(tree: Path, layer: Path) -> None:
    findings = compare_system(LayeredTree(tree, [layer]), PathFilter())
    assert findings.added == [("needed", "4"), ("new", "1:3")]
    assert (findings.removed, findings.changed) == ([("gone", "2")], [("old", "1", "2")])
    assert findings.by_hand == [("dependency", "1"), ("new", "1:3")]
    assert findings.pip == [("idna", "3.10")]
    assert findings.accounts == ["newd:x:450:", "newd:x:450:450::/var/lib/newd:/usr/sbin/nologin"]
    assert [(each.change, each.path) for each in findings.files] == [
        ("M", "/etc/old.conf"), ("D", "/opt/d/a"), ("D", "/opt/file"), ("A", "/opt/new/tool"),
    ]  # fmt: skip
    assert findings.left_out == [
        LeftOut("/home", "never part of an image"),
        LeftOut("/root/.netrc", "may be secret: passwords"),
        LeftOut("/var/log/x", "a log"),
    ]
    assert Findings.from_json(findings.to_json()) == findings


def test_accounts_that_only_get_shadow_passwords_are_not_new(tree: Path, tmp_path: Path) -> None:
    files(tree, {"etc/passwd": "root:*:0:0:root:/root:/bin/bash\n", "etc/group": "root:*:0:\nadm:*:4:\n"})
    new = "postgres:x:100:102::/var/lib/postgresql:/bin/bash"
    files(
        tmp_path / "l/tree",
        {
            "etc/passwd": f"root:x:0:0:root:/root:/bin/bash\n{new}\n",
            "etc/group": "root:x:0:\nadm:x:4:postgres\npostgres:x:102:\n",
        },
    )
    accounts = compare_system(LayeredTree(tree, [tmp_path / "l"]), PathFilter()).accounts
    assert accounts == ["adm:x:4:postgres", "postgres:x:102:", new]


@pytest.mark.parametrize("separator", ["\r", "\v", "\x1c", "\x85", "\u2028"])
def test_only_a_line_feed_ends_a_line(tree: Path, tmp_path: Path, separator: str) -> None:
    account = f"newd:x:450:450:a{separator}toor:x:0:0:b:/var/lib/newd:/bin/false"
    listed = f"/opt/a{separator}/opt/file"
    files(tmp_path / "l/tree", {"etc/passwd": f"{account}\n", "var/lib/dpkg/info/old.list": f"{listed}\n"})
    system = LayeredTree(tree, [tmp_path / "l"])
    assert compare_system(system, PathFilter()).accounts == [account]
    assert dpkg.packaged_files(system.text, [dpkg.Package("old", "1", "all")], str) == {listed.removeprefix("/"): ""}


def test_only_traces_of_running_are_no_change(tree: Path, tmp_path: Path) -> None:
    files(tmp_path / "l/tree", {"etc/same": "same", "usr/lib/x/__pycache__/y.pyc": "", "var/cache/z": "", "opt/d/": ""})
    findings = compare_system(LayeredTree(tree, [tmp_path / "l"]), PathFilter())
    assert findings.empty
    assert [each.path for each in findings.files] == []


def test_the_newest_layer_counts_and_an_opaque_directory_hides_the_images(tree: Path, tmp_path: Path) -> None:
    files(tmp_path / "1/tree", {"opt/d/.wh..wh..opq": "", "opt/d/c": "c", "opt/x": "x", "opt/y": "1"})
    files(tmp_path / "2/tree", {"opt/.wh.x": "", "opt/y": "2"})
    system = LayeredTree(tree, [tmp_path / "1", tmp_path / "2"])
    findings = compare_system(system, PathFilter())
    assert [(each.change, each.path) for each in findings.files] == [
        ("D", "/opt/d/a"), ("D", "/opt/d/b"), ("A", "/opt/d/c"), ("A", "/opt/y"),
    ]  # fmt: skip
    assert system.text("opt/y") == "2"
    assert system.text("opt/d/a") is None
    assert system.text("opt/file") == "file"


def test_patterns_decide_and_those_that_match_nothing_are_told(tree: Path, layer: Path) -> None:
    path_filter = PathFilter(include=["/root/.netrc"], exclude=["/opt/new", "/nothing"])
    findings = compare_system(LayeredTree(tree, [layer]), path_filter)
    assert "/root/.netrc" in [each.path for each in findings.files]
    assert [each.path for each in findings.left_out if each.why == "excluded"] == ["/opt/new"]
    assert findings.unmatched == ["/nothing"]


def test_owners_are_read_and_the_newest_counts(tree: Path, tmp_path: Path) -> None:
    files(tmp_path / "1/tree", {"a": "", "b": ""})
    files(tmp_path / "2/tree", {"b": "", "c": ""})
    (tmp_path / "1/owners").write_bytes(b"450 42 4750 a\0000 42 640 ./b\0000 7 755 with space\nand line\0")
    assert read_owners(tmp_path / "1")["with space\nand line"] == Owner(0, 7, 0o755)
    system = LayeredTree(tree, [tmp_path / "1", tmp_path / "2"])
    owner = {path: system.owner(entry, entry.source.lstat()) for path, entry in system.entries.items() if entry.source}
    assert owner["a"] == Owner(450, 42, 0o4750)
    assert owner["b"] == Owner(0, 42, (tmp_path / "2/tree/b").stat().st_mode & 0o7777), "changed by a session since"
    assert owner["c"] == Owner(0, 0, (tmp_path / "2/tree/c").stat().st_mode & 0o7777)
    assert read_owners(tmp_path / "2") == {}


def test_what_was_shown_is_what_is_applied(tree: Path, layer: Path, tmp_path: Path) -> None:
    (layer / "tree/opt/link").symlink_to("/etc/passwd")
    os.link(layer / "tree/opt/new/tool", layer / "tree/opt/new/same")
    (tree / "srv").symlink_to(tmp_path / "outside")
    files(tmp_path / "outside", {"kept": "kept"})
    files(layer / "tree/srv", {"data": "data"})
    request = tree_worker.TreeRequest(str(tree), [str(layer)], [], ["/opt/d"])
    request.write(tmp_path)
    for what in ("compare", "apply"):
        command = [
            "unshare",
            "--map-root-user",
            sys.executable,
            "-m",
            "profiles.commit.tree_worker",
            str(tmp_path),
            what,
        ]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (tree / "usr/bin/old").read_text() == "old 2"
    assert (tree / "opt/link").readlink() == Path("/etc/passwd")
    assert (tree / "opt/new/same").samefile(tree / "opt/new/tool")
    for path in ("usr/bin/gone", "usr/share/gone", "opt/file", "root/.netrc", "home", "var/log/x"):
        assert not (tree / path).exists(), path
    assert (tree / "opt/d/a").exists(), "it was excluded"
    assert (tree / "srv/data").read_text() == "data"
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["kept"], "a link of the image leads nowhere"


def base_image() -> Image:
    text = (
        "name: base\nversion: 1\nbase: debian:sid\ndescription: For all\nenvironment: {A: b}\n"
        "resources: {gres: gpu:1, exclusive: true}\npersistence: {home: fresh, keep: [~/.cache]}\n"
        "binds: [{source: /shared/data}]\nservices: [{name: web, command: serve, socket: web.sock}]\n"
    )
    return Image("base", "1", Path("/x"), "sha256:0", 1, 1.0, {}, parse_profile(text, Path("/profile.yaml")), 4096)


def written(findings: Findings, tmp_path: Path) -> tuple[str, Profile]:
    text = generate_recipe.generate_recipe("mine", "2+1", base_image(), findings, "Committed.")
    return text, parse_profile(text, tmp_path / "profile.yaml")


def change(path: Path, at: str, content: bytes, mode: int = 0o644, owner: int = 0) -> ChangedPath:
    path.write_bytes(content)
    return ChangedPath(at, "A", "file", owner, owner, mode, len(content), "", str(path))


def test_the_recipe_takes_over_what_sessions_ask_for(tmp_path: Path) -> None:
    _, profile = written(Findings(), tmp_path)
    old = base_image().profile
    assert (profile.name, profile.version, str(profile.base)) == ("mine", "2+1", "profile:base@1")
    assert profile.model_copy(update={"name": "base", "version": "1", "base": old.base}) == old.model_copy(
        update={"environment": {}}
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "a\nb\n", "trailing \n\n\n", "\ttab\n", "  indented\n", "- yes: no\n", "#!/bin/sh\necho \"$a\" 'b'\n",
        "ümlaut 🙂\n", "a: {b}\n---\n", "null", "1.10",
    ],
)  # fmt: skip
def test_texts_come_out_of_the_recipe_as_they_are(text: str, tmp_path: Path) -> None:
    findings = Findings(files=[change(tmp_path / "a", "/opt/a", text.encode(), 0o755)])
    _, profile = written(findings, tmp_path)
    assert [(file.content, file.mode) for file in profile.files] == [(text, 0o755)]


def test_what_cannot_be_said_as_code_is_said_as_comment(tmp_path: Path) -> None:
    findings = Findings(
        files=[
            change(tmp_path / "a", "/opt/binary", b"\x7fELF\x00"),
            change(tmp_path / "b", "/opt/large", b"x" * (generate_recipe.MAX_FILE_BYTES + 1)),
            change(tmp_path / "c", "/opt/colon:name\nline", b"x"),
            change(tmp_path / "d", "/etc/shadow", b"root:*:1\n"),
        ]
    )
    text, profile = written(findings, tmp_path)
    assert profile.files == []
    assert text.startswith("# Committed.\n#\n# In the image, but not made by this recipe:\n#   /opt/binary (5 bytes)\n")
    assert "#   /opt/colon:name\\nline (1 bytes)\n" in text
    assert "root:*" not in text


def test_however_much_there_is_the_recipe_is_a_profile(tmp_path: Path) -> None:
    texts = [change(tmp_path / f"{n}", f"/opt/{n}", b"\xf0\x9f\x99\x82 \n" * 3000) for n in range(30)]
    many = [change(tmp_path / "x", f"/srv/{n}", b"x") for n in range(3000)]
    gone = [ChangedPath(f"/usr/{'x' * 200}/{n}", "D") for n in range(3000)]
    text, profile = written(Findings(files=[*texts, *many, *gone]), tmp_path)
    assert 0 < len(profile.files) <= generate_recipe.MAX_FILES
    assert "more\n" in text


def test_commands_say_what_files_cannot(tmp_path: Path) -> None:
    findings = Findings(
        removed=[("gone", "1")],
        changed=[("old", "1", "2")],
        by_hand=[("new", "1:3")],
        pip=[("idna", "3.10")],
        accounts=["newd:x:450:", "newd:x:450:450:A B:/var/lib/newd:/bin/false", "broken"],
        files=[
            change(tmp_path / "a", "/opt/a b", b"x", 0o4755, owner=450),
            ChangedPath("/opt/link", "A", "symlink", target="it's"),
            ChangedPath("/opt/dir", "A", "directory", 450, 450, 0o750),
            ChangedPath("/etc/-x", "D"),
        ],
    )
    _, profile = written(findings, tmp_path)
    assert (profile.apt, profile.pip) == (["new=1:3", "old=2"], ["idna==3.10"])
    assert profile.post.splitlines() == [
        "apt-get -q -y purge gone",
        "getent group newd >/dev/null || groupadd -g 450 newd",
        "getent passwd newd >/dev/null || useradd -M -u 450 -g 450 -c 'A B' -d /var/lib/newd -s /bin/false newd",
        "chown 450:450 -- '/opt/a b' && chmod 4755 -- '/opt/a b'",
        "mkdir -p -- /opt && ln -sfn -- 'it'\"'\"'s' /opt/link",
        "install -d -o 450 -g 450 -m 0750 -- /opt/dir",
        "rm -rf -- /etc/-x",
    ]


def test_a_published_version_is_refused_before_any_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    base = publish(store)
    with pytest.raises(ImageExistsError):
        commit.commit_session(Source("dev", base, []), name="base", version="1", store=store, approve=lambda _: None)


def test_a_base_that_is_not_what_was_published_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "check_machine", lambda *_: None)
    store = Store(tmp_path / "store")
    base = publish(store)
    base.path.write_bytes(b"SIX")
    with pytest.raises(BuildError, match="its digest differs") as caught:
        commit.commit_session(Source("dev", base, []), name="new", version="1", store=store, approve=lambda _: None)
    assert caught.value.log == tmp_path / "store/new/1.failed.log"
    assert store.versions("new") == []
