"""A Dockerfile as its build reads it: its instructions, its ignore file, and the files that change its key."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from profiles.build import network
from profiles.build.bases import find_base
from profiles.dockerfile.ignore_file import IgnoreRules, path_pattern, read_ignore_file
from profiles.dockerfile.instructions import images_read, read_dockerfile, sources_read
from profiles.dockerfile.spec import DockerfileBuild, dockerfile_in
from profiles.errors import ContentError, NoSuchFileError, ProfileError, ProfilesError
from profiles.image.catalog import Catalog
from profiles.recipe.spec import parse_profile

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.recipe.spec import Profile

STAGES = """# syntax=docker/dockerfile:1
ARG BASE=registry.example.org/base:1
FROM registry.example.org/build:1 AS Build
COPY --chown=1:2 src/ /src/
RUN one && \\
    # a comment within
    two
FROM ${BASE}
COPY --from=build /src/out /out
COPY ["a b", "c", "/d/"]
ADD https://example.org/x.tar /x
FROM build AS last
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "Dockerfile"
    file.write_text(text)
    return file


def test_instructions_have_their_lines_and_flags(tmp_path: Path) -> None:
    instructions = read_dockerfile(written(tmp_path, STAGES))
    assert [(each.line, each.word) for each in instructions] == [
        (2, "ARG"), (3, "FROM"), (4, "COPY"), (5, "RUN"), (8, "FROM"), (9, "COPY"), (10, "COPY"), (11, "ADD"),
        (12, "FROM"),
    ]  # fmt: skip
    assert instructions[2].flags == (("chown", "1:2"),)
    assert instructions[3].text == "RUN one && two"
    assert images_read(instructions) == ["registry.example.org/build:1", "${BASE}"]
    assert sources_read(instructions) == ["src/", "a b", "c"]


@pytest.mark.parametrize("line", ["COPY $X /", "RUN --mount=target=/x true", "ONBUILD COPY a /a", "COPY 'a /"])
def test_what_only_buildah_understands_reads_everything(tmp_path: Path, line: str) -> None:
    assert sources_read(read_dockerfile(written(tmp_path, f"FROM scratch\n{line}\n"))) is None


@pytest.mark.parametrize("text", ["", "# nothing\n", "RUN true\n", "FROM a\0b\n", "FROM x\n" + "RUN y\n" * 4096])
def test_wrong_dockerfile_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProfileError, match="Dockerfile"):
        read_dockerfile(written(tmp_path, text))


def test_folder_without_dockerfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFileError, match="has no Dockerfile"):
        dockerfile_in(tmp_path)
    written(tmp_path, "FROM scratch\n")
    (tmp_path / "Containerfile").write_text("FROM scratch\n")
    assert dockerfile_in(tmp_path).name == "Containerfile"


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.md", "a.md", True), ("*.md", "docs/a.md", False), ("**/*.md", "docs/a.md", True), ("**/*.md", "a.md", True),
        ("docs", "docs/a/b", True), ("/docs/", "docs/a", True), ("doc", "docs", False), ("a?c", "abc", True),
        ("[a-c]x", "bx", True), ("[^a-c]x", "bx", False), ("a/**/b", "a/x/y/b", True), ("a/**/b", "a/b", True),
        ("a+b", "a+b", True), ("[z-a]", "q", False), ("\\*", "*", True), ("\\*", "a", False),
    ],
)  # fmt: skip
def test_patterns_of_ignore_files(pattern: str, path: str, matches: bool) -> None:
    assert bool(path_pattern(pattern).fullmatch(path)) is matches


def test_last_rule_decides(tmp_path: Path) -> None:
    file = tmp_path / ".dockerignore"
    file.write_text("# all but one\n*\n!keep\n\nkeep/secret\n")
    rules = read_ignore_file(file)
    assert [path for path in ("a", "keep/x", "keep/secret", "keep") if rules.ignores(path)] == ["a", "keep/secret"]
    assert not IgnoreRules().ignores("a")


def test_pattern_that_would_take_for_ever_is_refused(tmp_path: Path) -> None:
    file = tmp_path / ".dockerignore"
    file.write_text("**a" * 40 + "\n")
    with pytest.raises(ProfileError, match="too many"):
        read_ignore_file(file)


class TestKey:
    """The key changes with what the build reads, and with nothing else."""

    @pytest.fixture
    def context(self, tmp_path: Path) -> Path:
        written(tmp_path, 'FROM registry.example.org/a:1\nCOPY src /src\nCOPY ["one file", "/x/"]\n')
        (tmp_path / "src").mkdir()
        (tmp_path / "src/main.c").write_text("int main;")
        (tmp_path / "src/notes.md").write_text("notes")
        (tmp_path / "one file").write_text("1")
        (tmp_path / "README").write_text("read me")
        (tmp_path / ".dockerignore").write_text("**/*.md\n")
        return tmp_path

    def key(self, context: Path, **change: object) -> str:
        return DockerfileBuild(context / "Dockerfile", context, **change).key()  # type: ignore[arg-type] # as given

    @pytest.mark.parametrize("name", ["README", "src/notes.md", "new", "src/new.md"])
    def test_file_that_it_does_not_read_changes_nothing(self, context: Path, name: str) -> None:
        before = self.key(context)
        (context / name).write_text("changed")
        assert self.key(context) == before

    @pytest.mark.parametrize("name", ["src/main.c", "one file", "src/new.c", ".dockerignore", "Dockerfile"])
    def test_file_that_it_reads_changes_it(self, context: Path, name: str) -> None:
        before = self.key(context)
        with (context / name).open("a") as file:
            file.write("!src/notes.md\n" if name == ".dockerignore" else "RUN x\n")
        assert self.key(context) != before

    def test_mode_and_link_change_it_but_not_time_or_comments(self, context: Path) -> None:
        before = self.key(context)
        os.utime(context / "src/main.c", (1, 1))
        (context / "Dockerfile").write_text(f"# a comment\n{(context / 'Dockerfile').read_text()}")
        assert self.key(context) == before
        (context / "src/main.c").chmod(0o755)
        with_mode = self.key(context)
        (context / "src/link").symlink_to("main.c")
        assert len({before, with_mode, self.key(context)}) == 3

    def test_arguments_and_target_change_it_and_secrets_do_not(self, context: Path) -> None:
        keys = {self.key(context), self.key(context, args={"A": "1"}), self.key(context, target="x")}
        assert len(keys) == 3
        assert self.key(context, secrets={"token": context / "README"}) in keys

    def test_context_that_cannot_be_read_is_refused(self, context: Path) -> None:
        os.mkfifo(context / "src/pipe")
        with pytest.raises(ContentError, match="pipe cannot be read: is a named pipe"):
            self.key(context)


class TestRecipe:
    """The keys of a recipe for Dockerfiles and dev containers."""

    def profile(self, folder: Path, text: str) -> Profile:
        return parse_profile(f"name: x\nversion: 1\n{text}", folder / "profile.yaml")

    def test_paths_are_relative_to_the_recipe(self, tmp_path: Path) -> None:
        (tmp_path / "token").touch()
        text = "base: dockerfile:docker#dev\nbuild_args: {A: b}\nbuild_secrets: {key: token}\n"
        profile = self.profile(tmp_path, text)
        assert str(profile.base) == f"dockerfile:{tmp_path}/docker#dev"
        assert profile.build_args == {"A": "b"}
        assert profile.build_secrets == {"key": tmp_path / "token"}
        assert str(self.profile(tmp_path, "base: devcontainer:.\n").base) == f"devcontainer:{tmp_path}"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("base: debian:sid\nbuild_args: {A: b}\n", "need a `dockerfile:` base"),
            ("base: dockerfile:x\nbuild_secrets: {key: missing}\n", "no such file: missing"),
            ("base: dockerfile:x\nbuild_args: {A B: c}\n", "must be the name of a variable"),
            ("base: dockerfile:x\nbuild_secrets: {../a: profile.yaml}\n", "must be a name of at most 64"),
            ("base: dockerfile:x#-v\n", "`base`: must be"),
            ("base: dockerfile:#dev\n", "`base`: must be"),
            ("base: dockerfile:x#a#b\n", "`base`: must be"),
            ("base: 'devcontainer:'\n", "`base`: must be"),
        ],
    )
    def test_wrong_keys_are_refused(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(ProfileError) as caught:
            self.profile(tmp_path, text)
        assert said in caught.value.message

    def test_missing_buildah_is_said_before_a_build(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written(tmp_path, "FROM scratch\n")
        monkeypatch.setattr(network, "PATH", "/nowhere")
        with pytest.raises(ProfilesError) as caught:
            find_base(self.profile(tmp_path, "base: dockerfile:.\n"), Catalog({}))
        assert "in Debian: buildah" in caught.value.hint
