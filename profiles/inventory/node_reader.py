"""Read npm packages: the folders in every `node_modules`, by their package.json."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from profiles.inventory.image_tree_reader import read_in
from profiles.inventory.model import InstalledPackage, InventoryError, PackageKind, name_text

if TYPE_CHECKING:
    from profiles.walk import Folder, TreeEntry

MAX_PACKAGE_JSON_BYTES = 4 << 20
NODE_MODULES = b"node_modules"
_NAME = re.compile(r"(?:@[A-Za-z0-9~][A-Za-z0-9._~-]{0,100}/)?[A-Za-z0-9~_-][A-Za-z0-9._~!'()*-]{0,213}")
_VERSION = re.compile(r"[0-9]{1,20}\.[0-9]{1,20}\.[0-9]{1,20}[0-9A-Za-z.+-]{0,200}")


def is_package_json(entry: TreeEntry) -> bool:
    """Whether this is the package.json of an installed npm package."""
    return entry.name == b"package.json" and _is_package_folder(entry.folder)


def _is_package_folder(folder: Folder) -> bool:
    """Whether this folder is the place of an npm package: `node_modules/NAME`, or `node_modules/@SCOPE/NAME`."""
    above = folder.parent
    if above is None or folder.name.startswith((b".", b"@")):
        return False
    if above.name.startswith(b"@") and above.parent is not None:
        above = above.parent
    return above.name == NODE_MODULES


def read_node_package(entry: TreeEntry) -> InstalledPackage | str:
    """Return the package of this package.json, or the reason why it has none."""
    try:
        data = json.loads(read_in(entry.folder, entry.name, MAX_PACKAGE_JSON_BYTES) or b"")
    except (ValueError, RecursionError):
        return "it is no valid JSON"
    except InventoryError as error:
        return error.message
    name, version = (data.get("name"), data.get("version")) if isinstance(data, dict) else (None, None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "it has no valid name of an npm package"
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        return "it has no valid version of an npm package"
    return InstalledPackage(PackageKind.NPM, name, version, locations=("/" + name_text(entry.folder.path),))
