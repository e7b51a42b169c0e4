"""Registries, and proxies in front of them, that fail: transfers continue, or end in words and change nothing."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from profiles.errors import DamagedImageError, RegistryRefusedError, TransferError
from profiles.exchange.artifact import PLAIN_CONFIG, SIF_CONFIG
from profiles.exchange.foreign_image import ForeignName
from profiles.exchange.pull import pull_image
from profiles.exchange.push import push_image
from profiles.image.store import Image, Store, verify_image
from profiles.oci.registry_access import RegistryAccess
from profiles.oci.registry_client import RegistryClient
from tests.faulty_registry import Exchange, faulty_registry
from tests.registry_scene import QUICK, is_layer, nothing_in, once, pull, reference
from tests.registry_server import PASSWORD, write_login
from tests.small_images import publish_small_image

if TYPE_CHECKING:
    from pathlib import Path

FILLING = 3_000_000

pytestmark = pytest.mark.usefixtures("quick")


def test_download_that_is_cut_goes_on_where_it_was(registry: int, image: Image, tmp_path: Path) -> None:
    ranges: list[str | None] = []

    def fault(exchange: Exchange) -> bool:
        if not is_layer(image)(exchange):
            return False
        ranges.append(exchange.headers.get("Range"))
        return exchange.forward(cut_answer=image.size * 6 // 10) if len(ranges) == 1 else False

    with faulty_registry(registry, fault) as proxy:
        got = pull(proxy.port, tmp_path / "store")
    verify_image(got.image)
    assert ranges == [None, f"bytes={image.size * 6 // 10}-"]


def test_download_from_a_registry_without_ranges_begins_again(registry: int, image: Image, tmp_path: Path) -> None:
    times: list[int] = []

    def fault(exchange: Exchange) -> bool:
        if not is_layer(image)(exchange):
            return False
        times.append(1)
        del exchange.headers["Range"]
        return exchange.forward(cut_answer=image.size * 6 // 10) if len(times) == 1 else exchange.forward()

    with faulty_registry(registry, fault) as proxy:
        verify_image(pull(proxy.port, tmp_path / "store").image)
    assert len(times) == 2


def test_download_that_is_always_cut_ends_in_words(registry: int, image: Image, tmp_path: Path) -> None:
    def fault(exchange: Exchange) -> bool:
        return is_layer(image)(exchange) and exchange.forward(cut_answer=1000)

    with (
        faulty_registry(registry, fault) as proxy,
        pytest.raises(TransferError, match=r"the connection to .* broke|sent"),
    ):
        pull(proxy.port, tmp_path / "store")
    assert nothing_in(tmp_path / "store")


def test_upload_that_is_cut_goes_on_where_it_was(registry: int, tmp_path: Path) -> None:
    newer = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", "2", filling=FILLING)
    at = newer.size * 6 // 10 - 1_000_000

    def second(exchange: Exchange) -> bool:
        return exchange.method == "PATCH" and exchange.headers["Content-Range"].startswith("1000000-")

    with faulty_registry(registry, once(second, lambda exchange: exchange.forward(cut_request=at))) as proxy:
        pushed = push_image(newer, reference(proxy.port, "2"), access=QUICK)
    sent = [line for line in proxy.requests if line.startswith("PATCH")]
    assert len([line for line in proxy.requests if line.startswith("GET") and "uploads" in line]) == 1
    assert len(sent) <= 6
    assert pull(registry, tmp_path / "store", "2").digest == pushed.digest
    verify_image(pull(registry, tmp_path / "store", "2").image)


def test_upload_whose_session_is_lost_begins_again(registry: int, tmp_path: Path) -> None:
    newer = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", "3", filling=FILLING)
    broken = once(lambda exchange: exchange.method == "PATCH", lambda exchange: exchange.forward(cut_request=10))
    forgotten = once(
        lambda exchange: exchange.method == "GET" and "uploads" in exchange.path, lambda exchange: exchange.answer(404)
    )
    with faulty_registry(registry, lambda exchange: broken(exchange) or forgotten(exchange)) as proxy:
        push_image(newer, reference(proxy.port, "3"), access=QUICK)
    assert len([line for line in proxy.requests if line.startswith("POST")]) >= 2
    verify_image(pull(registry, tmp_path / "store", "3").image)


def test_lost_answer_to_the_last_request_of_an_upload_is_no_failure(registry: int, tmp_path: Path) -> None:
    newer = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", "4", filling=1000)

    def committed(exchange: Exchange) -> bool:
        return exchange.method == "PUT" and "digest=" in exchange.path

    with faulty_registry(registry, once(committed, lambda exchange: exchange.forward(drop_answer=True))) as proxy:
        assert push_image(newer, reference(proxy.port, "4"), access=QUICK).uploaded


@pytest.mark.usefixtures("image")
def test_upload_that_never_ends_leaves_the_tag_as_it_was(registry: int, tmp_path: Path) -> None:
    newer = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", "5", filling=FILLING)

    def fault(exchange: Exchange) -> bool:
        return exchange.method == "PATCH" and exchange.forward(cut_request=0)

    with RegistryClient(reference(registry, "1"), QUICK) as client:
        before = client.manifest("1").digest
        with faulty_registry(registry, fault) as proxy, pytest.raises(TransferError):
            push_image(newer, reference(proxy.port, "1"), access=QUICK, move_tag=True)
        assert client.manifest("1").digest == before


def test_login_that_is_wanted_only_for_the_end_of_an_upload_works(registry: int, tmp_path: Path) -> None:
    newer = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", "6", filling=1000)
    file = tmp_path / "auth.json"

    def fault(exchange: Exchange) -> bool:
        if exchange.method != "PUT" or exchange.headers.get("Authorization", "").startswith("Basic "):
            return False
        return exchange.answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    with faulty_registry(registry, fault) as proxy:
        write_login(file, f"localhost:{proxy.port}", PASSWORD)
        push_image(newer, reference(proxy.port, "6"), access=RegistryAccess(login_files=(file,)))
        # Nothing that is only read has the login.
        assert not [line for line in proxy.authorized if line.startswith(("GET", "HEAD"))]


def test_token_is_asked_for_with_the_login_and_for_no_more_than_needed(registry: int, tmp_path: Path) -> None:
    newer = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", "7", filling=1000)
    file = tmp_path / "auth.json"
    scopes: list[str] = []

    def fault(exchange: Exchange) -> bool:
        host = exchange.headers["Host"]
        if exchange.path.startswith("/token"):
            assert exchange.headers["Authorization"].startswith("Basic ")
            scopes.append(exchange.path.rpartition("%3A")[2])
            return exchange.answer(200, json.dumps({"token": f"for.{scopes[-1].replace('%2C', '.')}"}).encode())
        needed = "for.pull" if exchange.method in {"GET", "HEAD"} else "for.pull.push"
        if exchange.headers.get("Authorization") == f"Bearer {needed}":
            del exchange.headers["Authorization"]
            return False
        challenge = f'Bearer realm="http://{host}/token",service="r",scope="registry:catalog:*"'
        return exchange.answer(401, headers={"WWW-Authenticate": challenge})

    with faulty_registry(registry, fault) as proxy:
        write_login(file, f"localhost:{proxy.port}", PASSWORD)
        push_image(newer, reference(proxy.port, "7"), access=RegistryAccess(login_files=(file,)))
    assert set(scopes) == {"pull", "pull%2Cpush"}


def test_right_that_is_missing_is_told_with_the_name(registry: int, tmp_path: Path) -> None:
    newer = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", "8")
    denied = json.dumps({"errors": [{"code": "DENIED", "message": "push is\x1b[31m denied"}]}).encode()
    with (
        faulty_registry(registry, lambda exchange: exchange.method == "POST" and exchange.answer(403, denied)) as proxy,
        pytest.raises(RegistryRefusedError, match="write to team/small: push is") as caught,
    ):
        push_image(newer, reference(proxy.port, "8"), access=QUICK)
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("refused", ["blob", "manifest"])
def test_registry_that_refuses_the_configuration_gets_a_plain_one(registry: int, tmp_path: Path, refused: str) -> None:
    newer = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", f"9{refused}")

    def fault(exchange: Exchange) -> bool:
        if exchange.method != "PUT" or "manifests" not in exchange.path:
            return False
        body = exchange.read()
        if SIF_CONFIG.encode() in body:
            return exchange.answer(500 if refused == "blob" else 400)
        return exchange.forward()

    with faulty_registry(registry, fault) as proxy:
        push_image(newer, reference(proxy.port, newer.version), access=QUICK)
    with RegistryClient(reference(registry, "1"), QUICK) as client:
        assert client.manifest(newer.version).data["config"]["mediaType"] == PLAIN_CONFIG
    assert pull(registry, tmp_path / "store", newer.version).image.profile == newer.profile


def test_upload_to_another_host_is_refused(registry: int, tmp_path: Path) -> None:
    newer = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", "10")

    def fault(exchange: Exchange) -> bool:
        return exchange.method == "POST" and exchange.answer(202, headers={"Location": "http://127.0.0.1:1/upload"})

    with faulty_registry(registry, fault) as proxy, pytest.raises(TransferError, match="at another address"):
        push_image(newer, reference(proxy.port, "10"), access=QUICK)


def test_image_that_was_changed_is_not_pushed(registry: int, tmp_path: Path) -> None:
    changed = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", "12", filling=1000)
    content = changed.path.read_bytes()
    changed.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedImageError, match="its digest differs"):
        push_image(changed, reference(registry, "12"), access=QUICK)
    changed.path.write_bytes(content + b"x")
    with pytest.raises(DamagedImageError, match="instead of"):
        push_image(changed, reference(registry, "12"), access=QUICK)
    with RegistryClient(reference(registry, "12"), QUICK) as client:
        assert client.find_manifest("12") is None


def test_request_that_is_too_large_is_told(registry: int, tmp_path: Path) -> None:
    newer = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", "11", filling=1000)
    refusal = pytest.raises(TransferError, match="refuses this much at once")
    fault = lambda exchange: exchange.method == "PATCH" and exchange.answer(413)  # noqa: E731 - it is short
    with faulty_registry(registry, fault) as proxy, refusal:
        push_image(newer, reference(proxy.port, "11"), access=QUICK)


@pytest.mark.usefixtures("image")
def test_busy_registry_is_asked_again_after_the_time_that_it_names(registry: int, tmp_path: Path) -> None:
    busy = once(
        lambda exchange: "manifests" in exchange.path,
        lambda exchange: exchange.answer(429, headers={"Retry-After": "1"}),
    )
    with faulty_registry(registry, busy) as proxy:
        began = time.monotonic()
        verify_image(pull(proxy.port, tmp_path / "store").image)
        assert time.monotonic() - began >= 1


@pytest.mark.usefixtures("image")
def test_interrupted_pull_leaves_nothing(registry: int, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    place, name = Store(tmp_path / "store"), reference(registry, "1")
    with pytest.raises(KeyboardInterrupt):
        pull_image(name, store=place, access=QUICK, foreign_name=ForeignName(), progress=interrupt)
    assert nothing_in(tmp_path / "store")
