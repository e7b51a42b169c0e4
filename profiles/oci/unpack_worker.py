"""The part of an import that runs as root of the image's tree.

`python -m profiles.oci.unpack_worker FOLDER`: FOLDER has `layers.json`. The result, or the refusal, is in
`unpacked.json` there.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.errors import OciImageError, ProfilesError
from profiles.oci.unpack_findings import UnpackFindings
from profiles.oci.unpack_layers import LayerFile, unpack_image
from profiles.oci.unpack_stream import Compression

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUEST, RESULT = "layers.json", "unpacked.json"


def write_request(folder: Path, layers: Sequence[LayerFile], root: Path) -> None:
    """Write the request of a worker."""
    (folder / REQUEST).write_text(json.dumps({"root": str(root), "layers": [asdict(layer) for layer in layers]}))


def read_result(folder: Path) -> UnpackFindings | None:
    """Return what a worker found; None if it did not come to a result. Raises OciImageError for a refused image."""
    try:
        result = json.loads((folder / RESULT).read_text())
    except FileNotFoundError:
        return None
    if "refused" in result:
        raise OciImageError(result["refused"], hint=result["hint"])
    return UnpackFindings.from_json(result)


def main(folder: Path) -> int:
    request = json.loads((folder / REQUEST).read_text())
    layers = [LayerFile(**each | {"compression": Compression(each["compression"])}) for each in request["layers"]]
    try:
        result = unpack_image(layers, Path(request["root"])).as_json()
    except ProfilesError as error:
        result = {"refused": error.message, "hint": error.hint}
    except OSError as error:
        place = f" at {error.filename!r}" if error.filename else ""
        result = {"refused": f"the tree cannot be written: {error.strerror}{place}", "hint": "is the disk full?"}
    (folder / RESULT).write_text(json.dumps(result))
    return 1 if "refused" in result else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
