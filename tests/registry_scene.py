"""Pushing and pulling one small image through a registry that misbehaves."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from profiles.exchange.foreign_image import ForeignName
from profiles.exchange.pull import Pulled, pull_image
from profiles.image.store import Store
from profiles.oci.reference import ImageReference
from profiles.oci.registry_access import RegistryAccess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from profiles.image.store import Image
    from tests.faulty_registry import Exchange, Fault

QUICK = RegistryAccess(timeout_s=2, slow_s=1, login_files=())
REPOSITORY = "team/small"


def reference(port: int, tag: str, name: str = REPOSITORY) -> ImageReference:
    return ImageReference.parse(f"localhost:{port}/{name}:{tag}")


def pull(port: int, store: Path, tag: str = "1", access: RegistryAccess = QUICK) -> Pulled:
    return pull_image(reference(port, tag), store=Store(store), access=access, foreign_name=ForeignName())


def once(condition: Callable[[Exchange], bool], fault: Fault) -> Fault:
    """Do `fault` to the first request that `condition` is true of."""
    lock = threading.Lock()
    done: list[bool] = []

    def maybe(exchange: Exchange) -> bool:
        with lock:
            if done or not condition(exchange):
                return False
            done.append(True)
        return fault(exchange)

    return maybe


def is_layer(image: Image) -> Callable[[Exchange], bool]:
    return lambda exchange: exchange.method == "GET" and image.digest in exchange.path


def nothing_in(store: Path) -> bool:
    """Whether a store has no file, not even a hidden one."""
    return not [path for path in store.rglob("*") if not path.is_dir()] and not list(store.glob("*/*"))
