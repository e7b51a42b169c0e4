"""The key `checks` of a recipe: what it takes, and what it refuses with the line and the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.build.build_key import build_key
from profiles.errors import ProfileError
from profiles.recipe.check import DEFAULT_CHECK_LIMIT_S, MAX_CHECKS, asks_for_gpu
from profiles.recipe.spec import Profile, parse_profile

HEAD = "name: base\nversion: 1\nbase: debian:sid\n"
EARLIER_KEY = "sha256:9d98db8c532ed19b10addcd736d42057e864914744b0857ea2374442d7d98af2"
"""The key of HEAD before recipes had checks."""
GPU = "resources: {gres: 'gpu:intel:1'}\n"


def profile(checks: str, head: str = HEAD) -> Profile:
    return parse_profile(f"{head}checks:\n{checks}", Path("/recipes/profile.yaml"))


def test_checks_are_read() -> None:
    two = "- {name: one, command: 'test 1 = 1'}\n- {name: two, command: x, time_limit: 90s, gpu: true}\n"
    read = profile(two, HEAD + GPU)
    assert [(each.name, each.command, each.time_limit, each.gpu) for each in read.checks] == [
        ("one", "test 1 = 1", DEFAULT_CHECK_LIMIT_S, False),
        ("two", "x", 90.0, True),
    ]
    assert Profile.model_validate(read.model_dump(mode="json")) == read
    assert profile("- {name: one, command: x, time_limit: 2}\n").checks[0].time_limit == 120.0


REFUSED = {
    "no list": "  name: x\n",
    "no name": "- {command: x}\n",
    "no command": "- {name: x}\n",
    "blank": "- {name: x, command: ' '}\n",
    "upper case": "- {name: X, command: x}\n",
    "space": "- {name: a b, command: x}\n",
    "two lines": '- {name: x, command: "a\\nb"}\n',
    "long": f"- {{name: x, command: {'a' * 1001}}}\n",
    "too short": "- {name: x, command: x, time_limit: 0s}\n",
    "too long": "- {name: x, command: x, time_limit: 61m}\n",
    "no time": "- {name: x, command: x, time_limit: soon}\n",
    "no flag": "- {name: x, command: x, gpu: 1.5}\n",
    "unknown": "- {name: x, command: x, retries: 3}\n",
    "twice": "- {name: x, command: x}\n- {name: x, command: y}\n",
    "many": "".join(f"- {{name: c{number}, command: x}}\n" for number in range(MAX_CHECKS + 1)),
    "gpu without one": "- {name: x, command: x, gpu: true}\n",
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_checks_are_refused(case: str) -> None:
    with pytest.raises(ProfileError) as caught:
        profile(REFUSED[case])
    assert "/recipes/profile.yaml" in caught.value.message


@pytest.mark.parametrize(
    ("resources", "asks"),
    [
        ({"gres": "gpu:intel:1"}, True),
        ({"gres": "license:1,shard:1"}, True),
        ({"gres": "gpu"}, True),
        ({"gpus": "1"}, True),
        ({"gpus-per-node": "a100:2"}, True),
        ({"gpus": False}, False),
        ({"gres": "gpumem:1"}, False),
        ({"mem": "1G"}, False),
        ({}, False),
    ],
)
def test_gpu_among_resources(resources: dict[str, bool | str], asks: bool) -> None:
    assert asks_for_gpu(resources) is asks


def test_key_of_a_build_without_checks_is_that_of_earlier_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    without = parse_profile(HEAD, Path("/recipes/profile.yaml"))
    assert build_key(without, "") == EARLIER_KEY
    assert build_key(profile("- {name: one, command: x}\n"), "") != EARLIER_KEY
