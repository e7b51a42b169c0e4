"""A recipe that is in a store: its text, and the profile with the paths that its files had when it was built."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from profiles.errors import NoSuchFileError, ProfileError, RebuildRefusedError
from profiles.image.store import RECIPE
from profiles.recipe.spec import parse_profile
from profiles.recipe.yaml_document import MAX_BYTES, parse_yaml
from profiles.userfile import is_file, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.image.store import Image
    from profiles.recipe.spec import File, Profile

_VERSION_LINE = re.compile(r"^version:[ \t][^\n]*$", re.MULTILINE)
_NOWHERE = Path(RECIPE)


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A checked recipe. Its paths are absolute, and its `oci:` base is as it was written, not pinned."""

    profile: Profile
    text: str

    def with_version(self, version: str) -> LoadedRecipe:
        """Return the recipe of another version: the rest of the text stays as it is."""
        line = f"version: {version}"
        text = _VERSION_LINE.sub(line, self.text, count=1)
        if text.count(line) != 1 or not _says_version(text, version):  # such as `{name: mine, version: 1}`
            data = parse_yaml(self.text, _NOWHERE).data
            assert isinstance(data, dict), "it was checked as a profile"
            text = yaml.safe_dump({**data, "version": version}, sort_keys=False, allow_unicode=True)
        return LoadedRecipe(self.profile.model_copy(update={"version": version}), text)


def stored_recipe(image: Image) -> LoadedRecipe:
    """Return the recipe of a published image, to build it again.

    Raises RebuildRefusedError for an image that was not built from its recipe, ProfileError, and NoSuchFileError if a
    file that it names is not where it was.
    """
    label, path = f"{image.name}@{image.version}", image.directory / RECIPE
    if not image.build_key:
        raise RebuildRefusedError(
            f"{label} was not built from its recipe, so a rebuild would make another image",
            hint="a commit or an old release made it: build a recipe under another version",
        )
    try:
        text = read_text(path, MAX_BYTES, own=False, follow=True)
    except OSError as error:
        raise ProfileError(f"cannot be read: {error.strerror}", file=path) from error
    written = parse_profile(text, path, need_sources=False)
    known = image.profile
    if written.name != image.name or len(written.files) != len(known.files):
        raise ProfileError("is not the recipe of the image beside it", file=path)
    base = replace(written.base, path=known.base.path) if written.base.kind.is_path else written.base
    files = [_with_source(file, then) for file, then in zip(written.files, known.files, strict=True)]
    update = {"base": base, "files": files, "build_secrets": known.build_secrets, "version": image.version}
    profile = written.model_copy(update=update)
    for missing in _missing_files(profile):
        raise NoSuchFileError(
            f"the recipe of {label} needs {missing}, which is not there any more",
            hint="put it back, or build the recipe again from its new place, under another version",
        )
    return LoadedRecipe(profile, text)


def _with_source(file: File, then: File) -> File:
    return file if file.source is None else file.model_copy(update={"source": then.source})


def _missing_files(profile: Profile) -> Iterator[Path]:
    for path in (*(file.source for file in profile.files), *profile.build_secrets.values()):
        if path is not None and not is_file(path):
            yield path


def _says_version(text: str, version: str) -> bool:
    data = parse_yaml(text, _NOWHERE).data
    return isinstance(data, dict) and data.get("version") == version
