"""Limits for what a stranger's image may make a build do."""

from __future__ import annotations

from dataclasses import dataclass

MAX_LAYERS = 256
"""Twice what Docker lets an image have."""
MAX_ENTRIES = 800_000
"""Entries of all layers together: the largest images with Conda environments have some 400,000."""
MAX_NAMES_BYTES = 256 * 2**20
"""Bytes of the names of all entries together, which are kept in memory: five times those of the largest images."""
MAX_UNPACKED_BYTES = 64 * 2**30
"""Bytes of all layers together, uncompressed."""
MAX_COMPRESSION_RATIO = 200
"""Uncompressed bytes for each byte of a layer. Text gives 10, and gzip reaches 1,000 with zeros."""
RATIO_FREE_BYTES = 16 * 2**20
"""Uncompressed bytes of a layer that count for no ratio: small layers of sparse content are harmless."""
MAX_NAME_BYTES = 255
"""NAME_MAX of limits.h."""
MAX_PATH_BYTES = 3072
"""Less than PATH_MAX of limits.h: programs that read the tree put the path of its folder in front."""
MAX_DEPTH = 256
"""Folders within each other."""
MAX_LINK_BYTES = 4095
"""Bytes of the target of a link: PATH_MAX of limits.h, without the NUL."""


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """The limits that count over a whole image."""

    layers: int = MAX_LAYERS
    entries: int = MAX_ENTRIES
    names_bytes: int = MAX_NAMES_BYTES
    unpacked_bytes: int = MAX_UNPACKED_BYTES
    ratio: int = MAX_COMPRESSION_RATIO
    ratio_free_bytes: int = RATIO_FREE_BYTES
