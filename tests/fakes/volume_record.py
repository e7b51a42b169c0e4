"""The record of a session's volumes in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VOLUMES = ("home", "system")
Answer = dict[str, Any]


@dataclass(slots=True)
class Record:
    """The record of one session in volumes.json."""

    tops: dict[str, str]
    layers: dict[str, list[str]] = field(default_factory=lambda: {"home": [], "system": []})
    snapshots: list[Answer] = field(default_factory=list)
    last_number: int = 0
    unflattened: str = ""
    done: dict[str, Answer] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    """Of a batch job's environment: the layer that each job writes to."""

    def facts(self) -> Answer:
        return {
            "driver": "overlay",
            "promises": ["a snapshot of a stopped session costs nothing"],
            "layers": {volume: len(stack) for volume, stack in self.layers.items()},
            "snapshots": len(self.snapshots),
            "numbers": {
                "first": 1,
                "last": self.last_number,
                "existing": [each["number"] for each in self.snapshots],
            },
            "unflattened": self.unflattened,
        }

    def named(self) -> set[str]:
        stacks = [*self.layers.values(), *(each[volume] for each in self.snapshots for volume in VOLUMES)]
        return {*self.tops.values(), *self.jobs.values(), *(layer for stack in stacks for layer in stack)}
