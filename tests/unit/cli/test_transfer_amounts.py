"""The amount and the rate of a transfer, as the progress line shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.cli.registries import TransferAmounts

if TYPE_CHECKING:
    import pytest


def test_amount_and_rate_are_those_of_the_present_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("broker.cli.registries.time.monotonic", lambda: clock[0])
    amounts = TransferAmounts()
    assert amounts.text() == ""
    amounts.update(0, 10 * 2**20)
    clock[0] += 2
    amounts.update(4 * 2**20, 10 * 2**20)
    assert amounts.text() == "4.0 MiB of 10.0 MiB, 2.0 MiB/s"
    amounts.update(2**20, 3 * 2**20)  # the next blob, which was there in part
    clock[0] += 1
    amounts.update(2 * 2**20, 3 * 2**20)
    assert amounts.text() == "2.0 MiB of 3.0 MiB, 1.0 MiB/s"
