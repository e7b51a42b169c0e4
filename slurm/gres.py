"""Count the GPUs that a job requests in its sbatch options."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_GPU_OPTIONS = ("gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task")
"""Options whose value is a number of GPUs. In a session, which runs one task on one node, all mean the same."""


def requested_gres(options: Sequence[str]) -> list[str]:
    """Return the generic resources in canonical options: `gpu:intel:1`, `shard:1`, `gpus=2`."""
    return [text for text, _ in _requests(options)]


def count_gpus(options: Sequence[str]) -> float:
    """Return the number of whole GPUs. A shard counts as none, since Slurm does not report its size."""
    return float(sum(count for _, count in _requests(options)))


def _requests(options: Sequence[str]) -> Iterator[tuple[str, int]]:
    for option in options:
        name, _, value = option.removeprefix("--").partition("=")
        if name == "gres":
            for each in value.removeprefix("gres/").split(","):
                kind, *rest = each.removeprefix("gres/").split(":")
                yield each, _count(rest) if kind == "gpu" else 0
        elif name in _GPU_OPTIONS:
            for each in value.split(","):
                yield f"{name}={each}", _count(each.split(":"))


def _count(parts: Sequence[str]) -> int:
    """Return the last part of `[type:]count`; 1 without a count, as for sbatch's --gres."""
    return int(parts[-1]) if parts and parts[-1].isdigit() else 1
