"""The verdict on a version: whole, of this image, of its owner, and never believed without a look at every part."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from profiles.errors import DamagedVerdictError, StoreError, UntestedImageError
from profiles.image.store import Image, Store
from profiles.image.verdict_file import (
    MAX_STEP_OUTPUT_CHARS,
    MAX_STEPS,
    MAX_VERDICT_BYTES,
    VERDICT_FILE,
    read_verdict,
    require_passed,
    required_steps,
    write_verdict,
)
from profiles.recipe.check import MAX_CHECKS
from tests.fakes.core import publish
from tests.fakes.verdicts import make_verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHECKS = "resources: {gres: 'gpu:intel:1'}\nchecks:\n- {name: numbers, command: 'true', gpu: true}\n"


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return publish(Store(tmp_path / "store"), extra=CHECKS)


def changed(image: Image, change: Callable[[dict[str, Any]], object]) -> str:
    data = json.loads(make_verdict(image).text())
    change(data)
    return json.dumps(data)


STEP = {"name": "ssh", "run": 1, "outcome": "passed", "seconds": 1.0}
DAMAGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "format": lambda data: data.update(format=2),
    "no digest": lambda data: data.pop("digest"),
    "short digest": lambda data: data.update(digest="sha256:0"),
    "another digest": lambda data: data.update(digest="sha256:" + "0" * 64),
    "another version": lambda data: data.update(version="2"),
    "another profile": lambda data: data.update(name="other"),
    "unknown entry": lambda data: data.update(then="rm"),
    "steps text": lambda data: data.update(steps="passed"),
    "outcome": lambda data: data["steps"][0].update(outcome="green"),
    "outcome true": lambda data: data["steps"][0].update(outcome=True),
    "third run": lambda data: data["steps"][0].update(run=3),
    "run text": lambda data: data["steps"][0].update(run="1"),
    "run true": lambda data: data["steps"][0].update(run=True),
    "negative seconds": lambda data: data["steps"][0].update(seconds=-1),
    "unknown part of a step": lambda data: data["steps"][0].update(why="x"),
    "escape": lambda data: data.update(who="\x1b[2Jroot"),
    "direction": lambda data: data["steps"][0].update(message="\u202etxt.exe"),
    "newline": lambda data: data["steps"][0].update(output=["a\nb"]),
    "output text": lambda data: data["steps"][0].update(output="text"),
    "long line": lambda data: data["steps"][0].update(output=["a" * (MAX_STEP_OUTPUT_CHARS + 1)]),
    "long name": lambda data: data.update(who="a" * 257),
    "many steps": lambda data: data.update(steps=[STEP] * (MAX_STEPS + 1)),
    "milliseconds": lambda data: data.update(ended=1.7e12),
    "true time": lambda data: data.update(began=True),
    "counts": lambda data: data.update(vulnerabilities={"data_age_days": 1.0, "counts": {"fixed": -1}}),
}
NOT_JSON = {
    "empty": "",
    "truncated": '{"format": 1, "na',
    "list": "[]",
    "null": "null",
    "nested": "[" * 100_000,
    "twice": '{"format": 1, "format": 1}',
    "infinite": '{"began": Infinity}',
    "digits": '{"format": ' + "9" * 5000 + "}",
    "large": " " * (MAX_VERDICT_BYTES + 1),
}


def assert_refused(image: Image) -> None:
    path = image.directory / VERDICT_FILE
    with pytest.raises(DamagedVerdictError) as caught:
        read_verdict(image)
    assert caught.value.message.isprintable()
    assert str(path) in caught.value.message
    assert "profile test base@1" in caught.value.hint
    with pytest.raises(UntestedImageError):
        require_passed(image)


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_verdict_does_not_count(image: Image, case: str) -> None:
    text = changed(image, DAMAGED[case])
    (image.directory / VERDICT_FILE).write_text(text)
    assert_refused(image)
    assert (image.directory / VERDICT_FILE).read_text() == text


@pytest.mark.parametrize("case", NOT_JSON)
def test_file_that_is_no_verdict_does_not_count(image: Image, case: str) -> None:
    (image.directory / VERDICT_FILE).write_text(NOT_JSON[case])
    assert_refused(image)


def test_verdict_of_another_user_does_not_count(image: Image) -> None:
    write_verdict(image, make_verdict(image))
    require_passed(image)
    path = image.directory / VERDICT_FILE
    path.chmod(0o664)
    assert_refused(image)
    path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(image.directory, 1234, -1)
        require_passed(image)  # root's own
        os.chown(path, 4321, -1)
        assert_refused(image)


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_only_a_regular_file_is_read(image: Image, tmp_path: Path, kind: str) -> None:
    path, elsewhere = image.directory / VERDICT_FILE, tmp_path / "elsewhere"
    elsewhere.write_text(make_verdict(image).text())
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert_refused(image)


def test_every_step_is_needed(image: Image) -> None:
    assert [name for name, _ in required_steps(image.profile)] == [
        "start", "ssh", "sftp", "dpkg", "gpu", "check numbers", "stop",
        "start", "ssh", "sftp", "dpkg", "gpu", "check numbers",
    ]  # fmt: skip
    for number in range(len(required_steps(image.profile))):
        data = json.loads(make_verdict(image).text())
        del data["steps"][number]
        (image.directory / VERDICT_FILE).write_text(json.dumps(data))
        with pytest.raises(UntestedImageError, match="has not passed its test"):
            require_passed(image)


def test_only_dpkg_may_be_absent(image: Image) -> None:
    def absent(*names: str) -> str:
        return changed(
            image,
            lambda data: [step.update(outcome="absent") for step in data["steps"] if step["name"] in names],
        )

    (image.directory / VERDICT_FILE).write_text(absent("dpkg"))
    require_passed(image)
    (image.directory / VERDICT_FILE).write_text(absent("dpkg", "ssh"))
    with pytest.raises(UntestedImageError, match="ssh, ssh after the second start"):
        require_passed(image)


def test_largest_verdict_can_be_read_again(tmp_path: Path) -> None:
    checks = "".join(f"- {{name: c{number}, command: x}}\n" for number in range(MAX_CHECKS))
    image = publish(Store(tmp_path / "store"), extra=f"checks:\n{checks}")
    wide = make_verdict(image)
    steps = [
        step.model_copy(update={"message": "𝄞" * 256, "output": ["𝄞" * MAX_STEP_OUTPUT_CHARS]}) for step in wide.steps
    ]
    write_verdict(image, wide.model_copy(update={"steps": steps}))
    assert (image.directory / VERDICT_FILE).stat().st_size < MAX_VERDICT_BYTES
    require_passed(image)


def test_full_file_system_leaves_the_earlier_verdict(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    write_verdict(image, make_verdict(image))
    before = (image.directory / VERDICT_FILE).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("profiles.image.store_files.os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        write_verdict(image, make_verdict(image, failed="ssh"))
    assert (image.directory / VERDICT_FILE).read_bytes() == before
    assert not list(image.directory.glob(f".{VERDICT_FILE}.*"))
