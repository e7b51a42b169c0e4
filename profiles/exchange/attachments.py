"""The files beside an image that travel with it, by an allow-list.

The build log is not in the list: it has names of a site's machines and mirrors.
"""

from __future__ import annotations

from profiles.image.signature_file import SIGNATURE
from profiles.image.store import DESCRIPTION, PACKAGES, RECIPE

MAX_ATTACHMENT_BYTES = 64 * 2**20
"""Limit of one file: the SBOM of a very large image has some MiB."""
MAX_CORE_BYTES = 2**20
"""Limit of a file that the image cannot do without."""

CORE = (DESCRIPTION, RECIPE, SIGNATURE)
"""Files that decide what an image does: they are a part of the artefact itself, so that its digest covers them."""

ATTACHMENT_TYPES = {
    DESCRIPTION: "application/vnd.berth.description.v1+json",
    RECIPE: "application/vnd.berth.recipe.v1+yaml",
    SIGNATURE: "application/vnd.berth.signature.v1+json",
    PACKAGES: "application/vnd.berth.packages.v1+text",
    "sbom.cdx.json": "application/vnd.cyclonedx+json",
    "sbom.spdx.json": "application/spdx+json",
    "import.json": "application/vnd.berth.import.v1+json",
}
"""The names of the files, and the media types under which other programs find them."""
