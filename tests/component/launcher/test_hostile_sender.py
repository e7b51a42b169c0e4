"""A hostile process of the snapshot's owner, by the launcher's verb: the receiver gets everything or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.volumes.snapshot_stream import KINDS
from tests.component.launcher import hostile_sender
from tests.component.launcher.launcher_process import ROOT
from tests.component.launcher.two_users import ALICE, BOB, TwoUsers, names, state_of, with_launcher
from tests.short_form import mostly_soak
from tests.unit.volumes.test_snapshot_receiver import MALFORMED, VALID, encode

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not ROOT, reason="only root's launcher acts for two users; `make test` runs as root")


@pytest.mark.parametrize("step", mostly_soak(12, 1))
def test_each_malformed_record_leaves_nothing_and_changes_nothing(storage: Path, step: int) -> None:
    async def scenario(site: TwoUsers) -> None:
        session = await site.make(ALICE)
        site.write(ALICE, site.top(ALICE, session) / "file", b"content")
        number = await site.snapshot(ALICE, session)
        own = await site.make(BOB)
        alices, bobs = state_of(storage / ALICE), state_of(storage / BOB / "layers")
        for what, steps in list(MALFORMED.items())[::step]:
            (storage / "stream").write_bytes(encode(steps))
            request = site.request(session, number, system=True, most_bytes=2**20)
            with pytest.raises(LauncherError) as refused:
                pytest.fail(f"{what}: {await site.launcher.receive(BOB, request)}")
            assert refused.value.kind in {"files", "ended", "space"}, what
            assert not (storage / BOB / "sessions" / request.session).exists(), what
            assert state_of(storage / BOB / "layers").keys() == bobs.keys(), what
        assert state_of(storage / ALICE) == alices
        assert (storage / BOB / "sessions" / own).exists()
        (storage / "stream").write_bytes(encode(VALID))
        request = site.request(session, number, system=True)
        await site.launcher.receive(BOB, request)
        assert {"a", "a/f", "g", "s"} <= names(site.content(request.session))

    (storage / "stream").touch()
    with_launcher(storage, scenario, module=hostile_sender.__name__)


def test_each_kind_of_record_is_malformed_in_some_way() -> None:
    kinds = {kind for steps in MALFORMED.values() for kind, _ in steps}
    assert kinds >= KINDS
