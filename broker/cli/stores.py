"""Parts that the image commands share: the list of stores, the display of a build, and its errors."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.errors import BerthError, ConflictError, InvalidInputError, NotFoundError, RefusedError, UntrustedImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from broker.cli.context import Invocation
    from broker.cli.progress import ProgressLine
    from broker.config.settings import Config
    from profiles.build.steps import Step, StepCallback
    from profiles.errors import ProfilesError
    from profiles.image.catalog import Catalog, Standing
    from profiles.image.store import Image, Store

OTHER = "other"
"""The owner of images in a store that no session searches."""

store_option = click.option(
    "--store",
    metavar="own|site|DIR",
    type=click.Path(path_type=Path),
    help="Only this store: your own, those of the site, or a directory.",
)
target_option = click.option(
    "--store",
    metavar="own|site|DIR",
    type=click.Path(path_type=Path),
    help="Publish in your own store, in the site's first, or in a directory. Default: the site's if you may write to "
    "it, else your own.",
)


def catalog_of(invocation: Invocation, store: Path | None = None) -> Catalog:
    """Return all profiles that this user can start, or those of one store. InvalidInputError if there is no store."""
    from profiles.image.catalog import Catalog
    from profiles.image.store import Stores

    config = invocation.config
    everything = config_catalog(config)
    if store is None:
        if not any(stores.paths for stores in everything.stores.values()):
            raise _no_store()
        return everything
    if owner := _owner_of_word(config, store):
        return Catalog({owner: everything.stores[owner]})
    chosen = _store_at(config, store.absolute())
    return Catalog({everything.owner_at(chosen.path) or OTHER: Stores([chosen])})


def config_catalog(config: Config) -> Catalog:
    """Return all profiles that this user can start. In personal mode all stores are the user's own."""
    from profiles.image.catalog import OWN, SITE, Catalog
    from profiles.image.store import Stores

    stores = Stores(config.profiles.stores)
    return Catalog({SITE: stores, OWN: Stores([_own_store(config)])} if _is_site(config) else {OWN: stores})


def target_of(invocation: Invocation, store: Path | None) -> Store:
    """Return the store to publish in. InvalidInputError if there is none.

    Without a choice that is the first of `profiles.stores`; in site mode, for users who may not write there, their own.
    """
    from profiles.image.catalog import OWN
    from profiles.image.store import Store

    config = invocation.config
    owner = "" if store is None else _owner_of_word(config, store)
    if store is not None and not owner:
        return _store_at(config, store.absolute())
    configured = config.profiles.stores
    if _is_site(config) and (owner == OWN or (not owner and not (configured and _is_writable(configured[0])))):
        return _own_store(config)
    if not configured:
        raise _no_store()
    return Store(configured[0])


def bases_of(invocation: Invocation, target: Store) -> Catalog:
    """Return the profiles that a build may start from: all that the user can start, and those of `target`."""
    from profiles.image.catalog import Catalog
    from profiles.image.store import Stores

    catalog = config_catalog(invocation.config)
    if catalog.owner_at(target.path):
        return catalog
    owner, stores = next(iter(catalog.stores.items()))
    return Catalog({**catalog.stores, owner: Stores([target, *stores.stores])})


def note_target(invocation: Invocation, store: Path | None, target: Store) -> None:
    """Say that a build will be published in the user's own store although none was chosen."""
    configured = invocation.config.profiles.stores
    if store is None and configured and target.path not in configured:
        output.print_note(f"Publishing in your own store {target.path}: you may not write to {configured[0]}")


def print_published(invocation: Invocation, image: Image, more: Mapping[str, object] | None = None) -> None:
    """Print a new image, `more` with it as JSON, and how a session starts from it if its name alone does not say."""
    catalog = config_catalog(invocation.config)
    owner = catalog.owner_of(image)
    if invocation.json:
        output.print_json({**image_json(image, owner), **(more or {})})
    else:
        output.print_line(image_line(image))
    _note_unsigned(invocation, image, owner)
    if not owner:
        output.print_note(
            f"No session finds {image.name}@{image.version}: sessions do not search "
            f"{image.directory.parent.parent}. Publish with --store own for your own sessions."
        )
    elif _is_ambiguous(catalog, image):
        output.print_note(
            f"The site and you each have a profile {image.name}: `--profile {owner}/{image.name}` starts this one."
        )


def _note_unsigned(invocation: Invocation, image: Image, owner: str) -> None:
    """Say that no session starts from a new image before it is signed."""
    if image.signature.text is None and invocation.config.profiles.require_signature:
        from broker.config.signature_policy import signature_policy

        label = f"{image.name}@{image.version}"
        if signature_policy(invocation.config).is_required(owner):
            output.print_note(
                f"No session starts from {label} before it is signed: `berth profile sign {label} --key FILE`"
            )


def _is_ambiguous(catalog: Catalog, image: Image) -> bool:
    from profiles.errors import AmbiguousProfileError, ProfilesError

    try:
        catalog.find(image.name)
    except AmbiguousProfileError:
        return True
    except ProfilesError:
        return False
    return False


def _is_site(config: Config) -> bool:
    from broker.config.file import Mode

    return config.mode is Mode.SITE


def _own_store(config: Config) -> Store:
    from broker.config.user_storage import user_storage
    from profiles.image.own_store import OwnStore
    from profiles.image.store_reader import OWN_STORE

    return OwnStore(user_storage(config) / OWN_STORE)


def _store_at(config: Config, path: Path) -> Store:
    from profiles.image.store import Store

    own = _own_store(config)
    return own if _is_site(config) and path == own.path and path not in config.profiles.stores else Store(path)


def _owner_of_word(config: Config, store: Path) -> str:
    """Return the owner that --store names; empty for a directory. InvalidInputError if there is no such owner."""
    from profiles.image.catalog import OWN, OWNERS

    word = str(store)
    if word not in OWNERS:
        return ""
    if word != OWN and not _is_site(config):
        raise InvalidInputError("there is no site in personal mode", hint=f"./{word} names a directory")
    return word


def _is_writable(path: Path) -> bool:
    """Whether this user may publish in a store, or create it."""
    there = next((each for each in (path, *path.parents) if each.exists()), path)
    return os.access(there, os.W_OK | os.X_OK)


def _no_store() -> InvalidInputError:
    return InvalidInputError("no store for images is configured", hint="name one with --store, or set profiles.stores")


def store_of(image: Image) -> Store:
    """Return the store that contains the image, as `<name>/<version>/`."""
    from profiles.image.store import Store

    return Store(image.directory.parent.parent)


def image_json(image: Image, owner: str) -> dict[str, object]:
    """Return the image as a JSON object. `owner` is `own`, `site`, or `other` for a store that no session searches."""
    packages = None if image.packages is None else dict(image.packages)
    return {"owner": owner or OTHER, **image.description(), "packages": packages, "path": str(image.path)}


def standing_json(standing: Standing) -> dict[str, object]:
    """Return what the channels say of an image, for its JSON object."""
    state = None if standing.state is None else asdict(standing.state)
    return {"newest": standing.is_default, "channels": standing.channels, "state": state}


def standing_words(standing: Standing) -> str:
    """Return that in a few words."""
    newest = ["newest"] if standing.is_default and "stable" not in standing.channels else []
    return ", ".join([*standing.channels, *newest, *([standing.state.state] if standing.state else [])])


def image_line(image: Image) -> str:
    """Return a line that describes the image of a build or a commit."""
    from broker.format import format_size

    return f"{image.name}@{image.version} {image.digest} {format_size(image.size)} {image.path}"


def show_steps_on(line: ProgressLine) -> StepCallback:
    """Return a function that shows each step on `line` and, on a terminal, the last line of its output."""
    every_line = line.changes

    def show(step: Step) -> None:
        if every_line or not step.line or step.record is not None:
            line.show(f"[{step.number}/{step.total}] {step.name}{': ' if step.line else ''}{step.line.strip()}")

    return show


@contextlib.contextmanager
def profile_errors() -> Iterator[None]:
    """Convert errors of the profiles package to BerthErrors, which have exit codes."""
    from profiles import errors

    try:
        yield
    except errors.ProfilesError as error:
        raise _berth_error(error) from error


def _berth_error(error: ProfilesError) -> BerthError:
    from profiles import errors

    kinds: dict[type[ProfilesError], type[BerthError]] = {
        errors.ProfileError: InvalidInputError,
        errors.NoSuchFileError: NotFoundError,
        errors.NoSuchImageError: NotFoundError,
        errors.AmbiguousProfileError: InvalidInputError,
        errors.PatternError: InvalidInputError,
        errors.ImageExistsError: ConflictError,
        errors.ChannelConflictError: ConflictError,
        errors.RebuildRefusedError: ConflictError,
        errors.UntestedImageError: ConflictError,
        errors.DamagedVerdictError: ConflictError,
        errors.NothingChangedError: ConflictError,
        errors.StoreError: RefusedError,
        errors.KeyFileError: InvalidInputError,
        errors.SignatureError: UntrustedImageError,
        errors.ReferenceInvalidError: InvalidInputError,
        errors.NotInRegistryError: NotFoundError,
        errors.RegistryRefusedError: RefusedError,
    }
    hint = error.hint
    if isinstance(error, errors.BuildError) and error.log is not None:
        hint = f"{hint + '; ' if hint else ''}the build's log is {error.log}"
    return kinds.get(type(error), BerthError)(error.message, hint=hint)
