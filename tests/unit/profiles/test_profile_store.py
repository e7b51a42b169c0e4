from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import DamagedImageError, ImageExistsError, NoSuchImageError, StoreError
from profiles.image.store import Image, Store, Stores, file_digest
from profiles.recipe.spec import parse_profile
from profiles.recipe.versions import version_sort_key
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.sif import sif_bytes

CHECKOUT = Path(__file__).parents[3]


def publish(store: Store, name: str, version: str, content: bytes = b"SIF") -> Image:
    stage = store.stage(name, version)
    sif = stage / "image.sif"
    sif.write_bytes(content)
    recipe = f"name: {name}\nversion: {version}\nbase: debian:sid\nresources: {{mem: 1G, exclusive: true}}\n"
    (stage / "profile.yaml").write_text(recipe)
    profile = parse_profile(recipe, stage / "profile.yaml")
    image = Image(name, version, sif, file_digest(sif), len(content), 1.5, {"berth.profile": name}, profile, 4096)
    (stage / "image.json").write_text(json.dumps(image.description()))
    return store.publish(stage, name, version)


def test_what_was_published_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path / "images")
    image = publish(store, "base", "1")
    assert store.find("base", "1") == image
    assert store.images() == [image]
    assert image.profile.resources_as_options() == ["--mem=1G", "--exclusive"]
    assert image.path == tmp_path / "images/base/1/image.sif"
    store.verify(image)


def test_private_directory_in_a_store_hides_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, "base", "1")
    publish(store, "private", "1")
    (tmp_path / "private").chmod(0)
    look = (
        "import sys; from pathlib import Path; from profiles.errors import NoSuchImageError\n"
        "from profiles.image.store import Store\n"
        "store = Store(Path(sys.argv[1])); print([image.name for image in store.images()], store.versions('private'))\n"
        "try: store.find('private')\n"
        "except NoSuchImageError as error: print(error.hint)\n"
    )
    without_override = ["unshare", "--user"] if os.getuid() == 0 else []
    command = [*without_override, sys.executable, "-c", look, str(tmp_path)]
    try:
        done = subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=TEST_DEADLINE_S
        )
    finally:
        (tmp_path / "private").chmod(0o755)
    assert (done.returncode, done.stdout) == (0, "['base'] []\nthere is: base\n"), done.stderr


def test_everybody_can_read_it(tmp_path: Path) -> None:
    image = publish(Store(tmp_path), "base", "1")
    assert stat.S_IMODE(image.directory.stat().st_mode) == 0o755
    assert {stat.S_IMODE(file.stat().st_mode) for file in image.directory.iterdir()} == {0o644}


def test_folders_above_a_new_store_are_open_to_nobodys_changes(tmp_path: Path) -> None:
    """In personal mode, one of them is the root of the user's sessions, which none but the user may write to."""
    before = os.umask(0o002)
    try:
        Store(tmp_path / "share/berth/profiles").stage("base", "1")
    finally:
        os.umask(before)
    for folder in ("share", "share/berth", "share/berth/profiles", "share/berth/profiles/base"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o755


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").images() == []
    with pytest.raises(NoSuchImageError) as caught:
        Store(tmp_path / "none").find("base")
    assert "no profile has been built" in caught.value.hint


def test_a_version_is_never_overwritten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = publish(store, "base", "1", b"first")
    with pytest.raises(ImageExistsError, match="base@1 is published"):
        store.stage("base", "1")
    assert first.path.read_bytes() == b"first"


def test_of_many_publishers_of_one_version_one_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stages = [store.stage("base", "1") for _ in range(8)]
    for number, stage in enumerate(stages):
        profile = parse_profile("name: base\nversion: 1\nbase: debian:sid\n", stage / "profile.yaml")
        (stage / "image.sif").write_text(str(number))
        image = Image("base", "1", stage / "image.sif", file_digest(stage / "image.sif"), 1, 0, {}, profile, 4096)
        (stage / "image.json").write_text(json.dumps(image.description()))
    barrier = threading.Barrier(len(stages))
    won: list[Image] = []
    lost: list[ImageExistsError] = []

    def contend(stage: Path) -> None:
        barrier.wait(timeout=DEADLINE_S)
        try:
            won.append(store.publish(stage, "base", "1"))
        except ImageExistsError as error:
            lost.append(error)

    threads = [threading.Thread(target=contend, args=(stage,)) for stage in stages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=DEADLINE_S)
    assert (len(won), len(lost)) == (1, 7)
    store.verify(store.find("base", "1"))


def test_unfinished_work_is_not_seen(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.stage("base", "1")
    assert store.images() == []
    assert store.versions("base") == []
    with pytest.raises(NoSuchImageError):
        store.find("base", "1")


def test_the_newest_version_is_found_and_near_names_are_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for version in ("1.9", "1.10", "1.10~rc1"):
        publish(store, "triton-xpu", version)
    assert store.find("triton-xpu").version == "1.10"
    assert [image.version for image in store.images()] == ["1.9", "1.10~rc1", "1.10"]
    with pytest.raises(NoSuchImageError) as no_name:
        store.find("triton-xpo")
    assert no_name.value.hint == "did you mean triton-xpu?"
    with pytest.raises(NoSuchImageError) as no_version:
        store.find("triton-xpu", "2")
    assert no_version.value.hint == "there is: 1.9, 1.10~rc1, 1.10"


@pytest.mark.parametrize("name", ["../base", ".", "..", "", "base/..", "/etc"])
def test_names_that_lead_elsewhere_are_no_names(tmp_path: Path, name: str) -> None:
    publish(Store(tmp_path / "base"), "base", "1")
    with pytest.raises(NoSuchImageError):
        Store(tmp_path / "base").find(name, "1")


def test_several_stores(tmp_path: Path) -> None:
    site, own = Store(tmp_path / "site"), Store(tmp_path / "own")
    publish(site, "base", "1", b"site")
    mine = publish(own, "base", "1", b"own")
    newer = publish(own, "base", "2")
    stores = Stores([tmp_path / "site", own])
    assert stores.find("base", "1").path.read_bytes() == b"site", "the first store has the first say"
    assert stores.find("base") == newer
    assert mine not in stores.images()
    assert [image.version for image in stores.images()] == ["1", "2"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"name": 1}', "null", "[" * 100000])
def test_a_damaged_description_is_named_and_the_rest_still_listed(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    damaged = publish(store, "base", "1").directory / "image.json"
    good = publish(store, "base", "2")
    damaged.write_text(text)
    contents = store.contents()
    assert contents.images == [good]
    assert [str(damaged) in str(error) for error in contents.damaged] == [True]
    with pytest.raises(DamagedImageError, match=r"base/1/image\.json"):
        store.find("base", "1")


def test_one_error_of_a_description_is_counted_as_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    description = publish(store, "base", "1").directory / "image.json"
    content = json.loads(description.read_text())
    content["profile"]["unknown"] = 1
    description.write_text(json.dumps(content))
    with pytest.raises(DamagedImageError, match=r"is damaged: 1 error$"):
        store.find("base", "1")


def test_an_image_published_before_is_asked_itself_where_its_squashfs_begins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = publish(store, "base", "1", sif_bytes(offset=32768))
    description = old.directory / "image.json"
    said = json.loads(description.read_text())
    assert said.pop("offset") == old.offset == 4096
    description.write_text(json.dumps(said))
    assert store.find("base", "1").offset == 32768
    old.path.write_bytes(b"SIF")
    with pytest.raises(DamagedImageError, match="is no SIF file"):
        store.find("base", "1")
    old.path.unlink()
    with pytest.raises(DamagedImageError, match=r"image\.sif cannot be read"):
        store.find("base", "1")


def test_a_description_in_the_wrong_place_is_damage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, "base", "1").directory.rename(tmp_path / "base" / "2")
    with pytest.raises(DamagedImageError, match="describes base@1"):
        store.find("base", "2")


def test_verify_notices_one_byte_and_a_missing_end(tmp_path: Path) -> None:
    store = Store(tmp_path)
    image = publish(store, "base", "1", b"123456")
    image.path.write_bytes(b"123X56")
    with pytest.raises(DamagedImageError, match="digest differs"):
        store.verify(image)
    image.path.write_bytes(b"12345")
    with pytest.raises(DamagedImageError, match="5 bytes instead of 6"):
        store.verify(image)
    image.path.unlink()
    with pytest.raises(DamagedImageError, match="cannot be read"):
        store.verify(image)


def test_delete(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, "base", "1")
    publish(store, "base", "2")
    store.delete("base", "1")
    assert store.versions("base") == ["2"]
    with pytest.raises(NoSuchImageError):
        store.delete("base", "1")
    for name, version in (("..", "base"), ("base", ".."), ("base", ".")):
        with pytest.raises(NoSuchImageError):
            store.delete(name, version)
    store.delete("base", "2")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to the store"):
        Store(tmp_path / "file").stage("base", "1")


def test_versions_sort_as_dpkg_sorts_them() -> None:
    ordered = ["0.9", "1~~", "1~", "1", "1a", "1.0~rc1", "1.0", "1.0+b1", "1.2", "1.10", "2", "10", "2026.1"]
    shuffled = ordered.copy()
    random.Random(1).shuffle(shuffled)  # noqa: S311 - any order but the right one will do
    assert sorted(shuffled, key=version_sort_key) == ordered


@given(st.lists(st.from_regex(r"[0-9A-Za-z][0-9A-Za-z.+~-]{0,9}", fullmatch=True)))
def test_any_versions_can_be_sorted(versions: list[str]) -> None:
    assert len(sorted(versions, key=version_sort_key)) == len(versions)
