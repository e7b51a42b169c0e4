"""The registry and the image of tests whose proxies misbehave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from profiles.exchange.push import push_image
from profiles.image.store import Image, Store
from profiles.oci import registry_http, registry_upload
from tests.registry_scene import QUICK, reference
from tests.registry_server import running_registry
from tests.small_images import publish_small_image

if TYPE_CHECKING:
    from collections.abc import Iterator

FILLING_BYTES = 3_000_000


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A registry without TLS and without logins; its port."""
    with running_registry(tmp_path_factory.mktemp("registry")) as port:
        yield port


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, registry: int) -> Image:
    """An image that the registry has as team/small:1."""
    folder = tmp_path_factory.mktemp("images")
    made = publish_small_image(Store(folder / "store"), folder / "work", filling=FILLING_BYTES)
    push_image(made, reference(registry, "1"), access=QUICK)
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less between tries, and send less at once."""
    monkeypatch.setattr(registry_http, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(registry_upload, "CHUNK_BYTES", 1_000_000)
