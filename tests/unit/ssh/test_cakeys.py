"""An authority's keys: announced, signing, former, and what a crash in between leaves."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from broker.errors import ConflictError, NotFoundError, RefusedError
from broker.ssh.ca import CaKeys, CaKeyStatus

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ca" / "key"


def opened(path: Path) -> CaKeys:
    return CaKeys(path, comment="test")


def standings(keys: CaKeys) -> dict[CaKeyStatus, str]:
    return {key.standing: key.public.fingerprint for key in keys.all}


def test_the_next_key_is_believed_before_it_signs_and_the_last_one_after(path: Path) -> None:
    keys = opened(path)
    first = standings(keys)[CaKeyStatus.SIGNING]
    announced = keys.announce()
    assert standings(opened(path)) == {CaKeyStatus.SIGNING: first, CaKeyStatus.ANNOUNCED: announced.public.fingerprint}
    with pytest.raises(ConflictError, match="may sign in"):
        keys.switch(overlap=86400)
    long_ago = time.time() - 86401
    os.utime(path.with_name("key.next"), (long_ago, long_ago))
    keys = opened(path)
    assert keys.switch(overlap=86400).public == announced.public
    wanted = {CaKeyStatus.SIGNING: announced.public.fingerprint, CaKeyStatus.FORMER: first}
    assert standings(keys) == standings(opened(path)) == wanted
    assert not path.with_name("key.next").exists()
    assert path.with_name("key.former").read_text().count("PRIVATE") == 0


def test_without_an_overlap_it_signs_at_once(path: Path) -> None:
    keys = opened(path)
    first = keys.signing.export_public_key()
    keys.switch(overlap=0)
    assert keys.signing.export_public_key() != first
    assert len(keys.all) == 2


def test_nothing_is_announced_twice_nor_put_in_place_unannounced(path: Path) -> None:
    keys = opened(path)
    with pytest.raises(ConflictError, match="no key is announced"):
        keys.switch(overlap=60)
    keys.announce()
    with pytest.raises(ConflictError, match="already"):
        keys.announce()


def test_a_former_key_is_retired_when_nothing_of_its_is_valid(path: Path) -> None:
    keys = opened(path)
    keys.switch(overlap=0)
    former = standings(keys)[CaKeyStatus.FORMER]
    with pytest.raises(ConflictError, match="may be valid for"):
        keys.retire(former, in_use=3600)
    with pytest.raises(ConflictError, match="the signing key"):
        keys.retire(standings(keys)[CaKeyStatus.SIGNING], in_use=0)
    with pytest.raises(NotFoundError):
        keys.retire("SHA256:none", in_use=0)
    assert keys.retire(former, in_use=0).public.fingerprint == former
    assert set(standings(opened(path))) == {CaKeyStatus.SIGNING}
    announced = keys.announce()
    keys.retire(announced.public.fingerprint, in_use=3600)
    assert set(standings(opened(path))) == {CaKeyStatus.SIGNING}


def test_an_end_between_the_two_files_leaves_the_old_key_signing(path: Path) -> None:
    keys = opened(path)
    first, announced = standings(keys)[CaKeyStatus.SIGNING], keys.announce()
    line = keys.all[0].public.line
    path.with_name("key.former").write_text(f"1 {line}\n")  # and the rename never came
    again = opened(path)
    assert standings(again) == {CaKeyStatus.SIGNING: first, CaKeyStatus.ANNOUNCED: announced.public.fingerprint}
    again.switch(overlap=0)
    assert standings(again)[CaKeyStatus.FORMER] == first
    assert len(again.all) == 2


def test_the_next_key_is_as_private_as_the_first(path: Path) -> None:
    keys = opened(path)
    keys.announce()
    path.with_name("key.next").chmod(0o640)
    with pytest.raises(RefusedError, match="other users may read"):
        opened(path)
