"""Parts that the image commands share: the list of stores, the display of a build, and its errors."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.errors import BerthError, ConflictError, InvalidInputError, NotFoundError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.cli.context import Invocation
    from broker.cli.progress import ProgressLine
    from profiles.build.steps import Step, StepCallback
    from profiles.errors import ProfilesError
    from profiles.image.store import Image, Store, Stores

store_option = click.option(
    "--store",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="This store instead of those of the setting profiles.stores.",
)


def stores_of(invocation: Invocation, store: Path | None) -> Stores:
    """Return the stores to search; builds are published to the first. InvalidInputError if there is none."""
    from profiles.image.store import Stores

    if store is not None:
        return Stores([store.absolute()])
    if not invocation.config.profiles.stores:
        raise InvalidInputError(
            "no store for images is configured", hint="name one with --store, or set profiles.stores"
        )
    return Stores(invocation.config.profiles.stores)


def store_of(image: Image) -> Store:
    """Return the store that contains the image, as `<name>/<version>/`."""
    from profiles.image.store import Store

    return Store(image.directory.parent.parent)


def image_json(image: Image) -> dict[str, object]:
    """Return the image as a JSON object."""
    return {**image.description(), "path": str(image.path)}


def image_line(image: Image) -> str:
    """Return a line that describes the image of a build or a commit."""
    from broker.format import format_size

    return f"{image.name}@{image.version} {image.digest} {format_size(image.size)} {image.path}"


def show_steps_on(line: ProgressLine) -> StepCallback:
    """Return a function that shows each step on `line` and, on a terminal, the last line of its output."""
    every_line = line.changes

    def show(step: Step) -> None:
        if every_line or not step.line:
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
        errors.NoSuchImageError: NotFoundError,
        errors.PatternError: InvalidInputError,
        errors.ImageExistsError: ConflictError,
        errors.NothingChangedError: ConflictError,
        errors.StoreError: RefusedError,
    }
    hint = error.hint
    if isinstance(error, errors.BuildError) and error.log is not None:
        hint = f"{hint + '; ' if hint else ''}the build's log is {error.log}"
    return kinds.get(type(error), BerthError)(error.message, hint=hint)
