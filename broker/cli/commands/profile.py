"""`berth profile`: build images from profiles, and manage these images."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.profile_commit import commit
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName, ProfileReference
from broker.cli.stores import image_json, image_line, profile_errors, show_steps_on, store_of, store_option, stores_of
from broker.errors import (
    BerthError,
    ConflictError,
    ControllerUnavailableError,
    InvalidInputError,
    NotFoundError,
)

if TYPE_CHECKING:
    from profiles.image.store import Image, Store

profile_argument = click.argument("wanted", type=ProfileName(), metavar="PROFILE[@VERSION]")


@click.group()
def profile() -> None:
    """Build images from profiles, and look after them."""


profile.add_command(commit)


@profile.command()
@click.argument("recipe", metavar="FILE|NAME")
@store_option
@json_option
@pass_invocation
def build(invocation: Invocation, recipe: str, store: Path | None) -> None:
    """Build an image and publish it.

    From the profile in FILE, or from the one of that NAME that comes with Berth. It runs here and as you, and
    takes minutes. A version that is published already is never overwritten. Without
    --store the image goes to the first of profiles.stores.
    """
    with profile_errors():
        from broker.cli.progress import ProgressLine
        from profiles.build import builder

        stores = stores_of(invocation, store)
        target: Store = stores.stores[0]
        with ProgressLine(quiet=invocation.json) as line:
            image = builder.build(_recipe(recipe), store=target, bases=stores, progress=show_steps_on(line))
    if invocation.json:
        output.print_json(image_json(image))
    else:
        output.print_line(image_line(image))


@profile.command("list")
@store_option
@json_option
@pass_invocation
def list_profiles(invocation: Invocation, store: Path | None) -> None:
    """List the images for sessions.

    `newest` marks the default version of a name.
    """
    from broker.format import format_size, format_time

    with profile_errors():
        from profiles.recipe.shipped import shipped_profiles

        contents = stores_of(invocation, store).contents()
        newest = {image.name: image for image in contents.images}
        if invocation.json:
            listed = [image_json(image) | {"newest": newest[image.name] is image} for image in contents.images]
            output.print_json({"profiles": listed, "damaged": [error.message for error in contents.damaged]})
            return
    output.print_table(
        ("NAME", "VERSION", "", "SIZE", "BUILT", "DESCRIPTION"),
        [
            (
                image.name,
                image.version,
                "newest" if newest[image.name] is image else "",
                format_size(image.size),
                format_time(image.created),
                image.profile.description,
            )
            for image in contents.images
        ],
    )
    for error in contents.damaged:
        output.print_note(f"damaged: {error.message}")
    if unbuilt := sorted(shipped_profiles().keys() - newest.keys()):
        output.print_note(f"Not built yet: {', '.join(unbuilt)}. `berth profile build {unbuilt[0]}` builds one.")


@profile.command()
@profile_argument
@store_option
@json_option
@pass_invocation
def show(invocation: Invocation, wanted: ProfileReference, store: Path | None) -> None:
    """Show the recipe of an image.

    With all defaults, and the image's digest, labels and path.
    """
    with profile_errors():
        image = stores_of(invocation, store).find(wanted.name, wanted.version)
    if invocation.json:
        output.print_json(image_json(image))
        return
    import yaml

    output.write(yaml.safe_dump(image_json(image), sort_keys=False, allow_unicode=False))


@profile.command()
@profile_argument
@store_option
@json_option
@pass_invocation
def verify(invocation: Invocation, wanted: ProfileReference, store: Path | None) -> None:
    """Compare an image's digest with the published one.

    Reads the whole image. Exit code 1 if they differ.
    """
    with profile_errors():
        stores = stores_of(invocation, store)
        image = stores.find(wanted.name, wanted.version)
        store_of(image).verify(image)
    if invocation.json:
        output.print_json({"name": image.name, "version": image.version, "digest": image.digest, "ok": True})
    else:
        output.print_note(f"{image.name}@{image.version} has the published digest {image.digest}")


@profile.command()
@profile_argument
@store_option
@click.option("--yes", is_flag=True, help="Do not ask. Required without a terminal.")
@click.option("--force", is_flag=True, help="Delete it also if your sessions use it, without asking the controller.")
@json_option
@pass_invocation
def delete(invocation: Invocation, wanted: ProfileReference, store: Path | None, *, yes: bool, force: bool) -> None:
    """Delete one version of a profile's image.

    Stop all sessions that use it first: on a network file system, running sessions break without it. The command
    refuses while one of your own sessions uses it; it does not check other users' sessions. Sessions with this image
    cannot be started again.
    """
    if wanted.version is None:
        raise InvalidInputError(
            f"the version of {wanted.name} is missing", hint="use NAME@VERSION; `berth profile list` shows the versions"
        )
    with profile_errors():
        image = stores_of(invocation, store).find(wanted.name, wanted.version)
        if not force:
            _require_unused(invocation, image)
        if not yes and not _confirmed(image):
            raise BerthError(f"{wanted} was not deleted")
        store_of(image).delete(image.name, image.version)
    if invocation.json:
        output.print_json({"deleted": str(wanted), "digest": image.digest})
    else:
        output.print_note(f"deleted {wanted}")


def _require_unused(invocation: Invocation, image: Image) -> None:
    """Raise ConflictError while one of the caller's sessions may have the image mounted."""
    from broker.schema.states import LIVE

    try:
        sessions = invocation.client.sessions()
    except ControllerUnavailableError as error:
        raise ControllerUnavailableError(
            f"cannot tell whether sessions use {image.name}@{image.version}: {error.message}",
            hint="--force deletes it without this check",
        ) from error
    if users := [view.name for view in sessions if view.digest == image.digest and view.state in LIVE]:
        raise ConflictError(
            f"{image.name}@{image.version} is in use: {', '.join(users)}",
            hint=f"`berth stop {users[0]}` first; --force deletes it anyway, which may break running sessions",
        )


def _confirmed(image: Image) -> bool:
    if not output.is_terminal(sys.stdin):
        raise InvalidInputError(
            f"{image.name}@{image.version} was not deleted: there is no terminal to ask at",
            hint="--yes deletes without a question",
        )
    question = f"Delete {image.path.parent}? Running sessions that use it may break, and none can be started again."
    return click.confirm(output.escape_controls(question), err=True)


def _recipe(word: str) -> Path:
    """Return the path of the profile `word`: a file, a directory with a profile.yaml, or a shipped profile."""
    import difflib

    from profiles.recipe.shipped import shipped_profiles
    from profiles.userfile import is_file

    path = Path(word)
    if is_file(path / "profile.yaml"):
        return path / "profile.yaml"
    if is_file(path) or "/" in word:
        return path
    known = shipped_profiles()
    if word in known:
        return known[word]
    near = difflib.get_close_matches(word, known, n=1)
    raise NotFoundError(
        f"there is no file {word}, and no shipped profile of that name",
        hint=f"did you mean {near[0]}?" if near else f"shipped profiles: {', '.join(known)}",
    )
