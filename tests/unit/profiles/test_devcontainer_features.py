"""Features: their names and options, which are installed, in which order, and what the lock file holds."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from profiles.devcontainer.feature_archive import unpack_feature
from profiles.devcontainer.feature_graph import FeatureNode, install_order
from profiles.devcontainer.feature_metadata import chosen_options, option_variables, read_feature
from profiles.devcontainer.feature_reference import parse_feature
from profiles.devcontainer.feature_source import FeatureSource
from profiles.devcontainer.lock_file import make_lock, read_lock, require_locked, write_lock
from profiles.errors import FeatureError, ProfileError, ProfilesError
from tests.unit.profiles.dev_features import nodes_of, write_feature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from profiles.devcontainer.feature_metadata import FeatureOptions
    from profiles.devcontainer.feature_reference import FeatureReference

Known = dict[str, dict[str, Any]]
HOST = "registry.example.org/team"
DIGEST = f"sha256:{'a' * 64}"


def order(
    folder: Path,
    known: Mapping[str, Mapping[str, Any]],
    wanted: Mapping[str, FeatureOptions],
    override: list[str] | None = None,
) -> list[str]:
    nodes = nodes_of(folder, known, wanted)
    return [str(node.feature.reference).removeprefix(f"{HOST}/") for node in install_order(nodes, override or [])]


class TestNames:
    @pytest.mark.parametrize(
        ("text", "name", "tag", "digest"),
        [
            (f"{HOST}/Node:1.2", f"{HOST}/node", "1.2", ""),
            (f"{HOST}/node@{DIGEST}", f"{HOST}/node", "", DIGEST),
            ("localhost:5000/x/node", "localhost:5000/x/node", "", ""),
            ("./My-Feature/", "./My-Feature", "", ""),
        ],
    )
    def test_names_have_their_parts(self, text: str, name: str, tag: str, digest: str) -> None:
        parsed = parse_feature(text)
        assert (parsed.name, parsed.tag, parsed.digest) == (name, tag, digest)
        assert parsed.is_local is text.startswith("./")

    @pytest.mark.parametrize(
        "text",
        [
            "", "node", "team/node", "../x", "/x", "./../x", "./a//b", "./", "./.", "https://example.org/a.tgz",
            f"{HOST}/node:", f"{HOST}/node@sha256:12", f"{HOST}/../node", f"{HOST}/a b", "./a\n", "x" * 600,
        ],
    )  # fmt: skip
    def test_other_texts_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"must be|is "):
            parse_feature(text)


class TestOrder:
    """Expectations from the specification's text, not from a program."""

    def test_all_that_a_feature_depends_on_comes_before_it(self, tmp_path: Path) -> None:
        known: Known = {
            f"{HOST}/a": {"dependsOn": {f"{HOST}/c:1": {}, f"{HOST}/b:1": {}}},
            f"{HOST}/b": {"dependsOn": {f"{HOST}/d:1": {}}},
            f"{HOST}/d": {"dependsOn": {f"{HOST}/z:1": {}}},
        }
        assert order(tmp_path, known, {f"{HOST}/a:1": {}}) == ["c:1", "z:1", "d:1", "b:1", "a:1"]

    def test_without_needs_names_decide(self, tmp_path: Path) -> None:
        wanted: dict[str, FeatureOptions] = {f"{HOST}/{name}": {} for name in ("c", "a", "b")}
        assert order(tmp_path, {}, wanted) == ["a", "b", "c"]

    def test_soft_needs_count_only_for_what_is_installed_and_are_not_followed(self, tmp_path: Path) -> None:
        known: Known = {
            f"{HOST}/a": {"installsAfter": [f"{HOST}/c", f"{HOST}/absent"]},
            f"{HOST}/absent": {"dependsOn": {f"{HOST}/x": {}}},
        }
        wanted: dict[str, FeatureOptions] = {f"{HOST}/a:2": {}, f"{HOST}/b": {}, f"{HOST}/c:1": {}}
        assert order(tmp_path, known, wanted) == ["b", "c:1", "a:2"]

    def test_former_name_of_a_feature_counts(self, tmp_path: Path) -> None:
        known: Known = {f"{HOST}/a": {"installsAfter": [f"{HOST}/old"]}, f"{HOST}/z": {"legacyIds": ["old"]}}
        assert order(tmp_path, known, {f"{HOST}/a": {}, f"{HOST}/z": {}}) == ["z", "a"]

    def test_override_decides_within_what_is_possible(self, tmp_path: Path) -> None:
        known: Known = {f"{HOST}/c": {"dependsOn": {f"{HOST}/d": {}}}}
        wanted: dict[str, FeatureOptions] = {f"{HOST}/{name}": {} for name in ("a", "b", "c")}
        override = [f"{HOST}/c", f"{HOST}/b"]
        # In the first round `d`, which c needs, has no priority, so that b, which has one, comes first.
        assert order(tmp_path, known, wanted, override) == ["b", "a", "d", "c"]

    def test_same_feature_with_other_options_is_installed_twice_and_more_options_come_first(
        self, tmp_path: Path
    ) -> None:
        known: Known = {
            f"{HOST}/a": {"dependsOn": {f"{HOST}/b:1": {"x": "1", "y": True}}},
            f"{HOST}/c": {"dependsOn": {f"{HOST}/b:1": {"x": "2"}}},
            f"{HOST}/d": {"dependsOn": {f"{HOST}/b:1": {"x": "2"}}},
        }
        wanted: dict[str, FeatureOptions] = {f"{HOST}/{name}": {} for name in ("a", "c", "d")}
        nodes = install_order(nodes_of(tmp_path, known, wanted))
        assert [len(node.options) for node in nodes[:2]] == [2, 1]
        assert [node.name.rpartition("/")[2] for node in nodes] == ["b", "b", "a", "c", "d"]

    def test_versions_go_from_the_oldest_to_the_newest(self, tmp_path: Path) -> None:
        tags = ["latest", "10", "2.1", "2"]
        wanted: dict[str, FeatureOptions] = {f"{HOST}/a:{tag}": {} for tag in tags}
        assert order(tmp_path, {}, wanted) == ["a:2", "a:2.1", "a:10", "a:latest"]

    @pytest.mark.parametrize("key", ["dependsOn", "installsAfter"])
    def test_circle_is_named(self, tmp_path: Path, key: str) -> None:
        def needs(name: str) -> dict[str, Any]:
            return {key: {f"{HOST}/{name}": {}} if key == "dependsOn" else [f"{HOST}/{name}"]}

        known: Known = {f"{HOST}/a": needs("b"), f"{HOST}/b": needs("a")}
        with pytest.raises(FeatureError, match=f"in a circle: {HOST}/a, {HOST}/b"):
            order(tmp_path, known, {f"{HOST}/a": {}, f"{HOST}/b": {}, f"{HOST}/c": {}})

    def test_endless_needs_are_refused(self, tmp_path: Path) -> None:
        known: Known = {f"{HOST}/a{n}": {"dependsOn": {f"{HOST}/a{n + 1}": {}}} for n in range(100)}
        with pytest.raises(FeatureError, match="more than 64 features"):
            order(tmp_path, known, {f"{HOST}/a0": {}})

    def test_wrong_name_names_the_feature_that_has_it(self, tmp_path: Path) -> None:
        with pytest.raises(FeatureError, match=f"'node', on which {HOST}/a depends, must be"):
            order(tmp_path, {f"{HOST}/a": {"dependsOn": {"node": {}}}}, {f"{HOST}/a": {}})


class TestOptions:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        options = {
            "version": {"type": "string", "enum": ["latest", "3.10"], "default": "latest"},
            "pip": {"type": "boolean", "default": True},
            "free": {"type": "string", "proposals": ["a"], "default": ""},
        }
        return write_feature(tmp_path / "python", options=options)

    @pytest.mark.parametrize(
        ("given", "chosen"),
        [
            ({}, {"version": "latest", "pip": "true", "free": ""}),
            ("3.10", {"version": "3.10", "pip": "true", "free": ""}),
            ({"pip": False, "free": "b", "more": "x"}, {"version": "latest", "pip": "false", "free": "b", "more": "x"}),
        ],
    )
    def test_defaults_are_filled_in(self, folder: Path, given: FeatureOptions, chosen: dict[str, str]) -> None:
        assert chosen_options(given, read_feature(folder)) == chosen

    @pytest.mark.parametrize("given", ["3.11", {"pip": "perhaps"}, {"free": "a\nb"}])
    def test_values_that_the_feature_does_not_take_are_refused(self, folder: Path, given: FeatureOptions) -> None:
        with pytest.raises(ValueError, match="must be"):
            chosen_options(given, read_feature(folder))

    @pytest.mark.parametrize(
        ("name", "variable"), [("a-b.c", "A_B_C"), ("9lives", "_LIVES"), ("_x", "_X"), ("ünicode", "_NICODE")]
    )
    def test_names_become_variables(self, name: str, variable: str) -> None:
        assert option_variables({name: "v"}) == {variable: "v"}

    @pytest.mark.parametrize(
        "data", ["[]", "{", '{"id": "a b"}', '{"version": "1"}', '{"id": "a", "options": {"x": {"type": "number"}}}']
    )
    def test_wrong_metadata_is_refused_with_its_file(self, tmp_path: Path, data: str) -> None:
        write_feature(tmp_path / "a")
        (tmp_path / "a/devcontainer-feature.json").write_text(data)
        with pytest.raises(ProfileError, match=r"devcontainer-feature\.json"):
            read_feature(tmp_path / "a")


class OneFeatureRegistry:
    """A registry with one feature, which counts what it is asked for."""

    def __init__(self, archive: bytes) -> None:
        self.archive = archive
        self.asked: list[str] = []

    def resolve(self, reference: FeatureReference) -> str:
        self.asked.append(f"resolve {reference}")
        return DIGEST

    def fetch(self, reference: FeatureReference, digest: str, into: Path) -> None:
        self.asked.append(f"fetch {reference.name}@{digest}")
        into.write_bytes(self.archive)


def archive_of(*entries: tarfile.TarInfo | str, content: bytes = b"") -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return output.getvalue()


class TestSource:
    def source(self, tmp_path: Path, registry: OneFeatureRegistry) -> FeatureSource:
        config = tmp_path / ".devcontainer/devcontainer.json"
        config.parent.mkdir(exist_ok=True)
        return FeatureSource(config, registry, read_lock(config), tmp_path / "cache")

    def feature(self) -> OneFeatureRegistry:
        content = json.dumps({"id": "node", "version": "1.4.2", "dependsOn": {f"{HOST}/Other:2": {}}}).encode()
        return OneFeatureRegistry(archive_of("./devcontainer-feature.json", "./install.sh", content=content))

    def test_feature_is_fetched_once_and_then_known_by_its_digest(self, tmp_path: Path) -> None:
        registry = self.feature()
        reference = parse_feature(f"{HOST}/node:1")
        loaded = self.source(tmp_path, registry).load(reference)
        assert (loaded.digest, loaded.metadata.version) == (DIGEST, "1.4.2")
        assert registry.asked == [f"resolve {HOST}/node:1", f"fetch {HOST}/node@{DIGEST}"]
        self.source(tmp_path, registry).load(parse_feature(f"{HOST}/node@{DIGEST}"))
        assert len(registry.asked) == 2

    def test_locked_feature_needs_no_registry_the_second_time(self, tmp_path: Path) -> None:
        registry = self.feature()
        config = tmp_path / ".devcontainer/devcontainer.json"
        source = self.source(tmp_path, registry)
        node = FeatureNode(source.load(parse_feature(f"{HOST}/node:1")), {}, [])
        made = make_lock([node])
        with pytest.raises(FeatureError, match="does not have the feature"):
            require_locked(read_lock(config), made, config)
        write_lock(made, config)
        assert json.loads((config.parent / "devcontainer-lock.json").read_text()) == {
            "features": {
                f"{HOST}/node:1": {
                    "version": "1.4.2",
                    "resolved": f"{HOST}/node@{DIGEST}",
                    "integrity": DIGEST,
                    "dependsOn": [f"{HOST}/other:2"],
                }
            }
        }
        require_locked(read_lock(config), made, config)
        registry.asked.clear()
        assert self.source(tmp_path, registry).load(parse_feature(f"{HOST}/node:1")).digest == DIGEST
        assert registry.asked == []

    @pytest.mark.parametrize("resolved", [f"{HOST}/other@{DIGEST}", f"{HOST}/node@sha256:{'b' * 64}", ""])
    def test_lock_that_contradicts_itself_is_refused(self, tmp_path: Path, resolved: str) -> None:
        folder = tmp_path / ".devcontainer"
        folder.mkdir()
        entry = {"version": "1", "resolved": resolved, "integrity": DIGEST}
        (folder / "devcontainer-lock.json").write_text(json.dumps({"features": {f"{HOST}/node:1": entry}}))
        with pytest.raises(FeatureError, match="not the same"):
            self.source(tmp_path, self.feature()).load(parse_feature(f"{HOST}/node:1"))

    def test_local_feature_changes_with_its_files(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, self.feature())
        folder = write_feature(tmp_path / ".devcontainer/own")
        first = source.load(parse_feature("./own")).digest
        (folder / "install.sh").write_text("#!/bin/sh\necho changed\n")
        assert self.source(tmp_path, self.feature()).load(parse_feature("./own")).digest != first

    def test_local_feature_outside_or_without_files_is_refused(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, self.feature())
        write_feature(tmp_path / "outside")
        (tmp_path / ".devcontainer/link").symlink_to(tmp_path / "outside")
        (tmp_path / ".devcontainer/empty").mkdir()
        (write_feature(tmp_path / ".devcontainer/scriptless") / "install.sh").unlink()
        for name in ("link", "empty", "scriptless", "missing"):
            with pytest.raises(ProfilesError, match=f"the feature ./{name}"):
                source.load(parse_feature(f"./{name}"))


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    return info


@pytest.mark.parametrize(
    "entries",
    [
        ["../x"], ["/x"], ["a/../../x"], ["x", "x"],
        [special("a", tarfile.SYMTYPE)], [special("a", tarfile.LNKTYPE)], [special("a", tarfile.CHRTYPE)],
        [special("a", tarfile.FIFOTYPE)], ["/".join("a" * 40)], ["a", "a/b"], [f"f{n}" for n in range(5001)],
    ],
)  # fmt: skip
def test_hostile_archive_touches_nothing_outside(tmp_path: Path, entries: list[tarfile.TarInfo | str]) -> None:
    archive = tmp_path / "in/archive"
    archive.parent.mkdir()
    archive.write_bytes(archive_of(*entries, content=b"x"))
    with pytest.raises(FeatureError, match="registry/x"):
        unpack_feature(archive, tmp_path / "in/out", "registry/x")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("content", [b"", b"no archive", archive_of("a", content=b"x" * 2000)[:700]])
def test_damaged_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(FeatureError, match="cannot be unpacked"):
        unpack_feature(tmp_path / "archive", tmp_path / "out", "registry/x")
