"""The steps that fill a tree: each is run, or taken from the cache with all before it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from typing import TYPE_CHECKING

from profiles.build import namespace
from profiles.build.build_key import BUILD_FORMAT
from profiles.build.command import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from profiles.build.layer_stack import LayerStack
    from profiles.build.step_cache import StepCache
    from profiles.build.steps import StepRecord, Steps


class CachedSteps:
    """Runs steps one over the other in `stack`. Without a cache, all write into one tree."""

    def __init__(self, steps: Steps, stack: LayerStack, cache: StepCache | None) -> None:
        self._steps = steps
        self._stack = stack
        self._cache = cache
        self._is_read = cache is not None
        """Whether all steps until now were taken from the cache."""
        self._key = _first_key()

    def find(self, name: str, reads: object, *, instead_of: Sequence[str] = ()) -> str | None:
        """Take the next step from the cache, and return its note; None if it has to be run.

        `reads` is all that the step reads beside the tree, in a form that JSON has. `instead_of` names steps before it
        that only prepare it.
        """
        self._key = _digest([self._key, name, reads])
        layer = None
        if self._is_read and self._cache is not None:
            layer = self._cache.find(self._key, self._steps.run_quietly)
        if layer is None:
            self._is_read = False
            return None
        self._stack.push(layer.folder)
        for each in (*instead_of, name):
            self._steps.skip(each)
        return layer.note

    @contextlib.contextmanager
    def run(self, name: str) -> Iterator[tuple[StepRecord, dict[str, str]]]:
        """Announce the step that `find` did not find, for the time of the block; keep what the block has made.

        The block may set the record's size, and the `note` for those who find the step.
        """
        noted = {"note": ""}
        with self._steps.step(name) as record:
            yield record, noted
            if self._cache is not None:
                self._keep(name, noted["note"])

    @contextlib.contextmanager
    def step(self, name: str, reads: object) -> Iterator[bool]:
        """As `find` and `run` in one: provides whether the block has to run the step."""
        if self.find(name, reads) is not None:
            yield False
            return
        with self.run(name):
            yield True

    def _keep(self, name: str, note: str) -> None:
        made = self._stack.top
        if self._cache is not None:
            with contextlib.suppress(CommandFailed, OSError, ValueError):  # then it is run again, by the next build
                made = self._cache.keep(self._key, made, step=name, note=note, run=self._steps.run_quietly)
        self._stack.push(made)


def _first_key() -> str:
    """Return the key before the first step: what all builds on this machine read."""
    scripts = [[path.name, path.read_text()] for path in sorted(namespace.INSIDE.glob("*.sh"))]
    return _digest([BUILD_FORMAT, platform.machine(), scripts])


def _digest(reads: object) -> str:
    return hashlib.sha256(json.dumps(reads, sort_keys=True).encode()).hexdigest()
