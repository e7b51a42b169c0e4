"""`berth profile push` of an image of 570 MB to a registry on the same machine, against oras or skopeo."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.image.store import Store
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.registry_server import running_registry
from tests.small_images import publish_small_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from profiles.image.store import Image
    from tests.bench.ground import Ground

PUSH = "push"
FILLING_BYTES = 570_000_000
"""The size of triton-xpu's image."""
SIF_TYPE = "application/vnd.sylabs.sif.layer.v1.sif"
SECONDS = 300.0
_numbers = itertools.count()


def measure(ground: Ground, runs: int) -> Result:
    """Push to a new registry each time, so that all of the image is uploaded. The lab is not needed."""
    del ground
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as made:
        folder = Path(made)
        image = publish_small_image(Store(folder / "store"), folder / "work", filling=FILLING_BYTES)
        with running_registry(folder) as port:
            sides = {"ours": _berth(folder, image), "peer": _peer(folder, image, port)}
        timed = {side: _timed(folder, words) for side, words in sides.items()}
        seconds = in_turns(timed, runs, name=PUSH, unit="s")
    return result(PUSH, seconds["ours"], seconds["peer"], "s", Target(1.2))


def _berth(folder: Path, image: Image) -> list[str]:
    config = folder / "config.yaml"
    config.write_text(f"mode: personal\nprofiles: {{stores: [{folder / 'store'}]}}\n")
    program = "from broker.cli import main; raise SystemExit(main())"
    command = ["env", f"BERTH_CONFIG={config}", sys.executable, "-c", program, "profile", "push"]
    return [*command, f"{image.name}@{image.version}", "localhost:PORT/ours", "--json"]


def _peer(folder: Path, image: Image, port: int) -> list[str]:
    """Return oras' command; without oras, which Debian 12 does not have, skopeo's from a registry of the same image."""
    if shutil.which("oras"):
        target = "localhost:PORT/peer:1"
        named = f"{image.path}:{SIF_TYPE}"
        return ["oras", "push", "--plain-http", "--disable-path-validation", target, named]
    layout = f"dir:{folder / 'copied'}"
    subprocess.run(_at(_berth(folder, image), port), check=True, capture_output=True, timeout=SECONDS)
    source = f"docker://localhost:{port}/ours:{image.version}"
    copy = ["skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run([*copy, source, layout], check=True, capture_output=True, timeout=SECONDS)
    return [*copy, layout, "docker://localhost:PORT/peer:1"]


def _at(words: Sequence[str], port: int) -> list[str]:
    return [word.replace("PORT", str(port)) for word in words]


def _timed(folder: Path, words: Sequence[str]) -> Callable[[], float]:
    """Return a function that runs the command with a new registry, and returns its seconds.

    From a repository that skopeo knows, it would have the registry take the image without an upload.
    """

    def run() -> float:
        place = folder / f"registry{next(_numbers)}"
        place.mkdir()
        with running_registry(place) as port:
            began = time.monotonic()
            done = subprocess.run(_at(words, port), capture_output=True, text=True, timeout=SECONDS, check=False)
            took = time.monotonic() - began
        shutil.rmtree(place)
        if done.returncode != 0:
            raise UnmeasurableError(f"{PUSH}: {words[0]} failed: {done.stderr[-500:]}")
        return took

    return run
