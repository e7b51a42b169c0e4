"""Compact records of sessions: the same as plain ones, in less memory."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from broker.client.records import CompactRecord, load_compact, parse_record
from broker.errors import BerthError
from tests.fakes.tui_feed import make_view


def test_record_is_the_same_as_a_plain_one() -> None:
    content = make_view("dev", "ready", options=["--gres=gpu:1", "--mem=4G"]).model_dump_json().encode()
    compact, plain = load_compact(content), parse_record(content)
    assert isinstance(compact, CompactRecord)
    assert compact.model_dump() == plain.model_dump()
    assert (compact.name, compact.state, compact.endpoint.node) == ("dev", "ready", "gpu01")
    assert compact.volumes is None
    assert compact.persistence.home == "keep"


def test_missing_field_and_unknown_state_are_an_invalid_response() -> None:
    record = load_compact(json.dumps({"generation": "", "revision": 1, "state": "hibernating"}).encode())
    for field in ("name", "state"):
        with pytest.raises(BerthError, match="response is invalid"):
            getattr(record, field)


def test_many_records_take_less_than_half_of_the_memory() -> None:
    sessions = [make_view(f"s{number}").model_dump(mode="json") for number in range(500)]
    content = json.dumps(sessions).encode()

    def kept(load: object) -> int:
        assert callable(load)
        tracemalloc.start()
        records = load(content)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(records) == 500
        return size

    kept(load_compact)
    assert kept(load_compact) * 2 < kept(json.loads)
