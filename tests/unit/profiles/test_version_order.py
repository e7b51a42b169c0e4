"""Orders of versions against dpkg, `packaging`, and the tables of the specifications."""

from __future__ import annotations

import itertools
import subprocess

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from packaging.version import InvalidVersion, Version

from profiles.inventory.model import PackageKind
from profiles.vulnerabilities.version_order import (
    UncomparableVersionError,
    apk_key,
    dpkg_key,
    order_of,
    python_key,
    semver_key,
)
from tests.deadlines import DEADLINE_S

DEBIAN = [
    "0",
    "0~",
    "0-0",
    "0-1",
    "1",
    "01",
    "1.0",
    "1.00",
    "1.0~",
    "1.0~~",
    "1.0~~a",
    "1.0~rc1-1",
    "1.0-1",
    "1.0-1~",
    "1.0-1+b1",
    "1.0-1+deb12u1",
    "1.0-1.1",
    "1.0a",
    "1.0+a",
    "1.0.a",
    "1.a0",
    "1.1",
    "1.10",
    "1.9",
    "1.9z",
    "1:0.1",
    "0:1.1",
    "2:1",
    "1.0-1-1",
    "1.0-a-1",
    "20240101",
    "1.0-0",
    "1.0+dfsg-1",
    "1:1.0:1-1",
]
PYTHON = [
    "1",
    "1.0",
    "1.0.0",
    "1.0.dev1",
    "1.0a1",
    "1.0a1.dev2",
    "1.0a1.post1",
    "1.0.a.1",
    "1.0alpha1",
    "1.0b2",
    "1.0c3",
    "1.0rc3",
    "1.0-rc.3",
    "1.0.post1",
    "1.0-1",
    "1.0.post1.dev2",
    "1.0+abc",
    "1.0+abc.5",
    "1.0+5",
    "1.0+5.abc",
    "1.0+abc-5",
    "1!0.5",
    "0!2",
    "v1.1",
    "1.10",
    "1.9",
    "2026.1",
    "1.0.dev",
    "1.0.post",
    "1.0preview4",
    "1.0.0.0.1",
    "1.0+ubuntu.1",
    "0",
    "0.0.dev0",
    "1.0.rev3",
    "1.0r4",
]
SEMVER = [
    "0.0.0-0",
    "0.9.9",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0-a",
    "2.0.0",
]
ALPINE = [
    "0.9",
    "1.0_alpha",
    "1.0_alpha2",
    "1.0_beta1",
    "1.0_pre3",
    "1.0_rc1",
    "1.0",
    "1.0-r1",
    "1.0-r10",
    "1.0_git20240101",
    "1.0_p1",
    "1.0_p1-r2",
    "1.0a",
    "1.0b_rc1",
    "1.0b",
    "1.0.1",
    "1.01",
    "1.1",
    "1.2",
    "1.10",
    "2",
]


def test_order_of_debian_is_that_of_dpkg() -> None:
    """In one shell: a process for each pair would take a minute."""
    pairs = list(itertools.product(DEBIAN, repeat=2))
    script = "".join(f"dpkg --compare-versions '{a}' lt '{b}' && echo y || echo n\n" for a, b in pairs)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    theirs = [line == "y" for line in done.stdout.split()]
    wrong = [pair for pair, less in zip(pairs, theirs, strict=True) if (dpkg_key(pair[0]) < dpkg_key(pair[1])) != less]
    assert wrong == []
    assert sum(theirs) > len(pairs) // 3


def test_order_of_python_is_that_of_packaging() -> None:
    pairs = list(itertools.product(PYTHON, repeat=2))
    wrong = [(a, b) for a, b in pairs if (python_key(a) < python_key(b)) != (Version(a) < Version(b))]
    assert wrong == []
    assert [(a, b) for a, b in pairs if (python_key(a) == python_key(b)) != (Version(a) == Version(b))] == []


TEXTS = st.tuples(
    st.sampled_from(["", "1!", "0!", "v"]),
    st.sampled_from(["1", "1.0", "0", "1.2.0", "2", "1.10"]),
    st.sampled_from(["", "a1", ".b", "-rc.2", "c", "_alpha0", "preview3"]),
    st.sampled_from(["", ".post1", "-1", "r2", ".post", "--2"]),
    st.sampled_from(["", ".dev", "dev3", "-dev1"]),
    st.sampled_from(["", "+a", "+1.a", "+a_2", "+"]),
).map("".join)


@given(TEXTS, TEXTS)
def test_python_versions_of_any_form_compare_as_with_packaging(one: str, other: str) -> None:
    versions = []
    for text in (one, other):
        try:
            versions.append(Version(text))
        except InvalidVersion:
            with pytest.raises(UncomparableVersionError):
                python_key(text)
    assume(len(versions) == 2)
    assert (python_key(one) < python_key(other)) == (versions[0] < versions[1])
    assert (python_key(one) == python_key(other)) == (versions[0] == versions[1])


@pytest.mark.parametrize(("key", "in_order"), [(semver_key, SEMVER), (apk_key, ALPINE)], ids=["semver", "apk"])
def test_specified_order_is_kept(key: object, in_order: list[str]) -> None:
    assert callable(key)
    assert all(key(less) < key(more) for less, more in itertools.pairwise(in_order))


def test_builds_of_semantic_versions_are_equal() -> None:
    assert semver_key("1.0.0+1") == semver_key("v1.0.0+2") == semver_key("1.0")


@pytest.mark.parametrize("kind", [kind for kind in PackageKind if order_of(kind)])
@pytest.mark.parametrize("text", ["", "a", "1 2", "1\n", "\x1b[2J", "1" * 41, "1." * 200 + "1", "٣", "1.0/../2"])
def test_text_that_is_no_version_is_refused(kind: PackageKind, text: str) -> None:
    order = order_of(kind)
    assert order is not None
    if text == "a" and kind is PackageKind.DEB:
        return  # which dpkg takes, with a warning
    with pytest.raises(UncomparableVersionError, match="is no version"):
        order(text)


def test_rpm_has_no_order() -> None:
    assert order_of(PackageKind.RPM) is None
