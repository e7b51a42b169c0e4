"""Names of images in registries: what is read, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import ReferenceInvalidError
from profiles.exchange.foreign_image import ForeignName
from profiles.exchange.push import version_tag
from profiles.oci.reference import ImageReference

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("localhost:5000/a", ("localhost:5000", "a", "", "")),
        ("localhost/a", ("localhost", "a", "", "")),
        ("registry.example.org/team/triton:1.0", ("registry.example.org", "team/triton", "1.0", "")),
        (f"Registry.Example.ORG/a@{DIGEST}", ("registry.example.org", "a", "", DIGEST)),
        (f"r.example/a_b/c--d.e:T_1@{DIGEST}", ("r.example", "a_b/c--d.e", "T_1", DIGEST)),
        ("[2001:db8::1]:5000/a:x", ("[2001:db8::1]:5000", "a", "x", "")),
        ("192.0.2.1/a", ("192.0.2.1", "a", "", "")),
    ],
)
def test_parts_of_a_name(text: str, parts: tuple[str, str, str, str]) -> None:
    found = ImageReference.parse(text)
    assert (found.registry, found.repository, found.tag, found.digest) == parts
    assert ImageReference.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "debian",
        "debian:12",
        "library/debian",
        "r.example",
        "r.example/",
        "/a",
        "r.example/A",
        "r.example/a:",
        "r.example/a@",
        "r.example/a@sha256:0",
        f"r.example/a@md5:{'0' * 32}",
        f"r.example/a@{DIGEST}@{DIGEST}",
        f"r.example/a:{'x' * 129}",
        f"r.example/{'a' * 256}",
        f"r.example/{'a/' * 300}a",
        "r.example/../a",
        "r.example/a//b",
        "r.example/a b",
        "r.example/a\n",
        "r.example/a:x\n",
        "r.example/a?b",
        "r.example/a#b",
        "r.example/a%2e",
        "r.example:0/a",
        "r.example:65536/a",
        "r.example:x/a",
        "user@r.example/a",
        "user:password@r.example/a",
        "-r.example/a",
        "r..example/a",
        "[zz]/a",
        "[1.2.3.4]/a",
        "r.example\\x/a",
        "https://r.example/a",
        "docker://r.example/a",
        "oras://r.example/a",
        "r.exämple/a",
    ],
)
def test_other_text_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ReferenceInvalidError) as caught:
        ImageReference.parse(text)
    assert caught.value.hint
    assert "\n" not in caught.value.message


@given(st.text(alphabet="ab01.:/@-_[]%? \nAä", max_size=40))
def test_any_text_is_a_name_or_is_refused(text: str) -> None:
    try:
        found = ImageReference.parse(text)
    except ReferenceInvalidError:
        return
    assert str(found).lower() == text.lower()


@pytest.mark.parametrize(
    ("registry", "local"),
    [
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.9.9.9:1", True),
        ("[::1]:5000", True),
        ("x.localhost", True),
        ("localhost.example.org", False),
        ("10.0.0.1", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_only_this_machine_may_be_without_tls(registry: str, local: bool) -> None:
    assert ImageReference.parse(f"{registry}/a").is_loopback is local


@pytest.mark.parametrize(("version", "tag"), [("1.0", "1.0"), ("1.2+b1", "1.2_b1"), ("2.0~rc1", "2.0_rc1")])
def test_version_becomes_a_tag(version: str, tag: str) -> None:
    assert version_tag(version) == tag
    assert ImageReference.parse(f"r.example/a:{tag}").tag == tag


@pytest.mark.parametrize(
    ("text", "name", "version", "expected"),
    [
        ("r.example/team/small:1.0", "", "", ("small", "1.0")),
        ("r.example/small:1.0", "mine", "", ("mine", "1.0")),
        ("r.example/small:latest", "", "3", ("small", "3")),
        (f"r.example/small@{DIGEST}", "", "3", ("small", "3")),
    ],
)
def test_image_without_a_recipe_is_called_after_its_name(
    text: str, name: str, version: str, expected: tuple[str, str]
) -> None:
    assert ForeignName(name, version).resolve(ImageReference.parse(text)) == expected


@pytest.mark.parametrize(
    "text", ["r.example/small", "r.example/small:latest", "r.example/9small:1", "r.example/a_b:1", "r.example/a:_1"]
)
def test_name_that_no_profile_can_have_needs_the_options(text: str) -> None:
    with pytest.raises(ReferenceInvalidError) as caught:
        ForeignName().resolve(ImageReference.parse(text))
    assert "--profile-version" in caught.value.hint
