"""Times and sizes as users write them, and the values that Slurm gets for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.errors import ProfileError
from profiles.recipe.duration import parse_duration, policy_time, slurm_time
from profiles.recipe.resources import to_slurm_value
from profiles.recipe.size import parse_size
from profiles.recipe.spec import Profile, parse_profile

HEAD = "name: tool\nversion: 1\nbase: debian:trixie\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("4", 240),
        ("1.5", 90),
        ("30s", 30),
        ("15m", 900),
        ("15min", 900),
        ("4h", 14400),
        ("4H", 14400),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("2d", 172800),
        ("1d12h", 129600),
        ("90:30", 5430),
        ("1:30:00", 5400),
        ("2-12", 216000),
        ("2-12:30", 217800),
        ("2-12:30:10", 217810),
    ],
)
def test_forms_of_a_time(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "h", "4x", "30m1h", "1h 30", "1 2", "-4", "1:2:3:4", "2-", "٣h", "1e9", "inf"]
)
def test_other_text_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"use 90 .minutes., 30s"):
        parse_duration(text)


def test_a_time_in_the_forms_of_slurm_and_of_the_api() -> None:
    assert slurm_time(5400) == "1:30:00"
    assert slurm_time(30 * 86400) == "720:00:00"
    assert [policy_time(text) for text in ("24h", "1h30m", "2-0", "10020m", "90")] == [
        "24h",
        "90m",
        "2d",
        "167h",
        "90m",
    ]


@pytest.mark.parametrize("text", ["90s", "10001m", "0h"])
def test_a_policys_time_is_whole(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        policy_time(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096 << 20),
        ("512M", 512 << 20),
        ("512k", 512 << 10),
        ("16G", 16 << 30),
        ("16 GB", 16 << 30),
        ("16gib", 16 << 30),
        ("1.5T", 3 << 39),
    ],
)
def test_forms_of_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "16X", "16GG", "1e9"])
def test_other_text_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"use 4096 .MiB., 512M"):
        parse_size(text)


@pytest.mark.parametrize(
    ("name", "value", "sent"),
    [
        ("time", "4h", "4:00:00"),
        ("time", "8:00:00", "8:00:00"),
        ("time", "120", "120"),
        ("time", "UNLIMITED", "UNLIMITED"),
        ("time-min", "1h30m", "1:30:00"),
        ("mem", "16G", "16G"),
        ("mem", "0", "0"),
        ("mem-per-cpu", "1.5GiB", "1536M"),
        ("tmp", "16GB", "16384M"),
        ("gres", "gpu:intel:1", "gpu:intel:1"),
    ],
)
def test_slurm_gets_its_own_forms(name: str, value: str, sent: str) -> None:
    assert to_slurm_value(name, value) == sent


def test_a_profile_takes_the_same_forms() -> None:
    profile = parsed("idle: 1h30m\ncontinuation: 2-12\nresources:\n  time: 4h\n  mem: 1.5G\n  exclusive: true\n")
    assert (profile.idle, profile.continuation) == ("90m", "60h")
    assert profile.resources_as_options() == ["--time=4:00:00", "--mem=1536M", "--exclusive"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("idle: always\n", "4: `idle`: 'always' is not a length of time; use"),
        ("resources:\n  gres: gpu:1\n  time: 4x\n", "6: `resources.time`: '4x' is not a length of time; use"),
        ("resources:\n  mem: much\n", "5: `resources.mem`: 'much' is not a size; use"),
    ],
)
def test_a_profile_names_the_line_and_the_forms(text: str, says: str) -> None:
    with pytest.raises(ProfileError) as refused:
        parsed(text)
    assert says in str(refused.value)


def parsed(text: str) -> Profile:
    return parse_profile(HEAD + text, Path("tool.yaml"))
