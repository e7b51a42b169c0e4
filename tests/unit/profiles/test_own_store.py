"""A user's own store of images: private, read within limits, and searched beside the site's."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from profiles.errors import AmbiguousProfileError, DamagedImageError, NoSuchImageError, StoreError
from profiles.image.catalog import OWN, SITE, Catalog
from profiles.image.own_store import OwnStore
from profiles.image.store import Store, Stores
from profiles.image.store_reader import MAX_ENTRIES, MAX_OWN_DESCRIPTION_BYTES
from tests.fakes.core import publish
from tests.fakes.sif import SQUASHFS_OFFSET, sif_bytes, squashfs_sif

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from profiles.image.store import Image


@pytest.fixture
def own(tmp_path: Path) -> OwnStore:
    return OwnStore(tmp_path / "storage/profiles")


@pytest.fixture
def site(tmp_path: Path) -> Store:
    return Store(tmp_path / "site")


def publish_own(store: Store, name: str = "mine", version: str = "1", mark: bytes = b"") -> Image:
    return publish(store, name, version, content=squashfs_sif(mark))


def test_own_store_is_private_and_has_the_offset_of_the_file(own: OwnStore) -> None:
    before = os.umask(0)
    try:
        image = publish_own(own)
    finally:
        os.umask(before)
    directories = (own.path.parent, own.path, own.path / "mine", image.directory)
    assert {stat.S_IMODE(directory.stat().st_mode) for directory in directories} == {0o700}
    assert {stat.S_IMODE(file.stat().st_mode) for file in image.directory.iterdir()} == {0o600}
    assert image.offset == SQUASHFS_OFFSET
    assert own.find("mine") == image
    assert own.versions("mine") == ["1"]


def _replace(path: Path, by: Callable[[Path], object]) -> None:
    path.rename(path.with_name(f".{path.name}.aside"))
    by(path)


def _link(path: Path) -> None:
    path.symlink_to(path.with_name(f".{path.name}.aside"))


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_OWN_DESCRIPTION_BYTES + 1)


def _described(**values: object) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        described = json.loads(path.with_name(f".{path.name}.aside").read_text())
        path.write_text(json.dumps(described | values))

    return write


HOSTILE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "linked store": ("", _link, "profiles is a symbolic link, and must be a directory"),
    "file as store": ("", lambda path: path.write_text(""), "profiles is no directory"),
    "linked profile": ("mine", _link, "mine is a symbolic link, and must be a directory"),
    "linked version": ("mine/1", _link, "1 is a symbolic link, and must be a directory"),
    "pipe as version": ("mine/1", os.mkfifo, "1 is no directory, and must be a directory"),
    "linked description": ("mine/1/image.json", _link, "image.json is a symbolic link"),
    "pipe as description": ("mine/1/image.json", os.mkfifo, "image.json is a named pipe"),
    "large description": ("mine/1/image.json", _large, "image.json is larger than 4 MiB"),
    "deep description": ("mine/1/image.json", lambda path: path.write_text("[" * 10**6), "image.json is damaged"),
    "long digest": ("mine/1/image.json", _described(digest="x" * 10**6), "image.json has no valid digest or time"),
    "no digest": ("mine/1/image.json", _described(digest=""), "image.json has no valid digest or time"),
    "no time": ("mine/1/image.json", _described(created=float("nan")), "image.json has no valid digest or time"),
    "endless size": ("mine/1/image.json", _described(size=float("inf")), "image.json is damaged: OverflowError"),
    "other name": ("mine/1/image.json", _described(name="base"), "describes base@1, which is not where it stands"),
    "linked image": ("mine/1/image.sif", _link, "image.sif is a symbolic link"),
    "pipe as image": ("mine/1/image.sif", os.mkfifo, "image.sif is a named pipe"),
    "no sif": ("mine/1/image.sif", lambda path: path.write_bytes(b"x" * 9000), "image.sif is no SIF file"),
    "ext3 image": (
        "mine/1/image.sif",
        lambda path: path.write_bytes(sif_bytes(offset=8192, file_system=2)),
        "image.sif has no squashfs root file system",
    ),
    "sif without squashfs": (
        "mine/1/image.sif",
        lambda path: path.write_bytes(sif_bytes(offset=8192).ljust(9000, b"\0")),
        "image.sif has no squashfs root file system",
    ),
    "cut image": ("mine/1/image.sif", lambda path: path.write_bytes(squashfs_sif()[:-1]), "squashfs root file system"),
    "longer image": (
        "mine/1/image.sif",
        lambda path: path.write_bytes(squashfs_sif(b"more")),
        "image.sif has 8200 bytes instead of 8196",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_unfit_parts_are_refused_in_words_and_the_rest_is_listed(own: OwnStore, name: str) -> None:
    publish_own(own)
    good = publish_own(own, "good")
    path, by, words = HOSTILE[name]
    _replace(own.path / path if path else own.path, by)
    with pytest.raises(DamagedImageError) as caught:
        own.find("mine")
    assert words in caught.value.message
    assert caught.value.hint
    contents = own.contents()
    assert [words in error.message for error in contents.damaged] == [True]
    assert contents.images == ([good] if path else [])


def test_directory_that_others_can_change_is_refused(own: OwnStore) -> None:
    publish_own(own)
    (own.path / "mine").chmod(0o770)
    with pytest.raises(DamagedImageError, match="can be changed by other users: run `chmod go-w "):
        own.find("mine")
    with pytest.raises(StoreError, match="can be changed by other users"):
        own.stage("mine", "2")
    (own.path / "mine").chmod(0o755)
    assert own.find("mine").version == "1"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("path", ["", "mine", "mine/1", "mine/1/image.json", "mine/1/image.sif"])
def test_what_belongs_to_another_user_is_refused(own: OwnStore, path: str) -> None:
    publish_own(own)
    os.chown(own.path / path, 65534, 65534)
    with pytest.raises(DamagedImageError, match="belongs to another user"):
        own.find("mine")


def test_nothing_is_published_through_a_link(own: OwnStore, tmp_path: Path) -> None:
    own.path.parent.mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir()
    own.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a symbolic link"):
        own.stage("mine", "1")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_number_of_entries_is_limited(own: OwnStore) -> None:
    publish_own(own)
    for number in range(MAX_ENTRIES):
        (own.path / f"p{number}").mkdir()
    with pytest.raises(DamagedImageError, match="has more than 1000 entries"):
        own.names()


def test_name_of_both_owners_is_refused_until_the_owner_is_said(own: OwnStore, site: Store) -> None:
    theirs, mine = publish(site, "base"), publish_own(own, "base")
    catalog = Catalog({SITE: Stores([site]), OWN: Stores([own])})
    for version in (None, "1"):
        with pytest.raises(AmbiguousProfileError) as caught:
            catalog.find("base", version)
        at = "@1" if version else ""
        assert caught.value.message == f"the site and you each have a profile base{at}"
        assert caught.value.hint == f"say which: site/base{at} or own/base{at}"
        assert catalog.find("site/base", version) == theirs
        assert catalog.find("own/base", version) == mine
    assert (catalog.owner_of(theirs), catalog.owner_of(mine)) == ("site", "own")
    newer = publish_own(own, "base", "2", b"2")
    assert catalog.find("base", "2") == newer  # only one of them has it
    with pytest.raises(NoSuchImageError, match="profile base has no version 2"):
        catalog.find("site/base", "2")


def test_name_of_one_owner_needs_no_owner(own: OwnStore, site: Store) -> None:
    theirs, mine = publish(site, "base"), publish_own(own)
    catalog = Catalog({SITE: Stores([site]), OWN: Stores([own])})
    assert (catalog.find("base"), catalog.find("mine")) == (theirs, mine)
    with pytest.raises(NoSuchImageError) as caught:
        catalog.find("other")
    assert caught.value.hint == "there is: base, mine"
    with pytest.raises(NoSuchImageError, match="no profile is called mine"):
        catalog.find("site/mine")


def test_same_image_of_both_owners_is_one_image(own: OwnStore, site: Store) -> None:
    theirs = publish(site, "base", content=squashfs_sif())
    publish_own(own, "base")
    assert Catalog({SITE: Stores([site]), OWN: Stores([own])}).find("base") == theirs


def test_digest_finds_the_image_of_either_owner(own: OwnStore, site: Store) -> None:
    theirs, mine = publish(site, "base"), publish_own(own, "base")
    catalog = Catalog({SITE: Stores([site]), OWN: Stores([own])})
    assert catalog.find_digest("base", "1", theirs.digest) == theirs
    assert catalog.find_digest("base", "1", mine.digest) == mine
    assert catalog.find_digest("base", "1", "sha256:other").digest != "sha256:other"
    with pytest.raises(NoSuchImageError):
        catalog.find_digest("nothing", "1", theirs.digest)


def test_damaged_own_profile_names_the_way_to_the_sites(own: OwnStore, site: Store) -> None:
    theirs = publish(site, "base")
    damaged = publish_own(own, "base").directory / "image.json"
    damaged.write_text(json.dumps({}))
    catalog = Catalog({SITE: Stores([site]), OWN: Stores([own])})
    with pytest.raises(DamagedImageError) as caught:
        catalog.find("base")
    assert str(damaged) in caught.value.message
    assert "site/base is the site profile" in caught.value.hint
    assert catalog.find("site/base") == theirs


def test_personal_mode_has_only_own_profiles(site: Store) -> None:
    image = publish(site, "base")
    catalog = Catalog({OWN: Stores([site])})
    assert catalog.find("base") == catalog.find("own/base") == image
    with pytest.raises(NoSuchImageError) as caught:
        catalog.find("site/base")
    assert caught.value.hint == "leave out `site/`: base"
