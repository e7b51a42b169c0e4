"""The report about the settings of a container image, and the key of a build."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from profiles.build.build_key import build_key
from profiles.build.import_report import (
    IMPORT_REPORT,
    MAX_ITEMS,
    MAX_SUMMARY_ITEMS,
    ImportOutcome,
    ImportReport,
    ReportItem,
    changed_content,
    ignored_settings,
    image_environment,
    read_import_report,
)
from profiles.errors import DamagedImageError
from profiles.oci.unpack_findings import Occurrences, UnpackFindings
from profiles.recipe.environment import shell_lines
from profiles.recipe.spec import Profile, parse_profile

if TYPE_CHECKING:
    from pathlib import Path


def test_variables_of_an_image_are_literal_and_the_last_of_a_name_counts() -> None:
    listed = ["A=$HOME `x` $$", "EMPTY=", "A=$B=c", "PATH=/opt/bin:/bin"]
    taken, items = image_environment({"Env": listed}, {"PATH": "x"})
    assert shell_lines(taken, venv=False) == "export A='$'B=c\nexport EMPTY=''\nexport PATH=/opt/bin:/bin\n"
    assert {item.outcome for item in items} == {ImportOutcome.TAKEN}
    assert [item.reason for item in items if item.key == "Env PATH"] == ["the recipe sets it too, and comes later"]


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ("HOME=/app", "session sets it"),
        ("USER=app", "session sets it"),
        ("BERTH_SOCKET=x", "session sets it"),
        ("SLURM_JOB_ID=1", "session sets it"),
        ("a b=c", "letters, digits"),
        ("1A=c", "letters, digits"),
        ("A;reboot=c", "letters, digits"),
        ("=c", "letters, digits"),
        ("A", "not NAME=VALUE"),
        ("A=one\ntwo", "several lines"),
        ("A=\x1b[2J", "control characters"),
        ("A=\0", "control characters"),
        ("A=" + "x" * 40_000, "more than"),
        (5, "not NAME=VALUE"),
        (None, "not NAME=VALUE"),
        ({"A": "b"}, "not NAME=VALUE"),
    ],
)
def test_variable_that_cannot_be_taken_is_reported(variable: object, reason: str) -> None:
    taken, (item,) = image_environment({"Env": [variable]}, {})
    assert taken == {}
    assert item.outcome is ImportOutcome.IGNORED
    assert reason in item.reason
    assert item.value.isprintable()
    assert len(item.value) < 400


def test_env_of_no_form_is_reported() -> None:
    assert image_environment({"Env": "A=b"}, {}) == (
        {},
        [ReportItem("Env", ImportOutcome.IGNORED, "A=b", "it is no list")],
    )
    assert image_environment({}, {}) == ({}, [])


def test_every_other_setting_is_reported_with_a_reason() -> None:
    settings: dict[str, Any] = {
        "Env": ["A=b"], "User": "app", "WorkingDir": "/app", "Entrypoint": ["/app"], "Cmd": ["x"], "Tty": False,
        "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "Labels": {"a": "b", "c": "d"}, "StopSignal": "HUP",
        "Healthcheck": {"Test": ["x"]}, "Unheard": {"of": [1]}, "OnBuild": None,
    }  # fmt: skip
    items = ignored_settings(settings)
    assert {item.key for item in items} == {
        "User", "WorkingDir", "Entrypoint", "Cmd", "ExposedPorts", "Volumes", "Label a", "Label c", "StopSignal",
        "Healthcheck", "Unheard",
    }  # fmt: skip
    assert all(item.outcome is ImportOutcome.IGNORED and item.reason for item in items)
    assert next(item.value for item in items if item.key == "Unheard") == '{"of": [1]}'


def test_changes_of_content_are_reported_with_examples() -> None:
    findings = UnpackFindings(
        foreign_owners=Occurrences(7, ["'a' (70000:0)"]),
        capabilities=Occurrences(1, ["'ping'"]),
        pipes=Occurrences(1, ["'p'"]),
    )
    items = changed_content(findings)
    assert [(item.key, item.outcome, item.value) for item in items] == [
        ("owners", ImportOutcome.CHANGED, "7: 'a' (70000:0), …"),
        ("capabilities", ImportOutcome.CHANGED, "1: 'ping'"),
        ("named pipes", ImportOutcome.TAKEN, "1: 'p'"),
    ]
    assert UnpackFindings.from_json(json.loads(json.dumps(findings.as_json()))) == findings


def test_report_is_kept_beside_the_image_and_its_summary_is_short(tmp_path: Path) -> None:
    items = [ReportItem(f"Label {number}", ImportOutcome.IGNORED, "x", "y") for number in range(MAX_ITEMS + 5)]
    items += [ReportItem(f"Key {number}", ImportOutcome.IGNORED, "v" * 300, "why", "do this") for number in range(30)]
    items += [ReportItem("owners", ImportOutcome.CHANGED, "1", "why"), ReportItem("Env A", ImportOutcome.TAKEN)]
    report = ImportReport("oci-archive:x", "sha256:0", items)
    report.write(tmp_path)
    kept = read_import_report(tmp_path)
    assert kept is not None
    assert (kept["base"], kept["digest"], len(kept["items"])) == ("oci-archive:x", "sha256:0", MAX_ITEMS + 1)
    summary = report.summary()
    assert summary[0] == f"Imported oci-archive:x, sha256:0: 1 settings taken, {MAX_ITEMS + 5} labels ignored"
    assert summary[1] == "changed: owners: 1: why"
    assert summary[2].endswith("why (do this)")
    assert len(summary) == MAX_SUMMARY_ITEMS + 2
    assert max(map(len, summary)) < 150


def test_image_without_a_report_has_none_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    assert read_import_report(tmp_path) is None
    for content in ("[]", "{", "[" * 100_000):
        (tmp_path / IMPORT_REPORT).write_text(content)
        with pytest.raises(DamagedImageError):
            read_import_report(tmp_path)


def profile(tmp_path: Path, text: str = "", base: str = "debian:sid", name: str = "profile.yaml") -> Profile:
    return parse_profile(f"name: x\nversion: 1\nbase: {base}\n{text}", tmp_path / name)


def test_key_is_that_of_what_is_read_not_of_how_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for folder in (tmp_path, tmp_path / "copy"):
        (folder / "file").write_text("same")
    text = "files:\n- {destination: /x, source: file}\n"
    key = build_key(profile(tmp_path, text + "apt: [git]\n"), "")
    assert build_key(profile(tmp_path / "copy", "# a comment\napt:\n- git\n" + text), "") == key
    assert build_key(profile(tmp_path, "files:\n- {destination: /x, content: same}\napt: [git]\n"), "") == key


def test_key_changes_with_all_that_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    text = "files:\n- {destination: /x, source: file}\n"
    keys = [build_key(profile(tmp_path, text), "")]
    file.write_text("two")
    keys.append(build_key(profile(tmp_path, text), ""))
    keys.append(build_key(profile(tmp_path, text.replace("}", ", mode: 600}")), ""))
    keys += [build_key(profile(tmp_path, text + more), "") for more in ("apt: [git]\n", "post: x\n", "idle: 1h\n")]
    keys += [build_key(profile(tmp_path, text, base), "") for base in ("debian:trixie", "profile:a@1", "sif:a.sif")]
    keys += [build_key(profile(tmp_path, text, "sif:a.sif"), digest) for digest in ("sha256:1", "sha256:2")]
    assert len(set(keys)) == len(keys)


def test_key_of_a_container_image_is_its_digest_not_its_name(tmp_path: Path) -> None:
    keys = {
        build_key(profile(tmp_path, base=base), "sha256:1")
        for base in ("oci:localhost:5000/a:1", "oci:localhost:5000/b@sha256:" + "0" * 64)
    }
    assert len(keys) == 1
