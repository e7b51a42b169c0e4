"""The store of images: `<store>/<name>/<version>/{image.sif,image.json,profile.yaml,build.log,packages.txt}`,
with the inventory (profiles/inventory) as `sbom.cdx.json` and `sbom.spdx.json`.

A version appears there all at once, by a rename, and is never changed afterwards. Names that begin with a dot
are work in progress. Everything is readable by everybody: a store is meant for all who can reach it, except a user's
own one (own_store.py).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from profiles.errors import (
    ChannelConflictError,
    DamagedImageError,
    ImageExistsError,
    NoSuchImageError,
    ProfilesError,
    StoreError,
)
from profiles.image.channel_changes import channels_lock, check_unnamed, remove_if_empty
from profiles.image.channels_file import CHANNELS, Channels, read_channels_text
from profiles.image.resolution import resolve_version
from profiles.image.sif import squashfs_offset
from profiles.image.signature_file import UNSIGNED, SignatureFile, read_signature_file
from profiles.image.store_files import sweep_stages, sync_to_disk, version_directories, visible_directories
from profiles.image.store_reader import DESCRIPTION, IMAGE, PACKAGES
from profiles.inventory.model import recorded_counts
from profiles.oci.descriptor import bytes_digest
from profiles.recipe.spec import Profile
from profiles.recipe.versions import distinct_version_key
from profiles.userfile import read_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DESCRIPTION", "IMAGE", "PACKAGES"]

MAX_DESCRIPTION_BYTES = 8 * 2**20
"""Limit for that file, which the controller reads: some times what document.MAX_BYTES lets a recipe have."""
RECIPE = "profile.yaml"
LOG = "build.log"
FAILED_LOG_SUFFIX = ".failed.log"
"""`<store>/<name>/<version>.failed.log` is the log of the last build of a version that failed."""

REBUILD_HINT = "build it again under another version, and delete this one"


@dataclass(frozen=True, slots=True)
class Image:
    """The image that was built from one version of a profile."""

    name: str
    version: str
    path: Path
    """The SIF file."""
    digest: str
    """`sha256:…` of the SIF file."""
    size: int
    """Bytes of the SIF file."""
    created: float
    """Seconds since the epoch."""
    labels: Mapping[str, str]
    profile: Profile
    offset: int
    """Byte of the SIF file at which its squashfs begins."""
    description_digest: str = ""
    """`sha256:…` of image.json; empty before there is one."""
    signature: SignatureFile = UNSIGNED
    """Not checked."""
    packages: Mapping[str, int] | None = None
    """The number of packages of each package manager; None for an image that was built without an inventory."""
    build_key: str = ""
    """`sha256:…` over all that the build read (profiles.build.build_key); empty if that was not recorded."""

    @property
    def directory(self) -> Path:
        """The directory of the SIF file, with profile.yaml, build.log and packages.txt."""
        return self.path.parent

    def description(self) -> dict[str, Any]:
        """Return the content of image.json: everything except the path, so that a store can be moved."""
        return {
            "name": self.name,
            "version": self.version,
            "digest": self.digest,
            "size": self.size,
            "created": self.created,
            "labels": dict(self.labels),
            "offset": self.offset,
            **({} if self.packages is None else {"packages": dict(self.packages)}),
            **({"build_key": self.build_key} if self.build_key else {}),
            "profile": self.profile.model_dump(mode="json"),
        }


@dataclass(frozen=True, slots=True)
class StoreContents:
    """The content of a store: images sorted by name and age of version, and damaged versions."""

    images: list[Image]
    damaged: list[DamagedImageError]


class Store:
    """One directory of images. Each call reads what is there now, a small file per version."""

    DIRECTORY_MODE, FILE_MODE = 0o755, 0o644

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def contents(self) -> StoreContents:
        """Read all that is published.

        A store that does not exist is empty; damaged versions are reported, not raised.
        """
        contents = StoreContents([], [])
        try:
            names = self.names()
        except DamagedImageError as error:
            return StoreContents([], [error])
        for name in names:
            try:
                versions = self.versions(name)
            except DamagedImageError as error:
                contents.damaged.append(error)
                continue
            try:
                self.channels(name)
            except DamagedImageError as error:
                contents.damaged.append(error)
            for version in versions:
                try:
                    contents.images.append(self.read(name, version))
                except DamagedImageError as error:
                    contents.damaged.append(error)
        return contents

    def names(self) -> list[str]:
        """List the profiles that have a version, sorted."""
        return [path.name for path in visible_directories(self.path) if version_directories(path)]

    def images(self) -> list[Image]:
        """List the images that can be used; `contents` has the damaged ones too."""
        return self.contents().images

    def find(self, name: str, version: str | None = None) -> Image:
        """Return this version, that of this channel, or the one that the name alone means (resolution.py).

        Raises NoSuchImageError with the alternatives, DamagedImageError.
        """
        return Stores([self]).find(name, version)

    def versions(self, name: str) -> list[str]:
        """List the published versions of `name`, oldest first."""
        if "/" in name or name.startswith("."):
            return []
        return sorted((path.name for path in version_directories(self.path / name)), key=distinct_version_key)

    def channels(self, name: str) -> Channels:
        """Return the channels of a profile that has a version. Raises DamagedChannelsError."""
        return read_channels_text(self.path / name, own=False).parse()

    def read(self, name: str, version: str) -> Image:
        """Return a version that is listed. Raises DamagedImageError."""
        return read_image(self.path / name / version)

    def stage(self, name: str, version: str) -> Path:
        """Make a private, hidden directory to prepare a version in. Raises ImageExistsError, StoreError."""
        self.check_free(name, version)
        try:
            missing = [parent for parent in self.path.parents if not parent.exists()]
            # With the mode of a store, whatever the umask is: in personal mode, one is the user's storage root.
            for directory in (*reversed(missing), self.path, self.path / name):
                directory.mkdir(exist_ok=True)
                if directory.stat().st_uid == os.getuid():
                    directory.chmod(self.DIRECTORY_MODE)
            sweep_stages(self.path / name)
            return Path(tempfile.mkdtemp(prefix=f".{version}.", dir=self.path / name))
        except OSError as error:
            raise _unwritable_store(self.path, str(error.strerror)) from error

    def check_free(self, name: str, version: str) -> None:
        """Raise ImageExistsError if the version is published, ChannelConflictError if it is called as a channel."""
        if (self.path / name / version).exists():
            raise ImageExistsError(
                f"{name}@{version} is published in {self.path} already",
                hint="versions are never overwritten: raise the profile's version, or delete that one first",
            )
        if version in CHANNELS:
            hint = f"give it a number, and then `berth profile promote {name}@NUMBER`"
            raise ChannelConflictError(f"no version can be called {version}, which is a channel", hint=hint)

    def check_writable(self, name: str) -> None:
        """Raise StoreError unless this user can add and delete versions of the profile."""
        place = self.path / name
        while not place.exists():
            place = place.parent
        if not os.access(place, os.W_OK | os.X_OK):
            raise _unwritable_store(self.path, "permission denied")

    def publish(self, stage: Path, name: str, version: str) -> Image:
        """Publish the content of `stage` as this version, as a whole and on disk.

        Raises ImageExistsError, having changed nothing, if the version exists meanwhile; StoreError.
        """
        for file in stage.iterdir():
            file.chmod(self.FILE_MODE)
            sync_to_disk(file)
        stage.chmod(self.DIRECTORY_MODE)
        sync_to_disk(stage)
        target = self.path / name / version
        try:
            stage.rename(target)  # onto a directory that is not empty rename(2) fails, so of two builders one wins
        except OSError as error:
            self.check_free(name, version)
            raise StoreError(f"cannot publish to {target}: {error.strerror}") from error
        sync_to_disk(target.parent)
        target.with_name(f"{version}{FAILED_LOG_SUFFIX}").unlink(missing_ok=True)
        return self.read(name, version)

    def keep_log(self, stage: Path, name: str, version: str) -> Path | None:
        """Keep a failed build's log beside the versions, instead of an earlier one. Return its path."""
        kept = self.path / name / f"{version}{FAILED_LOG_SUFFIX}"
        try:
            (stage / LOG).replace(kept)
            kept.chmod(self.FILE_MODE)
        except OSError:
            return None  # the build's own error is the one to report
        return kept

    def delete(self, name: str, version: str) -> None:
        """Remove a version that no channel names; sessions that run from it keep their open file.

        Raises NoSuchImageError, ChannelConflictError, DamagedChannelsError, StoreError.
        """
        directory = self.path / name / version
        if name.startswith(".") or version.startswith(".") or not directory.is_dir():
            raise _not_found([self], name, version)
        grave = directory.with_name(f".{version}.deleted.{os.getpid()}")
        try:
            with channels_lock(self, name):
                check_unnamed(self, name, version)
                directory.rename(grave)
                shutil.rmtree(grave)
                remove_if_empty(self.path / name)
        except OSError as error:
            raise StoreError(f"cannot delete {directory}: {error.strerror}", hint="only its owner can") from error

    def verify(self, image: Image) -> None:
        """Read the whole SIF file. Raise DamagedImageError if it differs from the published one."""
        verify_image(image)


def _unwritable_store(store: Path, why: str) -> StoreError:
    return StoreError(f"cannot write to the store {store}: {why}", hint="name a store of your own, or ask its owner")


class Stores:
    """Several stores in order. The first one that has a version provides it."""

    def __init__(self, stores: Sequence[Store | Path]) -> None:
        self.stores = [store if isinstance(store, Store) else Store(store) for store in stores]

    @property
    def paths(self) -> list[Path]:
        return [store.path for store in self.stores]

    def contents(self) -> StoreContents:
        """Read all stores; of a version that several have, the one that `find` would return is listed."""
        contents = StoreContents([], [])
        seen: set[tuple[str, str]] = set()
        for store in self.stores:
            found = store.contents()
            contents.damaged.extend(found.damaged)
            contents.images.extend(image for image in found.images if (image.name, image.version) not in seen)
            seen.update((image.name, image.version) for image in found.images)
        contents.images.sort(key=lambda image: (image.name, distinct_version_key(image.version)))
        return contents

    def images(self) -> list[Image]:
        """List the images that can be used, sorted by name and version, oldest first."""
        return self.contents().images

    def find(self, name: str, version: str | None = None) -> Image:
        """As Store.find, over all stores."""
        resolved = resolve_version(self.stores, name, version)
        if resolved is None:
            raise _not_found(self.stores, name, None)
        return self.exact(name, resolved)

    def exact(self, name: str, version: str) -> Image:
        """Return exactly this version, which is no channel. Raises as `find`."""
        for store in self.stores:
            if version in store.versions(name):
                return store.read(name, version)
        raise _not_found(self.stores, name, version)


def read_image(directory: Path) -> Image:
    """Read the description of an image from `directory`. Raises DamagedImageError that names the file.

    The SIF file itself gives the offset of images whose descriptions are older than this field.
    """
    file, signature = directory / DESCRIPTION, read_signature_file(directory, own=False)
    try:
        return parse_image(read_bytes(file, MAX_DESCRIPTION_BYTES, own=False, follow=True), directory, None, signature)
    except OSError as error:
        raise DamagedImageError(f"{error.filename} cannot be read: {error.strerror}", hint=REBUILD_HINT) from error


def parse_image(
    description: bytes, directory: Path, offset: int | None = None, signature: SignatureFile = UNSIGNED
) -> Image:
    """Return the image in `directory` that the content of image.json describes, with the true `offset` if it is known.

    Raises DamagedImageError, and OSError if it has to read the offset from the SIF file and cannot.
    """
    file = directory / DESCRIPTION
    try:
        data = json.loads(description)
        image = Image(
            name=str(data["name"]),
            version=str(data["version"]),
            path=directory / IMAGE,
            digest=str(data["digest"]),
            size=int(data["size"]),
            created=float(data["created"]),
            labels={str(key): str(value) for key, value in data["labels"].items()},
            profile=Profile.model_validate(data["profile"]),
            offset=_recorded_offset(data, directory) if offset is None else offset,
            description_digest=bytes_digest(description),
            signature=signature,
            packages=recorded_counts(data.get("packages")),
            build_key=str(data.get("build_key", "")),
        )
    except ProfilesError as error:
        raise DamagedImageError(error.message, hint=REBUILD_HINT) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = repr(error)
        if isinstance(error, ValidationError):
            what = "1 error" if error.error_count() == 1 else f"{error.error_count()} errors"
        raise DamagedImageError(f"{file} is damaged: {what}", hint=REBUILD_HINT) from error
    if (image.name, image.version) != (directory.parent.name, directory.name):
        raise DamagedImageError(
            f"{file} describes {image.name}@{image.version}, which is not where it stands", hint=REBUILD_HINT
        )
    return image


def _recorded_offset(data: Mapping[str, Any], directory: Path) -> int:
    return int(data["offset"]) if "offset" in data else squashfs_offset(directory / IMAGE)


def file_digest(path: Path) -> str:
    """`sha256:…` of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def verify_image(image: Image) -> None:
    """Raise DamagedImageError unless the SIF file has the size and the digest that were published."""
    hint = "delete this version and build it again under another"
    try:
        size = image.path.stat().st_size
        if size != image.size:
            raise DamagedImageError(f"{image.path} has {size} bytes instead of {image.size}", hint=hint)
        if file_digest(image.path) != image.digest:
            raise DamagedImageError(f"{image.path} is not what was published: its digest differs", hint=hint)
    except OSError as error:
        raise DamagedImageError(f"{image.path} cannot be read: {error.strerror}", hint=hint) from error


def _not_found(stores: Sequence[Store], name: str, version: str | None) -> NoSuchImageError:
    versions = sorted({each for store in stores for each in store.versions(name)}, key=distinct_version_key)
    if versions:
        return NoSuchImageError(f"profile {name} has no version {version}", hint=f"there is: {', '.join(versions)}")
    names = sorted({each for store in stores for each in store.names()})
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif names:
        hint = f"there is: {', '.join(names)}"
    else:
        hint = "no profile has been built yet: see `berth profile build --help`"
    return NoSuchImageError(f"no profile is called {name}", hint=hint)
