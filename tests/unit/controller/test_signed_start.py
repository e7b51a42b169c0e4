"""Sessions start only from images whose signatures count; a refusal submits no job."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import ExitCode, UntrustedImageError
from broker.schema.environments import EnvironmentRequest
from broker.schema.sessions import SessionState, StartRequest
from profiles.image.own_store import OwnStore
from profiles.image.signature_file import SIGNATURE
from profiles.image.store import Store
from tests.fakes.core import BASE, Clock, Core, publish, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.sif import squashfs_sif
from tests.fakes.signing import public_pem, signed, signing_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from profiles.image.store import Image

KEY, OTHER_KEY = signing_key(1), signing_key(2)
DAY_S = 86400.0


def day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def make(tmp_path: Path, *, required: bool = True, **values: Any) -> Core:  # noqa: ANN401 - settings
    """A site with one signer, and base@1 of the team, not signed yet."""
    signer = {"name": "team", "public_key": public_pem(KEY)} | values
    profiles = {"stores": [tmp_path / "store"], "require_signature": required, "signers": [signer]}
    return Core.make(site_config(tmp_path, profiles=profiles), FakeLauncher(FakeScheduler()))


def base(tmp_path: Path) -> Image:
    return Store(tmp_path / "store").find("base")


def jobs(core: Core) -> int:
    return len(core.scheduler._jobs)


async def refused(core: Core, request: StartRequest = BASE) -> UntrustedImageError:
    with pytest.raises(UntrustedImageError) as caught:
        await core.start(request=request)
    assert caught.value.exit_code is ExitCode.FAILED
    assert caught.value.hint
    assert core.registry.find("alice", "dev") is None
    assert jobs(core) == 0
    return caught.value


def test_signed_image_starts_with_its_own_digest(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path)
        image = signed(base(tmp_path), KEY)
        await core.start()
        assert (core.row().state, core.row().digest) == (SessionState.QUEUED, image.digest)

    asyncio.run(scenario())


def _append(image: Image) -> None:
    signed(image, KEY)
    with image.path.open("ab") as file:
        file.write(b"an object")


def _remove(image: Image) -> None:
    signed(image, KEY)
    image.path.unlink()


def _flip(image: Image) -> None:
    signed(image, KEY)
    image.path.write_bytes(b"SiF")


def _edit(image: Image) -> None:
    signed(image, KEY)
    path = image.directory / "image.json"
    path.write_text(path.read_text().replace("1G", "9G"))


YESTERDAY = day(time.time() - DAY_S)
CASES: dict[str, tuple[Callable[[Image], object], dict[str, Any], str]] = {
    "unsigned": (lambda _: None, {}, "base@1 is not signed"),
    "foreign": (lambda image: signed(image, OTHER_KEY), {}, "belongs to none of the signers here"),
    "expired": (
        lambda image: signed(image, KEY, time.time() - 5 * DAY_S),
        {"valid_until": YESTERDAY},
        f"its signer team was valid until {YESTERDAY}",
    ),
    "flipped": (_flip, {}, "is not what was published: its digest differs"),
    "appended": (_append, {}, "has 9 bytes more than team has signed"),
    "not-allowed": (lambda image: signed(image, KEY), {"stores": ["own"]}, "may not sign for the site's stores"),
    "other-name": (lambda image: signed(image, KEY), {"profiles": ["x-*"]}, "may not sign profiles of this name"),
    "settings": (_edit, {}, "image.json was changed"),
    "damaged": (lambda image: (image.directory / SIGNATURE).write_text("{"), {}, "cannot be read: it is not valid"),
    "gone": (_remove, {}, "cannot be read: No such file"),
}


@pytest.mark.parametrize(("spoil", "values", "why"), CASES.values(), ids=CASES)
def test_other_images_are_refused_before_anything_is_done(
    tmp_path: Path, spoil: Callable[[Image], object], values: dict[str, Any], why: str
) -> None:
    async def scenario() -> None:
        core = make(tmp_path, **values)
        spoil(base(tmp_path))
        assert why in (await refused(core)).message

    asyncio.run(scenario())


def test_each_refusal_has_its_own_sentence() -> None:
    assert len({why for _, _, why in CASES.values()}) == len(CASES)


def test_good_image_of_another_version_cannot_be_renamed(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path)
        signed(base(tmp_path), KEY)
        new = publish(Store(tmp_path / "store"), version="2")
        (new.directory / SIGNATURE).write_bytes((base(tmp_path).directory.parent / "1" / SIGNATURE).read_bytes())
        assert "its signature is for base@1" in (await refused(core)).message
        await core.start(request=StartRequest(profile="base", version="1"))

    asyncio.run(scenario())


def test_stopped_session_of_an_expired_signer_submits_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        clock = Clock().install(monkeypatch)
        core = make(tmp_path, valid_until=day(clock.now))
        signed(base(tmp_path), KEY, clock.now)
        await core.start()
        job = core.row().job.job_id
        assert job is not None
        core.scheduler.end(job)
        await core.tick()
        before = jobs(core)
        clock.now += 2 * DAY_S
        with pytest.raises(UntrustedImageError, match="was valid until"):
            await core.start()
        await core.settle()
        assert jobs(core) == before
        assert core.row().state is SessionState.STOPPED
        assert "was valid until" in core.row().reason

    asyncio.run(scenario())


def test_batch_job_is_refused_as_a_session_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path)
        with pytest.raises(UntrustedImageError, match="is not signed"):
            await core.environments.make("alice", EnvironmentRequest(of="base"))

    asyncio.run(scenario())


def test_without_the_requirement_only_changed_images_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path, required=False)
        await core.start("plain")
        signed(base(tmp_path), OTHER_KEY)
        await core.start("foreign")
        _append(base(tmp_path))
        with pytest.raises(UntrustedImageError, match="bytes more"):
            await core.start("changed")

    asyncio.run(scenario())


def test_own_images_need_no_signature(tmp_path: Path) -> None:
    """Only their user starts them, who may run any program anyway."""

    async def scenario() -> None:
        core = make(tmp_path)
        core.launcher.own_storage["alice"] = tmp_path / "alice"
        own = OwnStore(tmp_path / "alice/profiles")
        image = publish(own, "mine", content=squashfs_sif())
        await core.start(request=StartRequest(profile="mine"))
        signed(own.find("mine"), KEY)
        await core.start("signed", request=StartRequest(profile="mine"))
        path = image.directory / "image.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"created": 2.5}))
        with pytest.raises(UntrustedImageError, match=r"image\.json was changed"):
            await core.start("edited", request=StartRequest(profile="mine"))

    asyncio.run(scenario())


def test_hostile_signature_of_an_own_image_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        core = make(tmp_path)
        core.launcher.own_storage["alice"] = tmp_path / "alice"
        image = publish(OwnStore(tmp_path / "alice/profiles"), "mine", content=squashfs_sif())
        (image.directory / SIGNATURE).symlink_to("/etc/passwd")
        with pytest.raises(UntrustedImageError, match="is a symbolic link") as caught:
            await core.start(request=StartRequest(profile="mine"))
        assert "root:" not in caught.value.message

    asyncio.run(scenario())
