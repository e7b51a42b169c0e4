from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.profile_options import check_profile_option
from profiles.errors import ProfileError
from profiles.oci.reference import ImageReference
from profiles.recipe import yaml_document
from profiles.recipe.base import Base, BaseKind
from profiles.recipe.spec import Profile, load_profile, parse_profile

FILE = Path("/somewhere/profile.yaml")
HEAD = "name: dev\nversion: 1.10\nbase: debian:sid\n"


def refused(text: str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        parse_profile(text, FILE)
    return caught.value


def test_every_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("hello")
    profile = parse_profile(
        HEAD
        + """
description: For everyone
apt: [git, libc6:amd64, gcc=4:14.2-1]
pip: ["numpy>=2,<3"]
files:
  - {destination: /etc/motd, source: motd, mode: 0600}
  - {destination: /opt/a, content: "x\\n"}
post: |
  echo hello
environment: {CC: clang, PATH: "/opt/bin:$PATH"}
resources:
  gres: gpu:intel:1
  cpus-per-task: 4
  time: 8:00:00
  exclusive: true
  requeue: false
persistence:
  home: fresh
  keep: [~/.cache/ccache, /opt/cache]
  fresh: [/etc/foo]
binds:
  - source: /shared/data
  - {source: /shared/scratch, destination: /scratch, readonly: false}
services:
  - {name: jupyter, command: jupyter lab, socket: jupyter.sock}
""",
        tmp_path / "profile.yaml",
    )
    assert profile.version == "1.10", "versions are text, not numbers"
    assert profile.base == Base(BaseKind.DEBIAN, suite="sid")
    assert [file.mode for file in profile.files] == [0o600, 0o644]
    assert profile.files[0].source == tmp_path / "motd"
    assert profile.resources_as_options() == [
        "--gres=gpu:intel:1",
        "--cpus-per-task=4",
        "--time=8:00:00",
        "--exclusive",
    ]
    assert [(bind.destination, bind.readonly) for bind in profile.binds] == [
        ("/shared/data", True),
        ("/scratch", False),
    ]
    assert (profile.persistence.home, profile.persistence.system) == ("fresh", "keep")
    assert profile.persistence.keep == ["~/.cache/ccache", "/opt/cache"]
    assert profile.persistence.fresh == ["/etc/foo"]
    assert Profile.model_validate_json(profile.model_dump_json()) == profile


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("debian:trixie", Base(BaseKind.DEBIAN, suite="trixie")),
        ("profile:base@2026.1", Base(BaseKind.PROFILE, name="base", version="2026.1")),
        ("sif:/images/a.sif", Base(BaseKind.SIF, path=Path("/images/a.sif"))),
        ("sif:a.sif", Base(BaseKind.SIF, path=FILE.parent / "a.sif")),
        ("oci-archive:a.tar", Base(BaseKind.OCI_ARCHIVE, path=FILE.parent / "a.tar")),
        ("oci-layout:/images/a", Base(BaseKind.OCI_LAYOUT, path=Path("/images/a"))),
        ("docker-archive:a.tar", Base(BaseKind.DOCKER_ARCHIVE, path=FILE.parent / "a.tar")),
        ("oci:localhost:5000/a/b:1", Base(BaseKind.OCI, image=ImageReference("localhost:5000", "a/b", "1"))),
    ],
)
def test_bases(text: str, base: Base) -> None:
    assert parse_profile(f"name: a\nversion: 1\nbase: {text}\n", FILE).base == base


@pytest.mark.parametrize(
    "text", ["docker:x", "'debian:'", "debian:../x", "profile:base", "profile:b@../1", "'sif:'", "'oci-archive:'", "[]"]
)
def test_other_bases_are_refused(text: str) -> None:
    assert "debian:<suite>" in str(refused(f"name: a\nversion: 1\nbase: {text}\n"))


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        (HEAD + "\nenviroment: {}\n", 5, "unknown key `enviroment`", "did you mean `environment`?"),
        (HEAD + "files:\n- destination: /a\n  contents: x\n", 6, "unknown key `contents`", "`content`"),
        (
            HEAD + "binds:\n- source: /a\n  qqqq: x\n",
            6,
            "unknown key `qqqq`",
            "source, destination, readonly",
        ),
        (HEAD + "apt:\n- git\n- Git;rm\n", 6, "`apt.1`", ""),
        (HEAD + "name: other\n", 4, "`name` is given twice, first in line 1", ""),
        ("name: a\nversion: 1\n", 1, "`base` is missing", ""),
        (HEAD + "files:\n- destination: /a\n", 5, "needs either `content` or `source`", ""),
        (HEAD + "files:\n- destination: /a\n  source: none\n", 6, "no such file: none", "relative"),
        (HEAD + "files:\n- destination: ../a\n  content: x\n", 5, "absolute path", ""),
        (HEAD + "files:\n- {destination: /a, content: x, mode: rwx}\n", 5, "octal", ""),
        (HEAD + "environment:\n  SLURM_JOB_ID: 1\n", 5, "set by the session", ""),
        (HEAD + 'environment:\n  A: "two\\nlines"\n', 5, "one line", ""),
        (HEAD + "binds:\n- source: /a:b\n", 5, "must not contain", ""),
        (HEAD + "binds:\n- source: /a\n- source: /b\n  destination: /a\n", 4, "`binds`: /a is given twice", ""),
        (HEAD + "apt: [Git]\n", 4, "`apt.0`: must be the name of a Debian package", ""),
        (HEAD + "resources: {--mem: 1G}\n", 4, "must be the long name of an option", ""),
        (HEAD + "resources: {mem: [1G]}\n", 4, "`resources.mem`: must be text", ""),
        (HEAD + "persistence:\n  system: no\n", 5, "`persistence.system`: must be `keep` or `fresh`", ""),
        (HEAD + "persistence:\n  sytem: keep\n", 5, "unknown key `sytem`", "did you mean `system`?"),
        (HEAD + "persistence:\n  keep: [/a]\n  fresh:\n  - /b\n  - /a\n", 8, "/a is in `keep` too", ""),
        (HEAD + "persistence:\n  fresh: [/a]\n  keep: [/a/b]\n", 5, "lie in each other", ""),
        (HEAD + "persistence:\n  keep: [~/a]\n  fresh: [~/a/b]\n", 6, "lie in each other", ""),
        (HEAD + "apt: git\n", 4, "`apt`: must be a list", ""),
        ("- a\n", 0, "must be a map", ""),
        ("name: [\n", 2, "not YAML", ""),
        ("a: 1\n---\nb: 2\n", 2, "not YAML", ""),
        ("", 0, "empty", ""),
        (HEAD + "description: !!python/object:os.system x\n", 4, "tags", ""),
        (HEAD + "description: *nothing\n", 4, "not YAML: found undefined alias", ""),
        (HEAD + 'description: "\\UFFFFFFFF"\n', 0, "not YAML: a character or number is out of range", ""),
        (HEAD + 'description: "\\U00110000"\n', 0, "not YAML: a character or number is out of range", ""),
        (HEAD + 'description: "\\uD800"\n', 0, "not YAML: a character or number is out of range", ""),
        ("? [a]\n: b\n", 1, "a key must be text", ""),
    ],
)
def test_refusals_name_line_and_remedy(text: str, line: int, message: str, hint: str) -> None:
    error = refused(text)
    assert message in error.message
    assert hint in error.hint
    assert (error.file, error.line or 0) == (FILE, line) or (line == 0 and error.line <= 1)


MANY_FAULTS = """name: dev
version: 1
base: debian:sid
enviroment: {}
apt: [Git]
files:
- {destination: /a, source: none}
- {destination: /b}
binds: [{source: /c}, {source: /c}]
resources:
  gpuss: 1
  time: 4x
  mem: true
  time: 1h
"""


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ProfileError) as caught:
        parse_profile(MANY_FAULTS, FILE, check_profile_option)
    first, *faults = caught.value.message.split("\n  ")
    assert first == f"{FILE}: 9 faults"
    assert [fault.split(":")[0] for fault in faults] == [f"line {line}" for line in (4, 5, 7, 8, 9, 11, 12, 13, 14)]
    assert faults[0] == "line 4: unknown key `enviroment`; did you mean `environment`?"
    assert faults[5] == "line 11: `resources.gpuss`: --gpuss is not an option of sbatch; did you mean --gpus?"


def test_a_text_with_thousands_of_faults_gets_a_short_message() -> None:
    message = refused(HEAD + "".join(f"key{number}: x\n" for number in range(2000))).message
    assert message.endswith("\n  and 1980 more")
    assert len(message.splitlines()) == 22


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpuss: 1", "--gpuss is not an option of sbatch; did you mean --gpus?"),
        ("gpuss: false", "--gpuss is not an option of sbatch"),
        ("job-name: x", "--job-name cannot be used for a session"),
        ("gres: true", "--gres needs a value"),
        ("contiguous: x", "--contiguous takes no value"),
        ("gres: gpü", "not printable ASCII"),
    ],
)
def test_wrong_options_are_refused_with_their_line(text: str, says: str) -> None:
    with pytest.raises(ProfileError) as caught:
        parse_profile(f"{HEAD}resources:\n  {text}\n", FILE, check_profile_option)
    assert (caught.value.line, says in caught.value.message) == (5, True), caught.value.message


def test_right_options_are_accepted() -> None:
    text = HEAD + "resources: {time: 1h30m, mem: 1.5G, exclusive: true, contiguous: false, hold: true}\n"
    assert parse_profile(text, FILE, check_profile_option).resources_as_options() == [
        *("--time=1:30:00", "--mem=1536M", "--exclusive", "--hold")
    ]


@pytest.mark.parametrize(
    "path", ["a", "", "/", "~", "~/", "~bob/x", "/a/", "/a//b", "/./a", "~/../a", "/a:b", "/a,b", "/a\\b"]
)
@pytest.mark.parametrize("key", ["keep", "fresh"])
def test_paths_whose_persistence_cannot_be_told_are_refused(key: str, path: str) -> None:
    error = refused(HEAD + f"persistence:\n  {key}:\n  - '{path}'\n")
    assert error.message.startswith(f"{FILE}:6: `persistence.{key}.0`: must")


def test_paths_whose_side_is_kept_already_may_be_named() -> None:
    kept = parse_profile(HEAD + "persistence: {keep: [/opt/a], fresh: [/opt/ab]}\n", FILE).persistence
    assert (kept.system, kept.keep, kept.fresh) == ("keep", ["/opt/a"], ["/opt/ab"])


def test_alias_bombs_are_refused() -> None:
    lists = "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 8)}]\n" for n in range(4))
    assert "aliases are followed" in str(refused("a0: &a0 [" + "x, " * 50 + "x]\n" + lists))
    assert "more than 32 aliases" in str(refused("a: &a x\nb: [" + "*a, " * 33 + "]\n"))
    assert "contains itself" in str(refused("a: &a [*a]\n"))


def test_deep_and_large_texts_are_refused() -> None:
    assert "nested deeper" in str(refused("a: " + "[" * 20000))
    assert "larger than" in str(refused("description: " + "x" * yaml_document.MAX_BYTES))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"none\.yaml: cannot be read: No such file"):
        load_profile(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="not UTF-8"):
        load_profile(tmp_path / "binary.yaml")


@given(st.text(max_size=300))
def test_any_text_is_a_profile_or_a_profile_error(text: str) -> None:
    with pytest.raises(ProfileError):
        parse_profile(text, FILE)


@given(st.dictionaries(st.sampled_from(list(Profile.model_fields)), st.text(max_size=40) | st.just("[]")))
def test_any_values_are_a_profile_or_a_profile_error(values: dict[str, str]) -> None:
    text = "".join(f"{key}: {value}\n" for key, value in values.items())
    with contextlib.suppress(ProfileError):
        parse_profile(text, FILE)
