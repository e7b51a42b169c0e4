"""The rules for signatures: the sentence for each case, and whether a start accepts it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from profiles.errors import DamagedImageError, SignatureError
from profiles.image.catalog import OWN, SITE
from profiles.image.signature_file import MAX_SIGNATURE_BYTES, SIGNATURE, SignatureFile
from profiles.image.store import Store
from profiles.signature.contents import CheckedContents
from profiles.signature.policy import DOUBTS, SignaturePolicy, SignatureProblem
from tests.fakes.core import publish
from tests.fakes.signing import signed, signer, signing_key

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.image.store import Image
    from profiles.signature.policy import Assessment, Signer

KEY, OTHER_KEY = signing_key(1), signing_key(2)
DAY_1, DAY_2, DAY_3 = 86400.0, 2 * 86400.0, 3 * 86400.0
REQUIRED = frozenset({SITE})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def image(store: Store) -> Image:
    """An image that the team has signed on the second day."""
    return signed(publish(store), KEY, DAY_2)


def assess(image: Image, *signers: Signer, now: float = DAY_2, owner: str = SITE, size: int = 3) -> Assessment:
    return SignaturePolicy(signers or (signer(KEY),)).assess(image, owner, now, size)


def test_signature_of_a_signer_counts(image: Image) -> None:
    found = assess(image)
    assert (found.problem, found.signer, found.signed, found.key_id) == (None, "team", DAY_2, KEY.public.key_id)
    assert SignaturePolicy([signer(KEY)], REQUIRED).require(image, SITE, DAY_2, 3) == found


def test_image_from_the_store_has_its_signature(store: Store, image: Image) -> None:
    assert store.find("base") == image
    assert (image.directory / SIGNATURE).stat().st_mode & 0o777 == 0o644
    assert [path.name for path in image.directory.iterdir() if path.name.startswith(".")] == []


def test_unsigned_image(image: Image) -> None:
    found = assess(replace(image, signature=SignatureFile()))
    assert (found.problem, found.message) == (SignatureProblem.UNSIGNED, "base@1 is not signed")
    assert "berth profile sign base@1 --key" in found.hint


def test_unknown_key(image: Image) -> None:
    found = assess(image, signer(OTHER_KEY))
    assert found.problem is SignatureProblem.UNKNOWN_KEY
    assert f"signed with the key {KEY.public.key_id[:23]}, which belongs to none of the signers" in found.message


def test_another_key_under_the_id_of_a_signer_is_a_forgery(image: Image) -> None:
    text = json.loads(signed(image, OTHER_KEY).signature.text or "")
    text["signatures"][0]["keyid"] = KEY.public.key_id
    found = assess(replace(image, signature=SignatureFile(json.dumps(text))))
    assert found.problem is SignatureProblem.FORGED
    assert "is not one of team" in found.message


@pytest.mark.parametrize(
    ("times", "now", "why"),
    [
        ({"valid_until": DAY_3}, DAY_3, "was valid until 1970-01-03"),
        ({"valid_from": DAY_3}, DAY_2, "is valid from 1970-01-04 on"),
        ({"valid_from": DAY_3}, DAY_3, "team made it on 1970-01-03, when this signer was not valid"),
        ({"valid_until": DAY_2}, DAY_1, "team made it on 1970-01-03, when this signer was not valid"),
    ],
)
def test_signature_outside_the_time_of_its_signer(image: Image, times: dict[str, float], now: float, why: str) -> None:
    found = assess(image, signer(KEY, **times), now=now)
    assert found.problem is SignatureProblem.EXPIRED
    assert found.message == f"the signature of base@1 does not count: {found.message.partition(': ')[2]}"
    assert why in found.message
    assert "valid now" in found.hint


def test_last_second_of_a_signer_counts(image: Image) -> None:
    limits = signer(KEY, valid_from=DAY_2, valid_until=DAY_3)
    assert assess(image, limits, now=DAY_3 - 0.001).problem is None


@pytest.mark.parametrize(
    ("limits", "owner", "problem"),
    [
        ({"profiles": ("triton-*", "ba*")}, SITE, ""),
        ({"profiles": ("triton-*",)}, SITE, "may not sign profiles of this name"),
        ({"profiles": ("Base", "base-*", "*-base")}, SITE, "may not sign profiles of this name"),
        ({"stores": (SITE,)}, SITE, ""),
        ({"stores": (SITE,)}, OWN, "may not sign for users' own stores"),
        ({"stores": (OWN,)}, SITE, "may not sign for the site's stores"),
        ({"stores": ("/elsewhere",)}, SITE, "may not sign for the site's stores"),
    ],
)
def test_signer_signs_its_names_and_stores_only(
    image: Image, limits: dict[str, tuple[str, ...]], owner: str, problem: str
) -> None:
    found = assess(image, signer(KEY, **limits), owner=owner)
    assert (found.problem is None) == (not problem)
    assert problem in found.message


def test_store_can_be_named_by_its_path(store: Store, image: Image) -> None:
    assert assess(image, signer(KEY, stores=(str(store.path),))).problem is None


def test_image_that_was_renamed_is_refused(store: Store, image: Image) -> None:
    """A good old version must not stand for a new one."""
    other = publish(store, version="2")
    found = assess(replace(other, signature=image.signature))
    assert found.problem is SignatureProblem.OTHER_IMAGE
    assert found.message == "team has not signed this base@2: its signature is for base@1"


def test_changed_settings_of_a_signed_image_are_refused(store: Store, image: Image) -> None:
    path = image.directory / "image.json"
    description = json.loads(path.read_text())
    description["profile"]["resources"] = {"mem": "900G"}
    path.write_text(json.dumps(description))
    found = assess(store.find("base"))
    assert found.problem is SignatureProblem.OTHER_IMAGE
    assert "image.json was changed" in found.message


def test_changed_digest_is_refused(image: Image) -> None:
    found = assess(replace(image, digest=f"sha256:{'0' * 64}"))
    assert (found.problem, "another digest" in found.message) == (SignatureProblem.OTHER_IMAGE, True)


@pytest.mark.parametrize(("size", "why"), [(7, "has 4 bytes more than team has signed"), (1, "has 2 bytes less")])
def test_appended_or_cut_file_is_refused(image: Image, size: int, why: str) -> None:
    found = assess(image, size=size)
    assert found.problem is SignatureProblem.SIZE
    assert why in found.message


def test_each_problem_has_a_sentence_and_a_remedy_of_its_own(store: Store, image: Image) -> None:
    found = [
        assess(replace(image, signature=SignatureFile())),
        assess(image, signer(OTHER_KEY)),
        assess(image, signer(KEY, valid_until=DAY_1)),
        assess(image, signer(KEY, profiles=("other",))),
        assess(image, size=4),
        assess(replace(image, signature=SignatureFile("{}"))),
        assess(replace(publish(store, "other"), signature=image.signature)),
    ]
    assert len({each.problem for each in found}) == len({each.message for each in found}) == len(found)
    assert all(each.hint for each in found)


def _put(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_hostile_file_in_place_of_the_signature_is_damaged(store: Store, image: Image) -> None:
    path = image.directory / SIGNATURE
    for content in (b"", b"{}", b"\xff\xfe", b"{" * 1000, b" " * (MAX_SIGNATURE_BYTES + 1), b"null"):
        _put(path, content)
        found = assess(store.find("base"))
        assert found.problem is SignatureProblem.DAMAGED, content
    path.unlink()
    path.mkdir()
    assert assess(store.find("base")).problem is SignatureProblem.DAMAGED


def test_doubts_stop_nothing_without_the_requirement(image: Image) -> None:
    lax, strict = SignaturePolicy([signer(KEY)]), SignaturePolicy([signer(KEY)], REQUIRED)
    unsigned = replace(image, signature=SignatureFile())
    assert lax.require(unsigned, SITE, DAY_2).problem in DOUBTS
    assert strict.require(unsigned, OWN, DAY_2).problem in DOUBTS
    with pytest.raises(SignatureError, match="is not signed"):
        strict.require(unsigned, SITE, DAY_2)


def test_changed_image_is_refused_without_the_requirement(image: Image) -> None:
    with pytest.raises(SignatureError, match="bytes more"):
        SignaturePolicy([signer(KEY)]).require(image, OWN, DAY_2, 4)


def test_every_single_bit_of_a_signature_counts(image: Image) -> None:
    text = image.signature.text or ""
    policy = SignaturePolicy([signer(KEY)], REQUIRED)
    begin, end = text.index('"payload": "') + 12, text.index('"signatures"') - 5
    for place in range(begin, end, 37):
        wrong = "A" if text[place] != "A" else "B"
        with pytest.raises(SignatureError):
            policy.require(
                replace(image, signature=SignatureFile(text[:place] + wrong + text[place + 1 :])), SITE, DAY_2
            )


def test_key_that_may_not_sign_is_refused_before_it_signs(store: Store) -> None:
    strict = SignaturePolicy([signer(KEY, profiles=("base",), valid_until=DAY_3)], REQUIRED)
    assert strict.require_signer(KEY.public, "base@1", SITE, store.path, DAY_2) == "team"
    for key, label, now in ((OTHER_KEY, "base@1", DAY_2), (KEY, "other@1", DAY_2), (KEY, "base@1", DAY_3)):
        with pytest.raises(SignatureError):
            strict.require_signer(key.public, label, SITE, store.path, now)
        assert strict.require_signer(key.public, label, OWN, store.path, now) == ""


def test_content_is_read_once_and_again_after_a_change(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    monkeypatch.setattr("profiles.signature.contents.verify_image", lambda each: reads.append(each.version))
    contents = CheckedContents()
    contents.require(image)
    contents.require(image)
    assert reads == ["1"]
    image.path.write_bytes(b"SIF")
    contents.require(image)
    contents.require(replace(image, digest="sha256:other"))
    assert reads == ["1"] * 3


def test_flipped_byte_is_found_although_size_and_time_are_the_same(image: Image) -> None:
    contents, before = CheckedContents(), image.path.stat()
    contents.require(image)
    image.path.write_bytes(b"SiF")
    os.utime(image.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(DamagedImageError, match="its digest differs"):
            contents.require(image)
