"""Records of volumes: they read back as they were written, and the ids in them never repeat."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from broker.names import new_id
from broker.volumes.errors import VolumeError
from broker.volumes.record import Handover, Record, Volume
from tests.volumes.act import IMAGE


def test_a_record_reads_back_as_it_was_written() -> None:
    made = Record("overlay", Volume(new_id(), (new_id(), new_id()), new_id()), Volume(new_id()))
    assert Record.parse(made.text()) == made
    to = Handover(3, new_id(), new_id(), **IMAGE)
    handing = replace(made, handover=to)
    assert Record.parse(handing.text()) == handing
    assert f'"mount 3": "overlay;home={to.home},{made.home.top},' in handing.text()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', Record("overlay", Volume("../up"), Volume(new_id())).text()],
)
def test_what_is_no_record_is_said(text: str) -> None:
    with pytest.raises(VolumeError, match=r"volumes\.json"):
        Record.parse(text)


def test_ids_of_layers_and_operations_never_repeat() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    assert all(first[:10] <= second[:10] for first, second in itertools.pairwise(ids))
