from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import ProfilesError
from profiles.image.sif import squashfs_offset
from tests.fakes.sif import sif_bytes

if TYPE_CHECKING:
    from pathlib import Path

GOOD = sif_bytes(offset=32768)


def test_the_primary_system_partition_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.sif").write_bytes(GOOD)
    assert squashfs_offset(tmp_path / "a.sif") == 32768


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no SIF file"),
        (b"x" * 200, "is no SIF file"),
        (GOOD[:100], "is no SIF file"),
        (GOOD[:4096], "damaged header"),
        (GOOD[:-1], "has no squashfs"),
        (sif_bytes(offset=32768, file_system=2), "has no squashfs"),
        (sif_bytes(offset=32768, role=3), "has no squashfs"),
        (sif_bytes(offset=32768, used=False), "has no squashfs"),
        (sif_bytes(offset=0), "has no squashfs"),
        (sif_bytes(offset=32768, total=1 << 40), "damaged header"),
        (sif_bytes(offset=32768, total=-1), "damaged header"),
    ],
)
def test_anything_else_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.sif").write_bytes(content)
    with pytest.raises(ProfilesError, match=message):
        squashfs_offset(tmp_path / "a.sif")


@given(place=st.integers(0, 200), value=st.integers(0, 255))
def test_a_damaged_header_is_told_or_harmless(tmp_path_factory: pytest.TempPathFactory, place: int, value: int) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.sif"
    file.write_bytes(GOOD[:place] + bytes([value]) + GOOD[place + 1 :])
    with contextlib.suppress(ProfilesError):
        assert squashfs_offset(file) == 32768
