"""The part of a commit that runs as root of the image's tree.

`python -m profiles.commit.tree_worker FOLDER compare|apply`: FOLDER has `request.json`; `compare` writes
`findings.json` there, which `apply` reads.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from profiles.commit.apply import apply_layers
from profiles.commit.compare import compare_system
from profiles.commit.filters import NEVER_COMMITTED, PathFilter
from profiles.commit.findings import Findings
from profiles.image.layered_tree import LayeredTree

REQUEST, FINDINGS = "request.json", "findings.json"


@dataclass(frozen=True, slots=True)
class TreeRequest:
    """The arguments of a comparison or an application."""

    tree: str
    layers: list[str]
    """Directories, oldest first."""
    include: list[str]
    exclude: list[str]

    def write(self, folder: Path) -> None:
        (folder / REQUEST).write_text(json.dumps(asdict(self)))


def main(folder: Path, what: str) -> None:
    request = TreeRequest(**json.loads((folder / REQUEST).read_text()))
    system = LayeredTree(Path(request.tree), [Path(layer) for layer in request.layers])
    if what == "compare":
        findings = compare_system(system, PathFilter(request.include, request.exclude))
        (folder / FINDINGS).write_text(findings.to_json())
    else:
        findings = Findings.from_json((folder / FINDINGS).read_text())
        apply_layers(system, {*NEVER_COMMITTED, *(each.path.removeprefix("/") for each in findings.left_out)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
