"""Build Dockerfiles by buildah, without root.

The result is an OCI layout. buildah runs as root of the user's namespace, with processes of its own, where it sees the
machine's programs and settings, the build context, and its own store, but neither the user's home nor anything else of
the machine. RUN has the machine's network.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.build import namespace, network
from profiles.build.command import CommandFailed
from profiles.build.dockerfile_failure import failure_of, feature_failure
from profiles.build.feature_files import SCRIPT, write_feature_files
from profiles.dockerfile.ignore_file import find_ignore_file
from profiles.dockerfile.instructions import images_read, read_dockerfile
from profiles.dockerfile.spec import DockerfileBuild
from profiles.errors import ProfilesError
from profiles.recipe.base import BaseKind
from profiles.userfile import is_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from profiles.build.command import ProgramRunner
    from profiles.build.image_store import LayerStore
    from profiles.devcontainer.image_part import DevFeature
    from profiles.recipe.base import Base

BUILDAH = "buildah"
LAYOUT_NAME = "berth"
"""The name of the image in its layout."""


def has_buildah() -> bool:
    """Whether the machine has buildah."""
    return shutil.which(BUILDAH, path=network.PATH) is not None


def check_buildah() -> None:
    """Return if the machine has buildah. Raises ProfilesError, which names the package."""
    if not has_buildah():
        raise ProfilesError(
            "not installed: buildah, which builds Dockerfiles without root",
            hint="in Debian: buildah; without it, build the image elsewhere and use an `oci-archive:` base",
        )


class Buildah:
    """Builds in `folder`, which is private, and keeps layers in `store`.

    `authorities` are files with the authorities of registries, by their names.
    """

    def __init__(
        self, folder: Path, store: LayerStore, run: ProgramRunner, authorities: Mapping[str, Path] | None = None
    ) -> None:
        self._authorities = authorities or {}
        self._folder = folder / "dockerfile"
        self._folder.mkdir(mode=0o700)
        self._root = self._folder / "root"
        self._root.mkdir()
        self._store = store
        self._run = run
        self._environment = {
            **network.outside_environment(),
            "CONTAINERS_STORAGE_CONF": str(store.settings),
            "HOME": str(self._write_home()),
            "TMPDIR": str(store.temporary),
        }
        self._shown = [f"ro:{store.settings}", str(self._folder / "home"), *map(str, store.places)]
        self._show_settings()

    def pull(self, base: Base, digest: str) -> str:
        """Fetch a container image, and return its id in the store. Raises ProfilesError, and CommandFailed."""
        if base.image is not None:
            plain = base.image.with_digest(base.image.digest or digest)
            logins = _login_file()
            login = [f"--authfile={logins}"] if logins else []
            is_plain = base.image.is_loopback and base.image.registry not in self._authorities
            secure = ["--tls-verify=false"] if is_plain else []
            output = self._buildah(
                [f"ro:{logins}"] if logins else [], "pull", "--policy=missing", *login, *secure, f"docker://{plain}"
            )
        else:
            transport = "oci" if base.kind is BaseKind.OCI_LAYOUT else str(base.kind)
            output = self._buildah([f"ro:{base.path}"], "pull", f"{transport}:{base.path}")
        return output.split()[-1]

    def add_features(self, image: str, features: Sequence[DevFeature], *, use_cache: bool = True) -> str:
        """Install features over an image, each in a layer of its own, and return the id of the result."""
        context = self._folder / "features"
        context.mkdir()
        lines = [f"FROM {image}", "USER 0"]
        for number, feature in enumerate(features):
            write_feature_files(features, number, context / str(number))
            place = f"/tmp/berth-feature-{number}"  # noqa: S108 - in the image, whose only user is root now
            lines += [f"COPY {number} {place}", f"RUN /bin/sh {place}/{SCRIPT} && rm -rf {place}"]
            lines.append(f"LABEL berth.feature.{number}={json.dumps(feature.name)}")
        file = self._folder / "Dockerfile.features"
        file.write_text("\n".join([*lines, ""]))
        try:
            return self._bud(DockerfileBuild(file, context), [], use_cache=use_cache)
        except CommandFailed as error:
            raise feature_failure(error, features) from error

    def build(self, build: DockerfileBuild, *, use_cache: bool = True) -> str:
        """Build a Dockerfile, and return the id of the image in the store. Raises ProfilesError, and CommandFailed."""
        instructions = read_dockerfile(build.file)
        pulled = self._pull_bases(images_read(instructions))
        try:
            return self._bud(build, ["--pull-never"] if pulled else [], use_cache=use_cache)
        except CommandFailed as error:
            raise failure_of(error, build, instructions) from error

    def export(self, image: str) -> Path:
        """Write an image of the store as an OCI layout, and return its folder. Raises CommandFailed."""
        layout = self._folder / "layout"
        layout.mkdir()
        self._buildah([str(layout)], "push", "--disable-compression", image, f"oci:{layout}:{LAYOUT_NAME}")
        return layout

    def _bud(self, build: DockerfileBuild, more: Sequence[str], *, use_cache: bool) -> str:
        """Run `buildah bud` and return the id of the image. Raises CommandFailed."""
        identity = self._folder / "identity"
        identity.write_text("")
        ignore = find_ignore_file(build.context)
        options = [
            *["--isolation=chroot", "--layers", f"--file={build.file}", f"--iidfile={identity}", *more],
            *([] if use_cache else ["--no-cache"]),
            *([f"--ignorefile={ignore}"] if ignore else []),
            *([f"--target={build.target}"] if build.target else []),
            *(f"--build-arg={name}={value}" for name, value in build.args.items()),
            *(f"--secret=id={name},src={path}" for name, path in build.secrets.items()),
        ]
        seen = dict.fromkeys(f"ro:{path}" for path in (build.context, build.file, *build.secrets.values()))
        self._buildah([*seen, str(identity)], "bud", *options, str(build.context))
        return identity.read_text().strip().removeprefix("sha256:")

    def _pull_bases(self, images: Sequence[str]) -> bool:
        """Fetch the base images with the user's logins, and return whether that was needed.

        A program of the Dockerfile never sees the logins: the build itself runs without them.
        """
        logins = _login_file()
        if logins is None or any("$" in image for image in images):
            return False
        for image in images:
            self._buildah([f"ro:{logins}"], "pull", f"--authfile={logins}", "--policy=missing", image)
        return True

    def _buildah(self, shown: Sequence[str], *arguments: str) -> str:
        """Run buildah where it sees `shown` too, in the form of confine.sh."""
        command = namespace.as_confined_root(self._root, [*shown, *self._shown], BUILDAH, *arguments)
        return self._run(command, self._environment)

    def _write_home(self) -> Path:
        """Make a home for buildah, with the authorities where it looks for them."""
        home = self._folder / "home"
        home.mkdir(mode=0o700)
        for name, file in self._authorities.items():
            place = home / ".config/containers/certs.d" / name
            place.mkdir(parents=True)
            try:
                shutil.copyfile(file, place / "ca.crt")
            except OSError as error:
                raise ProfilesError(
                    f"the authority of {name}, {file}, cannot be read: {error.strerror}",
                    hint="the site's administrators name it in `profiles.registries`",
                ) from error
        return home

    def _show_settings(self) -> None:
        """Let buildah see the machine's certificates and the user's own list of registries, if there are any."""
        if bundle := network.certificates():
            copy = self._folder / "certificates.crt"
            shutil.copyfile(bundle, copy)
            self._environment["SSL_CERT_FILE"] = str(copy)
            self._shown.append(f"ro:{copy}")
        home = Path(os.environ.get("HOME", "/nonexistent"))
        named = os.environ.get("CONTAINERS_REGISTRIES_CONF")
        registries = Path(named) if named else home / ".config/containers/registries.conf"
        if is_file(registries):
            self._environment["CONTAINERS_REGISTRIES_CONF"] = str(registries.resolve())
            self._shown.append(f"ro:{registries.resolve()}")


def _login_file() -> Path | None:
    """Return the user's file of logins to registries, which buildah, podman and skopeo share; None if there is none."""
    home = Path(os.environ.get("HOME", "/nonexistent"))
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    named = os.environ.get("REGISTRY_AUTH_FILE")
    places = [
        *([Path(named)] if named else []),
        *([Path(runtime, "containers/auth.json")] if runtime else []),
        home / ".config/containers/auth.json",
        home / ".docker/config.json",
    ]
    return next((place.resolve() for place in places if is_file(place)), None)
