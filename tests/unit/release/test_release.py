"""The tools of a release: the audit of the locked dependencies, and the list of materials."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.release import audit, locked, sbom

if TYPE_CHECKING:
    from pathlib import Path

STARLETTE = next(each for each in locked.read(locked.RUNTIME) if each.name == "starlette")
PYTEST = next(each for each in locked.read(locked.DEVELOPMENT) if each.name == "pytest")
SNAKEMAKE = next(each for each in locked.read(locked.WORKFLOWS) if each.name == "snakemake")


def record(package: str, *events: dict[str, str], **more: object) -> dict[str, Any]:
    affected = {"package": {"ecosystem": "PyPI", "name": package}}
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}] if events else []
    more = {"affected": [affected | {"ranges": ranges, "versions": more.pop("versions", [])}]} | more
    return {"id": "PYSEC-2099-1", "modified": "2099-01-02T03:04:05Z", "summary": "A hole.\nA deep one."} | more


def database(directory: Path, *records: dict[str, Any]) -> str:
    directory.mkdir(exist_ok=True)
    for number, each in enumerate(records):
        (directory / f"{number}.json").write_text(json.dumps(each))
    return str(directory)


STRANGE = {"package": {"ecosystem": "PyPI", "name": "starlette"}, "ranges": [{"type": "ECOSYSTEM"}]}
ELSEWHERE = record("some-other-package", {"introduced": "0"})


@pytest.mark.parametrize("package", [STARLETTE, PYTEST, SNAKEMAKE], ids=["runtime", "development", "workflows"])
def test_audit_names_a_locked_version_that_is_affected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], package: locked.Locked
) -> None:
    hit = record(package.name.upper(), {"introduced": "0"}, {"fixed": "9999.1"}, aliases=["CVE-2099-7"])
    assert audit.main([database(tmp_path, ELSEWHERE, hit)]) == 1
    said = capsys.readouterr().out
    assert (
        f"{package.name} {package.version}: PYSEC-2099-1 (CVE-2099-7): A hole. A deep one.; fixed in 9999.1\n" in said
    )
    assert "2 records of the PyPI ecosystem, the newest of 2099-01-02T03:04:05Z: 1 known" in said


@pytest.mark.parametrize(
    "other",
    [
        record("starlette", {"introduced": "0"}, {"fixed": STARLETTE.version}),
        record("starlette", {"introduced": "0"}, withdrawn="2099-02-01T00:00:00Z"),
        record("starlette", versions=["0.0.1"]),
        record("starlette", affected=[{"package": {"ecosystem": "npm", "name": "starlette"}}]),
    ],
    ids=["fixed", "withdrawn", "version", "ecosystem"],
)
def test_audit_passes_where_no_record_concerns_a_locked_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    assert audit.main([database(tmp_path, ELSEWHERE, other)]) == 0
    assert "no known vulnerabilities" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], [""]])
def test_audit_without_a_database_does_not_pass(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert audit.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "NOT AUDITED: no database was given" in said.err
    assert "PyPI/all.zip" in said.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "no record of the PyPI ecosystem"),
        ({"a.json": "{"}, "a.json in .* is not an OSV record"),
        ({"a.json": "[]"}, "a.json in .* is not an OSV record"),
        ({"a.json": json.dumps(record("starlette", affected=None))}, "is not an OSV record"),
        ({"a.json": json.dumps(record("starlette", {"introduced": "0"}) | {"id": None})}, "is not an OSV record"),
        ({"a.json": json.dumps(record("starlette", {}) | {"affected": [STRANGE]})}, "cannot be understood"),
        ({"a.json": json.dumps(record("x", withdrawn="2099-02-01T00:00:00Z"))}, "no record of the PyPI ecosystem"),
    ],
    ids=["empty", "no-json", "list", "null", "no-id", "no-events", "withdrawn"],
)
def test_audit_with_a_damaged_database_does_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, str], says: str
) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    assert audit.main([str(tmp_path)]) == 2
    assert re.search(says, capsys.readouterr().err)


def test_audit_reads_a_zip_file_as_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "all.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("PYSEC-2099-1.json", json.dumps(record("starlette", {"introduced": "0"})))
    assert audit.main([str(file)]) == 1
    assert "no fixed version is known" in capsys.readouterr().out
    file.write_bytes(file.read_bytes()[:-30])
    assert audit.main([str(file)]) == 2
    assert audit.main([str(tmp_path / "none.zip")]) == 2


@pytest.mark.parametrize(
    ("version", "events", "fixed"),
    [
        ("1.0", [{"introduced": "0"}, {"fixed": "1.0"}], None),
        ("1.0rc1", [{"introduced": "0"}, {"fixed": "1.0"}], "1.0"),
        ("1.0.post1", [{"introduced": "0"}, {"fixed": "1.0"}], None),
        ("1.0", [{"introduced": "0"}, {"last_affected": "1.0"}], ""),
        ("1.1", [{"introduced": "0"}, {"last_affected": "1.0"}], None),
        ("1.10", [{"introduced": "1.9"}, {"fixed": "1.11"}], "1.11"),
        ("1.8", [{"introduced": "1.9"}, {"fixed": "1.11"}], None),
        ("2.5", [{"fixed": "2.6"}, {"introduced": "2.0"}, {"fixed": "1.2"}, {"introduced": "0"}], "2.6"),
        ("1.5", [{"fixed": "2.6"}, {"introduced": "2.0"}, {"fixed": "1.2"}, {"introduced": "0"}], None),
        ("1.0", [{"introduced": "0"}, {"limit": "1.0"}], None),
        ("1.0", [{"introduced": "0"}, {"limit": "*"}], ""),
        ("1.0", [{"introduced": "0"}, {"fixed": "no version"}], ""),
        ("1.0", [{"introduced": "no version"}, {"fixed": "1.1"}], "1.1"),
        ("1!0.5", [{"introduced": "0"}, {"fixed": "9"}], None),
        ("0.1.dev1", [{"introduced": "0"}, {"fixed": "9"}], "9"),
    ],
)
def test_ranges_are_evaluated_as_the_format_says(version: str, events: list[dict[str, str]], fixed: str | None) -> None:
    package = locked.Locked("x", version, "", ("0" * 64,), ())
    found = list(audit.audit([package], [record("x", *events)]))
    assert [each.fixed for each in found] == ([] if fixed is None else [fixed])


def test_the_fixed_version_is_out_of_every_range() -> None:
    package = locked.Locked("x", "1.0", "", ("0" * 64,), ())
    two = record("x", {"introduced": "0"}, {"fixed": "1.1"})
    two["affected"] += record("X", {"introduced": "1.1"}, {"fixed": "1.2"}, versions=["1"])["affected"]
    [found] = audit.audit([package], [two])
    assert found.fixed == "1.2"


def test_make_hands_the_database_over() -> None:
    done = subprocess.run(
        ["make", "-n", "audit", "OSV=some.zip"], cwd=locked.ROOT, capture_output=True, text=True, check=True
    )
    assert "-m tests.release.audit 'some.zip'" in done.stdout


def test_a_lock_without_hashes_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("click==8.1\nidna==3.20 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(ValueError, match="click is not locked"):
        locked.read(lock)


def make_sbom(target: Path, seed: str) -> str:
    subprocess.run(
        [sys.executable, "-m", "tests.release.sbom", target],
        cwd=locked.ROOT,
        env=os.environ | {"PYTHONHASHSEED": seed},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return target.read_text()


def test_sbom_has_every_locked_runtime_package_with_its_hashes(tmp_path: Path) -> None:
    components = {each["name"]: each for each in json.loads(make_sbom(tmp_path / "sbom.json", "0"))["components"]}
    lock = locked.RUNTIME.read_text()
    names = re.findall(r"^([a-z0-9.-]+)(?:\[.*\])?==([^ ]+)", lock, re.MULTILINE)
    assert {(name, each["version"]) for name, each in components.items()} == set(names)
    hashes = [one["content"] for each in components.values() for one in each["hashes"]]
    assert sorted(hashes) == sorted(re.findall(r"sha256:([0-9a-f]+)", lock))
    assert all(each["hashes"] for each in components.values())
    assert components["pydantic-core"]["licenses"] == [{"expression": "MIT"}]
    assert components["pyyaml"]["licenses"] == [{"license": {"name": "MIT License"}}]


def test_sbom_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    assert make_sbom(tmp_path / "1", "1") == make_sbom(tmp_path / "2", "2")


def test_sbom_keeps_the_rules_of_cyclonedx() -> None:
    bom = sbom.render(locked.read(locked.RUNTIME))
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", bom["serialNumber"]
    )
    every = [bom["metadata"]["component"], *bom["components"]]
    references = [each["bom-ref"] for each in every]
    assert len(set(references)) == len(references)
    assert [each["ref"] for each in bom["dependencies"]] == references
    for each in bom["dependencies"]:
        assert set(each["dependsOn"]) <= set(references) - {each["ref"]}
        assert len(set(each["dependsOn"])) == len(each["dependsOn"])
    assert set(references) == set(bom["dependencies"][0]["dependsOn"]).union(
        references[:1], *(each["dependsOn"] for each in bom["dependencies"])
    )
    for each in bom["components"]:
        assert each["type"] == "library"
        assert re.fullmatch(r"pkg:pypi/[a-z0-9]+(-[a-z0-9]+)*@[A-Za-z0-9.%]+", each["purl"])
        assert all(re.fullmatch("[0-9a-f]{64}", one["content"]) for one in each["hashes"])
    assert "://" not in json.dumps({name: value for name, value in bom.items() if name != "$schema"})
