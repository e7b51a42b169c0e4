"""The keys that the gateway accepts while the controller answers, is slow, or is gone; and the gateway's own proof."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import asyncssh
import pytest

from broker.errors import ControllerUnavailableError
from broker.gateway.identity import HostKeyAndCertificate
from broker.gateway.keys import CredentialsCache
from broker.gateway.response_cache import ResponseCache
from broker.schema.login import GatewayKeys
from broker.ssh.certificates import CertificateAuthority, HostCertificate
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path

KEY = asyncssh.generate_private_key("ssh-ed25519")
LINE = KEY.export_public_key().decode()


class Controller:
    """Answers when it is let, and counts."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.asked = 0
        self.up = True
        self.let = asyncio.Event()
        self.let.set()
        self.now = 0.0

    async def keys(self, user: str) -> GatewayKeys:
        self.asked += 1
        await self.let.wait()
        if not self.up:
            raise ControllerUnavailableError("down")
        return GatewayKeys(user=user, keys=[LINE, "garbage"] if user == "alice" else [])

    def cache(self) -> CredentialsCache:
        memory = ResponseCache(self.place / "known", GatewayKeys, stale_seconds=60, clock=lambda: self.now)
        return CredentialsCache(self.keys, memory, fresh_seconds=5, clock=lambda: self.now)


def test_a_burst_of_one_user_asks_once(tmp_path: Path) -> None:
    async def scene() -> None:
        controller = Controller(tmp_path)
        controller.let.clear()
        keys = controller.cache()
        waiting = [asyncio.create_task(keys.of("alice")) for _ in range(100)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # whoever asked first may leave
        await asyncio.sleep(0)
        controller.let.set()
        answers = await asyncio.gather(*waiting[1:])
        assert controller.asked == 1
        assert all(KEY.public_data in answer.blobs and answer.confirmed for answer in answers)

    asyncio.run(scene())


def test_an_answer_is_asked_anew_when_it_is_no_longer_fresh(tmp_path: Path) -> None:
    async def scene() -> None:
        controller = Controller(tmp_path)
        keys = controller.cache()
        for now, asked in [(0, 1), (4.9, 1), (5.1, 2), (9, 2)]:
            controller.now = now
            await keys.of("alice")
            assert controller.asked == asked

    asyncio.run(scene())


def test_the_last_answer_bridges_an_outage_for_a_while(tmp_path: Path) -> None:
    async def scene() -> None:
        controller = Controller(tmp_path)
        keys = controller.cache()
        await keys.of("alice")
        controller.up = False
        controller.now = 59
        answer = await keys.of("alice")
        assert KEY.public_data in answer.blobs
        assert not answer.confirmed
        controller.now = 61
        assert not (await keys.of("alice")).blobs
        controller.up = True
        assert (await keys.of("alice")).confirmed

    asyncio.run(scene())


def test_nobody_is_let_in_on_a_guess(tmp_path: Path) -> None:
    async def scene() -> None:
        controller = Controller(tmp_path)
        controller.up = False
        answer = await controller.cache().of("alice")
        assert not answer.blobs
        assert not answer.confirmed

    asyncio.run(scene())


@pytest.mark.parametrize("user", ["", "Alice", "../x", "a/b", "a b", "a\n", "ä", "x" * 33])
def test_names_that_no_account_can_have_are_not_asked_about(user: str, tmp_path: Path) -> None:
    async def scene() -> None:
        controller = Controller(tmp_path)
        assert not (await controller.cache().of(user)).blobs
        assert controller.asked == 0

    asyncio.run(scene())


def test_made_up_names_do_not_fill_the_memory(tmp_path: Path) -> None:
    async def scene() -> None:
        keys = Controller(tmp_path).cache()
        for number in range(5000):
            await keys.of(f"u{number}")
        assert len(keys._known) == 4096
        assert not any((tmp_path / "known").iterdir())

    asyncio.run(scene())


async def unwanted() -> None:
    raise AssertionError("it was not to be renewed")


class Signer:
    """The controller's side of the gateway's certificate."""

    def __init__(self, path: Path, valid_seconds: float) -> None:
        self.authority = CertificateAuthority.load_or_create(path / "ca" / "key")
        self.valid_seconds = valid_seconds
        self.up = True
        self.signed = 0

    async def sign(self, public_key: str) -> str:
        if not self.up:
            raise ControllerUnavailableError("down")
        self.signed += 1
        return self.authority.sign_host(
            public_key, ["_gateway.berth"], valid_seconds=self.valid_seconds, serial=self.signed, key_id="gateway"
        )


def test_the_certificate_is_renewed_before_it_ends(tmp_path: Path) -> None:
    async def scene() -> None:
        # Backdated by five minutes, so the last third of the whole validity is more than all that is left.
        signer = Signer(tmp_path, valid_seconds=30)
        identity = HostKeyAndCertificate(tmp_path / "gateway" / "key", signer.sign)
        await identity.obtain_certificate()
        renewed = asyncio.Event()

        async def tell() -> None:
            renewed.set()

        task = asyncio.create_task(identity.keep_fresh(tell))
        await asyncio.wait_for(renewed.wait(), DEADLINE_S)
        task.cancel()
        assert signer.signed == 2

    asyncio.run(scene())


def test_a_fresh_certificate_is_left_alone(tmp_path: Path) -> None:
    async def scene() -> None:
        signer = Signer(tmp_path, valid_seconds=86400)
        identity = HostKeyAndCertificate(tmp_path / "gateway" / "key", signer.sign)
        await identity.obtain_certificate()
        task = asyncio.create_task(identity.keep_fresh(unwanted))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        assert signer.signed == 1

    asyncio.run(scene())


def test_a_cached_certificate_bridges_an_outage_unless_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        signer = Signer(tmp_path, valid_seconds=3600)
        path = tmp_path / "gateway" / "key"
        await HostKeyAndCertificate(path, signer.sign).obtain_certificate()
        signer.up = False
        again = HostKeyAndCertificate(path, signer.sign)
        await again.obtain_certificate()
        assert again.host_keys

        late = time.time() + 3601
        monkeypatch.setattr(time, "time", lambda: late)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(HostKeyAndCertificate(path, signer.sign).obtain_certificate(), 0.1)

    asyncio.run(scene())


def test_a_certificate_for_another_key_is_not_used(tmp_path: Path) -> None:
    async def scene() -> None:
        signer = Signer(tmp_path, valid_seconds=3600)

        async def wrong(_: str) -> str:
            return await signer.sign(LINE)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(HostKeyAndCertificate(tmp_path / "gateway" / "key", wrong).obtain_certificate(), 0.1)

        path = tmp_path / "other" / "key"
        identity = HostKeyAndCertificate(path, signer.sign)
        path.with_name("key-cert.pub").write_text(await signer.sign(LINE))
        with pytest.raises(RuntimeError, match="no certificate yet"):
            _ = HostKeyAndCertificate(path, signer.sign).host_keys
        await identity.obtain_certificate()
        assert HostCertificate.parse(path.with_name("key-cert.pub").read_text()).key_blob != KEY.public_data

    asyncio.run(scene())
