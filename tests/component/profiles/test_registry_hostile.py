"""Registries that lie: every answer that is not what was asked for is refused in words, and nothing is kept."""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from profiles.errors import ProfilesError, TransferError
from profiles.exchange.artifact import SIF_CONFIG
from profiles.exchange.foreign_image import ForeignName
from profiles.exchange.pull import pull_image
from profiles.image.store import Image, Store, verify_image
from profiles.oci import registry_http
from profiles.oci.registry_access import RegistryAccess
from profiles.oci.registry_client import RegistryClient
from tests.faulty_registry import Exchange, Fault, faulty_registry
from tests.registry_scene import QUICK, is_layer, nothing_in, pull, reference
from tests.registry_server import PASSWORD, write_login

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("quick")


def test_redirect_to_another_host_gets_no_login(registry: int, image: Image, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    with faulty_registry(registry) as storage:

        def fault(exchange: Exchange) -> bool:
            if not exchange.headers.get("Authorization"):
                return exchange.answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            del exchange.headers["Authorization"]
            if is_layer(image)(exchange):
                there = f"http://127.0.0.1:{storage.port}{exchange.path}"
                return exchange.answer(307, headers={"Location": there})
            return False

        with faulty_registry(registry, fault) as proxy:
            write_login(file, f"localhost:{proxy.port}", PASSWORD)
            verify_image(pull(proxy.port, tmp_path / "store", access=RegistryAccess(login_files=(file,))).image)
        assert storage.requests
        assert storage.authorized == []


def wrong_byte(image: Image) -> Fault:
    changed: list[bool] = []

    def change(piece: bytes) -> bytes:
        if changed:
            return piece
        changed.append(True)
        return bytes([piece[0] ^ 1]) + piece[1:]

    return lambda exchange: is_layer(image)(exchange) and exchange.forward(change=change)


def answer_with_body(kind: str, body: bytes | Callable[[Exchange], bytes]) -> Callable[[Image], Fault]:
    """Answer the GET requests whose path has `kind` with another body."""

    def make(_: Image) -> Fault:
        def fault(exchange: Exchange) -> bool:
            if exchange.method != "GET" or kind not in exchange.path:
                return False
            content = body(exchange) if callable(body) else body
            return exchange.answer(200, content, {"Content-Type": "application/vnd.oci.image.manifest.v1+json"})

        return fault

    return make


def answer_with_status(status: int, headers: dict[str, str]) -> Callable[[Image], Fault]:
    return lambda image: lambda exchange: is_layer(image)(exchange) and exchange.answer(status, headers=headers)


def slow(image: Image) -> Fault:
    def fault(exchange: Exchange) -> bool:
        if not is_layer(image)(exchange):
            return False
        exchange.handler.send_response(200)
        exchange.handler.send_header("Content-Length", str(image.size))
        exchange.handler.end_headers()
        for _ in range(100):
            exchange.handler.wfile.write(b"x")
            time.sleep(0.1)
        return True

    return fault


def endless(image: Image) -> Fault:
    def fault(exchange: Exchange) -> bool:
        if not is_layer(image)(exchange):
            return False
        exchange.handler.send_response(200)
        exchange.handler.send_header("Connection", "close")
        exchange.handler.end_headers()
        while True:
            exchange.handler.wfile.write(bytes(65536))

    return fault


def silent(image: Image) -> Fault:
    def fault(exchange: Exchange) -> bool:
        if is_layer(image)(exchange):
            time.sleep(5)
        return is_layer(image)(exchange)

    return fault


def manifest_of(**changes: Any) -> bytes:  # noqa: ANN401 - any JSON
    digest = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    layer = {"mediaType": "application/vnd.sylabs.sif.layer.v1.sif", "digest": digest, "size": 2}
    config = {"mediaType": SIF_CONFIG, "digest": digest, "size": 2}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": [layer | changes]}).encode()


def wants_login(challenge: str) -> Callable[[Image], Fault]:
    return lambda image: (
        lambda exchange: is_layer(image)(exchange) and exchange.answer(401, headers={"WWW-Authenticate": challenge})
    )


HOSTILE: dict[str, tuple[Callable[[Image], Fault], str]] = {
    "a changed byte": (wrong_byte, "sent other bytes than those of sha256"),
    "too many bytes": (endless, "sent more than the"),
    "a drip": (slow, "is too slow"),
    "silence": (silent, "sent nothing for 2 s"),
    "a redirect to the metadata of a cloud": (
        answer_with_status(307, {"Location": "http://169.254.169.254/latest"}),
        "redirects to an address without TLS",
    ),
    "a redirect to a file": (answer_with_status(302, {"Location": "file:///etc/shadow"}), "redirects to an address"),
    "a redirect with a password": (answer_with_status(302, {"Location": "https://a:b@example.org/"}), "must not name"),
    "a redirect without an end": (answer_with_status(302, {"Location": "/v2/team/small/blobs/x"}), "has no|redirects"),
    "a redirect to nowhere": (answer_with_status(307, {}), "redirects"),
    "a login of an unknown kind": (wants_login("Negotiate"), "a kind of login that Berth does not know"),
    "a damaged challenge": (wants_login('Bearer realm="https://x'), "in a form that is damaged"),
    "a token service without TLS": (wants_login('Bearer realm="http://example.org/t"'), "is without TLS"),
    "a token service that is a file": (wants_login('Bearer realm="file:///etc/passwd"'), "an invalid address"),
    "another part than asked for": (
        lambda image: (
            lambda exchange: (
                is_layer(image)(exchange)
                and (
                    exchange.answer(206, b"x" * 9, {"Content-Range": "bytes 5-13/99"})
                    if exchange.headers.get("Range")
                    else exchange.forward(cut_answer=1000)
                )
            )
        ),
        "sent another part of the blob",
    ),
    "a manifest that is no JSON": (answer_with_body("manifests", b"<html>"), "is no valid JSON"),
    "a manifest nested without an end": (answer_with_body("manifests", b"[" * 100_000), "is no valid JSON"),
    "a manifest that is a list": (answer_with_body("manifests", b"[]"), "is no JSON object"),
    "a manifest that is huge": (answer_with_body("manifests", b" " * (5 * 2**20)), "sent more than"),
    "a digest that is a path": (
        answer_with_body("manifests", manifest_of(digest="sha256:../../x")),
        "no valid sha256 digest",
    ),
    "a negative size": (answer_with_body("manifests", manifest_of(size=-1)), "no valid size"),
    "a size beyond all disks": (answer_with_body("manifests", manifest_of(size=2**39)), "are free in the store"),
    "a media type with control characters": (
        answer_with_body("manifests", manifest_of(mediaType="\x1b[2J")),
        "media type",
    ),
    "no layer": (answer_with_body("manifests", b'{"layers": []}'), "is something else"),
    "a layer that is no SIF": (answer_with_body("manifests", manifest_of()), "is no SIF file|gives no name"),
}
"""The answers of a hostile registry, and the words of the refusal."""


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_registry_is_refused_in_words_and_nothing_is_kept(
    registry: int, image: Image, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = HOSTILE[case]
    monkeypatch.setattr(registry_http, "TRIES", 2)
    with faulty_registry(registry, make(image)) as proxy, pytest.raises(ProfilesError) as caught:
        pull(proxy.port, tmp_path / "store")
    assert re.search(words, caught.value.message), caught.value.message
    assert nothing_in(tmp_path / "store")


def test_manifest_that_differs_from_its_digest_is_refused(registry: int, image: Image, tmp_path: Path) -> None:
    with RegistryClient(reference(registry, "1"), QUICK) as client:
        digest = client.manifest("1").digest
    with faulty_registry(registry, answer_with_body("manifests", manifest_of())(image)) as proxy:
        named = reference(proxy.port, "1").with_digest(digest)
        with pytest.raises(TransferError, match="sent another manifest than sha256:"):
            pull_image(named, store=Store(tmp_path / "store"), access=QUICK, foreign_name=ForeignName())
